"""Flows over several look-backs."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet, flow_names
def names(features: FeatureSet) -> tuple[str, ...]:
    counts = tuple(f"log_count_{w // 1_000_000}ms" for w in features.windows_ns)
    moves = ("move_1000ms", "move_5000ms", "move_30000ms")
    return (*flow_names(features), *flow_names(features, log=True), *counts, *moves)
