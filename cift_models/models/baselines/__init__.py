"""The rows that every table of figures begins with: what is known without a model."""

from cift_models.models.baselines.activity import Activity, ActivityConfig
from cift_models.models.baselines.last_move import LastMove
from cift_models.models.baselines.prior import Prior, PriorConfig
from cift_models.models.baselines.queue_imbalance import QueueImbalance
from cift_models.models.baselines.ridge_reference import RidgeReference
from cift_models.models.baselines.slope import SlopeConfig
from cift_models.models.baselines.strong_linear import StrongLinear
from cift_models.models.baselines.trees import Trees, TreesConfig

__all__ = [
    "Activity",
    "ActivityConfig",
    "LastMove",
    "Prior",
    "PriorConfig",
    "QueueImbalance",
    "RidgeReference",
    "SlopeConfig",
    "StrongLinear",
    "Trees",
    "TreesConfig",
]
