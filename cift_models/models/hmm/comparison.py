"""Held-out likelihood of returns under the regimes and under two rivals that know nothing of regimes.

"Three states beat one" is only fat tails. A regime has to beat (a) its own states drawn independently in time, which have the same tails
and no memory, and (b) an exponentially weighted variance under a Student t(5), which has memory and tails and no states.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.models.hmm.kernel import HAS_LAG, OBSERVED, RETURN, filter_rows, return_log_likelihoods
from cift_models.models.hmm.parameters import Parameters

# log of the density of a Student t(5) with unit variance at 0: Gamma(3) / (Gamma(2.5) sqrt(3 pi)).
T5_LOG_CONSTANT = math.lgamma(3.0) - math.lgamma(2.5) - 0.5 * math.log(3.0 * math.pi)


def hmm_return_log_likelihoods(values: NDArray[np.float64], lengths: NDArray[np.int64], parameters: Parameters) -> NDArray[np.float64]:
    """log p(x_t|F_{t-1}) of the returns alone, float64[N]; NaN where bar or lag is not known. Every emission in use informs F."""
    ahead, _, _ = filter_rows(values, lengths, parameters.start, parameters.transition, parameters.states, parameters.uses)
    return return_log_likelihoods(values, ahead, parameters.states)


def iid_state_log_likelihoods(values: NDArray[np.float64], parameters: Parameters) -> NDArray[np.float64]:
    """The same with the state drawn anew at each bar from its long-run share."""
    weights = np.tile(parameters.stationary, (len(values), 1))
    return return_log_likelihoods(values, weights, parameters.states)


@kernel
def ewma_t5_log_likelihoods(values, lengths, decay, first_variance):
    """log p(x_t|F_{t-1}) of a unit-variance Student t(5) times the EWMA deviation, float64[N]; NaN where the bar or its lag is not known.

    v_t = decay v_{t-1} + (1 - decay) x_{t-1}^2, from first_variance at the head of each sequence; a bar that was not observed leaves v.
    """
    out = np.full(len(values), np.nan)
    t = 0
    for length in lengths:
        variance = first_variance
        for _ in range(length):
            if values[t, OBSERVED] == 1.0:
                x = values[t, RETURN]
                if values[t, HAS_LAG] == 1.0:
                    out[t] = T5_LOG_CONSTANT - 0.5 * math.log(variance) - 3.0 * math.log1p(x * x / (3.0 * variance))
                variance = decay * variance + (1.0 - decay) * x * x
            t += 1
    return out


def best_decay(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> float:
    """The decay of .80, .81, ... .99 with the largest training likelihood; v starts at the training variance."""
    first = training_variance(values)
    grid = np.arange(80, 100) / 100
    return float(grid[int(np.argmax([np.nanmean(ewma_t5_log_likelihoods(values, lengths, d, first)) for d in grid]))])


def training_variance(values: NDArray[np.float64]) -> float:
    """Mean square of the observed returns, never 0."""
    return max(float((values[values[:, OBSERVED] == 1.0, RETURN] ** 2).mean()), 1e-12)


def compare_held_out(
    values: NDArray[np.float64],
    lengths: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    parameters: Parameters,
) -> dict[str, float]:
    """Mean log-likelihood a bar of held-out returns: {"hmm", "iid_states", "ewma_t5", "n"}.

    values float64[N, 6], lengths int64 and held_out bool[N]; `parameters` and the decay know the other bars alone (the caller fits the
    former). The filters run through all of `values`, so that the held-out part starts warm.
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    train = np.ascontiguousarray(values[~held_out])
    train_lengths = np.bincount(owner[~held_out], minlength=len(lengths))
    train_lengths = train_lengths[train_lengths > 0].astype(np.int64)
    scores = {
        "hmm": hmm_return_log_likelihoods(values, lengths, parameters),
        "iid_states": iid_state_log_likelihoods(values, parameters),
        "ewma_t5": ewma_t5_log_likelihoods(values, lengths, best_decay(train, train_lengths), training_variance(train)),
    }
    known = held_out & np.isfinite(scores["hmm"])
    return {name: float(score[known].mean()) for name, score in scores.items()} | {"n": float(known.sum())}
