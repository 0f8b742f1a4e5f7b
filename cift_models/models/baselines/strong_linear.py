"""The strongest line that is held beside a network before the network is credited: `linear` with exponentially weighted signed counts.

What such counts know a network finds too, and it is no credit to it. On LOBSTER 2012-06-21 R2 .0283/.0360/.0161 against linear's
.0270/.0347/.0163. Their signed logs in their place reach .0005/.0010/.0004 more (ten grid offsets have an sd of .003), and would need
columns of their own.
"""

from __future__ import annotations

from typing import ClassVar

from cift_models.features import signed_counts
from cift_models.features.feature_set import FeatureSet
from cift_models.models.linear.model import Linear


class StrongLinear(Linear):
    """Ridge per symbol on `linear`'s columns and signed counts of trades at twelve half-lives; everything else is `linear`."""

    kind: ClassVar[str] = "strong_linear"

    @classmethod
    def column_names(cls, features: FeatureSet) -> list[str]:
        """Linear's, then count_50ms .. count_600000ms."""
        return [*super().column_names(features), *signed_counts.names(features)]
