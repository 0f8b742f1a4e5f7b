"""Causal rolling z-scores of the last second's flow: (v - mean) / sd over the last `z_steps` decision instants, v's own included.

Flows are integer lots, so the sums and the sums of squares are exact, in any order and for ever; the float is formed once:
z = (n v - s1) / sqrt(n s2 - s1^2). Variance 0 (or one row) gives 0. An integer square sum holds as long as n^2 max|v|^2 < 2^62:
the family refuses a window that breaks this for max|v| = MAX_LOTS, and counts a larger flow as MAX_LOTS.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.errors import InputError
from cift_models.events import Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Universe

MAX_LOTS = 2**22
"""Largest flow in one second that is told apart: 4.2 million shares."""

SOURCES = ("ofi_00_1000ms", "signed_volume_1000ms")


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("z_ofi_00", "z_signed_volume")


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: empty windows. Raises InputError where the integers could overflow."""
    n = features.z_steps
    if n < 2 or n * n * MAX_LOTS * MAX_LOTS >= 2**62:
        raise InputError(
            f"A rolling z-score over z_steps = {n} instants is not exact: n^2 * {MAX_LOTS}^2 must stay below 2^62.",
            hint=f"Choose z_steps from 2 to {int(math.isqrt(2**62 - 1) // MAX_LOTS)}.",
        )
    return {
        "columns": features.index(SOURCES),
        "ring": np.zeros((len(universe), n, len(SOURCES)), np.int64),
        "pushed": np.zeros(len(universe), np.int64),
        "sums": np.zeros((len(universe), len(SOURCES), 2), np.int64),
    }


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Write columns at.. of x[T, S, F]; reads the flows that the flow family has written."""
    lot_scale = np.array([i.lot_scale for i in universe.instruments], np.int64)
    _fold(state["columns"], state["ring"], state["pushed"], state["sums"], x, at, lot_scale)


@njit(cache=True, nogil=True)
def _fold(columns, ring, pushed, sums, x, at, lot_scale):
    capacity = ring.shape[1]
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            place = pushed[s] % capacity
            n = min(pushed[s] + 1, capacity)
            for c in range(len(columns)):
                lots = np.int64(round(x[t, s, columns[c]] * lot_scale[s]))
                v = min(max(lots, -MAX_LOTS), MAX_LOTS)
                old = ring[s, place, c]  # 0 while the ring fills
                ring[s, place, c] = v
                sums[s, c, 0] += v - old
                sums[s, c, 1] += v * v - old * old
                spread = n * sums[s, c, 1] - sums[s, c, 0] * sums[s, c, 0]
                x[t, s, at + c] = (n * v - sums[s, c, 0]) / math.sqrt(spread) if spread > 0 else 0.0
            pushed[s] += 1
