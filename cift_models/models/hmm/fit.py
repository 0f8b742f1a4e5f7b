"""From training rows to a named model: restarts, EM, intervals of phi, the held-out sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hmm.bars import Rows
from cift_models.models.hmm.config import HMMConfig
from cift_models.models.hmm.emission import EMResult, expectation_maximisation
from cift_models.models.hmm.kernel import (
    HAS_LAG,
    LAG,
    OBSERVED,
    PHI,
    RETURN,
    SIGMA,
    TRADES,
    TRADES_MEAN,
    TRADES_SD,
    VARIANCE,
    VARIANCE_MEAN,
    VARIANCE_SD,
    filter_rows,
)
from cift_models.models.hmm.naming import name_states, order_by_rule, order_like
from cift_models.models.hmm.parameters import Parameters, neutral_states

NO_REGIMES = "no regimes today"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Parameters in their final order with names and standing; `regimes` is false where the report says "no regimes today"."""

    parameters: Parameters
    names: tuple[str, ...]
    regimes: bool
    status: str
    objective: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def uses_of(config: HMMConfig) -> NDArray[np.bool_]:
    """Whether the log variance and the log trade rate speak, bool[2]."""
    return np.array(["log_variance" in config.emissions, "log_trade_rate" in config.emissions])


def fit_parameters(
    rows: Rows,
    config: HMMConfig,
    rng: np.random.Generator,
    previous: Parameters | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Fitted:
    """Fit and name a model on scaled rows.

    Restarts run on the head of the training time (all but config.held_out_share); the best is finished there, its phi are checked on the
    bars after it, and EM goes on from it over all rows. Under config.min_bars the model is uniform: names quiet, "no regimes today".
    O(N K^2) an iteration; the held-out bars are used for the sign of phi before they are used for anything else.
    """
    uses = uses_of(config)
    if rows.n_observed < config.min_bars:
        return no_fit(config, "max_iter", f"{rows.n_observed} observed bars, {config.min_bars} needed: one uniform regime")
    cut = int(np.quantile(rows.close_ns[rows.values[:, OBSERVED] == 1.0], 1 - config.held_out_share, method="lower"))
    head = rows.until(cut)
    beginning = rows.until(cut, config.restart_bars)

    tries: list[EMResult] = []
    for i in range(config.restarts):
        tries.append(climb(beginning, random_start(beginning, config.n_states, uses, rng), config, config.restart_iterations))
        progress("restarts", 0.7 * (i + 1) / config.restarts)
    climbed = [t for t in tries if t.status != "diverged"]
    if not climbed:
        return no_fit(config, "diverged", "every restart diverged: one uniform regime")
    best = max(climbed, key=lambda t: t.objective[-1])
    early = climb(head, best.parameters, config, config.max_iterations)
    progress("held-out sign", 0.85)
    final = climb(rows, early.parameters, config, config.max_iterations)
    progress("fitted", 1.0)
    if "diverged" in (early.status, final.status):
        return no_fit(config, "diverged", "the best restart diverged when it was finished: one uniform regime")

    order = order_by_rule(final.parameters.states)
    matched = False
    if previous is not None and previous.n_states == config.n_states and (previous.uses == uses).all():
        matched = True
        order = order_like(final.parameters.states, previous.states, uses)
    parameters = final.parameters.reordered(order)
    early_parameters = early.parameters.reordered(order_like(early.parameters.states, parameters.states, uses))

    phi, sigma = parameters.states[:, PHI], parameters.states[:, SIGMA]
    se = phi_standard_errors(rows, parameters)
    later = held_out_phi(rows, early_parameters, cut)
    dwell = parameters.dwell_bars
    lasts = dwell >= config.min_dwell_bars
    names = name_states(sigma, phi, se, later, lasts)
    regimes = config.n_states > 1 and bool(lasts.all())
    facts = {
        "regimes": ", ".join(names) if regimes else NO_REGIMES,
        "names": list(names),
        "sigma": rounded(sigma),
        "phi": rounded(phi),
        "phi_95": [rounded([a - 1.96 * b, a + 1.96 * b]) for a, b in zip(phi, se, strict=True)],
        "phi_held_out": rounded(later),
        "dwell_bars": rounded(dwell),
        "share": rounded(parameters.stationary),
        "n_bars": rows.n_observed,
        "n_bars_held_out": rows.n_observed - head.n_observed,
        "restart_objectives": rounded([t.objective[-1] for t in climbed]),
        "matched_to_previous": matched,
    }
    return Fitted(parameters, names, regimes, final.status, final.objective, facts)


def no_fit(config: HMMConfig, status: str, why: str) -> Fitted:
    """The uniform model, with the reason."""
    names = ("quiet",) * config.n_states
    return Fitted(
        Parameters.uniform(config.n_states, uses_of(config)),
        names,
        False,
        status,
        [],
        {"regimes": NO_REGIMES, "names": list(names), "fallback": why},
    )


def climb(rows: Rows, begin: Parameters, config: HMMConfig, max_iterations: int) -> EMResult:
    """EM with the config's settings."""
    return expectation_maximisation(
        rows.values,
        rows.lengths,
        begin,
        max_iterations=max_iterations,
        tolerance=config.tolerance * max(rows.n_observed, 1),
        variance_floor=config.variance_floor,
        transition_pseudo_count=config.transition_pseudo_count,
    )


def random_start(rows: Rows, k: int, uses: NDArray[np.bool_], rng: np.random.Generator) -> Parameters:
    """Sticky states (mean visits of 5 to 100 bars) with random phi, sigma within 2.5 times the pooled one, and means at random bars."""
    stay = 1 - 1 / np.exp(rng.uniform(np.log(5), np.log(100), k))
    transition = np.tile(((1 - stay) / max(k - 1, 1))[:, None], (1, k))
    np.fill_diagonal(transition, stay if k > 1 else 1.0)
    states = neutral_states(k)
    observed = rows.values[rows.values[:, OBSERVED] == 1.0]
    states[:, PHI] = rng.uniform(-0.5, 0.5, k)
    states[:, SIGMA] = max(float(observed[:, RETURN].std()), 0.1) * np.exp(rng.uniform(-0.9, 0.9, k))
    chosen = observed[rng.integers(0, len(observed), k)]
    states[:, VARIANCE_MEAN], states[:, TRADES_MEAN] = chosen[:, VARIANCE], chosen[:, TRADES]
    return Parameters(np.full(k, 1.0 / k), transition, states, uses)


def held_out_phi(rows: Rows, parameters: Parameters, cut_ns: int) -> NDArray[np.float64]:
    """Slope of x on its lag in each state over the bars after an instant, float64[K]; NaN where a state weighs under 5 bars there.

    Weights are p(s_t|F_{t-1}) under parameters fitted before the instant: a weight that had seen x_t would favour its own slope.
    """
    ahead, _, _ = filter_rows(rows.values, rows.lengths, parameters.start, parameters.transition, parameters.states, parameters.uses)
    values = rows.values
    later = (rows.close_ns > cut_ns) & (values[:, OBSERVED] == 1.0) & (values[:, HAS_LAG] == 1.0)
    out = np.full(parameters.n_states, np.nan)
    x, lag = values[later, RETURN], values[later, LAG]
    for k in range(parameters.n_states):
        w = ahead[later, k]
        if w.sum() < 5:
            continue
        a, b = x - (w * x).sum() / w.sum(), lag - (w * lag).sum() / w.sum()
        below = (w * b * b).sum()
        if below > 0:
            out[k] = (w * a * b).sum() / below
    return out


def phi_standard_errors(rows: Rows, parameters: Parameters) -> NDArray[np.float64]:
    """Standard errors of phi from the outer product of the scores of log p(row_t|F_{t-1}), float64[K] (Berndt et al. 1974).

    Scores are central differences over every free parameter (c, phi, log sigma, means, log deviations, log-ratios of A), so that
    what the hidden path leaves open is counted: 2 P filter passes. Infinite where the information is singular.
    """
    k = parameters.n_states
    columns = [0, 1, 2] + [3, 4] * bool(parameters.uses[0]) + [5, 6] * bool(parameters.uses[1])
    logged = {SIGMA, VARIANCE_SD, TRADES_SD}

    def gains(states: NDArray[np.float64], transition: NDArray[np.float64]) -> NDArray[np.float64]:
        return filter_rows(rows.values, rows.lengths, parameters.start, transition, states, parameters.uses)[2]

    step = 1e-5
    scores = []
    for column in columns:
        for state in range(k):
            ends = []
            for sign in (1, -1):
                states = parameters.states.copy()
                states[state, column] = (
                    states[state, column] * np.exp(sign * step) if column in logged else states[state, column] + sign * step
                )
                ends.append(gains(states, parameters.transition))
            scores.append((ends[0] - ends[1]) / (2 * step))
    for i in range(k):
        for j in range(k):
            if i == j:
                continue
            ends = []
            for sign in (1, -1):
                transition = parameters.transition.copy()
                transition[i, j] *= np.exp(sign * step)
                transition[i] /= transition[i].sum()
                ends.append(gains(parameters.states, transition))
            scores.append((ends[0] - ends[1]) / (2 * step))
    # einsum without BLAS: the same bits on every run.
    information = np.einsum("it,jt->ij", np.array(scores), np.array(scores))
    variance = np.diag(np.linalg.pinv(information, rcond=1e-12, hermitian=True))
    own = np.diag(information)
    place = columns.index(PHI) * k
    usable = (own[place : place + k] > 0) & (variance[place : place + k] > 0)
    return np.where(usable, np.sqrt(np.maximum(variance[place : place + k], 0)), np.inf)


def rounded(values: Any) -> list[float | None]:
    """Six digits, for a report; NaN and infinity as None."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]
