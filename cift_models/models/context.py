"""What says how likely a move is, whatever its sign: recent activity and the width of the spread."""

from __future__ import annotations

import math

from cift_models.compiled import kernel

CONTEXT = ("activity_60s", "activity_600s", "spread_ticks")
"""The columns, in the order that `context_row` reads."""


@kernel
def context_row(x, columns, out, at):
    """Fill out[at .. at + 3]: logit of the activity at 60 and at 600 s (kept within 1e-4 of 0 and 1), log of the spread in ticks.

    A locked or crossed book (spread 0 or below) counts as half a tick. x float64[F], columns int64[3] are the places of CONTEXT.
    """
    for j in range(2):
        a = min(max(x[columns[j]], 1e-4), 1 - 1e-4)
        out[at + j] = math.log(a / (1 - a))
    out[at + 2] = math.log(max(x[columns[2]], 0.5))
