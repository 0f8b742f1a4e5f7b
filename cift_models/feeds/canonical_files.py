"""Canonical CSV and Parquet: what a user of any other vendor converts to, and what a stored session is written as.

A recording is the files of one symbol, day and part in one folder, named `<table>_<SYMBOL>_<yyyymmdd>[_<part>].csv` (or `.csv.gz`,
`.parquet`), with `instruments.csv` beside them. Tables are trades, quotes, book, status and orders; columns bear the names of schema.py.
There is one rule for numbers, in CSV and Parquet alike:

    a price is in quote currency, a size in the instrument's unit, never a scaled integer: 585.25, not 5852500 and not 58525 ticks

Text, Decimals, integers and Float64 are converted exactly by the instrument's scales; what is no whole number of ticks, price units or
lots is refused, never rounded. An instant is an integer of nanoseconds UTC or ISO 8601 with an offset. What a file may leave out:

    ts_recv    in all files of the recording or in none: the feed then has no receive clock
    sequence   in all files or in none: rows are then put in the order of time, those of a file as they stand; at one instant trades come
               before the book, and status comes last. Parts of a day are then numbered in the order of time: _1, _2, ...
    hidden, gap  false
    side       of a trade, where the instrument says `trade_side` inferred
A level of the book that holds no order is empty in price and size.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FeedError, InputError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds import cells
from cift_models.feeds.cells import BadCell, Cells
from cift_models.feeds.day import FeedDay, Identity
from cift_models.feeds.instruments_file import NAMES as INSTRUMENTS
from cift_models.feeds.instruments_file import find_instrument, write_instrument
from cift_models.files import digest, sha256_bytes, write_atomic
from cift_models.instruments import CALENDARS, SENT, Instrument, Session, stretch, to_ns
from cift_models.schema import BOOK, ORDERS, QUOTES, STATUS, TRADES, Table

if TYPE_CHECKING:
    import polars

NAME = re.compile(
    r"^(?P<table>trades|quotes|book|status|orders)_(?P<symbol>.+?)_(?P<day>\d{8})(?:_(?P<part>[A-Za-z0-9.\-]+?))?\.(?P<kind>csv|csv\.gz|parquet)$"
)
"""Name of a file."""
TABLES = ("trades", "book", "quotes", "orders", "status")
"""Tables in the order of their rows at one instant where no sequence is sent."""
KINDS = ("csv", "csv.gz", "parquet")
"""What a file may be."""
STATUS_ACTION = 7
"""Action of ORDERS whose price is a code and no price."""
FEED = "canonical"


@dataclass(frozen=True, slots=True)
class Recording:
    """What the names of its files say."""

    symbol: str
    day: int
    part: str
    files: dict[str, Path]
    """By table."""


@dataclass(slots=True)
class _File:
    """One table as it was read, and where it came from: what a conversion needs, and what an error names."""

    path: Path
    table: Table
    frame: polars.DataFrame
    instrument: Instrument

    def bad(self, column: str, error: BadCell) -> NoReturn:
        """Raise the FeedError of a cell."""
        line = "" if self.path.suffix == ".parquet" else f" (line {error.row + 2:,})"
        shown = "an empty cell" if error.cell is None else repr(str(error.cell)[:40])
        raise FeedError(
            f"{self.path.name}, row {error.row + 1:,}{line}, column {column}: {shown}. Expected {error.expected}.",
            hint="docs/data.md says how a column is written.",
            path=self.path,
            row=error.row,
        )

    def read(self, column: str, convert: Callable[[polars.Series], Cells], optional: bool = False) -> Cells:
        """A column by its rule; an empty cell is refused unless it is optional."""
        try:
            out = convert(self.frame[column])
        except BadCell as error:
            self.bad(column, error)
        if out.empty.any() and not optional:
            self.bad(column, BadCell(int(np.argmax(out.empty)), None, "a value"))
        return out

    def one_of(self, column: str, allowed: Sequence[int]) -> NDArray[np.int64]:
        values = self.read(column, cells.whole).values
        odd = ~np.isin(values, allowed)
        if odd.any():
            row = int(np.argmax(odd))
            self.bad(column, BadCell(row, values[row], f"one of {', '.join(map(str, allowed))}"))
        return values

    def price(self, column: str, optional: bool = False) -> Cells:
        unit = f"1/{self.instrument.price_scale}" if self.instrument.price_scale > 1 else "1"
        what = f"price units of {unit} (finer ones: price_scale in the instruments file)"
        return self.read(column, lambda s: cells.scaled(s, self.instrument.price_scale, what), optional)

    def size(self, column: str, optional: bool = False) -> Cells:
        unit = f"1/{self.instrument.lot_scale}" if self.instrument.lot_scale > 1 else "1"
        return self.read(column, lambda s: cells.scaled(s, self.instrument.lot_scale, f"lots of {unit}"), optional)

    def ticks(self, column: str, optional: bool = False) -> Cells:
        """A quoted price: whole ticks that fit an int32."""
        units, empty = self.price(column, optional)
        ticks, rest = np.divmod(units, self.instrument.tick_units)
        odd = ~empty & ((rest != 0) | (np.abs(ticks) >= EMPTY_ASK))
        if odd.any():
            row = int(np.argmax(odd))
            self.bad(column, BadCell(row, self.frame[column][row], f"a whole number of ticks of {self.instrument.tick_size:g}"))
        return Cells(ticks, empty)


def recording(path: Path) -> Recording:
    """The recording that a file belongs to: every file of its symbol, day and part in its folder.

    Raises FeedError for another name, a folder that cannot be read, or a table that is there twice (as CSV and as Parquet).
    """
    path = Path(path)
    name = _name(path)
    try:
        beside = sorted(path.parent.iterdir())
    except OSError as error:
        raise FeedError(f"{path.parent}: {error.strerror or error}.", hint="Expected a readable folder.", path=path) from error
    files: dict[str, Path] = {}
    for other in beside:
        found = NAME.match(other.name)
        if found is None or any(found[key] != name[key] for key in ("symbol", "day", "part")):
            continue
        if found["table"] in files:
            raise FeedError(
                f"{files[found['table']].name} and {other.name} both hold the {found['table']} of {name['symbol']} on {name['day']}.",
                hint="Keep one of the two, or number them as parts: ..._1, ..._2.",
                path=path,
            )
        files[found["table"]] = other
    if name["table"] not in files:
        raise FeedError(f"{path} is missing.", hint="Expected a file.", path=path)
    return Recording(name["symbol"], int(name["day"]), name["part"] or "", {t: files[t] for t in TABLES if t in files})


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file that reading one of them reads, itself first; the instruments file beside it is one of them."""
    path = Path(path)
    beside = [path.parent / name for name in INSTRUMENTS if (path.parent / name).is_file()]
    return tuple(dict.fromkeys([path, *recording(path).files.values(), *beside[:1]]))


def one_each(paths: Sequence[Path]) -> list[Path]:
    """Of several files the first of each recording, without instruments files: reading these reads all of them once."""
    first: dict[tuple[str, ...], Path] = {}
    for path in sorted(path for path in map(Path, paths) if path.name not in INSTRUMENTS):
        name = _name(path)
        first.setdefault((str(path.parent.resolve()), name["symbol"], name["day"], name["part"] or ""), path)
    return list(first.values())


def identify(path: Path) -> Identity:
    """Whose recording a file belongs to, from its name; it begins at the day's midnight, UTC. Raises FeedError."""
    name = _name(Path(path))
    return Identity(name["symbol"], int(name["day"]), to_ns(datetime.combine(_date(Path(path), name["day"]), datetime.min.time(), UTC)))


def read_canonical(
    path: Path,
    *,
    instruments: Path | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Iterator[FeedDay]:
    """Read the recording that a file belongs to: naming its trades reads its book, too, for rows that share a sequence are one message.

    instruments  where the instrument stands; default: instruments.csv or instruments.json beside the file
    progress     called with (what, share done)

    The session is the calendar's of the day, or, of a venue that never closes, the stretch from the first row to the last. Raises FeedError
    that names file, row, column, what was there and what was expected; or, where nothing says what the symbol is, the line to write.
    O(cells), about .3 us each.
    """
    record = recording(Path(path))
    return _days(record, instruments, progress)


def _days(record: Recording, instruments: Path | None, progress: Callable[[str, float], None]) -> Iterator[FeedDay]:
    folder = next(iter(record.files.values())).parent
    frames, shas = {}, {}
    for i, (name, file) in enumerate(record.files.items()):
        progress(f"read {name}", 0.4 * i / len(record.files))
        frames[name], shas[file.name] = _load(file)
    deep = [c for c in frames["book"].columns if c.startswith("bid_px_")] if "book" in frames else []
    instrument = find_instrument(record.symbol, folder, instruments, max(1, len(deep)))
    files = {name: _File(file, _table(name, instrument), frames[name], instrument) for name, file in record.files.items()}
    for file in files.values():
        _check_columns(file)
    received, numbered = (_all_or_none(files, column) for column in ("ts_recv", "sequence"))
    first = 0 if numbered else _part_number(record) << 32
    tables = {}
    for i, (name, file) in enumerate(files.items()):
        progress(f"convert {name}", 0.4 + 0.5 * i / len(files))
        tables[name] = _convert(file, received, numbered)
    if not numbered:
        tables = _in_order_of_time(tables, first)
    session = _session(record, instrument, tables, received)
    source = {
        "feed": FEED,
        "file": ", ".join(sorted(shas)),
        "sha256": digest(shas),
        "files": shas,
        "rows": sum(map(len, tables.values())),
        "receive_clock": received,
        "sequence": "sent" if numbered else "rows",
    }
    progress("done", 1.0)
    yield FeedDay(instrument, session, tables, source, record.part)


def write_canonical(folder: Path, day: FeedDay, kind: str = "csv") -> tuple[Path, ...]:
    """Write a session's tables as files that `read_canonical` reads back, bit for bit, and its instrument into instruments.csv.

    kind  csv, csv.gz or parquet. BOOK_STATE is not written: a recording stands alone. Returns the tables' files.
    Raises InputError for an instrument or a session that files cannot say (another one than the calendar's).
    """
    import polars as pl

    if kind not in KINDS:
        raise InputError(f"Unknown kind of file {kind!r}.", hint=f"Expected {', '.join(KINDS)}.")
    instrument = day.instrument
    calendar = CALENDARS[instrument.calendar]
    if not calendar.continuous and calendar.session(_day(day.session.day)) != day.session:
        raise InputError(
            f"{instrument.symbol} {day.session.day}: the session {day.session.open}..{day.session.close} is not that of {calendar.name}.",
            hint="A file says its day; the hours come from the calendar.",
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_instrument(folder, instrument)
    paths = []
    for name in TABLES:
        if name not in day.tables:
            continue
        frame = _decimal(day.tables[name], instrument, bool(day.source["receive_clock"]))
        path = folder / f"{name}_{instrument.symbol}_{day.session.day}{f'_{day.part}' if day.part else ''}.{kind}"
        if NAME.match(path.name) is None:
            raise InputError(f"{path.name} cannot be a file's name.", hint="Parts are named with letters, digits, dots and dashes.")
        out = io.BytesIO()
        if kind == "parquet":
            exact = [c for c in frame.columns if c.startswith(("bid_", "ask_")) or c in ("price", "size")]
            frame.with_columns(pl.col(exact).cast(pl.Decimal(38, 12))).write_parquet(out, compression="zstd")
        else:
            frame.write_csv(out)
        write_atomic(path, gzip.compress(out.getvalue(), 6, mtime=0) if kind == "csv.gz" else out.getvalue())
        paths.append(path)
    return tuple(paths)


def _name(path: Path) -> re.Match[str]:
    found = NAME.match(path.name)
    if found is None:
        raise FeedError(
            f"{path.name} is not the name of a canonical file.",
            hint="Expected <table>_<SYMBOL>_<yyyymmdd>[_<part>].csv, .csv.gz or .parquet with table one of " + ", ".join(TABLES) + ".",
            path=path,
        )
    _date(path, found["day"])
    return found


def _date(path: Path, day: str) -> date:
    try:
        return _day(int(day))
    except ValueError:
        raise FeedError(f"{path.name}: {day} is no date.", hint="Expected yyyymmdd.", path=path) from None


def _day(day: int) -> date:
    return date(day // 10_000, day // 100 % 100, day % 100)


def _table(name: str, instrument: Instrument) -> Table:
    plain = {t.name: t for t in (TRADES, QUOTES, STATUS, ORDERS)}
    return plain[name] if name in plain else BOOK.with_levels(instrument.levels)


def _load(path: Path) -> tuple[polars.DataFrame, str]:
    """A file's columns, all text of a CSV; and its sha256."""
    import polars as pl

    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
        if path.suffix == ".parquet":
            return pl.read_parquet(io.BytesIO(data)), sha256_bytes(raw)
        frame = pl.read_csv(data.removeprefix(b"\xef\xbb\xbf"), infer_schema=False)
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}.", hint="Expected a readable file.", path=path) from error
    except (EOFError, zlib.error, pl.exceptions.PolarsError) as error:
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise FeedError(f"{path.name} is damaged, or no {path.suffix[1:]}: {first}", hint="Write it again.", path=path) from error
    return frame, sha256_bytes(raw)


def _check_columns(file: _File) -> None:
    """Raise FeedError for a column too many or too few."""
    optional = {"ts_recv", "sequence"} | ({"hidden"} if file.table == TRADES else {"gap"} if file.table == STATUS else set())
    if file.table == TRADES and file.instrument.trade_side != SENT:
        optional |= {"side"}
    found, expected = file.frame.columns, file.table.names
    missing = [c for c in expected if c not in found and c not in optional]
    odd = [c for c in found if c not in expected]
    if not missing and not odd:
        return
    trouble = "; ".join(f"{what} {', '.join(names[:6])}" for what, names in (("missing are", missing), ("not known are", odd)) if names)
    levels = f" ({file.instrument.symbol} has {file.instrument.levels} levels in the instruments file)" if file.table.name == "book" else ""
    raise FeedError(
        f"{file.path.name}: columns {trouble}{levels}.",
        hint=f"Expected {', '.join(f'[{c}]' if c in optional else c for c in expected[:12])}{', ...' if len(expected) > 12 else ''}.",
        path=file.path,
    )


def _all_or_none(files: dict[str, _File], column: str) -> bool:
    have = [f.path.name for f in files.values() if column in f.frame.columns]
    if have and len(have) < len(files):
        lacks = next(f for f in files.values() if column not in f.frame.columns)
        raise FeedError(
            f"{have[0]} has {column}, {lacks.path.name} has not.",
            hint=f"Expected {column} in all files of a recording or in none.",
            path=lacks.path,
        )
    return bool(have)


def _part_number(record: Recording) -> int:
    """The place of a part in the day, where rows have no sequence. Raises FeedError for one that is no number."""
    if not record.part:
        return 0
    # Part 0 would have the numbers of the files without a part.
    if not record.part.isdigit() or not 1 <= int(record.part) <= 255:
        path = next(iter(record.files.values()))
        raise FeedError(
            f"{path.name}: part {record.part!r} of a recording without a column sequence.",
            hint="Number such parts in the order of time, _1 to _255, or write a sequence that rises over the day.",
            path=path,
        )
    return int(record.part)


def _convert(file: _File, received: bool, numbered: bool) -> polars.DataFrame:
    """The canonical table of a file; its sequence is 0 where none was sent."""
    import polars as pl

    columns: dict[str, NDArray] = {"ts_event": file.read("ts_event", cells.instants).values}
    columns["ts_recv"] = file.read("ts_recv", cells.instants).values if received else columns["ts_event"]
    n = len(file.frame)
    columns["sequence"] = file.read("sequence", cells.whole).values if numbered else np.zeros(n, np.int64)
    match file.table.name:
        case "trades":
            columns["side"] = file.one_of("side", (-1, 0, 1)) if "side" in file.frame.columns else np.zeros(n, np.int64)
            columns |= {"price": file.price("price").values, "size": file.size("size").values, "hidden": _flag(file, "hidden")}
        case "status":
            columns |= {"halted": _flag(file, "halted"), "gap": _flag(file, "gap")}
        case "quotes":
            for side in ("bid", "ask"):
                columns |= {f"{side}_px": file.ticks(f"{side}_px").values, f"{side}_sz": file.size(f"{side}_sz").values}
        case "orders":
            columns["action"] = file.one_of("action", range(1, 8))
            columns["order_id"] = file.read("order_id", cells.whole).values
            columns["side"] = file.one_of("side", (-1, 0, 1))
            # The price of a status message is a code: -1, 0 or 1, whatever a price unit is.
            scale = np.where(columns["action"] == STATUS_ACTION, file.instrument.price_scale, 1)
            columns |= {"price": file.price("price").values // scale, "size": file.size("size").values}
        case _:
            for level in range(file.instrument.levels):
                for side, empty in (("bid", EMPTY_BID), ("ask", EMPTY_ASK)):
                    columns |= _level(file, side, level, empty)
    return pl.DataFrame({name: columns[name] for name in file.table.names}).cast({**file.table.polars_schema()})


def _in_order_of_time(tables: dict[str, polars.DataFrame], first: int) -> dict[str, polars.DataFrame]:
    """The tables with a sequence from `first` on over all of them: by when a row could be used, then by table, then as they stand."""
    import polars as pl

    usable = [np.maximum.accumulate(frame["ts_recv"].to_numpy()) if len(frame) else np.zeros(0, np.int64) for frame in tables.values()]
    # `tables` is in the order of TABLES, so a stable sort by time alone keeps it at one instant.
    place = np.empty(sum(map(len, usable)), np.int64)
    place[np.argsort(np.concatenate(usable), kind="stable")] = np.arange(first, first + len(place))
    parts = np.split(place, np.cumsum([len(u) for u in usable])[:-1])
    return {name: frame.with_columns(sequence=pl.Series(part)) for (name, frame), part in zip(tables.items(), parts, strict=True)}


def _flag(file: _File, column: str) -> NDArray[np.bool_]:
    if column not in file.frame.columns:
        return np.zeros(len(file.frame), bool)
    return file.read(column, cells.flags).values.astype(bool)


def _level(file: _File, side: str, level: int, empty: int) -> dict[str, NDArray]:
    """Price and size of a level: both, or neither."""
    px, sz = f"{side}_px_{level:02d}", f"{side}_sz_{level:02d}"
    ticks, no_price = file.ticks(px, optional=True)
    lots, no_size = file.size(sz, optional=True)
    for column, bad in ((px, no_price & (lots != 0)), (sz, no_size & ~no_price)):
        if bad.any():
            file.bad(column, BadCell(int(np.argmax(bad)), None, "a price and a size, or neither"))
    return {px: np.where(no_price, empty, ticks), sz: lots}


def _session(record: Recording, instrument: Instrument, tables: dict[str, polars.DataFrame], received: bool) -> Session:
    """The day's session. Raises FeedError where the rows are of another day than the name says."""
    clock = "ts_recv" if received else "ts_event"
    ends = [t for frame in tables.values() if len(frame) for t in (frame[clock].min(), frame[clock].max())]
    path = next(iter(record.files.values()))
    if not ends:
        raise FeedError(f"{path.name} and the files beside it hold no rows.", hint="Expected at least one row.", path=path)
    first, last = int(min(ends)), int(max(ends))  # type: ignore[arg-type]
    calendar = CALENDARS[instrument.calendar]
    session = stretch(first, last) if calendar.continuous else calendar.session(_day(record.day))
    if session.day != record.day or last < session.open or first > session.close:
        says = datetime.fromtimestamp(first // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        raise FeedError(
            f"{path.name}: the rows begin at {says} UTC, which is not in a session of {calendar.name} on {record.day}.",
            hint="Is the day in the name the venue's date, and are the times UTC?",
            path=path,
        )
    return session


def _decimal(frame: polars.DataFrame, instrument: Instrument, received: bool) -> polars.DataFrame:
    """A canonical table as a file has it."""
    import polars as pl

    out = []
    status = frame["action"] == STATUS_ACTION if "action" in frame.columns else None
    for column in frame.get_columns():
        name = column.name
        if name == "ts_recv" and not received:
            continue
        if name.startswith(("bid_px", "ask_px")):
            empty = EMPTY_BID if name.startswith("bid") else EMPTY_ASK
            units = column.cast(pl.Int64).replace(empty, None) * instrument.tick_units
            column = cells.decimals(units, instrument.price_scale)
        elif name == "price":
            text = cells.decimals(column, instrument.price_scale)
            column = text if status is None else text.zip_with(~status, column.cast(pl.String))
        elif name == "size":
            column = cells.decimals(column, instrument.lot_scale)
        elif name.startswith(("bid_sz", "ask_sz")):
            px = frame[name.replace("_sz", "_px")]
            none = px == (EMPTY_BID if name.startswith("bid") else EMPTY_ASK)
            column = cells.decimals(column, instrument.lot_scale).zip_with(~none | (column != 0), pl.Series([None], dtype=pl.String))
        out.append(column.alias(name))
    return pl.DataFrame(out)
