"""The models. REGISTRY maps a kind to "module:Class", imported when it is used."""

from __future__ import annotations

from importlib import import_module

from cift_models.errors import InputError
from cift_models.models.protocol import Model

REGISTRY: dict[str, str] = {
    "prior": "cift_models.models.baselines.prior:Prior",
    "activity": "cift_models.models.baselines.activity:Activity",
    "last_move": "cift_models.models.baselines.last_move:LastMove",
    "queue_imbalance": "cift_models.models.baselines.queue_imbalance:QueueImbalance",
    "ridge_reference": "cift_models.models.baselines.ridge_reference:RidgeReference",
    "trees": "cift_models.models.baselines.trees:Trees",
    "linear": "cift_models.models.linear.model:Linear",
    "strong_linear": "cift_models.models.baselines.strong_linear:StrongLinear",
    "hmm": "cift_models.models.hmm.model:RegimeHMM",
    "hawkes": "cift_models.models.hawkes.model:HawkesOrderFlowModel",
    "gnn": "cift_models.models.gnn.model:LeadLagGNN",
    "transformer": "cift_models.models.transformer.model:OrderFlowTransformer",
    "meta_learner": "cift_models.models.meta_learner.model:MetaLearner",
    "ensemble": "cift_models.models.ensemble.model:Ensemble",
}


def model_class(kind: str) -> type[Model]:
    """The class of a kind. Raises InputError for a name that REGISTRY lacks."""
    if kind not in REGISTRY:
        raise InputError(f"Unknown model {kind!r}.", hint=f"Expected one of {', '.join(REGISTRY)}.")
    module, name = REGISTRY[kind].split(":")
    return getattr(import_module(module), name)
