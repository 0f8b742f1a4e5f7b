"""Labels: how far the mid moves in the next horizon, anchored at the price that stands when the decision can be acted on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import InputError
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, HALT, RESUME, Events
from cift_models.instruments import Session, Universe


def labels(
    events: Events,
    universe: Universe,
    session: Session,
    as_of: NDArray[np.int64],
    horizon_ns: int,
    latency_ns: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Move of the mid in bps from `as_of + latency` to `as_of + latency + horizon`.

    Returns y float64[T, S] (0 where unknown), known bool[T, S] and label_end int64[T] = as_of + latency + horizon, ns UTC.
    With m(t) the mid of the last book state of the session with ts <= t: `y = 1e4 (m(t + d + h) - m(t + d)) / m(t + d)`.
    A label is not known where it ends after the close, where no book has been seen at its start, where either state has an empty
    side, or where the symbol is halted at its start or halts before its end: nothing is computed across a halt.

    The anchor is a price that stands, never a past mean: against a past mean a martingale can be "forecast".
    O(n + T log n). It reads up to latency + horizon ahead of as_of: a target, never a feature.
    """
    if horizon_ns <= 0 or latency_ns < 0:
        raise InputError(
            f"A label of horizon {horizon_ns} ns at latency {latency_ns} ns.", hint="Expected a horizon above 0 and a latency of 0 or more."
        )
    begin = as_of + latency_ns
    end = begin + horizon_ns
    y = np.zeros((len(as_of), len(universe)))
    known = np.zeros(y.shape, bool)
    inside = (events.ts >= session.open) & (events.ts <= session.close)
    for s in range(len(universe)):
        own = inside & (events.symbol == s)
        ts, twice_mid = mid_path(events, own)
        i, j = np.searchsorted(ts, begin, "right") - 1, np.searchsorted(ts, end, "right") - 1
        ok = (i >= 0) & (end <= session.close) & ~_halted(events, own, begin, end)
        if len(ts):
            # Sums of int ticks are exact: one rounding in the difference's quotient, none in the prices.
            a, b = twice_mid[np.maximum(i, 0)], twice_mid[np.maximum(j, 0)]
            ok &= (a > 0) & (b > 0)
            known[:, s] = ok
            y[ok, s] = 1e4 * (b[ok] - a[ok]) / a[ok]
    return y, known, end


def mid_path(events: Events, own: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times of one symbol's book states and best bid + best ask in ticks (twice the mid); 0 where a side is empty.

    `own` bool[n] marks the symbol's events.
    """
    book = own & ((events.kind & BOOK) > 0)
    bid, ask = events.bid_px[book, 0].astype(np.int64), events.ask_px[book, 0].astype(np.int64)
    return events.ts[book], np.where((bid == EMPTY_BID) | (ask == EMPTY_ASK), 0, bid + ask)


def _halted(events: Events, own: NDArray[np.bool_], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a symbol is halted at `begin` or halts in (begin, end]."""
    status = own & ((events.kind & (HALT | RESUME)) > 0)
    if not status.any():
        return np.zeros(len(begin), bool)
    ts, halts = events.ts[status], (events.kind[status] & HALT) > 0
    last = np.searchsorted(ts, begin, "right") - 1
    at_begin = (last >= 0) & halts[np.maximum(last, 0)]
    starts = ts[halts]
    return at_begin | (np.searchsorted(starts, end, "right") > np.searchsorted(starts, begin, "right"))
