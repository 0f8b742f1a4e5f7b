"""Causal rolling z-scores."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet
def names(features: FeatureSet) -> tuple[str, ...]:
    return ("z_ofi_00", "z_signed_volume")
