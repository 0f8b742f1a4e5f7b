"""The book as it stands at the decision instant: mid, spread, imbalance, microprice, age.

mid               (best bid + best ask) / 2                                    quote currency
spread            best ask - best bid                                          quote currency
spread_ticks      the same in ticks
half_spread_bps   1e4 spread / 2 / mid
queue_imbalance   (bid size - ask size) / (bid size + ask size) at the best    -1..1
queue_imbalance_x_spread  the product of two of the above                      quote currency
microprice_bps    1e4 (microprice - mid) / mid, microprice = (bid ask_size + ask bid_size) / (bid_size + ask_size)
depth_imbalance   queue imbalance of the sizes summed over all levels          -1..1
age_s             seconds since the symbol's last event
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, RESUME, Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Universe

OK, WARM_UP, FEED_GAP, HALTED, ABSENT = 0, 1, 2, 3, 4  # values of models.protocol.Why that this family decides


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return (
        "mid",
        "spread",
        "spread_ticks",
        "half_spread_bps",
        "queue_imbalance",
        "queue_imbalance_x_spread",
        "microprice_bps",
        "depth_imbalance",
        "age_s",
    )


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: no book yet."""
    shape = (len(universe), features.levels)
    return {
        "bid_px": np.full(shape, EMPTY_BID, np.int32),
        "bid_sz": np.zeros(shape, np.int64),
        "ask_px": np.full(shape, EMPTY_ASK, np.int32),
        "ask_sz": np.zeros(shape, np.int64),
        "last_ts": np.zeros(shape[0], np.int64),
        "halted": np.zeros(shape[0], np.int8),
    }


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Apply the events of each step and write columns at.. of x[T, S, F]; why[T, S] becomes FEED_GAP, HALTED or ABSENT."""
    tick_size = np.array([i.tick_size for i in universe.instruments])
    _fold(
        state["bid_px"], state["bid_sz"], state["ask_px"], state["ask_sz"], state["last_ts"], state["halted"],
        events.ts, events.symbol, events.kind, events.bid_px, events.bid_sz, events.ask_px, events.ask_sz,
        offsets, as_of, x, why, at, tick_size,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _fold(
    bid_px, bid_sz, ask_px, ask_sz, last_ts, halted, ts, symbol, kind, ev_bid_px, ev_bid_sz, ev_ask_px, ev_ask_sz, offsets, as_of,
    x, why, at, tick_size,
):  # fmt: skip
    levels = ev_bid_px.shape[1]
    for t in range(len(as_of)):
        for i in range(offsets[t], offsets[t + 1]):
            s = symbol[i]
            last_ts[s] = ts[i]
            if kind[i] & HALT:
                halted[s] = FEED_GAP if kind[i] & GAP else HALTED
            if kind[i] & RESUME:
                halted[s] = OK
            if kind[i] & BOOK:
                for level in range(levels):
                    bid_px[s, level] = ev_bid_px[i, level]
                    bid_sz[s, level] = ev_bid_sz[i, level]
                    ask_px[s, level] = ev_ask_px[i, level]
                    ask_sz[s, level] = ev_ask_sz[i, level]
        for s in range(len(tick_size)):
            row = x[t, s]
            if bid_sz[s, 0] <= 0 or ask_sz[s, 0] <= 0:
                why[t, s] = ABSENT
                continue
            if halted[s]:
                why[t, s] = halted[s]
            bid, ask = np.int64(bid_px[s, 0]), np.int64(ask_px[s, 0])
            bid_size, ask_size = bid_sz[s, 0], ask_sz[s, 0]
            mid = (bid + ask) * tick_size[s] / 2
            spread = (ask - bid) * tick_size[s]
            imbalance = (bid_size - ask_size) / (bid_size + ask_size)
            bids, asks = 0, 0
            for level in range(levels):
                bids += bid_sz[s, level]
                asks += ask_sz[s, level]
            row[at] = mid
            row[at + 1] = spread
            row[at + 2] = ask - bid
            row[at + 3] = 1e4 * spread / 2 / mid
            row[at + 4] = imbalance
            row[at + 5] = imbalance * spread
            row[at + 6] = 1e4 * spread / 2 / mid * imbalance  # what the definition above comes to
            row[at + 7] = (bids - asks) / (bids + asks)
            row[at + 8] = (as_of[t] - last_ts[s]) * 1e-9
