"""The one weighted sum that live and batch share: `y = bias + sum_j x_j w_j`, added in the order of j.

BLAS is not used: `(X @ w)[i] != X[i] @ w` on most rows, and the fold of the live step must equal the batch to the bit.
"""

from __future__ import annotations

import numpy as np

from cift_models.compiled import kernel


@kernel
def weighted_sum(x, weights, bias):
    """`bias + x_0 w_0 + x_1 w_1 + ...`, left to right. x, weights float64[K]; no fused multiply-add, no reassociation."""
    y = bias
    for j in range(weights.shape[0]):
        y += x[j] * weights[j]
    return y


@kernel
def standardised_rows(x, use, columns, mean, sd, clip, weights, bias):
    """Weighted sums of standardised, clipped columns, one per row and symbol.

    x float64[T, S, F]; use bool[T, S]; columns int64[K]; mean, sd, weights float64[S, K]; bias float64[S].
    Returns float64[T, S]: `bias_s + sum_j clip((x_j - mean_sj) / sd_sj, -clip, clip) w_sj`; 0 where not `use`. O(T S K).
    """
    steps, symbols = use.shape
    k = columns.shape[0]
    z = np.empty(k)
    out = np.zeros((steps, symbols))
    for t in range(steps):
        for s in range(symbols):
            if not use[t, s]:
                continue
            for j in range(k):
                z[j] = min(max((x[t, s, columns[j]] - mean[s, j]) / sd[s, j], -clip), clip)
            out[t, s] = weighted_sum(z, weights[s], bias[s])
    return out
