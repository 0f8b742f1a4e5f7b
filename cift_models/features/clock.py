"""Where in the session the instant lies: session_share = (as_of - open) / (close - open), 0..1.

On a venue that never closes, a share of a day: nobody knows live when a stretch will end. A stretch of more than a day passes 1.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("session_share",)


@kernel
def row(m, as_of, out, at):
    """Write the family's column."""
    out[at] = (as_of - m.open) / m.span_ns
