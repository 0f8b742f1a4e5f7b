"""Skill without its best minutes, and after a delay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models import scores
from cift_models.evaluation.durability import concentration, crossing, half_life_ms
from cift_models.evaluation.significance import Blocks
from cift_models.instruments import SECOND
from tests.evaluated import forecast, market, with_forecasts

MS = 1_000_000


def one(y, mean, later=None):
    data, _ = market(0, len(y))
    return with_forecasts(replace(data, y=y, y_delay=later or {}), {"linear": forecast(mean)})


def test_skill_of_five_minutes_is_gone_without_them():
    rng = np.random.default_rng(0)
    y, mean = rng.normal(size=(2, 3600))
    mean *= 0.01
    best = np.isin(np.arange(3600) // 60, (3, 11, 20, 41, 55))
    mean[best] = 0.9 * y[best]
    data = one(y, mean)
    found = concentration(data, "linear", Blocks([data.as_of]))
    rest = found["r2_without_best_five"]
    assert rest.value == pytest.approx(scores.r2(y[~best], mean[~best])) and rest.lo < rest.value < rest.hi < 0.01
    assert found["best_five_share"].value == pytest.approx(1, abs=0.01)


def test_even_skill_survives_without_its_best_minutes():
    rng = np.random.default_rng(1)
    x = rng.normal(size=6000)
    y = 0.5 * x + rng.normal(size=6000)
    data = one(y, 0.5 * x)
    found = concentration(data, "linear", Blocks([data.as_of]))
    assert found["r2_without_best_five"].lo > 0.1 and 0.05 < found["best_five_share"].value < 0.15


def test_no_skill_shares_nothing_and_few_blocks_say_so():
    rng = np.random.default_rng(2)
    y = rng.normal(size=3600)
    data = one(y, -0.5 * y)
    assert "nothing to share" in concentration(data, "linear", Blocks([data.as_of]))["best_five_share"].reason
    short = one(y[:300], y[:300])
    assert "5 blocks hold a move" in concentration(short, "linear", Blocks([short.as_of]))["r2_without_best_five"].reason


def decaying(half_ms: float, rows: int = 12_000):
    """R2 at delay d is .5 of what it was at 0 after `half_ms`, by construction: the known part of y shrinks as 2^(-d / half / 2)."""
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=(2, rows))
    noise -= x * (x @ noise) / (x @ x)

    def y(delay_ms: float):
        # Of a forecast m = k x: R2 = (2 k c - k^2) / (c^2 + 1); with k and c small, proportional to c.
        return 0.1 * 0.5 ** (delay_ms / half_ms) * x + noise

    delays = (1, 10, 50, 100, 150, 200, 400, 1000)
    return one(y(0), 0.001 * x, {int(d * MS): y(d) for d in delays})


def test_the_half_life_is_found_between_the_delays():
    data = decaying(120.0)
    found = half_life_ms(data, "linear", Blocks([data.as_of]))
    assert found.value == pytest.approx(120, rel=0.05) and found.lo < found.value < found.hi


def test_it_is_interpolated_in_log_delay():
    curves = np.array([[0.04, 0.03, 0.01], [0.04, 0.01, 0.0], [0.04, 0.03, 0.03], [-0.1, 0.0, 0.0], [0.04, 0.02, 0.03]])
    assert crossing(curves, np.array([10.0, 1000.0])).tolist() == pytest.approx([100.0, 0.0, np.inf, 0.0, 0.0])


def test_a_half_life_that_is_not_there_is_null_with_its_reason():
    rng = np.random.default_rng(4)
    x, noise = rng.normal(size=(2, 3600))
    y = x + noise
    blocks = Blocks([one(y, x).as_of])
    for data, reason in (
        (one(y, -x, {SECOND: y}), "not above 0"),
        (one(y, x, {SECOND: y}), "more than half is left at 1000 ms"),
        (one(y, x, {MS: noise, SECOND: noise}), "half is gone at 1 ms"),
        (one(y, x), "no delay"),
    ):
        found = half_life_ms(data, "linear", blocks)
        assert found.value is None and reason in found.reason


def test_the_interval_of_the_half_life_covers_the_truth():
    """Volatility clusters in the blocks, neighbouring delays share noise: 188 of 200 intervals held it; here 60 of them are drawn."""
    rows, delays, known = 6660, np.array([1.0, 10, 100, 1000]), 0.2 * np.array([1, 0.98, 0.9, 0.75, 0.2])
    k, m1, m2 = 0.15, np.exp(0.125), np.exp(0.5)
    truth = crossing(((2 * k * known * m1 - k * k) / ((known**2 + 1) * m2))[None], delays)[0]
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, same, other = rng.normal(size=(3, rows))
        sd = np.exp(0.5 * rng.normal(size=111)).repeat(60)
        ys = [sd * (c * x + np.sqrt(w) * same + np.sqrt(1 - w) * other) for c, w in zip(known, (1, 0.99, 0.95, 0.8, 0.2), strict=True)]
        data = one(ys[0], k * x, {int(d * MS): y for d, y in zip(delays, ys[1:], strict=True)})
        found = half_life_ms(data, "linear", Blocks([data.as_of], draws=400, seed=seed))
        covered += found.lo is not None and found.lo <= truth <= found.hi
    assert covered >= 52


def test_chance_is_not_skill_that_survives_its_best_minutes():
    """0 of 200 forecasts without knowledge had an interval above 0; here 30 of them."""
    rng = np.random.default_rng(7)
    for _ in range(30):
        data = one(rng.normal(size=3600), 0.1 * rng.normal(size=3600))
        assert concentration(data, "linear", Blocks([data.as_of], draws=200))["r2_without_best_five"].lo < 0
