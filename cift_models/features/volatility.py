"""Realised volatility of the mid on the decision clock."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet
def names(features: FeatureSet) -> tuple[str, ...]:
    return ("realised_vol_60s", "realised_vol_300s")
