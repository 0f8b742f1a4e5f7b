"""The reference that every forecast is held against: appendix A of the methods, to the column.

A recipe, sensitive to its choices: on LOBSTER 2012-06-21 R2 .0141/.0285/.0146 and hits .570/.602/.582; without the clip
.0098/.0198/.0102, without past moves .0100/.0222/.0098.
"""

from __future__ import annotations

from typing import ClassVar

from cift_models.features.feature_set import FeatureSet
from cift_models.models.linear.model import Linear

MAX_LEVELS = 5


class RidgeReference(Linear):
    """Ridge per symbol on raw flows of at most five levels; everything else is `linear`. Fitted on b0-b5 without purge."""

    kind: ClassVar[str] = "ridge_reference"

    @classmethod
    def column_names(cls, features: FeatureSet) -> list[str]:
        """Order of appendix A: book and moves, then per window OFI by level, signed volume and log count, then the book's age."""
        names = list(cls.quote_names())
        for window in features.windows_ns:
            ms = window // 1_000_000
            names += [f"ofi_{level:02d}_{ms}ms" for level in range(min(features.levels, MAX_LEVELS))]
            names += [f"signed_volume_{ms}ms", f"log_count_{ms}ms"]
        return [*names, "age_s"]
