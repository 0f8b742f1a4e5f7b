"""Covariance of two prices that are never seen at the same time, and how it changes when one of them is moved in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel


@kernel
def covariance(a_ns: NDArray[np.int64], a: NDArray[np.float64], b_ns: NDArray[np.int64], b: NDArray[np.float64], shift_ns: int) -> float:
    """Sum of da_i db_j over all pairs of increments whose intervals overlap, after b's times move back by `shift_ns`.

    Prices a[n] at times a_ns[n] and b[m] at b_ns[m], strictly increasing. Under two prices there is no increment: 0. Needs no common
    clock and has no Epps effect (Hayashi and Yoshida 2005). O(n + m): for each increment of a, those of b that overlap are a run, whose
    sum telescopes.
    """
    total = 0.0
    first = 0
    after = 0
    n, m = len(a), len(b)
    for i in range(n - 1):
        # An increment of b overlaps (a_ns[i], a_ns[i + 1]] iff it ends after the start and starts before the end.
        while first < m - 1 and b_ns[first + 1] - shift_ns <= a_ns[i]:
            first += 1
        after = max(after, first)
        while after < m - 1 and b_ns[after] - shift_ns < a_ns[i + 1]:
            after += 1
        total += (a[i + 1] - a[i]) * (b[after] - b[first])
    return total


def contrast(
    a_ns: NDArray[np.int64], a: NDArray[np.float64], b_ns: NDArray[np.int64], b: NDArray[np.float64], shifts_ns: NDArray[np.int64]
) -> NDArray[np.float64]:  # fmt: skip
    """The correlation of a with b moved back by each shift, float64[K]; its largest |value| at a positive shift says that a leads b by it.

    Covariances over the root of both realised variances; 0 where one never moves. O(K (n + m))
    (Hoffmann, Rosenbaum and Yoshida 2013).
    """
    scale = np.sqrt(np.sum(np.diff(a) ** 2) * np.sum(np.diff(b) ** 2))
    return np.array([covariance(a_ns, a, b_ns, b, int(s)) / scale if scale > 0 else 0.0 for s in shifts_ns])


def lead_lag_ratio(contrasts: NDArray[np.float64], shifts_ns: NDArray[np.int64]) -> float:
    """Sum of squared contrasts at positive shifts over that at negative ones: above 1, a leads (Huth and Abergel 2014).

    nan where both are 0.
    """
    ahead, behind = float(np.sum(contrasts[shifts_ns > 0] ** 2)), float(np.sum(contrasts[shifts_ns < 0] ** 2))
    if behind == 0:
        return np.inf if ahead > 0 else np.nan
    return ahead / behind
