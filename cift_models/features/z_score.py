"""Causal rolling z-scores of the flow since the last instant: (v - mean) / sd over the last `z_steps` instants, v's own included.

Flows are integer lots, so the sums and the sums of squares are exact, in any order and for ever; the float is formed once:
z = (n v - s1) / sqrt(n s2 - s1^2). Variance 0 (or one row) gives 0. That holds as long as n^2 max|v|^2 < 2^62: a flow counts at most as
`max_lots`, the largest that keeps it, and a window that would leave less than MIN_LOTS is refused.
"""

from __future__ import annotations

import math

from cift_models.compiled import kernel
from cift_models.errors import InputError
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import RING_EXTRA, RING_OFI, RING_SIGNED, require_exact

MIN_LOTS = 2**20
"""Flows up to here are always told apart: a million shares, 10 BTC, in one instant."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("z_ofi_00", "z_signed_volume")


def max_lots(features: FeatureSet) -> int:
    """Largest flow that is told apart. Raises InputError where the window is too long for exact integers."""
    n = features.z_steps
    if n < 2:
        raise InputError(f"A rolling z-score needs z_steps of at least 2, was {n}.", hint="The default is 60.")
    require_exact("A rolling z-score", n, MIN_LOTS)
    return (math.isqrt(2**62 - 1)) // n


@kernel
def forget(m, ring):
    """Empty windows; what has flowed so far is not counted."""
    m.z_rows = 0
    for c in range(2):
        m.z_sum[c], m.z_squares[c] = 0, 0
        m.z_before[c] = _sum(m, ring, c)


@kernel
def _sum(m, ring, c):
    column = RING_OFI if c == 0 else ring.shape[1] - RING_EXTRA + RING_SIGNED
    return ring[(m.pushed - 1) & (ring.shape[0] - 1), column]


@kernel
def row(m, ring, flows, out, at):
    """Take the flow since the last instant and write the family's columns."""
    most = m.z_max_lots
    place = m.z_rows % flows.shape[0]
    n = min(m.z_rows + 1, flows.shape[0])
    for c in range(2):
        now = _sum(m, ring, c)
        v = min(max(now - m.z_before[c], -most), most)
        m.z_before[c] = now
        old = flows[place, c] if m.z_rows >= flows.shape[0] else 0
        flows[place, c] = v
        m.z_sum[c] += v - old
        m.z_squares[c] += v * v - old * old
        spread = n * m.z_squares[c] - m.z_sum[c] * m.z_sum[c]
        out[at + c] = (n * v - m.z_sum[c]) / math.sqrt(float(spread)) if spread > 0 else 0.0
    m.z_rows += 1
