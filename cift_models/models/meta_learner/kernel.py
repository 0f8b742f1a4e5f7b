"""Inputs of the meta-learner, row by row, and its blend."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.models.row_kernel import weighted_sum

CONTEXT = ("spread_ticks", "activity_60s", "activity_600s", "session_share")
"""Columns of the feature set among the inputs."""


def n_inputs(n_means: int, n_states: int) -> int:
    """Means, their disagreement, regimes, expected buys and sells, context."""
    return n_means + 1 + n_states + 2 + len(CONTEXT)


@kernel
def fill(means, regimes, arrivals, context, blend, out):
    """Inputs and blend of n rows; everything in units of the symbol's sd of y where it is a move.

    means float64[n, B] (in sd), regimes float64[n, K] (all 0: not known, taken as 1/K each), arrivals float64[n, 2], context float64[n, 4],
    blend float64[B]. Fills out float64[n, n_inputs] with the means, their sd across models (ddof 0), regimes, arrivals, context; returns
    the margin float64[n] = sum_k blend_k mean_k.
    """
    n, b = means.shape
    k = regimes.shape[1]
    margin = np.empty(n)
    for i in range(n):
        margin[i] = weighted_sum(means[i], blend, 0.0)
        total = 0.0
        for j in range(b):
            out[i, j] = means[i, j]
            total += means[i, j]
        centre, square = total / b, 0.0
        for j in range(b):
            square += (means[i, j] - centre) ** 2
        out[i, b] = math.sqrt(square / b)
        known = 0.0
        for j in range(k):
            known += regimes[i, j]
        for j in range(k):
            out[i, b + 1 + j] = regimes[i, j] if known > 0.0 else 1.0 / k
        for j in range(2):
            out[i, b + 1 + k + j] = arrivals[i, j]
        for j in range(context.shape[1]):
            out[i, b + 3 + k + j] = context[i, j]
    return margin


def non_negative_blend(means: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """argmin |y - means w| with w >= 0 (Lawson and Hanson 1974): means float64[n, B], y float64[n], both in sd.

    No intercept: a mean move of the training days is no forecast.
    """
    from scipy.optimize import nnls

    # On the triangular factor: the same minimum, and B rows instead of n.
    q, r = np.linalg.qr(means, mode="reduced")
    return nnls(r, q.T @ y)[0]
