"""The Hawkes likelihood against sums written out from its definition, and the fit against its certificate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cift_models.models.hawkes import (
    Arrivals,
    Baseline,
    Parameters,
    baseline_for,
    check_residuals,
    decay_grid,
    fit_best_single_decay,
    fit_hawkes,
    fit_poisson,
    join,
    log_likelihood,
    lomax_mixture,
    one_session,
    quantiles,
    residuals,
    sensitivity_table,
    simulate_clusters,
)
from cift_models.models.hawkes.likelihood import Likelihood, theta_of
from cift_models.models.hawkes.quadratic import minimise_nonnegative

SECOND = 1_000_000_000


def random_arrivals(seed: int, n: int = 90, window_s: int = 300, session_s: int = 400) -> Arrivals:
    """Clumped times; a few buys and sells share a nanosecond."""
    rng = np.random.default_rng(seed)
    t = np.sort(np.concatenate([rng.integers(0, window_s * SECOND, n // 2), rng.integers(0, 20 * SECOND, n // 2)]))
    t[5] = t[4]
    side = rng.integers(0, 2, len(t)).astype(np.int8)
    side[4:6] = 0, 1
    return one_session(t, side, window_s * SECOND, session_s * SECOND)


def random_parameters(seed: int, baseline: Baseline) -> Parameters:
    rng = np.random.default_rng(seed)
    return Parameters(np.array([800.0, 3.0, 0.04]), baseline, rng.uniform(0.1, 0.5, (2, baseline.size)), rng.uniform(0, 0.2, (2, 2, 3)))


def mu(parameters: Parameters, i: int, t: float, session_s: float) -> float:
    """The baseline from its definition: numpy's interpolation between knots, or the step that t lies in."""
    b = parameters.baseline
    edges = np.linspace(0, b.last_share, b.intervals + 1) * session_s
    if b.kind == "spline":
        return float(np.interp(t, edges, parameters.nu_hz[i]))
    return float(parameters.nu_hz[i, min(int(np.searchsorted(edges, t, "right")) - 1, b.intervals - 1)])


def slow_intensity(arrivals: Arrivals, parameters: Parameters, q: int, i: int, t: float) -> float:
    """lambda_i(t) in session q: a sum over every earlier arrival of the session."""
    total = mu(parameters, i, t, arrivals.sessions_s[q])
    for k in range(arrivals.offsets[q], arrivals.offsets[q + 1]):
        age = t - arrivals.t_ns[k] * 1e-9
        if age > 0:
            total += (parameters.alpha[i, arrivals.side[k]] * parameters.decays_hz * np.exp(-parameters.decays_hz * age)).sum()
    return total


def slow_log_likelihood(arrivals: Arrivals, parameters: Parameters) -> float:
    """sum log lambda - integral of lambda, O(N^2); the baseline's integral by the trapezoid rule on 4e5 points."""
    total = 0.0
    for q in range(len(arrivals.window_ns)):
        T, L = arrivals.windows_s[q], arrivals.sessions_s[q]
        grid = np.linspace(0, T, 400_001)
        edges = np.linspace(0, parameters.baseline.last_share, parameters.baseline.intervals + 1) * L
        for i in range(2):
            total -= np.trapezoid(np.interp(grid, edges, parameters.nu_hz[i]), grid)
        for k in range(arrivals.offsets[q], arrivals.offsets[q + 1]):
            t = arrivals.t_ns[k] * 1e-9
            total += np.log(slow_intensity(arrivals, parameters, q, arrivals.side[k], t))
            total -= (parameters.alpha[:, arrivals.side[k]] * (1 - np.exp(-parameters.decays_hz * (T - t)))).sum()
    return float(total)


def two_sessions() -> Arrivals:
    return join([random_arrivals(0), random_arrivals(1, window_s=150)])


def test_likelihood_is_the_sum_over_all_pairs():
    """Two sessions, one cut short, a buy and a sell in one nanosecond: the pass equals the definition to 1e-9."""
    arrivals = two_sessions()
    parameters = random_parameters(2, Baseline("spline", 4, 0.75))
    assert log_likelihood(arrivals, parameters) == pytest.approx(slow_log_likelihood(arrivals, parameters), rel=1e-9)


@pytest.mark.parametrize("kind", ["spline", "steps"])
def test_gradient_and_hessian_are_finite_differences(kind):
    arrivals = two_sessions()
    baseline = Baseline(kind, 4, 0.75)
    parameters = random_parameters(3, baseline)
    problem = Likelihood.of(arrivals, baseline, parameters.decays_hz)
    theta = theta_of(parameters)
    _, gradient = problem.value_and_gradient(theta)
    _, _, hessian = problem.events(theta, True)
    h = 1e-5
    for i, p in np.ndindex(theta.shape):
        up, down = theta.copy(), theta.copy()
        up[i, p] += h
        down[i, p] -= h
        (v1, g1), (v0, g0) = problem.value_and_gradient(up), problem.value_and_gradient(down)
        assert gradient[i, p] == pytest.approx((v1 - v0) / (2 * h), rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(-hessian[i, p], (g1[i] - g0[i]) / (2 * h), rtol=1e-4, atol=1e-4 * np.abs(hessian[i]).max())


def test_baseline_integrals_are_those_of_its_rate():
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 400_001)
    for kind in ("spline", "steps"):
        baseline = Baseline(kind, 5, 0.8)
        nu = rng.uniform(0.1, 2, (2, baseline.size))
        for share in (0.07, 0.5, 0.8, 1.0):
            x = grid * share
            direct = np.trapezoid(baseline.rate(nu, x), x) * 1000.0
            np.testing.assert_allclose(nu @ baseline.integral(share, 1000.0), direct, rtol=1e-5)
            np.testing.assert_allclose(baseline.integrated(nu, np.array([share]), np.array([1000.0]))[:, 0], direct, rtol=1e-5)


def test_mixture_is_the_power_law():
    """24 exponentials against the exact Lomax kernel summed over all pairs: at most 1e-5 nats per event; 47 at most 1e-8."""
    theta, tau0, n, rate = 0.5, 0.01, 0.6, 0.2
    window = np.array([1800 * SECOND])
    share = np.array([[0.8, 0.2], [0.2, 0.8]]) * n

    def mixed(nodes: int) -> Parameters:
        decays, weight = lomax_mixture(1.0, theta, tau0, nodes)
        return Parameters(decays, Baseline("spline", 1, 1.0), np.full((2, 2), rate), share[:, :, None] * weight)

    arrivals = simulate_clusters(mixed(47), window, window, np.random.default_rng(0))
    t, T = arrivals.t_ns * 1e-9, 1800.0
    exact = -2 * rate * T
    for k in range(len(t)):
        age = t[k] - t[:k]
        to = share[arrivals.side[k], arrivals.side[:k]]
        exact += np.log(rate + (to * theta / tau0 * (1 + age / tau0) ** (-1 - theta)).sum())
        exact -= share[:, arrivals.side[k]].sum() * (1 - (1 + (T - t[k]) / tau0) ** -theta)
    assert abs(log_likelihood(arrivals, mixed(24)) - exact) / len(t) <= 1e-5
    assert abs(log_likelihood(arrivals, mixed(47)) - exact) / len(t) <= 1e-8


def small_market(seed: int = 0) -> tuple[Arrivals, Parameters]:
    """An hour, about 1,500 arrivals, three decays, a U-shaped baseline."""
    alpha = np.zeros((2, 2, 3))
    alpha[0, 0], alpha[1, 1], alpha[0, 1] = [0.2, 0.2, 0.1], [0.1, 0.2, 0.2], [0.05, 0.0, 0.05]
    truth = Parameters(np.array([500.0, 5.0, 0.1]), Baseline("spline", 4, 1.0), np.array([[0.2, 0.1, 0.08, 0.1, 0.2]] * 2), alpha)
    window = np.array([3600 * SECOND])
    return simulate_clusters(truth, window, window, np.random.default_rng(seed)), truth


def test_fit_reaches_the_optimum_that_another_optimiser_reaches():
    """L-BFGS-B from scipy, started at the truth, ends within 1e-5 nats of our fit and never above it; the certificate says as much."""
    from scipy.optimize import minimize

    arrivals, truth = small_market()
    fit = fit_hawkes(arrivals, truth.baseline, truth.decays_hz)
    assert fit.status == "converged"
    assert fit.gap <= 1e-8
    problem = Likelihood.of(arrivals, truth.baseline, truth.decays_hz)
    shape = theta_of(truth).shape

    def loss(flat):
        value, gradient = problem.value_and_gradient(flat.reshape(shape))
        return -value, -gradient.ravel()

    bounds = [(1e-12, None)] * int(np.prod(shape))
    other = minimize(
        loss, theta_of(truth).ravel() + 1e-3, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 5000, "ftol": 1e-15}
    )
    assert -other.fun <= fit.log_likelihood + 1e-5
    assert -other.fun >= fit.log_likelihood - 1e-2


def test_projected_gradient_vanishes():
    """At the optimum: gradient 0 where a weight is positive, not positive where it is 0; the compensator equals the number of arrivals."""
    arrivals, _ = small_market(1)
    baseline = baseline_for(arrivals, 1800, 4)
    fit = fit_hawkes(arrivals, baseline, decay_grid(arrivals, baseline, 1e-4, 60, 2.6))
    problem = Likelihood.of(arrivals, baseline, fit.parameters.decays_hz)
    theta = theta_of(fit.parameters)
    _, gradient = problem.value_and_gradient(theta)
    scaled = gradient / problem.compensator
    assert scaled.max() <= 1e-7
    assert (np.abs(gradient * theta) / arrivals.counts[:, None]).max() <= 1e-7
    np.testing.assert_allclose(theta @ problem.compensator, arrivals.counts, rtol=1e-9)
    assert (theta == 0).any()


def test_warm_start_ends_at_the_same_optimum():
    arrivals, truth = small_market(2)
    fit = fit_hawkes(arrivals, truth.baseline, truth.decays_hz)
    again = fit_hawkes(arrivals, truth.baseline, truth.decays_hz, start=fit.parameters)
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)
    assert len(again.curve) < len(fit.curve)


def test_warm_start_from_a_dead_baseline_recovers():
    """A start under which nothing could happen most of the day still leads to the optimum."""
    arrivals, truth = small_market(2)
    nu = np.zeros((2, 5))
    nu[:, 4] = 0.1
    dead = Parameters(truth.decays_hz, truth.baseline, nu, np.zeros((2, 2, 3)))
    assert not np.isfinite(log_likelihood(arrivals, dead))
    fit, again = (fit_hawkes(arrivals, truth.baseline, truth.decays_hz, start=s) for s in (None, dead))
    assert again.status == "converged"
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)


def test_impossible_arrivals_of_one_side_leave_the_other_alone():
    arrivals, truth = small_market(2)
    problem = Likelihood.of(arrivals, truth.baseline, truth.decays_hz)
    theta = theta_of(truth)
    value, gradient, _ = problem.events(theta, False)
    theta[1] = 0.0
    dead, other, _ = problem.events(theta, False)
    assert dead[1] == -np.inf
    assert dead[0] == value[0]
    np.testing.assert_array_equal(other[0], gradient[0])


def test_every_small_sample_converges():
    """120 samples of 10 to 400 arrivals, clumped or even, one or two sessions: each fit ends with its certificate."""
    rng = np.random.default_rng(0)
    for _ in range(120):
        parts = []
        for _ in range(rng.integers(1, 3)):
            n, spread = int(rng.integers(10, 400)), float(rng.uniform(0.3, 6))
            t = (rng.uniform(size=n) ** spread * 1200 * SECOND).astype(np.int64)
            parts.append(one_session(t, rng.integers(0, 2, n).astype(np.int8), 1200 * SECOND, 1200 * SECOND))
        arrivals = join(parts)
        baseline = baseline_for(arrivals, 1800, 4)
        fit = fit_hawkes(arrivals, baseline, decay_grid(arrivals, baseline, 1e-4, 60, 2.6))
        assert fit.status == "converged"
        assert fit.log_likelihood >= fit_poisson(arrivals, baseline).log_likelihood - 1e-4


def test_one_pass_is_not_called_converged():
    arrivals, truth = small_market()
    assert fit_hawkes(arrivals, truth.baseline, truth.decays_hz, max_passes=1).status == "max_iter"


def test_poisson_without_seasons_is_counts_over_time():
    arrivals, _ = small_market()
    fit = fit_poisson(arrivals, Baseline("steps", 1, 1.0))
    np.testing.assert_allclose(fit.parameters.nu_hz[:, 0], arrivals.counts / 3600.0, rtol=1e-8)


def test_one_side_and_no_arrivals():
    """A side that never trades has rate 0; nothing at all fits nothing."""
    arrivals, truth = small_market()
    buys = one_session(arrivals.t_ns[arrivals.side == 0], np.zeros(int(arrivals.counts[0]), np.int8), 3600 * SECOND, 3600 * SECOND)
    fit = fit_hawkes(buys, truth.baseline, truth.decays_hz)
    assert fit.status == "converged"
    assert (fit.parameters.nu_hz[1] == 0).all()
    assert (fit.parameters.alpha[1] == 0).all()
    assert (fit.parameters.alpha[:, 1] == 0).all()
    none = fit_hawkes(one_session(np.zeros(0, np.int64), np.zeros(0, np.int8), SECOND, SECOND), truth.baseline, truth.decays_hz)
    assert (none.parameters.nu_hz == 0).all()
    assert none.log_likelihood == 0


def test_time_unit_does_not_matter():
    """All times times 8: the same alpha, rates an eighth, likelihood down by N log 8."""
    arrivals, truth = small_market(3)
    slow = Arrivals(arrivals.t_ns * 8, arrivals.side, arrivals.offsets, arrivals.window_ns * 8, arrivals.session_ns * 8)
    fit, other = (fit_hawkes(a, truth.baseline, d) for a, d in ((arrivals, truth.decays_hz), (slow, truth.decays_hz / 8)))
    np.testing.assert_allclose(other.parameters.alpha, fit.parameters.alpha, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.parameters.nu_hz * 8, fit.parameters.nu_hz, rtol=1e-6, atol=1e-9)
    assert other.log_likelihood == pytest.approx(fit.log_likelihood - len(arrivals) * np.log(8), abs=1e-6)


def test_swapped_sides_swap_parameters():
    arrivals, truth = small_market(4)
    swapped = one_session(arrivals.t_ns, 1 - arrivals.side, 3600 * SECOND, 3600 * SECOND)
    fit, other = (fit_hawkes(a, truth.baseline, truth.decays_hz) for a in (arrivals, swapped))
    np.testing.assert_allclose(other.parameters.alpha[::-1, ::-1], fit.parameters.alpha, atol=1e-6)
    np.testing.assert_allclose(other.parameters.nu_hz[::-1], fit.parameters.nu_hz, atol=1e-6)


def test_residuals_are_integrals_of_the_intensity():
    """The first six residuals of each session against the trapezoid rule on the slow intensity between two arrivals of a side."""
    arrivals = join([random_arrivals(5, n=24), random_arrivals(6, n=24)])
    parameters = Parameters(np.array([2.0, 0.05]), Baseline("spline", 3, 0.75), np.full((2, 4), 0.1), np.full((2, 2, 2), 0.2))
    fast = residuals(arrivals, parameters)
    for q, first in enumerate(arrivals.offsets[:-1]):
        times = arrivals.t_ns[first : arrivals.offsets[q + 1]] * 1e-9
        begin = [0.0, 0.0]
        for k in range(first, first + 6):
            i, t = int(arrivals.side[k]), arrivals.t_ns[k] * 1e-9
            edges = np.unique([begin[i], t, *times[(times > begin[i]) & (times < t)]])
            slow = 0.0
            for a, b in pairwise(edges):
                grid = np.linspace(a + 1e-12, b - 1e-12, 501)
                slow += np.trapezoid([slow_intensity(arrivals, parameters, q, i, x) for x in grid], grid)
            assert fast[k] == pytest.approx(slow, rel=1e-4, abs=1e-8)
            begin[i] = t


def test_residuals_of_the_truth_are_exponential():
    """Under the true parameters the distance is of the order of 1 / sqrt(N); under a Poisson fit it is far above."""
    arrivals, truth = small_market(7)
    n = len(arrivals)
    good = check_residuals(arrivals, truth)
    bad = check_residuals(arrivals, fit_poisson(arrivals, truth.baseline).parameters)
    assert good.ks_distance < 1.63 / np.sqrt(n)
    assert abs(good.lag1_correlation) < 3.3 / np.sqrt(n)
    assert bad.ks_distance > 4 * good.ks_distance
    expected, seen = quantiles(residuals(arrivals, truth))
    assert np.abs(seen - expected)[:90].max() < 0.25


def test_single_decay_is_found():
    """On a one-decay process the search finds its mean life; the free grid gains next to nothing over it."""
    alpha = np.zeros((2, 2, 1))
    alpha[0, 0] = alpha[1, 1] = 0.5
    truth = Parameters(np.array([4.0]), Baseline("spline", 1, 1.0), np.full((2, 2), 0.15), alpha)
    window = np.array([3600 * SECOND])
    arrivals = simulate_clusters(truth, window, window, np.random.default_rng(0))
    single = fit_best_single_decay(arrivals, truth.baseline)
    assert single.parameters.decays_hz[0] == pytest.approx(4.0, rel=0.2)
    full = fit_hawkes(arrivals, truth.baseline, decay_grid(arrivals, truth.baseline, 1e-4, 60, 2.6))
    assert (full.log_likelihood - single.log_likelihood) / len(arrivals) < 0.01


def test_decays_stay_short_of_the_session_and_the_knots():
    arrivals = one_session(np.zeros(0, np.int64), np.zeros(0, np.int8), 1200 * SECOND, 1200 * SECOND)
    baseline = baseline_for(arrivals, 1800, 4)
    lives = 1 / decay_grid(arrivals, baseline, 1e-4, 1000, 2.6)
    assert baseline.intervals == 4
    assert lives[0] == pytest.approx(1e-4)
    assert lives[-1] == pytest.approx(120)
    assert (np.diff(np.log(lives)) <= np.log(2.6) + 1e-12).all()
    assert 1 / decay_grid(arrivals, Baseline("spline", 40, 1.0), 1e-4, 1000, 2.6)[-1] == pytest.approx(60)
    day = one_session(np.zeros(0, np.int64), np.zeros(0, np.int8), 23400 * SECOND, 23400 * SECOND)
    assert baseline_for(day, 1800, 4).size == 14
    assert len(decay_grid(day, baseline_for(day, 1800, 4), 1e-4, 60, 2.6)) == 15


def test_merging_counts_a_cluster_once():
    """Within 1 ms of the first of its side's cluster; the other side and another session do not matter."""
    ms = 1_000_000
    one = one_session(np.array([0, 1, ms, ms + 1, ms + 1, 3 * ms]), np.array([0, 0, 0, 0, 1, 1], np.int8), SECOND, SECOND)
    merged = join([one, one]).merged(ms)
    np.testing.assert_array_equal(merged.t_ns, [0, ms + 1, ms + 1, 3 * ms] * 2)
    np.testing.assert_array_equal(merged.side, [0, 0, 1, 1] * 2)
    np.testing.assert_array_equal(merged.offsets, [0, 4, 8])


def test_branching_is_the_integral_of_the_kernel():
    _, truth = small_market()
    lag = np.concatenate([[0], np.geomspace(1e-6, 2.0, 20_001)])
    np.testing.assert_allclose(truth.branching(2.0), np.trapezoid(truth.kernel(lag), lag), rtol=1e-5)
    assert truth.branching_ratio(2.0) == pytest.approx(max(truth.branching(2.0)[0, 0], truth.branching(2.0)[1, 1]))


def test_sensitivity_table_has_twelve_rows():
    arrivals, _ = small_market(8)
    rows = sensitivity_table(arrivals)
    assert len({(r["baseline"], r["max_decay_s"], r["merge_ms"]) for r in rows}) == 12
    assert all(r["status"] == "converged" for r in rows)
    assert all(r["longest_decay_s"] <= 360 for r in rows)
    assert len({r["n_events"] for r in rows}) == 3
    assert all(0 < r["n_60s"] <= r["n_total"] < 1.2 for r in rows)


def test_quadratic_programme_is_the_best_of_all_supports():
    """Random problems of 6 variables: no worse than the best of the 64 unconstrained minima that are non-negative."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        A = rng.normal(size=(8, 6))
        H, b = A.T @ A, rng.normal(size=6) * 3
        z = minimise_nonnegative(H, b, np.maximum(rng.normal(size=6), 0))
        best = 0.0
        for mask in range(1, 64):
            index = [p for p in range(6) if mask >> p & 1]
            s = np.linalg.solve(H[np.ix_(index, index)], b[index])
            if (s >= 0).all():
                best = min(best, -b[index] @ s / 2)
        assert (z >= 0).all()
        assert z @ H @ z / 2 - b @ z == pytest.approx(best, abs=1e-9)
