"""How often the mid has moved lately: a weighted share of the past instants at which it was not where it was one before.

a = (1/2 + sum_k d^k m_k) / (1 + sum_k d^k), m_k = 1 where the mid moved k instants ago, d = 2^(-clock / half-life); the one half
is worth one observation at the open and decays with the rest. In (0, 1), so that its logit exists.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.events import Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import SECOND, Universe

HALF_LIVES_S = (60, 600)
"""Half-lives in seconds (methods: activity baseline)."""

FLOOR = 1e-4
"""The share is kept within [FLOOR, 1 - FLOOR]: after hours without a move its logit is large, not infinite."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return tuple(f"activity_{h}s" for h in HALF_LIVES_S)


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: one half, worth one observation."""
    shape = (len(universe), len(HALF_LIVES_S))
    return {
        "decay": np.array([0.5 ** (features.clock_ns / (h * SECOND)) for h in HALF_LIVES_S]),
        "last_mid": np.zeros(len(universe)),
        "moved": np.full(shape, 0.5),
        "seen": np.ones(shape),
        "mid_column": features.index(["mid"]),
    }


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Write columns at.. of x[T, S, F]; reads the mid that the quote family has written."""
    _fold(state["decay"], state["last_mid"], state["moved"], state["seen"], x, at, int(state["mid_column"][0]))


@njit(cache=True, nogil=True)
def _fold(decay, last_mid, moved, seen, x, at, mid_column):
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            mid = x[t, s, mid_column]
            for h in range(len(decay)):
                if mid > 0 and last_mid[s] > 0:
                    moved[s, h] = decay[h] * moved[s, h] + (1.0 if mid != last_mid[s] else 0.0)
                    seen[s, h] = decay[h] * seen[s, h] + 1.0
                x[t, s, at + h] = min(max(moved[s, h] / seen[s, h], FLOOR), 1 - FLOOR)
            last_mid[s] = mid
