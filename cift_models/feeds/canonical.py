"""The canonical tables of one symbol and session, and the event stream that they say: each is made from the other, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.events import BOOK, GAP, HALT, HIDDEN, RESUME, TRADE, Events, check_order
from cift_models.schema import BOOK as BOOK_TABLE
from cift_models.schema import STATUS, TRADES

if TYPE_CHECKING:
    import polars

EVENT_TABLES = ("trades", "status", "book")
"""The tables that make a session's events, in the order in which they are written: the book, which most readers open, last."""


def tables_of_events(events: Events) -> dict[str, polars.DataFrame]:
    """TRADES, STATUS and BOOK of one symbol's events; `ts` is written as both times.

    A row without BOOK loses what it holds in the levels, a row without TRADE what it holds in side, price and size: they mean nothing.
    Raises DataError for events of two symbols, out of order, of a kind that says nothing, HIDDEN without TRADE, GAP without HALT,
    or HALT with RESUME.
    """
    import polars as pl

    _check_kinds(events)
    times = {"ts_event": events.ts, "ts_recv": events.ts, "sequence": events.sequence}
    book, trade, status = (events.kind & bits > 0 for bits in (BOOK, TRADE, HALT | RESUME))
    trades = {k: v[trade] for k, v in times.items()} | {
        "side": events.side[trade],
        "price": events.trade_px[trade],
        "size": events.trade_sz[trade],
        "hidden": events.kind[trade] & HIDDEN > 0,
    }
    levels = {}
    for level in range(events.levels):
        for name in ("bid_px", "bid_sz", "ask_px", "ask_sz"):
            levels[f"{name}_{level:02d}"] = np.ascontiguousarray(getattr(events, name)[book, level])
    table = BOOK_TABLE.with_levels(events.levels)
    return {
        "trades": pl.DataFrame(trades, schema=TRADES.polars_schema()),
        "status": pl.DataFrame(
            {k: v[status] for k, v in times.items()} | {"halted": events.kind[status] & HALT > 0, "gap": events.kind[status] & GAP > 0},
            schema=STATUS.polars_schema(),
        ),
        "book": pl.DataFrame({k: v[book] for k, v in times.items()} | levels, schema=table.polars_schema()),
    }


def events_of_tables(tables: Mapping[str, polars.DataFrame], symbol: int = 0) -> Events:
    """One symbol's events from TRADES, STATUS and BOOK (an absent table says nothing): rows that share a sequence are one event.

    `ts` is the running maximum of `ts_recv` in sequence order: when the event could be used. `symbol` is its place in the universe.
    Raises DataError where a table's sequence goes back, or two tables give one sequence two times. O(n log n).
    """
    frames = {name: tables[name] for name in EVENT_TABLES if name in tables}
    levels = (len(frames["book"].columns) - 3) // 4 if "book" in frames else 1
    for name, frame in frames.items():
        step = np.diff(frame["sequence"].to_numpy())
        if len(step) and step.min() <= 0:
            row = int(np.argmax(step <= 0)) + 1
            raise DataError(
                f"{name}: row {row:,} has sequence {frame['sequence'][row]} after {frame['sequence'][row - 1]}.",
                hint="Expected a sequence that rises within a symbol and session; check quality before storing.",
                row=row,
            )
    parts = [frame["sequence"].to_numpy() for frame in frames.values()]
    sequence = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
    out = Events.empty(len(sequence), levels)
    out.sequence[:] = sequence
    out.symbol[:] = symbol
    place = {name: np.searchsorted(sequence, frame["sequence"].to_numpy()) for name, frame in frames.items()}
    recv = _times(frames, place, sequence)
    if len(sequence):
        out.ts[:] = np.maximum.accumulate(recv)
    if "trades" in frames:
        frame, at = frames["trades"], place["trades"]
        out.kind[at] |= np.where(frame["hidden"].to_numpy(), TRADE | HIDDEN, TRADE).astype(np.int8)
        out.side[at], out.trade_px[at], out.trade_sz[at] = (frame[c].to_numpy() for c in ("side", "price", "size"))
    if "status" in frames:
        halted, gap = (frames["status"][c].to_numpy() for c in ("halted", "gap"))
        out.kind[place["status"]] |= (np.where(halted, HALT, RESUME) | np.where(gap, GAP, 0)).astype(np.int8)
    if "book" in frames:
        frame, at = frames["book"], place["book"]
        out.kind[at] |= BOOK
        # A slice is copied at memory speed, a fancy index is not; a LOBSTER session has a book row for every event.
        whole = slice(None) if len(at) == len(sequence) else at
        for level in range(levels):
            for name in ("bid_px", "bid_sz", "ask_px", "ask_sz"):
                getattr(out, name)[whole, level] = frame[f"{name}_{level:02d}"].to_numpy()
    return out


def _times(frames: Mapping[str, polars.DataFrame], place: Mapping[str, NDArray], sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """`ts_recv` of every sequence; refuses two tables that disagree."""
    recv = np.zeros(len(sequence), np.int64)
    seen = np.zeros(len(sequence), bool)
    for name, frame in frames.items():
        at, ts = place[name], frame["ts_recv"].to_numpy()
        wrong = seen[at] & (recv[at] != ts)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise DataError(
                f"{name}: sequence {sequence[at[i]]} was received at {ts[i]} ns, in another table at {recv[at[i]]} ns.",
                hint="Tables of one session must come from one source: ingest it again.",
            )
        recv[at], seen[at] = ts, True
    return recv


def _check_kinds(events: Events) -> None:
    check_order(events)
    kind = events.kind
    trouble = [
        ("are of a second symbol", events.symbol != (events.symbol[0] if len(events) else 0)),
        ("say nothing (kind 0)", kind & (BOOK | TRADE | HALT | RESUME) == 0),
        ("are HIDDEN without TRADE", (kind & HIDDEN > 0) & (kind & TRADE == 0)),
        ("are HALT and RESUME at once", (kind & HALT > 0) & (kind & RESUME > 0)),
        ("are GAP without HALT", (kind & GAP > 0) & (kind & HALT == 0)),
        ("have an unknown kind", kind & ~np.int8(BOOK | TRADE | HIDDEN | HALT | RESUME | GAP) != 0),
        ("repeat a sequence or go back in it", np.r_[False, np.diff(events.sequence) <= 0] if len(events) else np.zeros(0, bool)),
    ]
    for what, bad in trouble:
        if bad.any():
            i = int(np.argmax(bad))
            raise DataError(
                f"{int(bad.sum()):,} of {len(events):,} events {what}; the first is event {i:,} "
                f"(sequence {events.sequence[i]}, kind {kind[i]}).",
                hint="Expected one symbol's events, each with a book, a trade or a status, in the order of the venue's sequence.",
                row=i,
            )
