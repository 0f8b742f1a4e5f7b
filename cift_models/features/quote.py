"""The book's top, as it stands at the decision instant."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet
def names(features: FeatureSet) -> tuple[str, ...]:
    return ("mid", "spread", "spread_ticks", "half_spread_bps", "queue_imbalance", "queue_imbalance_x_spread", "microprice_bps", "depth_imbalance", "age_s")
