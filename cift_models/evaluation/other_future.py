"""Another future: what a stream of events could have gone on with, to show that nothing before depends on how it does."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, HIDDEN, RESUME, TRADE, Events

KINDS = np.array([BOOK, BOOK | TRADE, TRADE, TRADE | HIDDEN, HALT, HALT | GAP, RESUME, RESUME | BOOK], np.int8)
SHARES = np.array([0.5, 0.2, 0.1, 0.1, 0.02, 0.02, 0.05, 0.01])
"""How often the noise has each kind: stops are frequent, so that a stop in the future would show."""

MOST = 10_000
"""Events of a symbol from which prices are drawn: enough to be like it, few enough to cost nothing."""


class OtherFuture:
    """Noise in the manner of a stream: its symbols, depth, sizes and prices up to half off, everything else otherwise.

    events   the stream, in (ts, symbol, sequence) order
    symbols  how many symbols its universe has; one without events gets prices of its own
    """

    def __init__(self, events: Events, symbols: int) -> None:
        self._events = events
        self._symbols = symbols
        self._sequence = int(events.sequence.max()) + 1 if len(events) else 1
        self._bids, self._prices, self._sizes, self._levels = [], [], [], []
        for s in range(symbols):
            own = np.flatnonzero(events.symbol == s)
            own = own[:: len(own) // MOST + 1]
            book, trade = (own[events.kind[own] & bit > 0] for bit in (BOOK, TRADE))
            bids = events.bid_px[book, 0][events.bid_px[book, 0] != EMPTY_BID]
            depth = (events.bid_sz[book] > 0).any(axis=0) | (events.ask_sz[book] > 0).any(axis=0)
            largest = max(int(a.max(initial=0)) for a in (events.bid_sz[book], events.ask_sz[book], events.trade_sz[trade]))
            self._bids.append(bids if len(bids) else np.array([10_000]))
            self._prices.append(events.trade_px[trade] if len(trade) else np.array([1_000_000]))
            self._sizes.append(max(largest, 1))
            self._levels.append(max(int(depth.sum()), 1) if len(book) else events.levels)

    def after(self, index: int, at: int, end: int, n: int, rng: np.random.Generator) -> Events:
        """events[:index], then n events of noise with at <= ts <= end, in order; some share a time, one has ts = `at`.

        Needs at >= ts of the last event that stays. O(index + n); the stream itself is not changed.
        """
        noise = self._noise(n, at, max(end, at), rng)
        kept = self._events[:index]
        if index and n and int(kept.ts[-1]) == at:
            # Within one nanosecond the order is that of symbols: a smaller one may not follow.
            noise.symbol[noise.ts == at] = np.maximum(noise.symbol[noise.ts == at], kept.symbol[-1])
        noise = noise[np.lexsort((noise.sequence, noise.symbol, noise.ts))]
        return Events(*(np.concatenate([getattr(kept, f.name), getattr(noise, f.name)]) for f in fields(Events)))

    def _noise(self, n: int, at: int, end: int, rng: np.random.Generator) -> Events:
        out = Events.empty(n, self._events.levels)
        if n == 0:
            return out
        ts = rng.integers(at, end, n, endpoint=True)
        tied = rng.uniform(size=n) < 0.3
        ts[tied] = np.maximum(ts[tied] // 10_000_000 * 10_000_000, at)
        ts[0] = at
        out.ts[:] = np.sort(ts)
        out.symbol[:] = rng.integers(0, self._symbols, n)
        out.sequence[:] = self._sequence + np.arange(n)
        out.kind[:] = rng.choice(KINDS, n, p=SHARES)
        for s in range(self._symbols):
            own = out.symbol == s
            trade, book = np.flatnonzero(own & (out.kind & TRADE > 0)), np.flatnonzero(own & (out.kind & BOOK > 0))
            out.side[trade] = rng.integers(-1, 2, len(trade))
            out.trade_px[trade] = _about(self._prices[s], len(trade), rng)
            out.trade_sz[trade] = rng.integers(1, self._sizes[s], len(trade), endpoint=True)
            self._books(out, book, s, rng)
        return out

    def _books(self, out: Events, at: NDArray[np.int64], s: int, rng: np.random.Generator) -> None:
        """Books whose levels are in order, one side in twenty shorter than the other, down to none."""
        levels = self._levels[s]
        bid = np.maximum(_about(self._bids[s], len(at), rng), 8 * levels)
        ask = bid + rng.integers(1, 50, len(at))
        for px, sz, best, sign, empty in ((out.bid_px, out.bid_sz, bid, -1, EMPTY_BID), (out.ask_px, out.ask_sz, ask, 1, EMPTY_ASK)):
            steps = rng.integers(1, 6, (len(at), levels))
            steps[:, 0] = 0
            prices = best[:, None] + sign * np.cumsum(steps, axis=1)
            sizes = rng.integers(1, self._sizes[s], (len(at), levels), endpoint=True)
            depth = np.where(rng.uniform(size=len(at)) < 0.05, rng.integers(0, levels, len(at)), levels)
            there = np.arange(levels) < depth[:, None]
            px[at, :levels] = np.where(there, prices, empty)
            sz[at, :levels] = np.where(there, sizes, 0)


def _about(pool: NDArray, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n integers within half of values drawn from the pool."""
    return np.rint(rng.choice(pool, n) * rng.uniform(0.5, 1.5, n)).astype(np.int64)
