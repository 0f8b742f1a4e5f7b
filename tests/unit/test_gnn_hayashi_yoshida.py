"""Hayashi-Yoshida covariance against the sum over all pairs of intervals."""

import numpy as np
import pytest

from cift_models.models.gnn.hayashi_yoshida import contrast, covariance, lead_lag_ratio


def overlap_sum(a_ns, a, b_ns, b, shift):
    """O(n m): every pair of increments whose half-open intervals meet."""
    total = 0.0
    for i in range(len(a) - 1):
        for j in range(len(b) - 1):
            if max(a_ns[i], b_ns[j] - shift) < min(a_ns[i + 1], b_ns[j + 1] - shift):
                total += (a[i + 1] - a[i]) * (b[j + 1] - b[j])
    return total


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_sum_over_all_pairs(seed):
    rng = np.random.default_rng(seed)
    a_ns, b_ns = (np.sort(rng.choice(300, n, replace=False)) for n in (60, 25 + seed))
    a, b = rng.normal(size=len(a_ns)), rng.normal(size=len(b_ns))
    for shift in (-700, -40, -3, 0, 1, 17, 90, 500):
        assert covariance(a_ns, a, b_ns, b, shift) == pytest.approx(overlap_sum(a_ns, a, b_ns, b, shift), abs=1e-9)


def test_without_increments_is_zero():
    none, one = np.zeros(0), np.ones(1)
    assert covariance(none.astype(np.int64), none, np.arange(3), np.arange(3.0), 0) == 0
    assert covariance(np.arange(3), np.arange(3.0), np.ones(1, np.int64), one, 0) == 0


def test_contrast_peaks_at_the_planted_lead():
    """b repeats a 300 units later, each seen at its own random times."""
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(size=40_000))
    a_ns, b_ns = (np.sort(rng.choice(np.arange(400, 40_000), 4_000, replace=False)) for _ in range(2))
    shifts = np.arange(-600, 601, 50)
    found = contrast(a_ns, path[a_ns], b_ns, path[b_ns - 300], shifts)
    assert shifts[np.argmax(found)] == 300
    assert found.max() > 0.9
    assert lead_lag_ratio(found, shifts) > 10
