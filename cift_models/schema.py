"""The canonical tables: every column once, with its type, unit and meaning. Stores render their own schema from here.

Prices in tables are integers in the instrument's own scales (Instrument); times are int64 nanoseconds UTC. A feed without a receive
clock writes its exchange time into `ts_recv` too, so that one rule says what may be used when: the running maximum of `ts_recv`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cift_models.errors import DataError, SchemaMismatch
from cift_models.files import digest

if TYPE_CHECKING:
    import polars
    import pyarrow

POLARS = {"int64": "Int64", "int32": "Int32", "int8": "Int8", "bool": "Boolean", "float64": "Float64", "str": "String"}
"""Canonical type to the name of polars' type."""
ARROW = {"int64": "int64", "int32": "int32", "int8": "int8", "bool": "bool_", "float64": "float64", "str": "string"}
"""Canonical type to the name of pyarrow's type."""
QUESTDB = {"int64": "LONG", "int32": "INT", "int8": "BYTE", "bool": "BOOLEAN", "float64": "DOUBLE", "str": "STRING"}
"""Canonical type to QuestDB's. Never VARCHAR: the server exports short ones to Parquet as null. Instants are TIMESTAMP_NS."""
CLICKHOUSE = {"int64": "Int64", "int32": "Int32", "int8": "Int8", "bool": "UInt8", "float64": "Float64", "str": "String"}
"""Canonical type to ClickHouse's. Instants are Int64 nanoseconds: a driver cuts DateTime64 to microseconds."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `dtype` is a key of POLARS; `nullable` columns may hold null, all others neither null nor NaN."""

    name: str
    dtype: str
    unit: str
    meaning: str
    nullable: bool = False

    @property
    def instant(self) -> bool:
        """Whether it holds instants: int64 ns UTC."""
        return self.dtype == "int64" and self.unit == "ns"


@dataclass(frozen=True, slots=True)
class Table:
    """A table: fixed columns, then `each` once for every value given to `repeat` (book levels, feature names).

    `key` names the columns that identify a row within a partition (what a store deduplicates by); `time` the column that orders it
    ("" where nothing does).
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time: str
    each: tuple[Column, ...] = ()

    def repeat(self, values: Iterable[str]) -> Table:
        """The table with its repeated columns written out, `{}` in a name replaced by each value in turn."""
        more = tuple(replace(c, name=c.name.format(v), meaning=c.meaning.format(v)) for v in values for c in self.each)
        if not self.each or not more:
            raise SchemaMismatch(
                f"The table {self.name} cannot be repeated over {list(values)}.", hint="Only BOOK (levels) and FEATURES (names) are."
            )
        return replace(self, columns=self.columns + more, each=())

    def with_levels(self, levels: int) -> Table:
        """A BOOK of so many levels: 00 is the best."""
        return self.repeat(f"{level:02d}" for level in range(levels))

    @property
    def names(self) -> tuple[str, ...]:
        self._written_out()
        return tuple(c.name for c in self.columns)

    @property
    def schema_hash(self) -> str:
        """Hex sha256 of names, types, units, order and key; a meaning may be worded anew."""
        self._written_out()
        rows = [{k: v for k, v in asdict(c).items() if k != "meaning"} for c in self.columns]
        return digest({"name": self.name, "columns": rows, "key": self.key, "time": self.time})

    def polars_schema(self) -> polars.Schema:
        import polars as pl

        self._written_out()
        return pl.Schema({c.name: getattr(pl, POLARS[c.dtype]) for c in self.columns})

    def arrow_schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        self._written_out()
        return pa.schema([pa.field(c.name, getattr(pa, ARROW[c.dtype])(), nullable=c.nullable) for c in self.columns])

    def questdb_columns(self) -> dict[str, str]:
        """Name to type of the table's columns in QuestDB. What repeats becomes one array a column (`bid_px DOUBLE[]`), whatever the depth:
        its arrays hold doubles only, so an integer in one must be below 2**53."""
        columns = {c.name: "TIMESTAMP_NS" if c.instant else "SYMBOL" if c == _SYMBOL else QUESTDB[c.dtype] for c in self.columns}
        return columns | {c.name.removesuffix("_{}"): "DOUBLE[]" for c in self.each}

    def clickhouse_columns(self) -> dict[str, str]:
        """Name to type of the table's columns in ClickHouse."""
        self._written_out()
        return {c.name: f"Nullable({CLICKHOUSE[c.dtype]})" if c.nullable else CLICKHOUSE[c.dtype] for c in self.columns}

    def empty(self) -> polars.DataFrame:
        import polars as pl

        return pl.DataFrame(schema=self.polars_schema())

    def check(self, frame: polars.DataFrame) -> None:
        """Raise SchemaMismatch where columns or types differ, DataError where a column that is not nullable holds null or NaN. O(cells)."""
        expected = dict(self.polars_schema())
        found = dict(frame.schema)
        if list(expected.items()) != list(found.items()):
            wrong = [f"{n} {found.get(n, 'missing')} (expected {t})" for n, t in expected.items() if found.get(n) != t]
            wrong += [f"{n} (not expected)" for n in found if n not in expected]
            raise SchemaMismatch(
                f"{self.name}: {len(wrong) or 'the order of'} columns differ: {'; '.join(wrong[:5]) or ', '.join(list(found)[:5])}.",
                hint=f"Expected {', '.join(list(expected)[:8])}{', ...' if len(expected) > 8 else ''}, in this order.",
            )
        for column in self.columns:
            series = frame[column.name]
            bad = series.null_count()
            if column.dtype == "float64":
                bad += int(series.is_nan().sum() or 0)
            if bad and not column.nullable:
                raise DataError(
                    f"{self.name}.{column.name}: {bad:,} of {len(frame):,} rows hold no number.", hint="Drop or mark them before storing."
                )

    def _written_out(self) -> None:
        if self.each:
            raise SchemaMismatch(f"The columns of {self.name} are not known yet.", hint="Call repeat(values) or with_levels(n) first.")


_TIMES = (
    Column("ts_event", "int64", "ns", "exchange time, UTC"),
    Column("ts_recv", "int64", "ns", "receive time, UTC; equal to ts_event where the feed has no receive clock"),
    Column("sequence", "int64", "1", "the venue's order within the symbol and session; one message has one sequence in every table"),
)
_SYMBOL = Column("symbol", "str", "", "symbol of the instrument")
_AS_OF = Column("as_of", "int64", "ns", "decision instant: what was usable at or before it is known, nothing after")
_AVAILABLE_AT = Column("available_at", "int64", "ns", "when the row could be read; never before as_of")

TRADES = Table(
    "trades",
    (
        *_TIMES,
        Column("side", "int8", "1", "aggressor: +1 buyer-initiated, -1 seller-initiated, 0 unknown"),
        Column("price", "int64", "price units", "integer price_scale times the price"),
        Column("size", "int64", "lots", "integer lot_scale times the amount"),
        Column("hidden", "bool", "", "true where it executed against an order that the book did not show"),
    ),
    key=("sequence",),
    time="ts_recv",
)
QUOTES = Table(
    "quotes",
    (
        *_TIMES,
        Column("bid_px", "int32", "ticks", "best bid as the feed quotes it"),
        Column("bid_sz", "int64", "lots", "size at the best bid"),
        Column("ask_px", "int32", "ticks", "best ask as the feed quotes it"),
        Column("ask_sz", "int64", "lots", "size at the best ask"),
    ),
    key=("sequence",),
    time="ts_recv",
)
BOOK = Table(
    "book",
    _TIMES,
    key=("sequence",),
    time="ts_recv",
    each=(
        Column("bid_px_{}", "int32", "ticks", "price of bid level {} after the message; -(2**31 - 1) where it holds no order"),
        Column("bid_sz_{}", "int64", "lots", "size at bid level {}; 0 where it holds no order"),
        Column("ask_px_{}", "int32", "ticks", "price of ask level {} after the message; 2**31 - 1 where it holds no order"),
        Column("ask_sz_{}", "int64", "lots", "size at ask level {}; 0 where it holds no order"),
    ),
)
ORDERS = Table(
    "orders",
    (
        *_TIMES,
        Column(
            "action", "int8", "1", "1 add, 2 partial cancel, 3 delete, 4 execution, 5 hidden execution, 6 cross, 7 status (LOBSTER's types)"
        ),
        Column("order_id", "int64", "1", "the venue's number of the resting order; 0 where it has none"),
        Column("side", "int8", "1", "side of the resting order: +1 bid, -1 ask"),
        Column(
            "price",
            "int64",
            "price units",
            "limit of the resting order, or price of the execution; of a status: -1 halt, 0 quoting, 1 trading",
        ),
        Column("size", "int64", "lots", "size of the change"),
    ),
    key=("sequence",),
    time="ts_recv",
)
STATUS = Table(
    "status",
    (
        *_TIMES,
        Column("halted", "bool", "", "true: trading stops with this message; false: it goes on"),
        Column("gap", "bool", "", "with halted: it is the feed that stopped (messages are missing), not the venue; false otherwise"),
    ),
    key=("sequence",),
    time="ts_recv",
)
BOOK_STATE = Table(
    "book_state",
    (
        *_TIMES,
        Column("side", "int8", "1", "+1 bid, -1 ask"),
        Column("price", "int64", "price units", "a price at which orders rest"),
        Column("size", "int64", "lots", "how much rests there"),
    ),
    key=("side", "price"),
    time="ts_recv",
)
"""The whole book as a feed of changes left it, every level: what the next file goes on from. `sequence` is the venue's last update id."""
FEATURES = Table(
    "features",
    (
        _SYMBOL,
        _AS_OF,
        _AVAILABLE_AT,
        Column("valid", "bool", "", "whether the row may be used"),
        Column("why", "int8", "1", "why it may not (models.protocol.Why)"),
    ),
    key=("symbol", "as_of"),
    time="as_of",
    each=(Column("{}", "float64", "", "the feature {}; 0 where not valid"),),
)
_PROVENANCE = (
    _SYMBOL,
    _AS_OF,
    _AVAILABLE_AT,
    Column("release", "str", "", "sha256 of the release that made it; empty for a fit that is in none"),
    Column("model", "str", "", "name of the model in the release"),
    Column("fold", "int32", "1", "block that the row lies in; -1 outside the fold calendar (live)"),
    Column("max_train_t1", "int64", "ns", "last moment that any ancestor of the row learned from, labels and rows; always before as_of"),
    Column("ready", "bool", "", "whether the model had what it needs"),
)
OUTPUTS = Table(
    "outputs",
    (
        *_PROVENANCE,
        Column("name", "str", "", "name of the output (models.protocol.Model.outputs)"),
        Column("value", "float64", "", "its value; 0 where not ready"),
    ),
    key=("symbol", "as_of", "model", "name"),
    time="as_of",
)
PREDICTIONS = Table(
    "predictions",
    (
        *_PROVENANCE,
        Column(
            "mean_bps", "float64", "bps", "expected move of the mid over the horizon; null for a model without a forecast", nullable=True
        ),
        Column("p_down", "float64", "1", "probability that the mid falls; null where there is no head", nullable=True),
        Column("p_flat", "float64", "1", "probability that it does not move", nullable=True),
        Column("p_up", "float64", "1", "probability that it rises", nullable=True),
    ),
    key=("symbol", "as_of", "model"),
    time="as_of",
)
INSTRUMENTS = Table(
    "instruments",
    (
        _SYMBOL,
        Column("price_scale", "int64", "price units per currency unit", "a trade price is an integer price_scale times the price"),
        Column("tick_units", "int64", "price units", "one tick"),
        Column("lot_scale", "int64", "lots per unit", "a size is an integer lot_scale times the amount"),
        Column("unit", "str", "", "what a size counts: shares, coins, contracts"),
        Column("fee_bps", "float64", "bps", "fee of taking liquidity"),
        Column("calendar", "str", "", "regular hours (instruments.CALENDARS)"),
        Column("levels", "int32", "1", "levels of its book"),
        Column("trade_side", "str", "", "who says which side took: the feed (sent), or the quote before the trade (inferred)"),
    ),
    key=("symbol",),
    time="",
)

_BAR_END = Column("as_of", "int64", "ns", "from when the row may be used: what was received up to then is in it, nothing after")
BARS = Table(
    "bars",
    (
        _SYMBOL,
        _BAR_END,
        Column("since", "int64", "ns", "time of its first event"),
        Column(
            "open",
            "float64",
            "currency",
            "first trade; without one the last before it, null before the first of a stretch",
            nullable=True,
        ),
        Column("high", "float64", "currency", "highest trade, likewise", nullable=True),
        Column("low", "float64", "currency", "lowest trade, likewise", nullable=True),
        Column("close", "float64", "currency", "last trade, likewise", nullable=True),
        Column("vwap", "float64", "currency", "price of its trades weighted by volume; without a trade as close", nullable=True),
        Column("volume", "float64", "unit", "traded amount in the instrument's unit"),
        Column("n_trades", "int64", "1", "trades"),
        Column("n_events", "int64", "1", "events, trades among them"),
    ),
    key=("symbol", "as_of", "since"),
    time="as_of",
    each=(
        Column("ofi_{}", "float64", "unit", "order flow imbalance of level {} (Cont, Kukanov and Stoikov 2014), in the instrument's unit"),
        Column("z_ofi_{}", "float64", "1", "its z-score over the bars of the window up to this one"),
    ),
)
"""What `cift bars` writes of a session, by level."""
PROFILE = Table(
    "profile",
    (
        _SYMBOL,
        _BAR_END,
        Column("price", "float64", "currency", "lowest price of the bin"),
        Column("volume", "float64", "unit", "what traded within it in the stretch, in the instrument's unit"),
    ),
    key=("symbol", "as_of", "price"),
    time="as_of",
)
"""Volume by price of each stretch of a session, which `cift bars` writes beside the bars."""

TICK_TABLES: dict[str, Table] = {t.name: t for t in (TRADES, QUOTES, BOOK, ORDERS, STATUS, BOOK_STATE)}
"""The tables that feeds give and tick stores keep, by name."""
TABLES: dict[str, Table] = TICK_TABLES | {t.name: t for t in (FEATURES, OUTPUTS, PREDICTIONS, INSTRUMENTS)}
"""Every canonical table by name."""


def table_of(name: str, columns: Iterable[str] = ()) -> Table:
    """The table of a name, with a book's levels or a feature set's names read off the columns of a stored frame.

    Raises SchemaMismatch for a name that TABLES lacks.
    """
    if name not in TABLES:
        raise SchemaMismatch(f"Unknown table {name!r}.", hint=f"Expected one of {', '.join(TABLES)}.")
    table = TABLES[name]
    if not table.each:
        return table
    rest = list(columns)[len(table.columns) :]
    if name == BOOK.name:
        return table.with_levels(max(1, len(rest) // len(table.each)))
    return table.repeat(rest)


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The table's columns as JSON rows: what a data dictionary prints."""
    return [asdict(c) for c in table.columns + table.each]
