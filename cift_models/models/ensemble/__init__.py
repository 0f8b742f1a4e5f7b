"""One forecast out of several, its weights moved by the regime."""

from cift_models.models.ensemble.config import EnsembleConfig
from cift_models.models.ensemble.model import Ensemble

__all__ = ["Ensemble", "EnsembleConfig"]
