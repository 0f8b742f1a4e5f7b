"""Where volume traded lately, by price."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet
def names(features: FeatureSet) -> tuple[str, ...]:
    return ("profile_poc_ticks", "profile_low_ticks", "profile_high_ticks", "profile_entropy")
