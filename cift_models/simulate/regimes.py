"""The hidden regimes: a Markov chain on 30-s bars, one per session and symbol."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BAR_S = 30
"""Seconds in a bar, counted from the open: regimes change between bars, and the AR coefficient relates the moves of two bars."""

REGIMES = ("trending", "mean_reverting", "volatile")
"""Names of the states 0, 1, 2."""


def transition(regime_minutes: float) -> NDArray[np.float64]:
    """float64[3, 3], per bar: stay with the probability that makes the mean dwell `regime_minutes`, else go to either other state alike."""
    leave = BAR_S / (60.0 * regime_minutes)
    matrix = np.full((3, 3), leave / 2)
    np.fill_diagonal(matrix, 1.0 - leave)
    return matrix


def regime_path(seconds: int, regime_minutes: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """int8[seconds]: the state that rules (j s, j + 1 s] from the open. The first bar draws from the stationary law, a third each."""
    bars = -(-seconds // BAR_S)
    leaves = rng.random(bars) < BAR_S / (60.0 * regime_minutes)
    steps = rng.integers(1, 3, bars) * leaves
    steps[0] = rng.integers(0, 3)
    return np.repeat(np.cumsum(steps) % 3, BAR_S)[:seconds].astype(np.int8)
