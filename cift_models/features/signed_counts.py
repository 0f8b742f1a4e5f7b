"""Exponentially weighted signed counts of trades: count_Hs(t) = sum_k side_k 2^(-(t - t_k) / H) over visible trades, H the half-life.

The state of a Hawkes process of buys minus sells, at twelve speeds: what such a process forecasts is linear in them. Kept as of the last
signed trade and decayed to the instant when read, so that a reading changes nothing. Not an integer: one scalar sum in the stream's order.
"""

from __future__ import annotations

import math

import numpy as np

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import N_HALF_LIVES

HALF_LIVES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0)
"""Half-lives, seconds: from the width of a burst to the memory of a morning."""

_RATES = np.array([-1e-9 * math.log(2) / h for h in HALF_LIVES_S])
assert len(HALF_LIVES_S) == N_HALF_LIVES


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return tuple(f"count_{int(h * 1000)}ms" for h in HALF_LIVES_S)


@kernel
def apply(m, ts, side):
    """Take a signed visible trade."""
    gap = ts - m.count_ts
    for h in range(N_HALF_LIVES):
        m.counts[h] = m.counts[h] * math.exp(gap * _RATES[h]) + side
    m.count_ts = ts


@kernel
def forget(m):
    """No trade yet."""
    for h in range(N_HALF_LIVES):
        m.counts[h] = 0.0


@kernel
def row(m, as_of, out, at):
    """Write the family's columns."""
    gap = as_of - m.count_ts
    for h in range(N_HALF_LIVES):
        out[at + h] = m.counts[h] * math.exp(gap * _RATES[h]) if m.counts[h] != 0.0 else 0.0
