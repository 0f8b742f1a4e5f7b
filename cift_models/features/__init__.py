"""Features: one streaming kernel per family; batch is a fold of the same kernel."""

from cift_models.features.feature_set import FeatureSet, flow_names
from cift_models.features.integrated_ofi import IntegratedOFI

__all__ = ["FeatureSet", "IntegratedOFI", "flow_names"]
