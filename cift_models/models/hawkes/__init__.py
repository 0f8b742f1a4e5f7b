"""Order arrivals that excite each other: the Hawkes model of market buys and sells."""

from cift_models.models.hawkes.arrivals import Arrivals, join, one_session, session_arrivals
from cift_models.models.hawkes.baseline import Baseline, baseline_for, decay_grid
from cift_models.models.hawkes.bootstrap import BranchingInterval, RatioTest, bootstrap_branching, likelihood_ratio_test
from cift_models.models.hawkes.config import HawkesConfig
from cift_models.models.hawkes.forecast import ForecastMap, forecast_map
from cift_models.models.hawkes.likelihood import (
    HawkesFit,
    Parameters,
    fit_best_single_decay,
    fit_hawkes,
    fit_poisson,
    log_likelihood,
    residuals,
)
from cift_models.models.hawkes.lomax import lomax_mixture
from cift_models.models.hawkes.model import HawkesOrderFlowModel
from cift_models.models.hawkes.residual_check import ResidualCheck, check_residuals, ks_distance, quantiles
from cift_models.models.hawkes.sensitivity import sensitivity_table
from cift_models.models.hawkes.simulate import simulate_clusters, simulate_thinning

__all__ = [
    "Arrivals",
    "Baseline",
    "BranchingInterval",
    "ForecastMap",
    "HawkesConfig",
    "HawkesFit",
    "HawkesOrderFlowModel",
    "Parameters",
    "RatioTest",
    "ResidualCheck",
    "baseline_for",
    "bootstrap_branching",
    "check_residuals",
    "decay_grid",
    "fit_best_single_decay",
    "fit_hawkes",
    "fit_poisson",
    "forecast_map",
    "join",
    "ks_distance",
    "likelihood_ratio_test",
    "log_likelihood",
    "lomax_mixture",
    "one_session",
    "quantiles",
    "residuals",
    "sensitivity_table",
    "session_arrivals",
    "simulate_clusters",
    "simulate_thinning",
]
