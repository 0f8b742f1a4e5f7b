"""Streams of events made of anything that a feed may send: ties, bursts, halts, gaps, one-sided books, hidden and unsigned trades."""

from __future__ import annotations

import numpy as np

from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.features import FeatureSet
from cift_models.instruments import SECOND, Instrument, Session, Universe

OPEN = 1_700_000_000 * SECOND
LEVELS = 3


def universe_of(symbols: int) -> Universe:
    """Shares, coins and contracts in turn, with other scales each."""
    kinds = (("shares", 10_000, 100, 1), ("coins", 100, 1, 1_000), ("contracts", 10, 1, 1))
    made = []
    for s in range(symbols):
        unit, price_scale, tick_units, lot_scale = kinds[s % len(kinds)]
        made.append(Instrument(f"S{s}", price_scale, tick_units, lot_scale, unit, 0.0, "simulated", LEVELS))
    return Universe(tuple(made))


def stream_of(
    seed: int, symbols: int = 2, steps: int = 60, rate_hz: float = 8.0, interruptions: int = 2
) -> tuple[Universe, FeatureSet, Session, Events]:
    """A universe, a small feature set, a session and its events. Per symbol `interruptions`: halts and gaps in turn, with their ends."""
    rng = np.random.default_rng(seed)
    universe = universe_of(symbols)
    features = FeatureSet(levels=LEVELS, z_steps=10, warm_up_ns=5 * SECOND, profile_ns=20 * SECOND, tick_bar=7)
    n = int(rng.poisson(rate_hz * steps * symbols)) + 1
    events = Events.empty(n, LEVELS)
    spread_over = rng.integers(OPEN - SECOND, OPEN + steps * SECOND, n)
    grid = rng.choice([1, 1_000_000, 250_000_000], n)  # some lie on the very instants, many share a time
    events.ts[:] = np.sort(spread_over // grid * grid)
    events.symbol[:] = rng.integers(0, symbols, n)
    events.sequence[:] = np.arange(n)
    events.kind[:] = rng.choice([BOOK, TRADE, BOOK | TRADE, BOOK | TRADE | HIDDEN, TRADE | HIDDEN], n, p=[0.55, 0.15, 0.2, 0.05, 0.05])
    traded = (events.kind & TRADE) > 0
    events.side[traded] = rng.choice([-1, 0, 1], int(traded.sum()), p=[0.45, 0.1, 0.45])
    mid = 10_000 + np.cumsum(rng.integers(-2, 3, n))
    ticks = np.array([i.tick_units for i in universe.instruments])[events.symbol]
    events.trade_px[traded] = (mid * ticks + rng.integers(-ticks, ticks + 1))[traded]
    events.trade_sz[traded] = rng.integers(1, 40, int(traded.sum())) * 25
    for level in range(LEVELS):
        standing = rng.uniform(size=n) > 0.03 * (level + 1)
        events.bid_px[:, level] = np.where(standing, mid - 1 - level - rng.integers(0, 2, n), EMPTY_BID)
        events.bid_sz[:, level] = np.where(standing, rng.integers(1, 30, n) * 100, 0)
        standing = rng.uniform(size=n) > 0.03 * (level + 1)
        events.ask_px[:, level] = np.where(standing, mid + 1 + level + rng.integers(0, 2, n), EMPTY_ASK)
        events.ask_sz[:, level] = np.where(standing, rng.integers(1, 30, n) * 100, 0)
    for s in range(symbols):
        own = np.nonzero(events.symbol == s)[0]
        places = np.sort(rng.choice(own, min(2 * interruptions, len(own) // 2 * 2), replace=False))
        for j, (stop, go) in enumerate(zip(places[::2], places[1::2], strict=False)):
            events.kind[stop] = HALT | GAP if j % 2 else HALT
            events.kind[go] = RESUME | BOOK if rng.uniform() < 0.5 else RESUME
    return universe, features, Session(20231114, OPEN, OPEN + steps * SECOND), events
