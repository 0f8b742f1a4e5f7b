"""How far a fitted process is from the arrivals: time-rescaling residuals, judged by distance and not by p-value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hawkes.arrivals import SIDES, Arrivals
from cift_models.models.hawkes.likelihood import Parameters, residuals


class ResidualCheck(NamedTuple):
    """ks_distance of the pooled residuals to the unit exponential, and the correlation of neighbours within a side (0 if it is true)."""

    ks_distance: float
    lag1_correlation: float


def check_residuals(arrivals: Arrivals, parameters: Parameters) -> ResidualCheck:
    """Pooled over sides. At N > 1e4 any model fails a test, so the distance is what counts. NaN under 3 arrivals. O(N log N)."""
    if len(arrivals) < 3:
        return ResidualCheck(float("nan"), float("nan"))
    residual = residuals(arrivals, parameters)
    pairs = [(u[:-1], u[1:]) for u in (-np.expm1(-residual[arrivals.side == i]) for i in range(SIDES)) if len(u) > 1]
    first, second = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    return ResidualCheck(ks_distance(residual), float(np.corrcoef(first, second)[0, 1]))


def ks_distance(residual: NDArray[np.float64]) -> float:
    """Largest distance of the residuals' distribution function from 1 - exp(-r)."""
    u = np.sort(-np.expm1(-residual))
    n = len(u)
    return float(max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max()))


def quantiles(residual: NDArray[np.float64], n: int = 99) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """n points of the QQ plot: (unit exponential, residuals)."""
    p = np.arange(1, n + 1) / (n + 1)
    return -np.log1p(-p), np.quantile(residual, p)
