"""Boosted trees over the forecasts of the other models, on top of their linear blend."""

from cift_models.models.meta_learner.config import MetaLearnerConfig
from cift_models.models.meta_learner.model import MetaLearner

__all__ = ["MetaLearner", "MetaLearnerConfig"]
