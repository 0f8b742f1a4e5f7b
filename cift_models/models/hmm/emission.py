"""hmmlearn's EM around our emission."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hmm.kernel import (
    INTERCEPT,
    PHI,
    SIGMA,
    TRADES_MEAN,
    TRADES_SD,
    VARIANCE_MEAN,
    VARIANCE_SD,
    log_densities,
    moment_sums,
)
from cift_models.models.hmm.parameters import Parameters

MAX_PHI = 0.95
"""An AR(1) of returns stays stationary in every state."""

MIN_WEIGHT = 1e-6
"""Posterior bars under which a state keeps its numbers: it has nothing to learn from."""


@dataclass(frozen=True, slots=True)
class EMResult:
    """Where EM ended: status converged, max_iter or diverged; `objective` is log-likelihood + log prior of A before each M step, nats."""

    parameters: Parameters
    objective: list[float]
    status: str


def expectation_maximisation(
    rows: NDArray[np.float64],
    lengths: NDArray[np.int64],
    begin: Parameters,
    *,
    max_iterations: int,
    tolerance: float,
    variance_floor: float,
    transition_pseudo_count: float,
) -> EMResult:
    """Climb from `begin` on sequences in rows float64[N, 6]. The start distribution is kept: a few sessions cannot teach it.

    tolerance is in nats over all rows. Each M step is an exact constrained maximum (|phi| <= MAX_PHI, variances >= the floor), so the
    objective never falls. O(N K^2) an iteration.
    """
    model = hmm_class()(
        begin, n_iter=max_iterations, tol=tolerance, variance_floor=variance_floor, transition_pseudo_count=transition_pseudo_count
    )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            model.fit(rows, lengths)
    except (ValueError, FloatingPointError):
        # hmmlearn and sklearn raise ValueError on NaN parameters or a forward pass without mass: the fit diverged, and says so.
        return EMResult(begin, [float(v) for v in model.monitor_.history], "diverged")
    objective = [float(v) for v in model.monitor_.history]
    found = Parameters(begin.start, np.ascontiguousarray(model.transmat_), model.states_, begin.uses)
    if not (np.isfinite(found.states).all() and np.isfinite(found.transition).all() and np.isfinite(objective).all()):
        return EMResult(begin, objective, "diverged")
    settled = len(objective) >= 2 and objective[-1] - objective[-2] < tolerance
    return EMResult(found, objective, "converged" if settled else "max_iter")


@cache
def hmm_class() -> Any:
    """The subclass of hmmlearn's BaseHMM; made on first use, since importing hmmlearn takes seconds."""
    from hmmlearn.base import BaseHMM

    class AutoregressiveHMM(BaseHMM):
        """States that speak through an AR(1) return, a log variance and a log trade rate."""

        def __init__(
            self,
            begin: Parameters,
            n_iter: int = 100,
            tol: float = 1e-3,
            variance_floor: float = 0.01,
            transition_pseudo_count: float = 1.0,
        ) -> None:
            # "scaling" forward-backward: 2-3 times faster than hmmlearn's default and free of its drift (.15 nats at 1e6 steps).
            super().__init__(
                n_components=begin.n_states,
                n_iter=n_iter,
                tol=tol,
                params="te",
                init_params="",
                implementation="scaling",
            )
            self.begin = begin
            self.variance_floor = variance_floor
            self.transition_pseudo_count = transition_pseudo_count
            self.startprob_ = begin.start.copy()
            self.transmat_ = begin.transition.copy()
            self.states_ = begin.states.copy()
            self.taken_out_ = 0.0

        def _get_n_fit_scalars_per_param(self) -> None:
            return None

        def _compute_log_likelihood(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
            return log_densities(X, self.states_, self.begin.uses)

        def _compute_likelihood(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
            # hmmlearn's scaled pass divides by the sum of a row: taking out the largest density of each keeps it from underflow.
            logs = log_densities(X, self.states_, self.begin.uses)
            top = logs.max(axis=1)
            self.taken_out_ = float(top.sum())
            return np.exp(logs - top[:, None])

        def _fit_scaling(self, X: NDArray[np.float64]) -> tuple[Any, ...]:
            likelihood, log_probability, *rest = super()._fit_scaling(X)
            return likelihood, log_probability + self.taken_out_, *rest

        def _compute_posteriors_scaling(self, fwdlattice: NDArray[np.float64], bwdlattice: NDArray[np.float64]) -> NDArray[np.float64]:
            return shares(fwdlattice * bwdlattice)

        def _compute_lower_bound(self, curr_logprob: float) -> float:
            return float(curr_logprob + self.transition_pseudo_count * np.log(self.transmat_).sum())

        def _initialize_sufficient_statistics(self) -> dict[str, Any]:
            return {**super()._initialize_sufficient_statistics(), "moments": np.zeros((self.n_components, 11))}

        def _accumulate_sufficient_statistics(
            self,
            stats: dict[str, Any],
            X: NDArray[np.float64],
            lattice: NDArray[np.float64],
            posteriors: NDArray[np.float64],
            fwdlattice: NDArray[np.float64],
            bwdlattice: NDArray[np.float64],
        ) -> None:
            super()._accumulate_sufficient_statistics(stats, X, lattice, posteriors, fwdlattice, bwdlattice)
            moment_sums(X, posteriors, stats["moments"])

        def _do_mstep(self, stats: dict[str, Any]) -> None:
            self.transmat_ = shares(self.transition_pseudo_count + stats["trans"])
            self.states_ = maximise(stats["moments"], self.states_, self.variance_floor)

    return AutoregressiveHMM


def shares(mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of float64[N, K] over their sums. hmmlearn's own sets the shape of an array, which numpy deprecates since 2.5."""
    total = mass.sum(axis=1, keepdims=True)
    return mass / np.where(total == 0, 1.0, total)


def maximise(moments: NDArray[np.float64], states: NDArray[np.float64], variance_floor: float) -> NDArray[np.float64]:
    """The M step: the states float64[K, 7] that maximise the expected log density under moments float64[K, 11] (kernel.moment_sums).

    For each state a weighted regression of x on (1, lag). Under |phi| <= MAX_PHI and variance >= floor it is still the exact maximum: the
    profile over c is a parabola in phi, and that over (c, phi) falls away from the residual variance on both sides.
    """
    out = states.copy()
    for k, (w, x, lag, xx, xl, ll, n, v, vv, u, uu) in enumerate(moments):
        if w > MIN_WEIGHT:
            mean_x, mean_lag = x / w, lag / w
            spread = ll / w - mean_lag**2
            slope = (xl / w - mean_x * mean_lag) / spread if spread > 1e-12 else 0.0
            phi = min(max(slope, -MAX_PHI), MAX_PHI)
            residual = (xx / w - mean_x**2) - 2 * phi * (xl / w - mean_x * mean_lag) + phi**2 * spread
            out[k, INTERCEPT] = mean_x - phi * mean_lag
            out[k, PHI] = phi
            out[k, SIGMA] = np.sqrt(max(residual, variance_floor))
        if n > MIN_WEIGHT:
            out[k, VARIANCE_MEAN], out[k, VARIANCE_SD] = v / n, np.sqrt(max(vv / n - (v / n) ** 2, variance_floor))
            out[k, TRADES_MEAN], out[k, TRADES_SD] = u / n, np.sqrt(max(uu / n - (u / n) ** 2, variance_floor))
    return out
