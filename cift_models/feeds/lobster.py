"""LOBSTER (NASDAQ order messages and the book after each): a zip of `*_message_N.csv` and `*_orderbook_N.csv`, read into canonical tables.

What must be right, from the format's own description and from the recorded files:
- the files have no header; the name inside the zip gives symbol, day, start and end (ms after midnight, New York) and levels;
- time is text, seconds after midnight in nanoseconds; it never passes through a float here, but it did once at the source: one of the
  387,105 recorded times has twelve decimals (AMZN, 43002.632812672004), so up to twelve are read and rounded to the nanosecond;
- a direction is that of the *resting* order: an execution with -1 took from a sell order, so a buyer was the aggressor;
- book row i is the state after message i: ask price, ask size, bid price, bid size, level by level;
- an empty level is +-9999999999 with size 0;
- type 5 executes against a hidden order (its price may lie between ticks), type 6 is a cross (an auction's trade), type 7 a status:
  price -1 halt, 0 quoting resumes, 1 trading resumes.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FeedError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.day import FeedDay, Identity
from cift_models.files import sha256_bytes
from cift_models.instruments import CALENDARS, Instrument, Session, to_ns
from cift_models.schema import BOOK, ORDERS, STATUS, TRADES

if TYPE_CHECKING:
    import polars

NAME = re.compile(
    r"^(?P<symbol>[A-Z][A-Z0-9.\-]*)_(?P<day>\d{4}-\d{2}-\d{2})_(?P<start>\d{1,8})_(?P<end>\d{1,8})_(?P<what>message|orderbook)_(?P<levels>\d{1,3})\.csv$"
)
"""Names of LOBSTER's two files."""
EMPTY = 9_999_999_999
"""Price of a level that holds no order, negative on the bid side."""
PRICE_SCALE = 10_000
"""Prices are dollars times this."""
MESSAGE = ("time", "type", "order_id", "size", "price", "direction")
"""Columns of the message file."""
ADD, CANCEL, DELETE, EXECUTE, EXECUTE_HIDDEN, CROSS, STATUS_TYPE = 1, 2, 3, 4, 5, 6, 7
MS = 1_000_000
"""One millisecond in nanoseconds."""
MAX_DISAGREEMENTS = 1e-3
"""Share of book rows that may differ from what the messages say; above it the two files do not belong together (recorded files: 0)."""


@dataclass(frozen=True, slots=True)
class LobsterName:
    """What the names of the two files say; times in ms after midnight, New York."""

    symbol: str
    day: date
    start_ms: int
    end_ms: int
    levels: int

    def file(self, what: str) -> str:
        """Name of the message or orderbook file."""
        return f"{self.symbol}_{self.day.isoformat()}_{self.start_ms}_{self.end_ms}_{what}_{self.levels}.csv"

    @property
    def midnight_ns(self) -> int:
        return to_ns(datetime.combine(self.day, time(0), ZoneInfo(CALENDARS["us_equity"].zone)))

    @property
    def session(self) -> Session:
        """The stretch that the file covers: a slice of a day is a shorter session."""
        midnight = self.midnight_ns
        return Session(int(self.day.strftime("%Y%m%d")), midnight + self.start_ms * MS, midnight + self.end_ms * MS)


def read_lobster(
    path: Path,
    symbol: str | None = None,
    tick_units: int = 100,
    fee_bps: float = 0.0,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> FeedDay:
    """Read one zip into `book`, `trades`, `orders` and `status`.

    `sequence` is the row number from 0; both times are the exchange's, for LOBSTER has no receive clock.

    symbol      refuse a file of another one
    tick_units  price units in a tick: 100 (one cent), 1 for a stock below a dollar
    fee_bps     fee of taking, which the file does not say
    progress    called with (what, share done)

    Raises FeedError where the zip is damaged, the names or columns are not LOBSTER's, a cell is not the number it should be, the rows of
    the two files do not belong together, or a visible price lies between ticks. Rows that are merely odd (order, session, sign, crossed)
    are kept here: feeds.quality counts and quarantines them. O(rows x levels), about 0.4 s for 150,000 rows of 5 levels.
    """
    path = Path(path)
    progress("unpack", 0.0)
    raw, name, message, orderbook = _unpack(path)
    if symbol is not None and symbol != name.symbol:
        raise FeedError(
            f"{path.name} holds {name.symbol}, asked was {symbol}.", hint=f"Ask for {name.symbol}, or pass the file of {symbol}.", path=path
        )
    progress("parse messages", 0.2)
    messages = _messages(path, name, message)
    progress("parse book", 0.4)
    book = _numbers(path, name.file("orderbook"), orderbook, 4 * name.levels)
    if len(book) != len(messages):
        raise FeedError(
            f"{path.name}: {len(messages):,} messages and {len(book):,} book rows.",
            hint="Expected one book row after each message; a file is cut or of another day.",
            path=path,
        )
    progress("check book", 0.7)
    instrument = Instrument(name.symbol, PRICE_SCALE, tick_units, 1, "shares", fee_bps, "us_equity", name.levels)
    tables = _tables(path, name, instrument, messages, book)
    disagreements = _compare(path, name, messages, tables["book"], tick_units)
    source = {
        "feed": "lobster",
        "file": path.name,
        "sha256": sha256_bytes(raw),
        "rows": len(messages),
        "receive_clock": False,
        "book_disagreements": disagreements,
    }
    progress("done", 1.0)
    return FeedDay(instrument, name.session, tables, source)


def identify(path: Path) -> Identity:
    """Whose day a zip holds, from the names in it. Raises FeedError."""
    name = _unpack(Path(path), names_only=True)[1]
    return Identity(name.symbol, name.session.day, name.session.open)


def _unpack(path: Path, names_only: bool = False) -> tuple[bytes, LobsterName, bytes, bytes]:
    """Bytes of the zip, what its names say, and the bytes of the two files."""
    try:
        raw = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            matches = [m for m in map(NAME.match, archive.namelist()) if m]
            name = _name(path, matches, archive.namelist())
            if names_only:
                return raw, name, b"", b""
            return raw, name, archive.read(name.file("message")), archive.read(name.file("orderbook"))
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}.", hint="Expected a readable LOBSTER zip.", path=path) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise FeedError(f"{path.name} is damaged or not a zip: {error}.", hint="Download it again.", path=path) from error


def _name(path: Path, matches: list[re.Match[str]], found: list[str]) -> LobsterName:
    """What the two names say, which must agree. A ValueError (no such date) is the caller's damaged file."""
    names = {
        (m["what"], LobsterName(m["symbol"], date.fromisoformat(m["day"]), int(m["start"]), int(m["end"]), int(m["levels"])))
        for m in matches
    }
    pairs = {name for _, name in names}
    if len(names) != 2 or len(pairs) != 1 or len(matches) != 2:
        raise FeedError(
            f"{path.name} is not LOBSTER: it holds {', '.join(found[:4]) or 'nothing'}{', ...' if len(found) > 4 else ''}.",
            hint="Expected SYMBOL_yyyy-mm-dd_START_END_message_N.csv and ..._orderbook_N.csv, one of each.",
            path=path,
        )
    name = pairs.pop()
    if not 0 <= name.start_ms < name.end_ms <= 86_400_000 or name.levels < 1:
        raise FeedError(
            f"{path.name}: start {name.start_ms} ms, end {name.end_ms} ms and {name.levels} levels make no session.",
            hint="Expected START < END in ms after midnight, and at least one level.",
            path=path,
        )
    return name


def _messages(path: Path, name: LobsterName, data: bytes) -> polars.DataFrame:
    """The message file with `ns` (int64 ns after midnight) in the place of its time text."""
    import polars as pl

    file = name.file("message")
    frame = _numbers(path, file, data, len(MESSAGE), MESSAGE, text=(0,))
    good = frame["time"].str.contains(r"^\d{1,5}(\.\d{1,12})?$")
    if not good.all():
        row = int((~good).arg_max() or 0)
        raise FeedError(
            f"{path.name}: {file}, row {row + 1:,}: time is {frame['time'][row]!r}.",
            hint="Expected seconds after midnight with at most twelve decimals, like 34200.015105074.",
            path=path,
        )
    for column, allowed in (("type", {1, 2, 3, 4, 5, 6, 7}), ("direction", {-1, 1})):
        odd = ~frame[column].is_in(list(allowed))
        if odd.any():
            row = int(odd.arg_max() or 0)
            raise FeedError(
                f"{path.name}: {file}, row {row + 1:,}: {column} is {frame[column][row]}.",
                hint=f"Expected one of {sorted(allowed)}; is it LOBSTER?",
                path=path,
            )
    parts = pl.col("time").str.split_exact(".", 1)
    seconds = parts.struct.field("field_0").cast(pl.Int64)
    picoseconds = parts.struct.field("field_1").fill_null("").str.pad_end(12, "0").cast(pl.Int64)
    return frame.select((seconds * 1_000_000_000 + (picoseconds + 500) // 1000).alias("ns"), *MESSAGE[1:])


def _numbers(path: Path, file: str, data: bytes, width: int, names: tuple[str, ...] = (), text: tuple[int, ...] = ()) -> polars.DataFrame:
    """A CSV without header, of `width` integer columns (those in `text` stay text). Every cell must be there."""
    import polars as pl

    names = names or tuple(f"c{i}" for i in range(width))
    schema = {n: pl.String if i in text else pl.Int64 for i, n in enumerate(names)}
    # A file cut inside its last number still parses; only the missing line end gives it away.
    if data.endswith(b"\n"):
        try:
            frame = pl.read_csv(data, has_header=False, schema=schema, quote_char=None)
            if not any(frame.null_count().row(0)):
                return frame
        except pl.exceptions.PolarsError:
            pass
    raise FeedError(f"{path.name}: {file}, {_trouble(data, names, text)}.", hint="Download it again; is it LOBSTER?", path=path)


def _trouble(data: bytes, names: tuple[str, ...], text: tuple[int, ...]) -> str:
    """Where a CSV that polars refused goes wrong: the slow way, on the way to an error only."""
    if not data:
        return "it is empty"
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        cells = line.rstrip(b"\r").decode("utf-8", "replace").split(",")
        if len(cells) != len(names):
            return f"row {number:,} has {len(cells)} columns, expected {len(names)}: {line[:60].decode('utf-8', 'replace')!r}"
        for i, cell in enumerate(cells):
            if i not in text and not (re.fullmatch(r"-?\d{1,18}", cell)):
                return f"row {number:,}, column {i + 1} ({names[i]}): {cell[:40]!r}, expected an integer"
            if not cell:
                return f"row {number:,}, column {i + 1} ({names[i]}) is empty"
    return f"row {len(lines):,} has no line end: the file is cut"


def _tables(
    path: Path, name: LobsterName, instrument: Instrument, messages: polars.DataFrame, book: polars.DataFrame
) -> dict[str, polars.DataFrame]:
    """Canonical BOOK, TRADES, ORDERS and STATUS, in file order."""
    import polars as pl

    ts = (messages["ns"] + name.midnight_ns).alias("ts_event")
    sequence = pl.Series("sequence", np.arange(len(messages), dtype=np.int64))
    times = pl.DataFrame([ts, ts.alias("ts_recv"), sequence])
    typed = messages.select(
        action=pl.col("type").cast(pl.Int8),
        order_id="order_id",
        side=pl.when(pl.col("type") < CROSS).then("direction").otherwise(0).cast(pl.Int8),
        price="price",
        size="size",
    )
    rows = pl.concat([times, typed], how="horizontal")
    action = pl.col("action")
    trades = rows.filter(action.is_between(EXECUTE, CROSS)).select(
        "ts_event", "ts_recv", "sequence", -pl.col("side"), "price", "size", hidden=action != EXECUTE
    )
    status = rows.filter((action == STATUS_TYPE) & (pl.col("price") != 0)).select(
        "ts_event", "ts_recv", "sequence", halted=pl.col("price") == -1, gap=False
    )
    levels = []
    for level in range(instrument.levels):
        for what, column in (("bid", 2), ("ask", 0)):
            price = book.to_series(4 * level + column).to_numpy()
            levels.append(pl.Series(f"{what}_px_{level:02d}", _ticks(path, name, price, instrument.tick_units, what)))
            levels.append(book.to_series(4 * level + column + 1).alias(f"{what}_sz_{level:02d}"))
    return {
        "book": pl.concat([times, pl.DataFrame(levels)], how="horizontal").cast(BOOK.with_levels(instrument.levels).polars_schema()),
        "trades": trades.cast(TRADES.polars_schema()),
        "orders": rows.select(list(ORDERS.names)).cast(ORDERS.polars_schema()),
        "status": status.cast(STATUS.polars_schema()),
    }


def _ticks(path: Path, name: LobsterName, price: NDArray[np.int64], tick_units: int, side: str) -> NDArray[np.int32]:
    """Price units to ticks, empty levels to EMPTY_BID or EMPTY_ASK; refuses prices between ticks."""
    empty = np.abs(price) == EMPTY
    ticks, rest = np.divmod(price, tick_units)
    bad = ~empty & ((rest != 0) | (np.abs(ticks) >= EMPTY_ASK))
    if bad.any():
        row = int(np.argmax(bad))
        raise FeedError(
            f"{path.name}: {name.file('orderbook')}, row {row + 1:,}: the {side} price {price[row]} is no whole number of ticks "
            f"of {tick_units}.",
            hint="Pass tick_units=1 for a stock below one dollar; is it LOBSTER?",
            path=path,
        )
    return np.where(empty, EMPTY_BID if side == "bid" else EMPTY_ASK, ticks).astype(np.int32)


def _compare(path: Path, name: LobsterName, messages: polars.DataFrame, book: polars.DataFrame, tick_units: int) -> int:
    """How many book rows differ from the row before with the message applied. Raises FeedError above MAX_DISAGREEMENTS."""
    from cift_models.feeds.replay import disagreements

    side = {
        w: np.column_stack([book[f"{w}_{level:02d}"].to_numpy() for level in range(name.levels)])
        for w in ("bid_px", "bid_sz", "ask_px", "ask_sz")
    }
    action, price, size, direction = (messages[c].to_numpy() for c in ("type", "price", "size", "direction"))
    count, first = disagreements(
        action, direction, price // tick_units, size, side["bid_px"], side["bid_sz"], side["ask_px"], side["ask_sz"]
    )
    if count > MAX_DISAGREEMENTS * len(messages):
        raise FeedError(
            f"{path.name}: {count:,} of {len(messages):,} book rows are not the row before with the message applied; "
            f"the first is row {first + 1:,}.",
            hint="Expected row i of the book to be the state after message i: the files do not belong together, or rows are missing.",
            path=path,
        )
    return int(count)
