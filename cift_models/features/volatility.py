"""Realised volatility of the mid on the decision clock: sqrt(mean of squared log returns), bps per square root of a second.

One scalar sum from the oldest to the newest return, at every instant again: the same order live and in batch, and no drift.
Fewer returns than the window holds: the mean of those there are; none: 0. An instant without a mid breaks the chain of returns.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.events import Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import SECOND, Universe

WINDOWS_S = (60, 300)
"""Look-backs in seconds."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return tuple(f"realised_vol_{w}s" for w in WINDOWS_S)


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: no return yet."""
    steps = np.array([max(1, w * SECOND // features.clock_ns) for w in WINDOWS_S], np.int64)
    return {
        "steps": steps,
        "last_mid": np.zeros(len(universe)),
        "squares": np.zeros((len(universe), int(steps.max()))),
        "pushed": np.zeros(len(universe), np.int64),
        "scale": np.array([math.sqrt(SECOND / features.clock_ns)]),
        "mid_column": features.index(["mid"]),
    }


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Write columns at.. of x[T, S, F]; reads the mid that the quote family has written."""
    _fold(state["steps"], state["last_mid"], state["squares"], state["pushed"], state["scale"][0], x, at, int(state["mid_column"][0]))


@njit(cache=True, nogil=True)
def _fold(steps, last_mid, squares, pushed, scale, x, at, mid_column):
    capacity = squares.shape[1]
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            mid = x[t, s, mid_column]
            if mid > 0 and last_mid[s] > 0:
                move = 1e4 * math.log(mid / last_mid[s])
                squares[s, pushed[s] % capacity] = move * move
                pushed[s] += 1
            last_mid[s] = mid
            for w in range(len(steps)):
                n = min(steps[w], pushed[s])
                total = 0.0
                for k in range(pushed[s] - n, pushed[s]):
                    total += squares[s, k % capacity]
                x[t, s, at + w] = scale * math.sqrt(total / n) if n > 0 else 0.0
