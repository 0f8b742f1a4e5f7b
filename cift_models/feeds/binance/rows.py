"""One symbol's messages to rows of the canonical tables.

`sequence` is the UTC second of the day at which a part begins, times 2**32, plus the line's number since then: it rises within a symbol and
a day, and files of one day have ranges of their own. All rows of one message share it.

`ts_event` is T, the time of the transaction, where the message has one; else E; else (spot's best bid and ask, spot's snapshot) the
receive time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.binance.listing import Listing
from cift_models.feeds.binance.scan import (
    AFTER,
    AT,
    DAMAGED,
    DEPTH,
    END,
    EVENT,
    FINER,
    FIRST,
    KIND,
    LINE,
    MIDDLE,
    NOT_A_TRADE,
    RECV,
    SIDE,
    SNAPSHOT,
    TICKER,
    TO,
    TRADE,
    UNKNOWN,
    UNTIL,
)
from cift_models.feeds.binance.sync import REASONS, ROW, Sync, Told, follow
from cift_models.feeds.day import part_from, utc_day
from cift_models.instruments import SECOND, Instrument

Columns = dict[str, NDArray]
MS = 1_000_000
"""One millisecond in nanoseconds."""
DAY_NS = 86_400 * SECOND
DAMAGED_LINE, NO_TRADE = len(REASONS), len(REASONS) + 1
_WHY = (*REASONS, "damaged", "not_a_trade")
"""Reasons of sync, then two of single lines: one that cannot be read; a trade message that reports none."""


@dataclass(slots=True)
class Facts:
    """Counts, of a push or of a whole part.

    lines          of the symbol, whatever they are
    unknown        of them by stream: not ours, in no table
    gaps           how often the book was lost
    snapshots      how often it was begun from a snapshot
    sizes, finer   sizes read; those that were finer than a lot and count as the whole lots in them
    damaged        lines that cannot be read
    ..._line       the first such line of the stream, from 1; 0 where there is none
    """

    lines: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    snapshots: int = 0
    sizes: int = 0
    finer: int = 0
    finer_line: int = 0
    damaged: int = 0
    damaged_line: int = 0

    def __add__(self, more: Facts) -> Facts:
        return Facts(
            self.lines + more.lines,
            self.unknown + more.unknown,
            self.gaps + more.gaps,
            self.snapshots + more.snapshots,
            self.sizes + more.sizes,
            self.finer + more.finer,
            self.finer_line or more.finer_line,
            self.damaged + more.damaged,
            self.damaged_line or more.damaged_line,
        )


@dataclass(slots=True)
class Rows:
    """What came of one symbol on one day.

    day, part    yyyymmdd, and which part of it: "t" and the second at which it began
    first, last  receive time of the part's first line, and the greatest so far
    tables       columns by table: trades, quotes, book, status
    apart        by table, columns of the lines that made no row: ts_event, ts_recv, sequence, reason, line (its text)
    continues    the update at which the book stood when the part began, if a change has followed it
    book_state   where the part ends with these rows: every level of the book, none where it is not whole
    """

    instrument: Instrument
    grid: Listing
    day: int
    part: str
    first: int
    last: int
    tables: dict[str, Columns]
    apart: dict[str, dict[str, list]]
    facts: Facts
    continues: int | None
    book_state: Columns | None = None


@dataclass(slots=True)
class Symbol:
    """One symbol's place in the stream.

    first, line  receive time and number of the part's first line; first is 0 between parts
    last         greatest receive time of the part
    held         update at which the book stood when the part began, until a message tells whether it goes on
    continues    the same, after it did
    stands       ts_event and ts_recv of the message that the book stands at; None before the part's first row
    """

    grid: Listing
    instrument: Instrument
    sync: Sync
    first: int = 0
    line: int = 0
    last: int = 0
    held: int | None = None
    continues: int | None = None
    stands: tuple[int, int] | None = None

    def copy(self) -> Symbol:
        return replace(self, sync=self.sync.copy())


def rows_of(symbol: Symbol, told: NDArray[np.int64], px: NDArray, sz: NDArray, data: bytes, unknown: list[str]) -> Rows:
    """Rows of messages (scan's columns) of one symbol and day; `symbol` is changed in place. `unknown` names streams by UNKNOWN's SIDE."""
    kind, recv, line = told[:, KIND], told[:, RECV], told[:, LINE]
    if not symbol.first:
        symbol.first, symbol.line, symbol.last = int(recv[0]), int(line[0]), int(recv[0])
        symbol.held = symbol.sync.last if symbol.sync.book is not None else None
    symbol.last = max(symbol.last, int(recv.max()))
    event = np.where(told[:, EVENT] > 0, told[:, EVENT] * MS, recv)
    sequence = (_second(symbol) << 32) + line - symbol.line
    times = {"ts_event": event, "ts_recv": recv, "sequence": sequence}
    finer, damaged = np.flatnonzero(told[:, FINER]), np.flatnonzero(kind == DAMAGED)
    facts = Facts(
        len(told),
        Counter[str](unknown[i] for i in told[kind == UNKNOWN, SIDE].tolist()),
        sizes=int((told[:, END] - told[:, FIRST]).sum()),
        finer=int(told[:, FINER].sum()),
        finer_line=int(line[finer[0]]) + 1 if len(finer) else 0,
        damaged=len(damaged),
        damaged_line=int(line[damaged[0]]) + 1 if len(damaged) else 0,
    )
    trade, quote = kind == TRADE, kind == TICKER
    first = told[trade, FIRST]
    tables: dict[str, Columns] = {
        "trades": {k: v[trade] for k, v in times.items()}
        | {"side": told[trade, SIDE].astype(np.int8), "price": px[first], "size": sz[first], "hidden": np.zeros(len(first), bool)},
        "quotes": {k: v[quote] for k, v in times.items()} | _best(told[quote, FIRST], told[quote, MIDDLE], px, sz),
    }
    at = np.flatnonzero((kind == DEPTH) | (kind == SNAPSHOT))
    columns = np.ascontiguousarray(told[at][:, [AFTER, UNTIL, FIRST, MIDDLE, END]].T)
    came = follow(symbol.sync, Told(kind[at] == SNAPSHOT, *columns), px, sz, symbol.instrument.levels)
    rows = at[came.fate == ROW]
    tables["book"] = {k: v[rows] for k, v in times.items()} | _levels(came.px, came.sz)
    said = at[came.at]
    tables["status"] = {k: v[said] for k, v in times.items()} | {"halted": came.halted, "gap": came.halted}
    changes = np.flatnonzero(kind[at] == DEPTH)
    if len(changes):
        if symbol.held is not None and came.fate[changes[0]] == ROW:
            symbol.continues = symbol.held
        symbol.held = None
    if len(rows):
        symbol.stands = int(event[rows[-1]]), int(recv[rows[-1]])
    facts.gaps, facts.snapshots = came.gaps, came.snapshots
    # A damaged line is set apart with the book, which is what most lines are of: if it was a change, the next one shows the gap.
    why = np.zeros(len(told), np.int8)
    why[at], why[damaged] = came.fate, DAMAGED_LINE
    apart = {"book": _apart(why, times, told, data)}
    why[:] = 0
    why[kind == NOT_A_TRADE] = NO_TRADE
    apart["trades"] = _apart(why, times, told, data)
    return _rows(symbol, tables, apart, facts)


def end_part(symbol: Symbol) -> Rows:
    """The end of a symbol's part: no row, and the book that it leaves to the next. The symbol is then between parts."""
    sync = symbol.sync
    # A book that was mended, but is not yet said to be whole again, is none to go on from: the next file would never say it.
    whole = sync.book is not None and symbol.stands is not None and not sync.lost
    side, ticks, lots = sync.book.levels() if sync.book is not None and whole else (np.zeros(0, np.int64),) * 3
    event, recv = symbol.stands or (0, 0)
    out = _rows(symbol, {}, {}, Facts())
    out.book_state = {
        "ts_event": np.full(len(side), event, np.int64),
        "ts_recv": np.full(len(side), recv, np.int64),
        "sequence": np.full(len(side), sync.last, np.int64),
        "side": side.astype(np.int8),
        "price": ticks * symbol.grid.tick_units,
        "size": lots,
    }
    symbol.first = symbol.line = symbol.last = 0
    symbol.held = symbol.continues = symbol.stands = None
    return out


def _rows(symbol: Symbol, tables: dict[str, Columns], apart: dict[str, dict[str, list]], facts: Facts) -> Rows:
    day, part = utc_day(symbol.first), part_from(symbol.first)
    return Rows(symbol.instrument, symbol.grid, day, part, symbol.first, symbol.last, tables, apart, facts, symbol.continues)


def _apart(why: NDArray[np.int8], times: Columns, told: NDArray[np.int64], data: bytes) -> dict[str, list]:
    """The lines that have a reason, with it and their text."""
    at = np.flatnonzero(why)
    lines = [data[a:b].decode("utf-8", "replace") for a, b in told[at][:, [AT, TO]].tolist()]
    return {k: v[at].tolist() for k, v in times.items()} | {"reason": [_WHY[w] for w in why[at].tolist()], "line": lines}


def _second(symbol: Symbol) -> int:
    """UTC second of the day at which the symbol's part begins."""
    return symbol.first % DAY_NS // SECOND


def _best(bid: NDArray[np.int64], ask: NDArray[np.int64], px: NDArray[np.int64], sz: NDArray[np.int64]) -> Columns:
    """Best bid and ask; a side without orders is sent as price 0 and size 0."""
    bid_px, bid_sz, ask_px, ask_sz = px[bid], sz[bid], px[ask], sz[ask]
    return {
        "bid_px": np.where((bid_px == 0) & (bid_sz == 0), EMPTY_BID, bid_px).astype(np.int32),
        "bid_sz": bid_sz,
        "ask_px": np.where((ask_px == 0) & (ask_sz == 0), EMPTY_ASK, ask_px).astype(np.int32),
        "ask_sz": ask_sz,
    }


def _levels(px: NDArray[np.int32], sz: NDArray[np.int64]) -> Columns:
    """Columns of a BOOK from px[2, L, rows] and sz."""
    return {
        f"{side}_{what}_{level:02d}": values[row, level]
        for level in range(px.shape[1])
        for row, side in enumerate(("bid", "ask"))
        for what, values in (("px", px), ("sz", sz))
    }
