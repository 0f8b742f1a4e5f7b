"""Expected arrivals over the next second: the state's conditional mean obeys a linear equation, solved once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hawkes.likelihood import Parameters


class ForecastMap(NamedTuple):
    """E[N_i over the horizon] = sum_jm sums[i, j, m] R_jm(t) + sum_j now[i, j] mu_j(t) + next[i, j] mu_j(t + horizon).

    sums float64[D, D, M], now and next float64[D, D]; all >= 0.
    """

    sums: NDArray[np.float64]
    now: NDArray[np.float64]
    next: NDArray[np.float64]


def forecast_map(parameters: Parameters, horizon_s: float) -> ForecastMap:
    """The map from (R(t), mu(t), mu(t + horizon)) to expected counts over (t, t + horizon]; mu linear in between.

    dE[R_jm] = (-beta_m E[R_jm] + E[lambda_j]) dt, dE[N_i] = E[lambda_i] dt, E[lambda_i] = mu_i + sum_jm alpha_ijm beta_m E[R_jm]
    (Hawkes 1971; Dassios and Zhao 2011 for one decay). One matrix exponential of
    size D (M + 3); exact unless a knot lies inside the horizon.
    """
    from scipy.linalg import expm

    D, _, M = parameters.alpha.shape
    E = D * M
    counts, level, change = slice(E, E + D), slice(E + D, E + 2 * D), slice(E + 2 * D, E + 3 * D)
    excite = (parameters.alpha * parameters.decays_hz).reshape(D, E)
    flow = np.zeros((E + 3 * D, E + 3 * D))
    arrive = np.repeat(np.eye(D), M, axis=0)
    flow[:E, :E] = arrive @ excite - np.diag(np.tile(parameters.decays_hz, D))
    flow[:E, level] = arrive
    flow[counts, :E] = excite
    flow[counts, level] = np.eye(D)
    flow[level, change] = np.eye(D) / horizon_s
    solved = expm(flow * horizon_s)[counts]
    # Rounding leaves -1e-18 where a mean cannot be negative.
    solved = np.maximum(solved, 0.0)
    return ForecastMap(solved[:, :E].reshape(D, D, M), solved[:, level] - solved[:, change], solved[:, change])
