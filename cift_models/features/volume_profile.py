"""Where volume traded over the last `profile_ns`, in price bins of one tick.

profile_poc_ticks    bin of the most volume (the lowest of equals), minus the mid, in ticks
profile_low_ticks    lower edge of the value area minus the mid: the bins around it that hold 70 % of the volume, widened each time
profile_high_ticks   on the side whose next traded bin holds more (the lower on equals); upper edge likewise
profile_entropy      -sum p log p of the bins' shares, nats

Volumes are integers; hidden executions count, in the bin that holds their price. No trade in the window: all four are 0.
Cost: one sort of the window's trades an instant.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.events import TRADE, Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Universe

VALUE_AREA = 0.7
"""Share of the volume in the value area: the trade's usual figure."""

FIRST_CAPACITY = 256
"""Trades per symbol that a ring holds at first; it doubles when the window holds more."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("profile_poc_ticks", "profile_low_ticks", "profile_high_ticks", "profile_entropy")


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: no trade yet."""
    n = len(universe)
    return {
        "window_ns": np.array([features.profile_ns], np.int64),
        "ring": np.zeros((n, FIRST_CAPACITY, 3), np.int64),  # time, bin, lots
        "pushed": np.zeros(n, np.int64),
        "tail": np.zeros(n, np.int64),
        "mid_column": features.index(["mid"]),
    }


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Write columns at.. of x[T, S, F]; reads the mid that the quote family has written. Grows the rings where the window needs it."""
    tick_units = np.array([i.tick_units for i in universe.instruments], np.int64)
    tick_size = np.array([i.tick_size for i in universe.instruments])
    done = 0
    while True:
        done = _fold(
            int(state["window_ns"][0]), state["ring"], state["pushed"], state["tail"],
            events.ts, events.symbol, events.kind, events.trade_px, events.trade_sz, offsets, as_of,
            x, at, int(state["mid_column"][0]), tick_units, tick_size, done,
        )  # fmt: skip
        if done == len(as_of):
            return
        ring, pushed = state["ring"], state["pushed"]
        old = ring.shape[1]
        wide = np.zeros((ring.shape[0], 2 * old, 3), np.int64)
        for s in range(ring.shape[0]):
            index = np.arange(max(0, int(pushed[s]) - old), int(pushed[s]))
            wide[s, index % (2 * old)] = ring[s, index % old]
        state["ring"] = wide


@njit(cache=True, nogil=True)
def _fold(
    window_ns, ring, pushed, tail, ts, symbol, kind, trade_px, trade_sz, offsets, as_of, x, at, mid_column, tick_units, tick_size, first
):
    capacity = ring.shape[1]
    n_symbols = len(tick_units)
    fresh = np.zeros(n_symbols, np.int64)
    for t in range(first, len(as_of)):
        fresh[:] = 0
        for i in range(offsets[t], offsets[t + 1]):
            if kind[i] & TRADE:
                fresh[symbol[i]] += 1
        for s in range(n_symbols):
            while tail[s] < pushed[s] and ring[s, tail[s] % capacity, 0] <= as_of[t] - window_ns:
                tail[s] += 1
            if pushed[s] - tail[s] + fresh[s] > capacity:
                return t
        for i in range(offsets[t], offsets[t + 1]):
            if kind[i] & TRADE:
                s = symbol[i]
                place = pushed[s] % capacity
                ring[s, place, 0] = ts[i]
                ring[s, place, 1] = trade_px[i] // tick_units[s]
                ring[s, place, 2] = trade_sz[i]
                pushed[s] += 1
        for s in range(n_symbols):
            n = pushed[s] - tail[s]
            mid = x[t, s, mid_column]
            if n == 0 or mid <= 0:
                continue
            bins = np.empty(n, np.int64)
            for k in range(n):
                bins[k] = ring[s, (tail[s] + k) % capacity, 1]
            occupied = np.unique(bins)
            volume = np.zeros(len(occupied), np.int64)
            for k in range(n):
                volume[np.searchsorted(occupied, bins[k])] += ring[s, (tail[s] + k) % capacity, 2]
            _describe(occupied, volume, mid / tick_size[s], x[t, s], at)
    return len(as_of)


@njit(cache=True, nogil=True)
def _describe(occupied, volume, mid_ticks, row, at):
    """The four columns of one symbol, from its bins in rising order."""
    total = volume.sum()
    poc = np.argmax(volume)
    a, b = poc, poc
    inside = volume[poc]
    while inside < VALUE_AREA * total:
        below = volume[a - 1] if a > 0 else -1
        above = volume[b + 1] if b + 1 < len(volume) else -1
        if below >= above:
            a -= 1
            inside += below
        else:
            b += 1
            inside += above
    entropy = 0.0
    for k in range(len(volume)):
        if volume[k] > 0:
            share = volume[k] / total
            entropy -= share * math.log(share)
    row[at] = occupied[poc] - mid_ticks
    row[at + 1] = occupied[a] - mid_ticks
    row[at + 2] = occupied[b] - mid_ticks
    row[at + 3] = entropy
