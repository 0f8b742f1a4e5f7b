"""Intervals that cover, tests that know a better forecast from a worse one."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from cift_models import scores
from cift_models.evaluation import significance
from cift_models.evaluation.significance import BLOCK_NS, FEWEST_BLOCKS, LONG_BLOCK_NS, Blocks, block_t, clark_west, diebold_mariano, holm
from cift_models.instruments import SECOND
from cift_models.scores import Terms


def seconds(blocks: int) -> np.ndarray:
    return SECOND * np.arange(60 * blocks)


def r2(s):
    return 1 - s[..., 0] / s[..., 1]


def test_doctests():
    assert doctest.testmod(significance).attempted > 0 and doctest.testmod(significance).failed == 0


def test_the_error_of_a_mean_is_that_of_its_block_means():
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1, 60 * 50)
    means = x.reshape(50, 60).mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(50)
    t, blocks = block_t(seconds(50), Terms(x, np.ones(len(x))))
    assert blocks == 50 and t == pytest.approx(means.mean() / error)
    blocks = Blocks([seconds(50)])
    sums = blocks.sums(seconds(50), np.column_stack([x, np.ones(len(x))]))
    assert significance.standard_error(sums, lambda s: s[..., 0] / s[..., 1]) == pytest.approx(error, rel=1e-6)


def test_a_draw_of_the_bootstrap_is_a_resampled_ratio():
    """The vectorised interval against resampling rows block by block, one draw at a time."""
    rng = np.random.default_rng(1)
    times = seconds(40)
    y, m = rng.normal(size=len(times)), 0.1 * rng.normal(size=len(times))
    blocks = Blocks([times], seed=4, draws=300)
    estimate = blocks.interval(blocks.sums(times, np.column_stack(scores.r2_terms(y, m))), r2)
    value = scores.r2(y, m)

    def error(a, b, k):
        left = a - (1 - k) * b
        return np.sqrt((left**2).sum() * 40 / 39) / b.sum()

    a, b = ((y - m) ** 2).reshape(40, 60).sum(axis=1), (y**2).reshape(40, 60).sum(axis=1)
    t = []
    for weights in blocks.weights:
        pick = np.repeat(np.arange(40), weights.astype(int))
        k = 1 - a[pick].sum() / b[pick].sum()
        t.append((k - value) / error(a[pick], b[pick], k))
    low, high = np.quantile(t, [0.025, 0.975])
    whole = error(a, b, value)
    assert (estimate.lo, estimate.hi) == pytest.approx((value - high * whole, value - low * whole), rel=1e-4)


def test_the_same_draw_serves_every_symbol_and_is_seeded():
    times = seconds(40)
    late = times[600:]
    blocks = Blocks([times, late], seed=3)
    assert len(blocks) == 40 and (blocks.weights.sum(axis=1) == 40).all()
    assert blocks.place(late).min() == 10
    assert np.array_equal(blocks.weights, Blocks([late, times], seed=3).weights)
    assert not np.array_equal(blocks.weights, Blocks([times], seed=4).weights)


def test_under_thirty_blocks_no_interval():
    for count, given in ((FEWEST_BLOCKS - 1, False), (FEWEST_BLOCKS, True)):
        times = seconds(count)
        x = np.random.default_rng(0).normal(size=len(times))
        estimate = Blocks([times]).ratio(times, Terms(x, np.ones(len(x))))
        assert (estimate.lo is not None) == given and estimate.value == pytest.approx(x.mean())
        assert given or f"{count} blocks" in estimate.reason


def test_blocks_without_rows_of_the_figure_do_not_count():
    times = seconds(60)
    few = (times < 20 * 60 * SECOND).astype(float)
    assert Blocks([times]).ratio(times, Terms(few * 0.5, few)).lo is None


def test_a_figure_that_cannot_vary_has_no_interval():
    times = seconds(40)
    estimate = Blocks([times]).ratio(times, Terms(np.full(len(times), 0.7), np.ones(len(times))))
    assert estimate.value == pytest.approx(0.7) and estimate.lo is None and "does not vary" in estimate.reason


def test_better_and_worse_forecasts_are_told_apart():
    rng = np.random.default_rng(2)
    times = seconds(100)
    x = rng.normal(size=len(times))
    y = 0.3 * x + rng.normal(size=len(times))
    ones = np.ones(len(times))
    good, bad = Terms((y - 0.3 * x) ** 2, ones), Terms((y - 0.1 * x) ** 2, ones)
    test = diebold_mariano(times, bad, good)
    assert test.t > 3 and test.p_value < 0.01 and test.blocks == 100
    assert diebold_mariano(times, good, bad).t == pytest.approx(-test.t)
    assert diebold_mariano(times, bad, good, LONG_BLOCK_NS).blocks == 20
    assert diebold_mariano(times, good, good).t is None


def test_clark_west_keeps_its_size_where_diebold_mariano_is_biased():
    """Under the null the added f is noise: the plain difference is negative on average, the adjusted one is centred."""
    plain, adjusted = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        times = seconds(30)
        y, f = rng.normal(size=len(times)), 0.1 * rng.normal(size=len(times))
        nothing = np.zeros(len(times))
        adjusted.append(clark_west(times, y, nothing, f).t)
        plain.append(diebold_mariano(times, Terms(y**2, nothing + 1), Terms((y - f) ** 2, nothing + 1)).t)
    assert np.mean(plain) < -1.5
    assert abs(np.mean(adjusted)) < 4 / np.sqrt(200)
    assert np.mean(np.array(adjusted) > 1.7) < 0.1


def test_holm_is_never_below_the_plain_p_value():
    p = [0.02, 0.01, 0.5, 0.03]
    assert holm(p) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == []


def clustered(rng: np.random.Generator, rows: int, half_life_s: float = 3.0, sd: float = 0.5) -> np.ndarray:
    """Noise with E s^2 = 1 whose log-volatility is AR(1)."""
    from scipy.signal import lfilter

    decay = 0.5 ** (1 / half_life_s)
    h = lfilter([1], [1, -decay], rng.normal(0, sd * np.sqrt(1 - decay**2), rows + 200))[200:]
    return np.exp(h - sd**2) * rng.normal(size=rows)


@pytest.mark.parametrize(("experiments", "lowest", "highest"), [(60, 0.85, 1.0), pytest.param(400, 0.92, 0.98, marks=pytest.mark.proof)])
def test_intervals_of_r2_and_hit_rate_cover(experiments, lowest, highest):
    """y = .2 x + s e, log s AR(1) (half-life 3 s, sd .5), forecast .15 x; 110 blocks, 400 experiments: 95 % intervals cover 92-98 %."""
    times = seconds(110)
    truth = 1 - (0.05**2 + 1) / (0.2**2 + 1)
    covered = np.zeros(2)
    rng = np.random.default_rng(10**6)
    x, e = rng.normal(size=4_000_000), clustered(rng, 4_000_000)
    hit = np.mean((0.2 * x + e > 0) == (x > 0))
    for seed in range(experiments):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=len(times))
        y, m = 0.2 * x + clustered(rng, len(times)), 0.15 * x
        blocks = Blocks([times], seed=seed, draws=1000)
        one = blocks.interval(blocks.sums(times, np.column_stack(scores.r2_terms(y, m))), r2)
        two = blocks.ratio(times, scores.hit_rate_terms(y, m))
        covered += [one.lo <= truth <= one.hi, two.lo <= hit <= two.hi]
    share = covered / experiments
    print(f"{experiments} experiments: 95 % intervals of R2 and of the hit rate cover {share[0]:.3f} and {share[1]:.3f}")
    assert (share >= lowest).all() and (share <= highest).all(), share


def test_a_block_is_sixty_seconds():
    assert BLOCK_NS == 60 * SECOND
