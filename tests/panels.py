"""Small panels of random numbers, for unit tests that need the shape of data and not its truth."""

from __future__ import annotations

import numpy as np

from cift_models.events import BOOK, TRADE, Events
from cift_models.features import FeatureSet
from cift_models.instruments import SECOND, Instrument, Universe
from cift_models.models.protocol import Panel, Why

OPEN = 1_700_000_000 * SECOND


def toy_universe(n: int = 3, levels: int = 2) -> Universe:
    """n instruments named S0, S1, ... in cents and shares."""
    return Universe(tuple(Instrument(f"S{i}", 10_000, 100, 1, "shares", 0.0, "simulated", levels) for i in range(n)))


def toy_panel(seed: int = 0, steps: int = 400, symbols: int = 3, session: int = 20231114, rate_hz: float = 4.0) -> Panel:
    """Random features (standard normal, mid a random walk near 100) and random events; y is a little of z_ofi_00 and noise."""
    rng = np.random.default_rng(seed)
    universe = toy_universe(symbols)
    features = FeatureSet(levels=universe.levels)
    as_of = OPEN + SECOND * np.arange(1, steps + 1)
    x = rng.normal(size=(steps, symbols, len(features.names)))
    place = {name: i for i, name in enumerate(features.names)}
    x[:, :, place["mid"]] = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, (steps, symbols)), axis=0))
    x[:, :, place["spread_ticks"]] = rng.integers(1, 4, (steps, symbols))
    x[:, :, place["n_trades"]] = rng.poisson(1.0, (steps, symbols))
    for name in ("activity_60s", "activity_600s"):
        x[:, :, place[name]] = rng.uniform(0.1, 0.9, (steps, symbols))
    x[:, :, place["session_share"]] = (np.arange(1, steps + 1) / steps)[:, None]
    volatility = x[:, :, place["realised_vol_300s"]]
    volatility[:] = 0.5 + np.abs(volatility)
    valid = np.ones((steps, symbols), bool)
    valid[:10] = False
    why = np.where(valid, Why.OK, Why.WARM_UP).astype(np.int8)
    n = int(rate_hz * steps * symbols)
    events = Events.empty(n, universe.levels)
    events.ts[:] = np.sort(rng.integers(OPEN, OPEN + steps * SECOND, n))
    events.symbol[:] = rng.integers(0, symbols, n)
    events.sequence[:] = np.arange(n)
    events.kind[:] = np.where(rng.uniform(size=n) < 0.3, BOOK | TRADE, BOOK)
    traded = (events.kind & TRADE) > 0
    events.side[traded] = rng.choice([-1, 1], int(traded.sum()))
    events.trade_px[traded] = 1_000_000
    events.trade_sz[traded] = rng.integers(1, 10, int(traded.sum())) * 100
    bid = 9_999 + np.cumsum(rng.integers(-1, 2, n))
    for level in range(universe.levels):
        events.bid_px[:, level] = bid - level
        events.ask_px[:, level] = bid + 1 + level
    events.bid_sz[:] = rng.integers(1, 20, events.bid_sz.shape) * 100
    events.ask_sz[:] = rng.integers(1, 20, events.ask_sz.shape) * 100
    offsets = np.concatenate([[0], np.searchsorted(events.ts, as_of, "right")])
    y = 0.3 * x[:, :, place["z_ofi_00"]] + rng.normal(size=(steps, symbols))
    rows = np.zeros(steps, bool)
    rows[20 : steps - 20] = True
    base = {"linear": rng.normal(size=(steps, symbols, 1)), "hawkes": rng.normal(size=(steps, symbols, 3))}
    return Panel(
        universe,
        features,
        session,
        OPEN,
        OPEN + steps * SECOND,
        as_of,
        x,
        valid,
        why,
        events,
        offsets.astype(np.int64),
        base=base,
        base_ready={k: valid.copy() for k in base},
        y=np.where(rows[:, None], y, 0.0),
        rows=rows,
        label_end=as_of + SECOND,
        base_oof=rows.copy(),
    )
