"""Ridge regression with leave-one-out choice of the penalty, from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SD_FLOOR = 1e-9
"""Added to every sd: a constant column gives 0, not a division by 0."""


def moments(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sd (ddof 0, + SD_FLOOR) of the columns of x float64[n, K]."""
    return x.mean(axis=0), x.std(axis=0) + SD_FLOOR


def ridge(
    z: NDArray[np.float64], y: NDArray[np.float64], alphas: Sequence[float]
) -> tuple[NDArray[np.float64], float, float, NDArray[np.float64]]:
    """Weights float64[K], bias, the chosen alpha, and the leave-one-out mean squared error of each alpha.

    Minimises `|y - b - z w|^2 + alpha |w|^2` (the bias is free) for the alpha with the least leave-one-out error
    `mean(((y_i - yhat_i) / (1 - h_ii))^2)`, `h = 1/n + Z V (L + alpha)^-1 V' Z'` with Z = z centred and `Z'Z = V L V'`
    (Golub, Heath and Wahba 1979; Rifkin and Lippert 2007, section 3.4). z float64[n, K], n >= 2. The first of equal alphas wins.
    O(n K^2 + K^3). The fit may use BLAS; a prediction never does.
    """
    n = len(y)
    centre, level = z.mean(axis=0), float(y.mean())
    zc, yc = z - centre, y - level
    eigenvalues, vectors = np.linalg.eigh(zc.T @ zc)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    rotated = zc @ vectors
    projected = rotated.T @ yc
    errors = np.empty(len(alphas))
    for k, alpha in enumerate(alphas):
        gain = 1.0 / (eigenvalues + alpha)
        leverage = 1.0 / n + (rotated * rotated) @ gain
        # A leverage of 1 is a row that fits itself: it can only happen at n <= K and alpha near 0.
        loo = (yc - rotated @ (gain * projected)) / np.maximum(1.0 - leverage, 1e-12)
        errors[k] = np.mean(loo * loo)
    best = int(np.argmin(errors))
    weights = vectors @ (projected / (eigenvalues + alphas[best]))
    return weights, level - float(centre @ weights), float(alphas[best]), errors
