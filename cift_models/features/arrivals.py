"""How events and trades follow each other: the last N_GAPS gaps between them, WHAT = event, trade.

WHAT_gap_s     mean gap, seconds
WHAT_gap_cv    standard deviation over mean: 1 for a Poisson process, above it where events come in bursts; 0 below two gaps
trade_age_s    seconds since the last trade (since memory began, before the first)

A gap is an integer number of microseconds, at most MAX_GAP_US; sums and sums of squares are exact: N_GAPS^2 MAX_GAP_US^2 < 2^62. Events
that share a time have the gap 0. Before the first gap, mean and cv are 0.
"""

from __future__ import annotations

import math

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import N_GAPS, require_exact

MAX_GAP_US = 60_000_000
"""A longer gap counts as a minute."""

require_exact("Inter-arrival statistics", N_GAPS, MAX_GAP_US)

EVENT, TRADED = 0, 1


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("event_gap_s", "event_gap_cv", "trade_gap_s", "trade_gap_cv", "trade_age_s")


@kernel
def apply(m, ts, what):
    """Take an event or a trade."""
    if m.gap_ts[what] > 0:
        gap = min((ts - m.gap_ts[what]) // 1000, MAX_GAP_US)
        place = m.n_gaps[what] & (N_GAPS - 1)
        old = m.gaps[what][place] if m.n_gaps[what] >= N_GAPS else 0
        m.gaps[what][place] = gap
        m.gap_sum[what] += gap - old
        m.gap_squares[what] += gap * gap - old * old
        m.n_gaps[what] += 1
    m.gap_ts[what] = ts


@kernel
def forget(m):
    """No event yet."""
    for what in range(2):
        m.gap_ts[what], m.n_gaps[what], m.gap_sum[what], m.gap_squares[what] = 0, 0, 0, 0


@kernel
def row(m, as_of, out, at):
    """Write the family's columns."""
    for what in range(2):
        n = min(m.n_gaps[what], N_GAPS)
        total = m.gap_sum[what]
        out[at + 2 * what] = total / n * 1e-6 if n > 0 else 0.0
        out[at + 2 * what + 1] = math.sqrt(float(n * m.gap_squares[what] - total * total)) / total if total > 0 else 0.0
    out[at + 4] = (as_of - (m.gap_ts[TRADED] if m.gap_ts[TRADED] > 0 else m.since)) * 1e-9
