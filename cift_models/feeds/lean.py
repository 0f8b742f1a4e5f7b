"""LEAN (QuantConnect; AlgoSeek's US equity ticks): `YYYYMMDD_quote.zip` or `YYYYMMDD_trade.zip`, a day of a symbol, to canonical tables.

What must be right, from the format's description (Lean, Data/equity/readme.md) and from the recorded files:
- there is no header, and no line end after the last row. The name inside the zip gives day, symbol and kind
  (`20131007_aig_Quote_Tick.csv`); a quote row has 8 columns, a trade row 6, and neither is guessed from the other;
- time is ms after midnight in New York, prices are dollars times 10,000;
- a quote row sets one side of the national best quote, the other side is 0: both sides are carried forward. A message is a bid row and
  the ask row behind it at the same ms (all recorded rows lie in such pairs, but for the first of three files), so the state between the
  two was never quoted: a message gives one row of the book. Before the first bid (ask) that side is empty;
- conditions are hexadecimal text of a bit mask (`20004a00` is no number);
- nobody says which side took: a trade's side is 0 here, and is found from the quote before it when events are used (features/aggressor.py);
- quotes and trades of a day are two files and come in any order, hence two parts. At one ms all trades come before all quotes
  (sequence), so that a trade is held against the quote that was known before it;
- a symbol without quotes (SPY is recorded so) has no book: its rows are never valid, its sides come from the tick rule alone, and it can
  lend its trades to no forecast of its own mid.

Kept apart, with the reason:
    suspicious      AlgoSeek's own flag: far from every other price, or reversed later. LEAN's own bars leave such rows out, too. A
                    quote of them is not carried forward either: it would stand as the best quote until the next one
    sale_condition  a trade whose price was not made by the market at its time: averaged, derived, of an earlier time, reported late or
                    out of sequence, of another settlement, tied to an option, or an official open or close, which repeats a trade that is
                    already there. In the recorded regular hours .2 % of trades, 44 % of them outside the quote (1.6 % of the others)
    non_positive    a side with a price or a size that is not above zero
    no_side         a quote row with neither side: which of the two it takes away, nothing says
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cift_models.errors import FeedError, InputError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.day import FeedDay, Identity
from cift_models.files import sha256_bytes
from cift_models.instruments import CALENDARS, INFERRED, SECOND, Instrument, to_ns
from cift_models.schema import BOOK, TRADES

if TYPE_CHECKING:
    import polars

FILE = re.compile(r"^(?P<day>\d{8})_(?P<kind>quote|trade)\.zip$", re.IGNORECASE)
"""Name of the zip."""
MEMBER = re.compile(r"^(?P<day>\d{8})_(?P<symbol>[A-Za-z0-9.\-]+)_(?P<kind>quote|trade)_tick\.csv$", re.IGNORECASE)
"""Name of the file inside it."""
COLUMNS = {
    "quote": ("time", "bid_px", "bid_sz", "ask_px", "ask_sz", "exchange", "condition", "suspicious"),
    "trade": ("time", "price", "size", "exchange", "condition", "suspicious"),
}
"""Columns of the two kinds."""
TEXT = {"exchange": r"[A-Za-z]?", "condition": r"[0-9A-Fa-f]{0,8}"}
"""Columns of text, and what is in them."""
PRICE_SCALE = 10_000
"""Prices are dollars times this."""
MS = 1_000_000
"""One millisecond in nanoseconds."""
DAY_MS = 86_400_000
"""A day in milliseconds."""
HOURS = {"regular": "us_equity", "extended": "us_equity_extended"}
"""Calendar by hours."""
QUOTE_SEQUENCE = 1 << 40
"""What a quote's row number is raised by, so that at one ms every trade comes first."""
NO_MARKET_PRICE = (
    0x2  # cash settlement
    | 0x4  # next day
    | 0x8  # seller's option
    | 0x200  # derivatively priced
    | 0x800  # sold last: reported late
    | 0x4000  # out of sequence
    | 0x40000  # stock-option trade
    | 0x100000  # average price
    | 0x1000000  # official close
    | 0x2000000  # prior reference price
    | 0x4000000  # official open
)
"""Sale conditions (Lean's TradeConditionFlags) of trades that are kept apart."""


@dataclass(frozen=True, slots=True)
class LeanName:
    """What the name inside the zip says."""

    file: str
    symbol: str
    day: date
    kind: str

    @property
    def midnight_ns(self) -> int:
        """The instant that times count from. Taken from noon: on the night of the clock change a wall clock's midnight is an hour off."""
        noon = datetime.combine(self.day, time(12), ZoneInfo(CALENDARS["us_equity"].zone))
        return to_ns(noon) - 12 * 3600 * SECOND


def read_lean(
    path: Path,
    *,
    hours: str = "regular",
    fee_bps: float = 0.0,
    tick_units: int = 100,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Iterator[FeedDay]:
    """Read one zip: part `quote` holds `book` (one level), part `trade` holds `trades`.

    `sequence` is the row number from 0, for quotes raised by QUOTE_SEQUENCE; both times are the exchange's. The symbol is the one inside
    the zip, in capitals: folders are named by tickers that may have changed since. Both kinds of file give the same instrument.

    hours       `regular` (09:30-16:00) or `extended` (04:00-20:00): what the session is. Rows outside it are read, and quarantined by
                feeds.quality; quotes before the open are carried into it
    fee_bps     fee of taking, which the file does not say
    tick_units  price units in a tick: 100 (one cent), 1 for a stock below a dollar
    progress    called with (what, share done)

    Raises InputError for other hours; FeedError where the zip is damaged, names or columns are not LEAN's or contradict each other, a cell
    is not what it should be, or a quote lies between ticks. O(rows), about a second for a million quote rows.
    """
    if hours not in HOURS:
        raise InputError(f"Unknown hours {hours!r}.", hint=f"Expected {' or '.join(HOURS)}.")
    path = Path(path)
    progress("unpack", 0.0)
    sha256, name, data = _unpack(path)
    return _days(path, sha256, name, data, CALENDARS[HOURS[hours]].name, fee_bps, tick_units, progress)


def _days(
    path: Path,
    sha256: str,
    name: LeanName,
    data: bytes,
    calendar: str,
    fee_bps: float,
    tick_units: int,
    progress: Callable[[str, float], None],
) -> Iterator[FeedDay]:
    import polars as pl

    progress("parse", 0.2)
    frame = _parse(path, name, data)
    progress("tables", 0.6)
    ns = (frame["time"] + name.midnight_ns).alias("ts_event")
    rows = frame.drop("time").insert_column(0, ns).with_row_index("sequence").with_columns(pl.col("sequence").cast(pl.Int64))
    table = "book" if name.kind == "quote" else "trades"
    good, bad = _book(path, name, rows, tick_units) if name.kind == "quote" else _trades(rows)
    source = {"feed": "lean", "file": path.name, "sha256": sha256, "kind": name.kind, "rows": len(frame), "receive_clock": False}
    instrument = Instrument(name.symbol, PRICE_SCALE, tick_units, 1, "shares", fee_bps, calendar, 1, INFERRED)
    progress("done", 1.0)
    apart = {table: bad} if len(bad) else {}
    yield FeedDay(instrument, CALENDARS[calendar].session(name.day), {table: good}, source, name.kind, apart)


def identify(path: Path) -> Identity:
    """Whose day a zip holds, from the names. Raises FeedError."""
    _, name, _ = _unpack(Path(path), names_only=True)
    session = CALENDARS[HOURS["regular"]].session(name.day)
    return Identity(name.symbol, session.day, session.open)


def _unpack(path: Path, names_only: bool = False) -> tuple[str, LeanName, bytes]:
    """Sha256 of the zip, what the names say, and the bytes of the one file in it."""
    try:
        raw = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            name = _name(path, archive.namelist())
            return sha256_bytes(raw), name, b"" if names_only else archive.read(name.file)
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}.", hint="Expected a readable LEAN zip.", path=path) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise FeedError(f"{path.name} is damaged or not a zip: {error}.", hint="Download it again.", path=path) from error


def _name(path: Path, found: list[str]) -> LeanName:
    """What the names of the zip and of the one file in it say, which must agree."""
    outer, members = FILE.match(path.name), [m for m in map(MEMBER.match, found) if m]
    if outer is None or len(members) != 1:
        raise FeedError(
            f"{path.name} is not LEAN: it holds {', '.join(found[:4]) or 'nothing'}{', ...' if len(found) > 4 else ''}.",
            hint="Expected yyyymmdd_quote.zip with one yyyymmdd_SYMBOL_Quote_Tick.csv, or the same with trade.",
            path=path,
        )
    inner = members[0]
    if (outer["day"], outer["kind"].lower()) != (inner["day"], inner["kind"].lower()):
        raise FeedError(
            f"{path.name} holds {inner.string}: another day or kind.", hint="One of the two was renamed: download it again.", path=path
        )
    try:
        day = datetime.strptime(inner["day"], "%Y%m%d").date()
    except ValueError:
        raise FeedError(f"{path.name}: {inner['day']} is no date.", hint="Expected yyyymmdd.", path=path) from None
    return LeanName(inner.string, inner["symbol"].upper(), day, inner["kind"].lower())


def _parse(path: Path, name: LeanName, data: bytes) -> polars.DataFrame:
    """The rows with `time` as int64 ns after midnight and `suspicious` as bool; every cell checked."""
    import polars as pl

    columns = COLUMNS[name.kind]
    frame = _read(data, columns, pl.Int64)
    if frame is None:
        # The format allows fractions of a ms; no recorded file has them, and text is slower.
        frame = _read(data, columns, pl.String)
        good = frame is not None and frame["time"].str.contains(r"^\d{1,8}(\.\d{1,6})?$").all()
        if frame is None or not good:
            raise FeedError(f"{path.name}: {name.file}, {_trouble(data, name.kind)}.", hint="Is it LEAN? Download it again.", path=path)
        parts = pl.col("time").str.split_exact(".", 1).struct
        fraction = parts.field("field_1").fill_null("").str.pad_end(6, "0").cast(pl.Int64)
        ns = (parts.field("field_0").cast(pl.Int64) * MS + fraction).alias("time")
    else:
        ns = pl.col("time") * MS
    frame = frame.with_columns(ns, *(pl.col(c).fill_null("") for c in TEXT))
    within = frame["time"].is_between(0, DAY_MS * MS, closed="left")
    flags = frame["suspicious"].is_in([0, 1])
    text = [frame[c].unique().str.contains(f"^{pattern}$").all() for c, pattern in TEXT.items()]
    if not (within.all() and flags.all() and all(text)):
        raise FeedError(f"{path.name}: {name.file}, {_trouble(data, name.kind)}.", hint="Is it LEAN? Download it again.", path=path)
    return frame.with_columns(pl.col("suspicious") == 1)


def _read(data: bytes, columns: tuple[str, ...], time_type: type[polars.DataType]) -> polars.DataFrame | None:
    """The CSV with these columns, all of them integers but time (as said) and text; None where it is anything else."""
    import polars as pl

    schema = {c: time_type if c == "time" else pl.String if c in TEXT else pl.Int64 for c in columns}
    try:
        frame = pl.read_csv(data, has_header=False, schema=schema, quote_char=None)
    except pl.exceptions.PolarsError:
        return None
    if not len(frame):
        return None
    holes = frame.null_count().row(0, named=True)
    return None if any(n for c, n in holes.items() if c not in TEXT) else frame


def _trouble(data: bytes, kind: str) -> str:
    """Where a file that was refused goes wrong: the slow way, on the way to an error only."""
    if not data:
        return "it is empty"
    other = {"quote": "trade", "trade": "quote"}[kind]
    expected = {"time": r"\d{1,8}(\.\d{1,6})?", "suspicious": "[01]"} | TEXT
    said = {"time": "ms after midnight", "suspicious": "0 or 1", "exchange": "a letter", "condition": "up to 8 hexadecimal digits"}
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        cells = line.rstrip(b"\r").decode("utf-8", "replace").split(",")
        if len(cells) != len(COLUMNS[kind]):
            hint = f", as {other} files have" if len(cells) == len(COLUMNS[other]) else ""
            return f"row {number:,} has {len(cells)} columns{hint}; a {kind} file has {len(COLUMNS[kind])}: {','.join(cells)[:60]!r}"
        for i, (column, cell) in enumerate(zip(COLUMNS[kind], cells, strict=True), 1):
            good = re.fullmatch(expected.get(column, r"-?\d{1,18}"), cell)
            if not good or (column == "time" and float(cell) >= DAY_MS):
                return f"row {number:,}, column {i} ({column}): {cell[:40]!r}, expected {said.get(column, 'an integer')}"
    return "it is no CSV of plain numbers"


def _trades(rows: polars.DataFrame) -> tuple[polars.DataFrame, polars.DataFrame]:
    """Trades that may be used, and those kept apart."""
    import polars as pl

    odd = [c for c in rows["condition"].unique().to_list() if int(c or "0", 16) & NO_MARKET_PRICE]
    reason = (
        pl.when("suspicious").then(pl.lit("suspicious")).when(pl.col("condition").is_in(odd)).then(pl.lit("sale_condition")).otherwise(None)
    )
    table = rows.select(
        "ts_event",
        "sequence",
        "price",
        "size",
        ts_recv="ts_event",
        side=pl.lit(0),
        hidden=pl.lit(False),
        reason=reason,
    )
    return _split(table.select(*TRADES.names, "reason").cast({**TRADES.polars_schema()}))


def _book(path: Path, name: LeanName, rows: polars.DataFrame, tick_units: int) -> tuple[polars.DataFrame, polars.DataFrame]:
    """A book of one level after each message, and the rows kept apart, each with the side that it set."""
    import polars as pl

    def has(side: str) -> polars.Expr:
        return (pl.col(f"{side}_px") > 0) & (pl.col(f"{side}_sz") > 0)

    def absent(side: str) -> polars.Expr:
        return (pl.col(f"{side}_px") == 0) & (pl.col(f"{side}_sz") == 0)

    _check_ticks(path, name, rows, tick_units)
    odd = (~has("bid") & ~absent("bid")) | (~has("ask") & ~absent("ask"))
    reason = (
        pl.when("suspicious")
        .then(pl.lit("suspicious"))
        .when(odd)
        .then(pl.lit("non_positive"))
        .when(~has("bid") & ~has("ask"))
        .then(pl.lit("no_side"))
        .otherwise(None)
    )
    rows = rows.with_columns(reason=reason, sequence=pl.col("sequence") + QUOTE_SEQUENCE)
    table = BOOK.with_levels(1)

    def book(of: polars.DataFrame, carried: bool) -> polars.DataFrame:
        sides = {}
        for side, empty in (("bid", EMPTY_BID), ("ask", EMPTY_ASK)):
            px = pl.when(has(side)).then(pl.col(f"{side}_px") // tick_units)
            sz = pl.when(has(side)).then(pl.col(f"{side}_sz"))
            sides[f"{side}_px_00"] = (px.forward_fill() if carried else px).fill_null(empty)
            sides[f"{side}_sz_00"] = (sz.forward_fill() if carried else sz).fill_null(0)
        return of.select("ts_event", "sequence", "reason", ts_recv="ts_event", **sides).select(*table.names, "reason")

    used = rows.filter(pl.col("reason").is_null())
    bid, ask = has("bid") & ~has("ask"), has("ask") & ~has("bid")
    first_half = used.select(bid & ask.shift(-1, fill_value=False) & (pl.col("ts_event").shift(-1) == pl.col("ts_event"))).to_series()
    good = book(used, carried=True).filter(~first_half.fill_null(False))
    bad = book(rows.filter(pl.col("reason").is_not_null()), carried=False)
    return good.drop("reason").cast({**table.polars_schema()}), bad.cast({**table.polars_schema()})


def _check_ticks(path: Path, name: LeanName, rows: polars.DataFrame, tick_units: int) -> None:
    for column in ("bid_px", "ask_px"):
        price = rows[column]
        wrong = (price % tick_units != 0) | (price.abs() // tick_units >= EMPTY_ASK)
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise FeedError(
                f"{path.name}: {name.file}, row {row + 1:,}: {column} {price[row]} is no whole number of ticks of {tick_units}.",
                hint="Pass tick_units=1 for a stock below one dollar; is it LEAN?",
                path=path,
            )


def _split(table: polars.DataFrame) -> tuple[polars.DataFrame, polars.DataFrame]:
    """Rows without a reason, without that column; and the others."""
    import polars as pl

    return table.filter(pl.col("reason").is_null()).drop("reason"), table.filter(pl.col("reason").is_not_null())
