"""A Binance capture to the canonical tables of each symbol and UTC day in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cift_models.errors import FeedError
from cift_models.feeds.binance.capture import look, pieces
from cift_models.feeds.binance.listing import built_in, canonical, read_exchange_info
from cift_models.feeds.binance.rows import Facts, Rows
from cift_models.feeds.binance.stream import BinanceStream, nothing_before
from cift_models.feeds.day import BookBefore, FeedDay, Identity
from cift_models.files import sha256_file
from cift_models.instruments import SECOND, stretch
from cift_models.schema import BOOK, BOOK_STATE, QUOTES, STATUS, TRADES

if TYPE_CHECKING:
    import polars

MAX_DAMAGED = 1e-3
"""Share of a part's lines that may be unreadable; more of them, and it is no capture. A recorder that is killed leaves one."""
MAX_FINER = 1e-3
"""Share of a part's sizes that may be finer than a lot; more of them, and the lot is wrong (recorded files: 6e-5 at most)."""
FEW = 10
"""So many of either are never too many: a share of a short file says nothing."""


def identify(path: Path, market: str | None = None) -> Identity:
    """Whose capture a file is and when it begins, from its name and first lines. Raises FeedError."""
    what = look(Path(path), market)
    day = int(datetime.fromtimestamp(what.begins // SECOND, UTC).strftime("%Y%m%d"))
    return Identity(canonical(what.symbol, what.market), day, what.begins)


def read_binance(
    path: Path,
    *,
    market: str | None = None,
    levels: int = 20,
    fee_bps: float = 0.0,
    instruments: Path | None = None,
    before: BookBefore | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Iterator[FeedDay]:
    """Yield the `book`, `quotes`, `trades`, `status` and `book_state` of each symbol and UTC day (of the receive time) in a capture.

    market       spot, usdm or coinm; None: from the file's name (spot_, usdm_, cm_). Checked against every message
    levels       levels of a BOOK row; `book_state` holds all of them
    fee_bps      fee of taking, which the file does not say
    instruments  JSON of that market's exchangeInfo: tick sizes, lot steps, contract sizes; None: six symbols are known
    before       (symbol, ns) to the stored book that this recording may go on from; None: nothing is stored
    progress     called with (what, share done)

    A book row follows each change to a book that is known whole: from a snapshot, or from the stored book if the first change follows its
    last. Other changes are set apart (`no_snapshot`), between STATUS rows that say so; trades and best bid and ask never depend on it.
    A recording has a receive clock: `source["clock"]` says how it stands to the exchange's, and nothing is repaired.
    Raises FeedError where the file is cut, of another market, or not such a capture, where a symbol is not listed or a price is off its
    grid. Memory: the rows of a day. O(bytes): 0.5 s for 524,627 messages of 156 MB and 0.3 s to unpack them; orjson alone takes 0.45 s.
    """
    path = Path(path)
    if levels < 1:
        raise FeedError(f"A book of {levels} levels.", hint="Ask for one level at least.")
    progress("look", 0.0)
    what = look(path, market)
    listings = built_in() if instruments is None else read_exchange_info(Path(instruments), what.market)
    stream = BinanceStream(what.market, levels, fee_bps, listings, before or nothing_before, what.symbol, path.name)
    facts = {"feed": "binance", "file": path.name, "sha256": sha256_file(path), "market": what.market, "receive_clock": True}
    days: dict[tuple[str, int], _Day] = {}
    for piece, share in pieces(path):
        progress("read", 0.9 * share)
        pushed = stream.push(piece)
        facts["receive_unit_ns"] = stream.unit
        yield from _gather(pushed, days, facts)
    yield from _gather(stream.finish(), days, facts)
    progress("done", 1.0)


@dataclass(slots=True)
class _Day:
    """A part as far as it is read."""

    facts: Facts = field(default_factory=Facts)
    tables: dict[str, list[polars.DataFrame]] = field(default_factory=dict)
    apart: dict[str, dict[str, list]] = field(default_factory=dict)


def _gather(pushed: list[Rows], days: dict[tuple[str, int], _Day], source: dict[str, Any]) -> Iterator[FeedDay]:
    """Add what a push gave to its day; yield the days that it ends."""
    import polars as pl

    for rows in pushed:
        day = days.setdefault((rows.instrument.symbol, rows.day), _Day())
        day.facts += rows.facts
        for name, columns in rows.tables.items():
            day.tables.setdefault(name, []).append(pl.DataFrame(columns))
        for name, lines in rows.apart.items():
            if lines["line"]:
                mine = day.apart.setdefault(name, {column: [] for column in lines})
                for column, values in lines.items():
                    mine[column] += values
        if rows.book_state is not None:
            _check(rows, day.facts, str(source["file"]))
            yield _finish(rows, days.pop((rows.instrument.symbol, rows.day)), source)


def _finish(rows: Rows, day: _Day, source: dict[str, Any]) -> FeedDay:
    """The day of a part that has ended with `rows`."""
    import polars as pl

    schemas = {"book": BOOK.with_levels(rows.instrument.levels), "quotes": QUOTES, "trades": TRADES, "status": STATUS}
    tables = {name: pl.concat([table.empty(), *day.tables.get(name, [])], rechunk=False) for name, table in schemas.items()}
    tables["book_state"] = pl.DataFrame(rows.book_state, schema=BOOK_STATE.polars_schema())
    apart_schema = {"ts_event": pl.Int64, "ts_recv": pl.Int64, "sequence": pl.Int64, "reason": pl.String, "line": pl.String}
    apart = {name: pl.DataFrame(lines, schema=apart_schema) for name, lines in day.apart.items()}
    facts = day.facts
    source = source | {
        "lines": facts.lines,
        "unknown": dict(sorted(facts.unknown.items())),
        "depth_gaps": facts.gaps,
        "snapshots": facts.snapshots,
        "continues": rows.continues,
        "finer_than_lot": facts.finer,
        "clock": _clock(tables),
    }
    if rows.grid.contract_usd:
        source["contract_usd"] = rows.grid.contract_usd
    return FeedDay(rows.instrument, stretch(rows.first, rows.last), tables, source, rows.part, apart)


def _clock(tables: dict[str, polars.DataFrame]) -> dict[str, dict[str, int]] | None:
    """How the receive clock stands to the exchange's, over the rows that have both times; None where none has. For the report only."""
    late = np.concatenate([(t["ts_recv"] - t["ts_event"]).to_numpy() for t in (tables["book"], tables["quotes"], tables["trades"])])
    late = np.sort(late[late != 0])
    if not len(late):
        return None
    return {"recv_minus_event_ns": {"min": int(late[0]), "median": int(late[len(late) // 2]), "max": int(late[-1])}}


def _check(rows: Rows, facts: Facts, file: str) -> None:
    """Refuse a part of which too much cannot be read, or whose lots are not those that were said."""
    if facts.damaged > FEW and facts.damaged > MAX_DAMAGED * facts.lines:
        raise FeedError(
            f"{file}: {facts.damaged:,} of {facts.lines:,} lines cannot be read; the first is line {facts.damaged_line:,}.",
            hint="Expected `<receive time> <JSON>` a line, as hftbacktest records.",
        )
    if facts.finer > FEW and facts.finer > MAX_FINER * facts.sizes:
        raise FeedError(
            f"{file}: {facts.finer:,} of {facts.sizes:,} sizes of {rows.instrument.symbol} are finer than a lot of "
            f"{1 / rows.instrument.lot_scale:g}; the first stands in line {facts.finer_line:,}.",
            hint="Pass instruments=FILE, the exchangeInfo of the time of the recording (LOT_SIZE.stepSize).",
        )
