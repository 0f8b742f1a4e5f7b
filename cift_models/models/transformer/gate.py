"""How much of f is kept: what the rows held out support, and nothing where they do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_BLOCKS = 10
# The odd part is kept from t = 1, where the shrunken factor starts to pay on average; the even part breaks the mirror symmetry of a market
# and must be twice as sure.
ODD_T, EVEN_T = 1.0, 2.0


def kept_share(f: NDArray[np.float64], target: NDArray[np.float64], block: NDArray[np.int64], threshold: float) -> tuple[float, float]:
    """Factor in [0, 1] on f, and the t-statistic behind it, from rows that f has not seen.

    Least squares of target on f, standard error from sums over blocks (moves of assets and of neighbouring seconds
    hang together), then the positive part of g (1 - (threshold / t)^2) (James, Stein 1961). 0 where t is below the
    threshold or there are fewer than MIN_BLOCKS blocks. f, target float64[n], block int64[n].
    """
    power = float(np.sum(f * f))
    labels, block = np.unique(block, return_inverse=True)
    if len(labels) < MIN_BLOCKS or power == 0.0:
        return 0.0, 0.0
    slope = float(np.sum(f * target)) / power
    sums = np.bincount(block, f * (target - slope * f))
    error = float(np.sqrt(np.sum(sums**2))) / power
    t = slope / error if error > 0 else 0.0
    if t <= threshold:
        return 0.0, t
    return float(np.clip(slope * (1.0 - (threshold / t) ** 2), 0.0, 1.0)), t
