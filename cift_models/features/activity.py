"""How often the mid has moved lately."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet
def names(features: FeatureSet) -> tuple[str, ...]:
    return ("activity_60s", "activity_600s")
