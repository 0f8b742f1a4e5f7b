"""Regimes: a hidden Markov model around an AR(1) of bar returns. Only filtered and one-step-ahead probabilities leave it."""

from __future__ import annotations

from cift_models.models.hmm.config import HMMConfig
from cift_models.models.hmm.model import RegimeHMM
from cift_models.models.hmm.parameters import Parameters
from cift_models.models.hmm.recovery import filtered_accuracy, fit_returns, simulate_returns, true_parameter_filter

__all__ = ["HMMConfig", "Parameters", "RegimeHMM", "filtered_accuracy", "fit_returns", "simulate_returns", "true_parameter_filter"]
