"""Trades since the last decision instant: open, high, low, close, volume-weighted price, volume, count.

Without a trade since then the five prices stand at the last trade's price, before the first trade at the mid. Prices in quote
currency, volume in units, hidden executions included.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.events import TRADE, Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Universe


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("bar_open", "bar_high", "bar_low", "bar_close", "bar_vwap", "volume", "n_trades")


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: no trade yet."""
    return {"last_px": np.zeros(len(universe), np.int64), "mid_column": features.index(["mid"])}


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Write columns at.. of x[T, S, F]; reads the mid that the quote family has written."""
    price_scale = np.array([i.price_scale for i in universe.instruments], np.int64)
    lot_scale = np.array([i.lot_scale for i in universe.instruments], np.int64)
    _fold(
        state["last_px"], events.symbol, events.kind, events.trade_px, events.trade_sz, offsets, x, at,
        int(state["mid_column"][0]), price_scale, lot_scale,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _fold(last_px, symbol, kind, trade_px, trade_sz, offsets, x, at, mid_column, price_scale, lot_scale):
    n = len(last_px)
    opened, high, low = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    volume, turnover, count = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    for t in range(len(offsets) - 1):
        count[:] = 0
        volume[:] = 0
        turnover[:] = 0
        for i in range(offsets[t], offsets[t + 1]):
            if not kind[i] & TRADE:
                continue
            s, px = symbol[i], trade_px[i]
            if count[s] == 0:
                opened[s], high[s], low[s] = px, px, px
            high[s], low[s], last_px[s] = max(high[s], px), min(low[s], px), px
            volume[s] += trade_sz[i]
            turnover[s] += px * trade_sz[i]
            count[s] += 1
        for s in range(n):
            row = x[t, s]
            if count[s] > 0:
                row[at] = opened[s] / price_scale[s]
                row[at + 1] = high[s] / price_scale[s]
                row[at + 2] = low[s] / price_scale[s]
                row[at + 3] = last_px[s] / price_scale[s]
                row[at + 4] = turnover[s] / volume[s] / price_scale[s]
            else:
                price = last_px[s] / price_scale[s] if last_px[s] != 0 else row[mid_column]
                for c in range(5):
                    row[at + c] = price
            row[at + 5] = volume[s] / lot_scale[s]
            row[at + 6] = count[s]
