"""What the Hawkes fit recovers from simulated markets, and what it does not see where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from cift_models.errors import InputError
from cift_models.models.hawkes import (
    Arrivals,
    Baseline,
    HawkesFit,
    Parameters,
    baseline_for,
    bootstrap_branching,
    decay_grid,
    fit_hawkes,
    fit_poisson,
    likelihood_ratio_test,
    lomax_mixture,
    simulate_clusters,
    simulate_thinning,
)

pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
N_60S = 0.6
"""What is planted in `power_law_market`."""


def u_shape(rate_hz: float) -> tuple[Baseline, np.ndarray]:
    """A smooth day, on knots far finer than the fit's: three times as busy at its ends as in the middle."""
    x = np.linspace(0, 1, 201)
    shape = 1 + 2 * (2 * x - 1) ** 2
    return Baseline("spline", 200, 1.0), np.tile(shape / shape.mean() * rate_hz, (2, 1))


def power_law_market(rate_hz: float) -> Parameters:
    """Lomax kernel (theta .5, scale 10 ms) with n(60 s) = .6, an eighth of it to the other side, about `rate_hz` arrivals a second."""
    decays, weight = lomax_mixture(1.0, 0.5, 0.01)
    weight *= N_60S / (weight @ -np.expm1(-decays * 60))
    baseline, nu = u_shape(rate_hz / 2 * (1 - N_60S))
    return Parameters(decays, baseline, nu, np.array([[0.85, 0.15], [0.15, 0.85]])[:, :, None] * weight)


def draw(parameters: Parameters, seconds: int, seed: int) -> Arrivals:
    window = np.array([seconds * SECOND])
    return simulate_clusters(parameters, window, window, np.random.default_rng(seed))


def fit(arrivals: Arrivals, kind: str = "spline") -> HawkesFit:
    baseline = baseline_for(arrivals, 1800, 4, kind)
    return fit_hawkes(arrivals, baseline, decay_grid(arrivals, baseline, 1e-4, 60, 2.6))


def poisson_day(seed: int) -> Arrivals:
    """6.5 hours, 6,000 arrivals that nothing excites: the size of AMZN and GOOG on the recorded day."""
    baseline, nu = u_shape(3000 / 23_400)
    return draw(Parameters(np.array([1.0]), baseline, nu, np.zeros((2, 2, 1))), 23_400, seed)


def test_planted_numbers():
    parameters = power_law_market(0.7)
    assert parameters.branching_ratio(60) == pytest.approx(N_60S, rel=1e-12)
    assert N_60S < parameters.branching_ratio() < 0.62


def test_clusters_and_thinning_draw_the_same_process():
    """Counts in 400 windows of 20 s from an empty past: mean and variance of the two simulators within 4 standard errors of each other."""
    alpha = np.array([[[0.3, 0.1], [0.1, 0.1]], [[0.0, 0.2], [0.2, 0.2]]])
    decays, rates = np.array([30.0, 0.5]), np.array([0.6, 0.4])
    parameters = Parameters(decays, Baseline("spline", 1, 1.0), np.tile(rates[:, None], (1, 2)), alpha)
    rng = np.random.default_rng(0)
    window = np.full(400, 20 * SECOND)
    clusters = simulate_clusters(parameters, window, window, rng)
    first = np.stack([np.bincount(clusters.session_of_each()[clusters.side == i], minlength=400) for i in range(2)], axis=1)
    second = np.array(
        [np.bincount(simulate_thinning(rates, decays, alpha, np.zeros((2, 2)), 20.0, rng)[1], minlength=2) for _ in range(400)]
    )
    error = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 400)
    assert (np.abs(first.mean(axis=0) - second.mean(axis=0)) < 4 * error).all()
    spread = [((c - c.mean(axis=0)) ** 2) for c in (first, second)]
    error = np.sqrt((spread[0].var(axis=0) + spread[1].var(axis=0)) / 400)
    assert (np.abs(spread[0].mean(axis=0) - spread[1].mean(axis=0)) < 4 * error).all()


def test_exploding_process_is_refused():
    parameters = Parameters(np.array([1.0]), Baseline("spline", 1, 1.0), np.full((2, 2), 0.1), np.full((2, 2, 1), 0.6))
    with pytest.raises(InputError, match=r"branching ratio is 1\.200"):
        draw(parameters, 10, 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interval_covers_what_was_planted(seed):
    """2,500 arrivals in an hour, 60 refits: the interval covers .6 and is narrower than .2."""
    interval = bootstrap_branching(fit(draw(power_law_market(0.7), 3600, seed)), n=60, seed=seed)
    assert interval.low <= N_60S <= interval.high
    assert interval.high - interval.low < 0.2
    assert len(interval.samples) == 60


def test_bootstrap_is_repeatable():
    fitted = fit(draw(power_law_market(0.7), 1800, 3))
    one, two = (bootstrap_branching(fitted, n=5, seed=9).samples for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert bootstrap_branching(fitted, n=5, seed=10).samples.tobytes() != one.tobytes()


def test_smooth_day_without_excitation_fits_almost_none():
    """Six smooth Poisson days: n(60 s) .03 on average with the spline; steps and a constant rate see excitation that is not there."""
    days = [poisson_day(seed) for seed in range(6)]
    spline = [fit(day).parameters.branching_ratio(60) for day in days]
    steps = [fit(day, "steps").parameters.branching_ratio(60) for day in days]
    assert np.mean(spline) <= 0.04
    assert max(spline) <= 0.10
    assert np.mean(steps) > np.mean(spline)
    flat = fit_hawkes(days[0], Baseline("steps", 1, 1.0), np.array([1 / 60, 1.0]))
    assert flat.parameters.branching_ratio(60) > 0.3


def test_likelihood_ratio_tells_excitation_from_none():
    """Below the simulated 95 % point on a Poisson day, far above on an excited one; the naive chi-squared point is not used."""
    for arrivals, excited in ((draw_quiet(1), False), (draw(power_law_market(0.3), 1800, 1), True)):
        fitted = fit(arrivals)
        poisson = fit_poisson(arrivals, fitted.parameters.baseline)
        test = likelihood_ratio_test(fitted, poisson, n=60, seed=0, level=0.95)
        assert test.statistic >= -1e-6
        assert test.critical > 0
        assert test.is_excited is excited


def draw_quiet(seed: int) -> Arrivals:
    baseline, nu = u_shape(0.15)
    return draw(Parameters(np.array([1.0]), baseline, nu, np.zeros((2, 2, 1))), 1800, seed)


@pytest.mark.proof
def test_proof_intervals_cover_the_planted_branching():
    """Seeds 0-19, two hours and 5,000 arrivals each, 100 refits: the 95 % interval covers n(60 s) = .6 at least 16 times."""
    covered = 0
    for seed in range(20):
        interval = bootstrap_branching(fit(draw(power_law_market(0.7), 7200, seed)), n=100, seed=seed)
        covered += interval.low <= N_60S <= interval.high
    print(f"covered {covered} of 20")
    assert covered >= 16


@pytest.mark.proof
def test_proof_seasonal_poisson_shows_no_branching():
    """40 smooth days of 6,000 arrivals: n(60 s) at most .03 on average and .10 at worst."""
    n = [fit(poisson_day(seed)).parameters.branching_ratio(60) for seed in range(40)]
    print(f"n(60 s): mean {np.mean(n):.4f}, max {np.max(n):.4f}")
    assert np.mean(n) <= 0.03
    assert np.max(n) <= 0.10


@pytest.mark.proof
def test_proof_ratio_test_has_its_size():
    """40 quiet sessions tested at 5 %: at most 6 are called excited (more has a chance of .3 %)."""
    called = 0
    for seed in range(40):
        arrivals = draw_quiet(seed)
        fitted = fit(arrivals)
        called += likelihood_ratio_test(fitted, fit_poisson(arrivals, fitted.parameters.baseline), n=99, seed=seed, level=0.95).is_excited
    print(f"called excited {called} of 40")
    assert called <= 6
