"""Does the fit find regimes that are there? A simulation with known states, and the filter that knows the parameters as the ceiling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.models.hmm.bars import Rows
from cift_models.models.hmm.config import HMMConfig
from cift_models.models.hmm.fit import Fitted, fit_parameters
from cift_models.models.hmm.kernel import INTERCEPT, PHI, SIGMA, rows_of_returns
from cift_models.models.hmm.parameters import Parameters


def planted_parameters() -> Parameters:
    """The planted market: trending, mean-reverting and volatile states that last about 100, 100 and 50 bars."""
    transition = [[0.99, 0.006, 0.004], [0.006, 0.99, 0.004], [0.01, 0.01, 0.98]]
    return Parameters.of_returns(transition, intercept=[0, 0, 0], phi=[0.35, -0.35, 0.0], sigma=[0.8, 0.8, 2.5])


def simulate_returns(parameters: Parameters, n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """n returns and the states that made them, float64[n] and int64[n]; the first state is drawn from the long-run shares."""
    rng = np.random.default_rng(seed)
    first = int(rng.choice(parameters.n_states, p=parameters.stationary))
    return walk(parameters.transition.cumsum(axis=1), parameters.states, first, rng.uniform(size=n), rng.normal(size=n))


@kernel
def walk(cumulative, states, first, uniforms, normals):
    """The AR(1) returns and the path of states, x[0] with a last return of 0."""
    x, path = np.empty(len(uniforms)), np.empty(len(uniforms), np.int64)
    state, last = first, 0.0
    for t in range(len(uniforms)):
        if t > 0:
            state = min(np.searchsorted(cumulative[state], uniforms[t], "right"), len(states) - 1)
        last = states[state, INTERCEPT] + states[state, PHI] * last + states[state, SIGMA] * normals[t]
        x[t], path[t] = last, state
    return x, path


def true_parameter_filter(parameters: Parameters, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filtered p(s_t|F_t), float64[T, K], of one series of returns in the parameters' unit: the best that is causal."""
    return parameters.filter_returns(x)[1]


def filtered_accuracy(filtered: NDArray[np.float64], states: NDArray[np.int64]) -> float:
    """Share of instants at which the likeliest filtered state is the true one."""
    return float((filtered.argmax(axis=1) == states).mean())


def fit_returns(x: NDArray[np.float64], config: HMMConfig, seed: int) -> Fitted:
    """Fit one unbroken series of returns alone; the parameters come back in the series' own unit (`facts` in its sd)."""
    sd = float(np.std(x))
    scale = sd if sd > 0 else 1.0
    n = len(x)
    rows = Rows(rows_of_returns(x / scale), np.array([n], np.int64), np.arange(n, dtype=np.int64), np.zeros(n, np.int64))
    fitted = fit_parameters(rows, config.model_copy(update={"emissions": ("return",)}), np.random.default_rng(seed))
    return Fitted(fitted.parameters.scaled(scale), fitted.names, fitted.regimes, fitted.status, fitted.objective, fitted.facts)
