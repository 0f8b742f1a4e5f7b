"""Features: one streaming kernel per family; batch is a fold of the same kernel."""

from cift_models.features.feature_set import FeatureSet, flow_names

__all__ = ["FeatureSet", "flow_names"]
