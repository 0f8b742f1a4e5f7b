"""The filter and one EM step against enumeration of every path and against statsmodels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from cift_models.models.hmm.emission import expectation_maximisation, hmm_class
from cift_models.models.hmm.kernel import HAS_LAG, LAG, OBSERVED, RETURN, TRADES, VARIANCE, filter_rows
from cift_models.models.hmm.parameters import Parameters
from cift_models.models.hmm.recovery import simulate_returns


def random_parameters(rng: np.random.Generator, k: int, uses: tuple[bool, bool]) -> Parameters:
    states = np.column_stack(
        [
            rng.normal(0, 0.3, k), rng.uniform(-0.6, 0.6, k), rng.uniform(0.5, 2, k), rng.normal(size=k), rng.uniform(0.5, 2, k),
            rng.normal(size=k), rng.uniform(0.5, 2, k),
        ]
    )  # fmt: skip
    return Parameters(rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), k), states, np.array(uses))


def random_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows with bars that were not observed, and so with lags that are not known."""
    rows = np.zeros((n, 6))
    seen = rng.uniform(size=n) < 0.8
    rows[seen, OBSERVED] = 1
    rows[np.ix_(seen, [RETURN, VARIANCE, TRADES])] = rng.normal(size=(int(seen.sum()), 3))
    for t in range(1, n):
        if seen[t] and seen[t - 1]:
            rows[t, LAG], rows[t, HAS_LAG] = rows[t - 1, RETURN], 1
    return rows


def normal(x: float, mean: float, sd: float) -> float:
    return math.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))


def density(row: np.ndarray, state: np.ndarray, uses: np.ndarray) -> float:
    c, phi, sigma, v, v_sd, u, u_sd = state
    p = 1.0
    if row[OBSERVED]:
        p *= normal(row[RETURN], c + phi * row[LAG], sigma) if row[HAS_LAG] else 1.0
        p *= normal(row[VARIANCE], v, v_sd) if uses[0] else 1.0
        p *= normal(row[TRADES], u, u_sd) if uses[1] else 1.0
    return p


def paths(rows: np.ndarray, p: Parameters):
    """Every path of states with its joint probability with the rows."""
    for path in itertools.product(range(p.n_states), repeat=len(rows)):
        joint = p.start[path[0]] * density(rows[0], p.states[path[0]], p.uses)
        for t in range(1, len(rows)):
            joint *= p.transition[path[t - 1], path[t]] * density(rows[t], p.states[path[t]], p.uses)
        yield path, joint


@pytest.mark.parametrize("uses", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("seed", range(3))
def test_filter_equals_sum_over_every_path(uses, seed):
    rng = np.random.default_rng(seed)
    k, n = 3, 6
    p, rows = random_parameters(rng, k, uses), random_rows(rng, n)
    ahead, now, gain = filter_rows(rows, np.array([n]), p.start, p.transition, p.states, p.uses)
    for t in range(n):
        by_state = np.zeros(k)
        for path, joint in paths(rows[: t + 1], p):
            by_state[path[-1]] += joint
        np.testing.assert_allclose(now[t], by_state / by_state.sum(), atol=1e-13)
        np.testing.assert_allclose(gain[: t + 1].sum(), np.log(by_state.sum()), atol=1e-12)
        if t + 1 < n:
            np.testing.assert_allclose(ahead[t + 1], p.transition.T @ by_state / by_state.sum(), atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_one_em_step_equals_enumeration(seed):
    rng = np.random.default_rng(seed)
    k, lengths, uses, count = 2, (8, 7), (True, True), 0.5
    p = random_parameters(rng, k, uses)
    parts = [random_rows(rng, n) for n in lengths]
    rows = np.concatenate(parts)
    found = expectation_maximisation(
        rows, np.array(lengths), p, max_iterations=1, tolerance=1e-9, variance_floor=1e-9, transition_pseudo_count=count
    )

    share, moves, log_likelihood = np.zeros((len(rows), k)), np.zeros((k, k)), 0.0
    for begin, part in zip((0, lengths[0]), parts, strict=True):
        every = list(paths(part, p))
        total = sum(joint for _, joint in every)
        log_likelihood += np.log(total)
        for path, joint in every:
            for t, state in enumerate(path):
                share[begin + t, state] += joint / total
            for a, b in itertools.pairwise(path):
                moves[a, b] += joint / total
    assert found.objective[0] == pytest.approx(log_likelihood + count * np.log(p.transition).sum(), abs=1e-10)
    np.testing.assert_allclose(found.parameters.transition, (moves + count) / (moves + count).sum(axis=1, keepdims=True), atol=1e-10)
    seen, lagged = rows[:, OBSERVED] == 1, rows[:, HAS_LAG] == 1
    for state in range(k):
        w = share[lagged, state]
        design = np.column_stack([np.ones(lagged.sum()), rows[lagged, LAG]])
        root = np.sqrt(w)[:, None]
        c, phi = np.linalg.lstsq(design * root, rows[lagged, RETURN] * root[:, 0], rcond=None)[0]
        sigma = np.sqrt((w * (rows[lagged, RETURN] - c - phi * rows[lagged, LAG]) ** 2).sum() / w.sum())
        if abs(phi) < 0.95:
            np.testing.assert_allclose(found.parameters.states[state, :3], [c, phi, sigma], atol=1e-8)
        for column, place in ((VARIANCE, 3), (TRADES, 5)):
            mean = np.average(rows[seen, column], weights=share[seen, state])
            sd = np.sqrt(np.average((rows[seen, column] - mean) ** 2, weights=share[seen, state]))
            np.testing.assert_allclose(found.parameters.states[state, place : place + 2], [mean, sd], atol=1e-9)
    np.testing.assert_array_equal(found.parameters.start, p.start)


def test_statsmodels_gives_the_same_filter_and_likelihood():
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    p = Parameters.of_returns(
        [[0.95, 0.03, 0.02], [0.04, 0.9, 0.06], [0.1, 0.05, 0.85]], [0.1, 0.0, -0.1], [0.4, -0.3, 0.1], [0.7, 1.0, 2.5]
    )
    x, _ = simulate_returns(p, 3_000, seed=1)
    k = p.n_states
    other = MarkovRegression(x[1:], k_regimes=k, exog=x[:-1], switching_variance=True)
    # statsmodels takes a known distribution two steps through A before its first row; we take one, over the first bar, which has no lag.
    other.initialize_known(p.start)
    p = replace(p, start=p.transition.T @ p.start)
    theirs = np.empty(len(other.param_names))
    # A is left-stochastic there: p[i->j] stands in blocks of j, and the last j of each i follows from the rest.
    theirs[other.parameters["regime_transition"]] = p.transition[:, : k - 1].T.ravel()
    for state in range(k):
        for name, value in (("const", p.states[state, 0]), ("x1", p.states[state, 1]), ("sigma2", p.states[state, 2] ** 2)):
            theirs[other.param_names.index(f"{name}[{state}]")] = value
    result = other.filter(theirs)
    _, now, gain = p.filter_returns(x)
    assert gain.sum() == pytest.approx(result.llf, rel=1e-9)
    np.testing.assert_allclose(now[1:], result.filtered_marginal_probabilities, atol=1e-12)


def test_statsmodels_autoregression_gives_the_same_likelihood():
    from statsmodels.tsa.regime_switching.markov_autoregression import MarkovAutoregression

    p = Parameters.of_returns([[0.95, 0.05], [0.1, 0.9]], [0.0, 0.0], [0.4, -0.3], [0.7, 2.0])
    x, _ = simulate_returns(p, 1_000, seed=2)
    # Without a mean its AR(1) about a switching mean is our regression on the lag.
    other = MarkovAutoregression(x, k_regimes=2, order=1, trend="n", switching_ar=True, switching_variance=True)
    other.initialize_known(p.start)
    p = replace(p, start=p.transition.T @ p.start)
    theirs = np.empty(len(other.param_names))
    theirs[other.parameters["regime_transition"]] = p.transition[:, 0]
    theirs[[n.startswith("ar.L1") for n in other.param_names]] = p.states[:, 1]
    theirs[[n.startswith("sigma2") for n in other.param_names]] = p.states[:, 2] ** 2
    result = other.filter(theirs)
    _, now, gain = p.filter_returns(x)
    assert gain.sum() == pytest.approx(result.llf, rel=1e-9)
    np.testing.assert_allclose(now[1:], result.filtered_marginal_probabilities, atol=1e-12)


def test_a_bar_that_no_state_explains_does_not_underflow():
    p = Parameters.of_returns([[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]], [0, 0], [0, 0], [0.1, 0.2])
    _, now, gain = p.filter_returns(np.array([0.0, 1e4, 0.0, 0.1]))
    assert np.isfinite(gain).all()
    np.testing.assert_allclose(now.sum(axis=1), 1, atol=1e-12)
    assert now[1, 1] == 1.0


def test_hmmlearn_forward_pass_is_ours():
    """The pass that EM climbs on and the pass that is served agree on the likelihood."""
    rng = np.random.default_rng(5)
    p, rows = random_parameters(rng, 3, (True, True)), random_rows(rng, 400)
    log_likelihood = hmm_class()(p)._fit_scaling(rows)[1]
    gain = filter_rows(rows, np.array([400]), p.start, p.transition, p.states, p.uses)[2]
    assert log_likelihood == pytest.approx(gain.sum(), rel=1e-12)
