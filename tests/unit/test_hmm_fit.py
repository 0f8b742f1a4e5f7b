"""EM climbs, finds planted regimes, and names them by rule."""

from __future__ import annotations

import numpy as np
import pytest

from cift_models.models.hmm import HMMConfig, Parameters, filtered_accuracy, fit_returns, simulate_returns, true_parameter_filter
from cift_models.models.hmm.bars import Rows
from cift_models.models.hmm.comparison import (
    best_decay,
    compare_held_out,
    ewma_t5_log_likelihoods,
    hmm_return_log_likelihoods,
    iid_state_log_likelihoods,
)
from cift_models.models.hmm.emission import MAX_PHI, expectation_maximisation
from cift_models.models.hmm.fit import NO_REGIMES, fit_parameters, held_out_phi, phi_standard_errors, random_start
from cift_models.models.hmm.kernel import HAS_LAG, OBSERVED, PHI, RETURN, SIGMA, TRADES, VARIANCE, rows_of_returns
from cift_models.models.hmm.naming import name_states, order_by_rule, order_like
from cift_models.models.hmm.recovery import planted_parameters

pytestmark = pytest.mark.slow

PLANTED = ("trending", "mean_reverting", "volatile")


def one_series(x: np.ndarray) -> Rows:
    n = len(x)
    return Rows(rows_of_returns(x), np.array([n]), np.arange(n), np.zeros(n, np.int64))


def test_planted_regimes_are_found_and_named():
    """T = 5e4: filtered accuracy .88 and more, states told by their names alone; within .005 of the filter that knows the parameters."""
    truth = planted_parameters()
    x, states = simulate_returns(truth, 50_000, seed=1)
    fitted = fit_returns(x, HMMConfig(), seed=0)
    assert fitted.status == "converged" and fitted.regimes
    assert sorted(fitted.names) == sorted(PLANTED)
    filtered = fitted.parameters.filter_returns(x)[1]
    named = np.column_stack([filtered[:, fitted.names.index(name)] for name in PLANTED])
    ceiling = filtered_accuracy(true_parameter_filter(truth, x), states)
    reached = filtered_accuracy(named, states)
    assert reached >= 0.88
    assert ceiling - 0.005 < reached <= ceiling + 0.002
    for k, name in enumerate(PLANTED):
        found = fitted.parameters.states[fitted.names.index(name)]
        assert found[PHI] == pytest.approx(truth.states[k, PHI], abs=0.04)
        assert found[SIGMA] == pytest.approx(truth.states[k, SIGMA], rel=0.04)


def test_a_random_walk_gets_no_directional_names():
    """Independent normal returns have no regimes, and at most 1 of 6 walks shows a trend or a reversion (1 of 40 measured)."""
    named = 0
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=1_500)
        fitted = fit_returns(x, HMMConfig(restarts=4), seed=seed)
        assert not fitted.regimes and fitted.facts["regimes"] == NO_REGIMES
        named += bool({"trending", "mean_reverting"} & set(fitted.names))
    assert named <= 1


@pytest.mark.parametrize("seed", range(4))
def test_em_never_falls(seed):
    """Fat tails, zeros, gaps and a straight climb push sigma to its floor and phi to its bound: the objective still rises."""
    rng = np.random.default_rng(seed)
    n = 300
    rows = rows_of_returns(np.where(rng.uniform(size=n) < 0.5, 0.0, rng.standard_t(2, n)))
    rows[:100] = rows_of_returns(np.linspace(0, 5, 100))
    rows[:, VARIANCE] = rng.normal(size=n)
    rows[rng.uniform(size=n) < 0.1] = 0.0
    rows[1:, HAS_LAG] *= rows[:-1, OBSERVED]
    data = Rows(rows, np.array([200, 100]), np.arange(n), np.zeros(n, np.int64))
    begin = random_start(data, 3, np.array([True, True]), rng)
    found = expectation_maximisation(
        rows, data.lengths, begin, max_iterations=200, tolerance=1e-6, variance_floor=0.01, transition_pseudo_count=1.0
    )
    assert found.status in ("converged", "max_iter") and len(found.objective) > 5
    assert np.diff(found.objective).min() > -1e-9 * abs(found.objective[-1])
    states = found.parameters.states
    assert (states[:, 2::2] >= 0.1 - 1e-12).all() and (np.abs(states[:, PHI]) <= MAX_PHI).all()
    assert np.isclose(states[:, 2::2], 0.1).any(), "this test means to reach the floor"


def test_status_says_how_em_ended():
    x, _ = simulate_returns(planted_parameters(), 400, seed=3)
    assert fit_returns(x, HMMConfig(max_iterations=2, tolerance=1e-12), seed=0).status == "max_iter"
    assert fit_returns(x, HMMConfig(), seed=0).status == "converged"
    broken = one_series(np.where(np.arange(400) == 200, np.nan, x))
    fitted = fit_parameters(broken, HMMConfig(emissions=("return",)), np.random.default_rng(0))
    assert fitted.status == "diverged" and fitted.facts["regimes"] == NO_REGIMES
    np.testing.assert_array_equal(fitted.parameters.transition, np.full((3, 3), 1 / 3))


def test_short_data_give_one_uniform_regime():
    fitted = fit_returns(np.random.default_rng(0).normal(size=39), HMMConfig(), seed=0)
    assert not fitted.regimes and fitted.facts["regimes"] == NO_REGIMES and "39 observed bars" in fitted.facts["fallback"]
    _, now, _ = fitted.parameters.filter_returns(np.array([0.0, 5.0, -3.0]))
    np.testing.assert_allclose(now, 1 / 3, atol=1e-15)


def test_states_that_flicker_are_no_regimes():
    """Two variances drawn anew at each bar: EM finds both, and they last 2 bars."""
    p = Parameters.of_returns(np.full((2, 2), 0.5), [0, 0], [0, 0], [0.3, 3.0])
    x, _ = simulate_returns(p, 4_000, seed=0)
    fitted = fit_returns(x, HMMConfig(n_states=2), seed=0)
    assert fitted.parameters.dwell_bars.min() < 3
    assert not fitted.regimes and fitted.facts["regimes"] == NO_REGIMES


def test_same_seed_same_fit():
    x, _ = simulate_returns(planted_parameters(), 1_500, seed=4)
    first, second = (fit_returns(x, HMMConfig(), seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.parameters.states, second.parameters.states)
    np.testing.assert_array_equal(first.parameters.transition, second.parameters.transition)
    assert first.facts == second.facts


def test_future_rows_do_not_pass_the_cut():
    rows = one_series(np.arange(10.0))
    head = rows.until(6)
    assert head.close_ns.tolist() == list(range(7)) and head.lengths.tolist() == [7]
    assert len(rows.until(6, most=3).values) == 3


def test_standard_error_of_one_state_is_that_of_least_squares():
    x = np.random.default_rng(2).normal(size=20_000)
    for t in range(1, len(x)):
        x[t] += 0.3 * x[t - 1]
    states = Parameters.of_returns([[1.0]], [0.0], [0.3], [1.0])
    se = phi_standard_errors(one_series(x), states)
    assert se[0] == pytest.approx(np.sqrt((1 - 0.3**2) / len(x)), rel=0.05)


@pytest.mark.proof
def test_intervals_of_phi_cover():
    """60 fits of 3,000 planted bars: the 95 % intervals hold the truth in 90-98.5 % of 180 cases."""
    truth, hits, cases = planted_parameters(), 0, 0
    for seed in range(60):
        x, _ = simulate_returns(truth, 3_000, seed=seed)
        fitted = fit_returns(x, HMMConfig(restarts=8), seed=0)
        found = fitted.parameters
        order = order_like(found.states, truth.states, truth.uses)
        for k, state in enumerate(order):
            low, high = fitted.facts["phi_95"][state]
            hits += low <= truth.states[k, PHI] <= high
            cases += 1
    assert 0.90 <= hits / cases <= 0.985, (hits, cases)


def test_held_out_phi_keeps_the_sign_of_what_was_planted():
    truth = planted_parameters()
    x, _ = simulate_returns(truth, 10_000, seed=5)
    later = held_out_phi(one_series(x), truth, cut_ns=7_999)
    assert later[0] > 0.1 and later[1] < -0.1 and abs(later[2]) < 0.15
    assert np.isnan(held_out_phi(one_series(x), truth, cut_ns=9_999)).all()


def test_names_follow_the_rule():
    sigma, se, lasts = np.array([1.0, 3.0, 1.1, 0.9]), np.full(4, 0.1), np.ones(4, bool)
    phi, later = np.array([0.3, 0.9, -0.3, 0.1]), np.array([0.2, 0.9, -0.1, 0.1])
    assert name_states(sigma, phi, se, later, lasts) == ("trending", "volatile", "mean_reverting", "quiet")
    assert name_states(sigma, phi, 2 * se, later, lasts) == ("quiet", "volatile", "quiet", "quiet")
    assert name_states(sigma, phi, se, -later, lasts) == ("quiet", "volatile", "quiet", "quiet")
    assert name_states(sigma, phi, se, np.full(4, np.nan), lasts) == ("quiet", "volatile", "quiet", "quiet")
    assert name_states(sigma, phi, se, later, np.array([False, False, True, True])) == ("quiet", "volatile", "mean_reverting", "quiet")
    assert name_states(np.ones(1), np.zeros(1), np.ones(1), np.zeros(1), np.ones(1, bool)) == ("quiet",)
    assert name_states(np.ones(2), np.ones(2), np.full(2, np.inf), np.ones(2), np.ones(2, bool)) == ("volatile", "quiet")


def test_order_is_by_sigma_then_phi_where_sigmas_tie():
    states = np.zeros((4, 7))
    states[:, SIGMA] = [0.80, 2.5, 0.81, 0.5]
    states[:, PHI] = [0.35, 0.0, -0.35, 0.9]
    assert order_by_rule(states).tolist() == [1, 0, 2, 3]
    states[[0, 2], SIGMA] = [0.81, 0.80]
    assert order_by_rule(states).tolist() == [1, 0, 2, 3]


def test_states_stand_where_they_stood_before():
    x, _ = simulate_returns(planted_parameters(), 6_000, seed=6)
    rows, config = one_series(x), HMMConfig(emissions=("return",))
    before = fit_parameters(rows, config, np.random.default_rng(0)).parameters.reordered(np.array([2, 0, 1]))
    for seed in range(2):
        after = fit_parameters(rows, config, np.random.default_rng(seed), previous=before)
        assert after.facts["matched_to_previous"]
        np.testing.assert_allclose(after.parameters.states[:, :3], before.states[:, :3], atol=0.02)
    other = fit_parameters(rows, HMMConfig(n_states=2, emissions=("return",)), np.random.default_rng(0), previous=before)
    assert not other.facts["matched_to_previous"]


@pytest.mark.parametrize("emissions", [("log_variance",), ("return", "return"), ("volume",)])
def test_config_refuses_emissions_without_a_return(emissions):
    with pytest.raises(ValueError, match="emissions"):
        HMMConfig(emissions=emissions)


def test_comparison_prefers_what_made_the_data():
    """On planted regimes the filter beats its own states without memory; on independent draws of the states it does not."""
    truth = planted_parameters()
    x, _ = simulate_returns(truth, 20_000, seed=8)
    rows = one_series(x)
    held_out = np.arange(len(x)) >= 14_000
    scores = compare_held_out(rows.values, rows.lengths, held_out, truth)
    assert scores["n"] == 6_000
    assert scores["hmm"] > scores["iid_states"] + 0.05 and scores["hmm"] > scores["ewma_t5"] + 0.05
    memoryless = Parameters.of_returns(np.tile(truth.stationary, (3, 1)), [0, 0, 0], [0, 0, 0], [0.8, 0.8, 2.5])
    z, _ = simulate_returns(memoryless, 5_000, seed=9)
    rows = one_series(z)
    a, b = hmm_return_log_likelihoods(rows.values, rows.lengths, memoryless), iid_state_log_likelihoods(rows.values, memoryless)
    np.testing.assert_allclose(a[2:], b[2:], atol=1e-12)
    assert np.isnan(a[0]) and np.isnan(b[0])


def test_ewma_t5_is_the_density_it_says():
    from scipy.stats import t as student

    x = np.random.default_rng(3).normal(size=50)
    rows = one_series(x)
    rows.values[20] = 0.0
    rows.values[21, HAS_LAG] = 0.0
    found = ewma_t5_log_likelihoods(rows.values, rows.lengths, 0.9, 1.3)
    variance, expected = 1.3, []
    for t in range(50):
        known = t not in (0, 20, 21)
        expected.append(student.logpdf(x[t], 5, scale=np.sqrt(variance * 3 / 5)) if known else np.nan)
        if t != 20:
            variance = 0.9 * variance + 0.1 * x[t] ** 2
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert 0.8 <= best_decay(rows.values, rows.lengths) <= 0.99


def test_return_likelihood_reads_returns_alone():
    """Another log variance moves F and so the weights, and not the density of the return under a state."""
    rng = np.random.default_rng(4)
    rows = one_series(rng.normal(size=30))
    p = random_start(rows, 2, np.array([True, False]), rng)
    changed = rows.values.copy()
    changed[-1, [VARIANCE, TRADES]] = 9.0
    first, second = (hmm_return_log_likelihoods(v, rows.lengths, p) for v in (rows.values, changed))
    np.testing.assert_array_equal(first, second)
    changed[-1, RETURN] += 1
    assert hmm_return_log_likelihoods(changed, rows.lengths, p)[-1] != first[-1]
