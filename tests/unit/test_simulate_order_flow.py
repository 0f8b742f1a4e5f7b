"""The planted trades are the Hawkes process that the manifest describes."""

from __future__ import annotations

import numpy as np
import pytest

from cift_models.events import TRADE
from cift_models.instruments import SECOND
from cift_models.simulate import SimulateConfig, simulate
from cift_models.simulate.order_flow import expected_signed_count, exponentials, trade_times


def test_the_mixture_of_exponentials_is_the_lomax_kernel():
    config = SimulateConfig()
    t = np.concatenate([[0.0], np.geomspace(1e-4, 36_000, 200)])
    n, theta, tau0 = config.branching_total, config.kernel_exponent, config.kernel_scale_s
    exact = n * theta / tau0 * (1 + t / tau0) ** (-1 - theta)
    weights, rates_hz = exponentials(n, theta, tau0)
    np.testing.assert_allclose(np.exp(-np.outer(t, rates_hz)) @ weights, exact, rtol=1e-4)
    fine = np.geomspace(1e-7, 60, 400_001)
    assert np.trapezoid(n * theta / tau0 * (1 + fine / tau0) ** (-1 - theta), fine) == pytest.approx(0.6, rel=1e-5)


def test_the_forecast_is_the_mean_of_simulated_futures():
    """Condition on a burst of buys: the mean signed count of the next second over 20,000 futures, drawn one child at a time."""
    config = SimulateConfig(session_minutes=2)
    history_s = np.array([0.2, 0.9, 0.99, 0.999])
    forecast = expected_signed_count(config, (history_s * SECOND).astype(np.int64), np.array([-1, 1, 1, 1], np.int8))[1]
    rng = np.random.default_rng(0)
    n, theta, tau0 = config.branching_total, config.kernel_exponent, config.kernel_scale_s
    counts = []
    for _ in range(20_000):
        count, parents = 0, [(t, s, True) for t, s in zip(history_s, (-1, 1, 1, 1), strict=True)]
        while parents:
            t, s, old = parents.pop()
            for _ in range(rng.poisson(n)):
                child = t + tau0 * (rng.random() ** (-1 / theta) - 1)
                # Children of the past that would lie in the past did not happen: a Poisson process there says nothing of the future.
                if 1.0 < child <= 2.0:
                    count += s
                    parents.append((child, s, False))
            assert old or t > 1.0
        counts.append(count)
    assert forecast == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / np.sqrt(len(counts)))
    assert forecast > 0.5


def test_the_stream_is_found_again_in_the_events():
    market = simulate(SimulateConfig(session_minutes=30, sessions=1, seed=8))
    for symbol, e in market.events[0].items():
        at = (e.kind & TRADE) > 0
        pairs = set(zip(e.ts[at].tolist(), e.side[at].tolist(), strict=True))
        counts = market.truth["counts"][0][symbol]
        assert len(pairs) == at.sum() == counts["buys"] + counts["sells"]


def seasonal_counts(config: SimulateConfig, draws: int, bin_s: int) -> tuple[np.ndarray, np.ndarray]:
    """Trades of one side by bin, int64[draws, bins], and their Poisson mean by bin."""
    rows = []
    for k in range(draws):
        at_ns, sides = trade_times(config, np.random.default_rng(k))
        rows.append(np.histogram(at_ns[sides == 1], np.arange(0, config.seconds + 1, bin_s) * SECOND)[0])
    x = (np.arange(config.seconds) + 0.5) / config.seconds
    rate_hz = config.trades_hz / 2 * (1 + config.baseline_depth * ((2 * x - 1) ** 2 - 1 / 3))
    return np.array(rows), rate_hz.reshape(-1, bin_s).sum(1)


@pytest.mark.parametrize("bin_s", [1, 10, 60])
def test_without_branching_the_stream_is_a_seasonal_poisson(bin_s):
    counts, mean = seasonal_counts(SimulateConfig(branching_60s=0), 20, bin_s)
    assert counts.sum() == pytest.approx(20 * mean.sum(), rel=0.02)
    pearson = (counts - mean) ** 2 / mean
    fano, error = pearson.mean(), pearson.std() / np.sqrt(pearson.size)
    assert abs(fano - 1) < 4 * error < 0.15
    hours = counts.sum(0).reshape(6, -1).sum(1) / mean.reshape(6, -1).sum(1) / 20
    np.testing.assert_allclose(hours, 1, atol=0.06)


def test_with_branching_counts_cluster_as_the_branching_ratio_says():
    """Over long bins a Hawkes process has Fano factor 1 / (1 - n)^2: 6.7 for n = .613; over 60-s bins most of it."""
    config = SimulateConfig(baseline_depth=0.0)
    counts, mean = seasonal_counts(config, 20, 60)
    assert counts.mean() == pytest.approx(mean.mean(), rel=0.05)
    fano = counts.var() / counts.mean()
    assert 0.75 < fano * (1 - config.branching_total) ** 2 < 1.0


def test_the_branching_ratio_is_recovered_by_likelihood():
    """Grid over n of the exact O(N^2) likelihood of 3 streams, baseline rate profiled: the maximum lies within .1 of the truth."""
    config = SimulateConfig(baseline_depth=0.0, session_minutes=120)
    theta, tau0, length_s = config.kernel_exponent, config.kernel_scale_s, float(config.seconds)
    grid = np.arange(0.3, 0.9, 0.05)
    total = np.zeros(len(grid))
    for k in range(3):
        at_ns, sides = trade_times(config, np.random.default_rng(100 + k))
        t = at_ns[sides == 1] / SECOND
        gaps = t[:, None] - t[None, :]
        shape = np.where(gaps > 0, theta / tau0 * (1 + np.where(gaps > 0, gaps, 0.0) / tau0) ** (-1 - theta), 0.0).sum(1)
        reached = (1 - (1 + (length_s - t) / tau0) ** -theta).sum()
        for g, n in enumerate(grid):
            mu = max((len(t) - n * reached) / length_s, 1e-6)
            total[g] += np.log(mu + n * shape).sum() - mu * length_s - n * reached
    assert grid[total.argmax()] == pytest.approx(config.branching_total, abs=0.1)
