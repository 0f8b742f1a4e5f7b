"""The merged event stream: what the engine eats, live and in batch.

An *event* is one thing a feed said about one symbol at one time: a new state of the book, a trade, or both at once
(an order that executes changes the book in the same message).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError

BOOK = 1
"""Bit of `kind`: the event carries the book after it."""
TRADE = 2
"""Bit of `kind`: a trade; `side`, `trade_px` and `trade_sz` are set."""
HIDDEN = 4
"""Bit of `kind`, beside TRADE: it executed against an order that the book did not show."""
HALT = 8
"""Bit of `kind`: trading stopped."""
RESUME = 16
"""Bit of `kind`: trading goes on."""
GAP = 32
"""Bit of `kind`, beside HALT: the feed lost messages, not the venue stopped; RESUME says that the book is whole again."""

EMPTY_BID = -(2**31 - 1)
"""Price in ticks of a bid level that holds no order (its size is 0): below every price, so order-flow comparisons need no special case."""
EMPTY_ASK = 2**31 - 1
"""Price in ticks of an ask level that holds no order."""


@dataclass(frozen=True, slots=True)
class Events:
    """n events in (ts, symbol, sequence) order, as columns.

    ts        int64[n]     ns UTC when it could be used: receive time where the feed has it (running maximum), else exchange time
    symbol    int16[n]     place in the universe
    sequence  int64[n]     the venue's order within a symbol
    kind      int8[n]      bits BOOK, TRADE, HIDDEN, HALT, RESUME, GAP
    side      int8[n]      of a trade: +1 buyer-initiated, -1 seller-initiated, 0 unknown or no trade
    trade_px  int64[n]     price units (Instrument.price_scale)
    trade_sz  int64[n]     lots
    bid_px    int32[n, L]  ticks, best first; EMPTY_BID where the level is empty; rows without BOOK repeat nothing and are ignored
    bid_sz    int64[n, L]  lots
    ask_px, ask_sz         likewise
    """

    ts: NDArray[np.int64]
    symbol: NDArray[np.int16]
    sequence: NDArray[np.int64]
    kind: NDArray[np.int8]
    side: NDArray[np.int8]
    trade_px: NDArray[np.int64]
    trade_sz: NDArray[np.int64]
    bid_px: NDArray[np.int32]
    bid_sz: NDArray[np.int64]
    ask_px: NDArray[np.int32]
    ask_sz: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def levels(self) -> int:
        return self.bid_px.shape[1]

    def __getitem__(self, part: slice | NDArray) -> Events:
        """A part, as views where `part` is a slice."""
        return Events(*(getattr(self, f.name)[part] for f in fields(self)))

    @classmethod
    def empty(cls, n: int, levels: int) -> Events:
        """n events that say nothing, with empty books: allocate, then fill."""
        return cls(
            ts=np.zeros(n, np.int64),
            symbol=np.zeros(n, np.int16),
            sequence=np.zeros(n, np.int64),
            kind=np.zeros(n, np.int8),
            side=np.zeros(n, np.int8),
            trade_px=np.zeros(n, np.int64),
            trade_sz=np.zeros(n, np.int64),
            bid_px=np.full((n, levels), EMPTY_BID, np.int32),
            bid_sz=np.zeros((n, levels), np.int64),
            ask_px=np.full((n, levels), EMPTY_ASK, np.int32),
            ask_sz=np.zeros((n, levels), np.int64),
        )


def merge(parts: Sequence[Events], levels: int) -> Events:
    """One stream of several (a part per symbol, say), in (ts, symbol, sequence) order, books padded to `levels` with empty levels.

    Raises DataError where a part is itself out of order. O(n log n) in time, one copy.
    """
    out = Events.empty(sum(len(p) for p in parts), levels)
    at = 0
    for part in parts:
        check_order(part)
        for f in fields(Events):
            source, target = getattr(part, f.name), getattr(out, f.name)[at : at + len(part)]
            if source.ndim == 2:
                target[:, : source.shape[1]] = source
            else:
                target[:] = source
        at += len(part)
    return out[np.lexsort((out.sequence, out.symbol, out.ts))]


def check_order(events: Events) -> None:
    """Raise DataError at the first event that goes back in (ts, symbol, sequence)."""
    if len(events) < 2:
        return
    ts, symbol, sequence = events.ts, events.symbol, events.sequence
    same_ts = ts[1:] == ts[:-1]
    same = same_ts & (symbol[1:] == symbol[:-1])
    bad = (ts[1:] < ts[:-1]) | (same_ts & (symbol[1:] < symbol[:-1])) | (same & (sequence[1:] <= sequence[:-1]))
    if bad.any():
        i = int(np.argmax(bad)) + 1
        raise DataError(
            f"Event {i:,} goes back: (ts, symbol, sequence) ({ts[i]}, {symbol[i]}, {sequence[i]}) after ({ts[i - 1]}, {symbol[i - 1]}, "
            f"{sequence[i - 1]}). Expected a stream that never goes back.",
            hint="Sort the source by time, symbol and sequence; two events of a symbol may share a time, never a sequence.",
            row=i,
        )
