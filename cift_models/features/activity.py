"""How often the mid has moved lately: a weighted share of the past instants at which it was not where it was one before.

a = (1/2 + sum_k d^k m_k) / (1 + sum_k d^k), m_k = 1 where the mid moved k instants ago, d = 2^(-clock / half-life); the one half
is worth one observation at the open and decays with the rest. In (0, 1), so that its logit exists.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import N_ACTIVITY
from cift_models.instruments import SECOND

HALF_LIVES_S = (60, 600)
"""Half-lives in seconds (methods: activity baseline)."""
assert len(HALF_LIVES_S) == N_ACTIVITY

FLOOR = 1e-4
"""The share is kept within [FLOOR, 1 - FLOOR]: after hours without a move its logit is large, not infinite."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return tuple(f"activity_{h}s" for h in HALF_LIVES_S)


def decay(features: FeatureSet) -> list[float]:
    """d of each half-life."""
    return [0.5 ** (features.clock_ns / (h * SECOND)) for h in HALF_LIVES_S]


@kernel
def forget(m):
    """One half, worth one observation."""
    m.activity_mid = 0.0
    for h in range(N_ACTIVITY):
        m.moved[h] = 0.5
        m.seen[h] = 1.0


@kernel
def row(m, out, at):
    """Take the instant's mid and write the family's columns."""
    for h in range(N_ACTIVITY):
        if m.mid > 0 and m.activity_mid > 0:
            m.moved[h] = m.activity_decay[h] * m.moved[h] + (1.0 if m.mid != m.activity_mid else 0.0)
            m.seen[h] = m.activity_decay[h] * m.seen[h] + 1.0
        out[at + h] = min(max(m.moved[h] / m.seen[h], FLOOR), 1 - FLOOR)
    m.activity_mid = m.mid
