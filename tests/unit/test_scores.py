"""Scores against something slow and obvious, or against scikit-learn."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from cift_models import scores


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    y = np.where(rng.uniform(size=500) < 0.5, 0.0, rng.normal(size=500))
    p = rng.dirichlet([1.0, 2.0, 1.0], size=500)
    mean = rng.normal(size=500) * (rng.uniform(size=500) > 0.1)
    return y, p, mean


def test_doctests():
    assert doctest.testmod(scores).failed == 0
    assert doctest.testmod(scores).attempted > 10


def test_r2_and_hits_are_loops(rows):
    y, _, mean = rows
    sse = sum((a - b) ** 2 for a, b in zip(y, mean, strict=True))
    assert scores.r2(y, mean) == pytest.approx(1 - sse / sum(a * a for a in y))
    counted = [(a, b) for a, b in zip(y, mean, strict=True) if a != 0 and b != 0]
    assert 0 < len(counted) < len(y)
    assert scores.hit_rate(y, mean) == pytest.approx(sum(a * b > 0 for a, b in counted) / len(counted))


def test_chances_agree_with_sklearn(rows):
    from sklearn.metrics import accuracy_score, log_loss, matthews_corrcoef

    y, p, _ = rows
    truth = np.sign(y).astype(int) + 1
    assert scores.log_loss(y, p) == pytest.approx(log_loss(truth, p, labels=[0, 1, 2]))
    assert scores.accuracy(y, p) == pytest.approx(accuracy_score(truth, p.argmax(1)))
    assert scores.mcc(y, p) == pytest.approx(matthews_corrcoef(truth, p.argmax(1)))
    assert scores.brier(y, p) == pytest.approx(np.mean([sum((p[i, k] - (truth[i] == k)) ** 2 for k in range(3)) for i in range(len(y))]))


def test_activity_and_direction_add_up_to_the_total(rows):
    y, p, _ = rows
    share = np.mean(y != 0)
    parts = scores.log_loss_activity(y, p) + share * scores.log_loss_direction(y, p)
    assert scores.log_loss(y, p) == pytest.approx(parts, rel=1e-12)


def test_direction_of_a_model_without_one_is_chance(rows):
    y, p, _ = rows
    half = (p[:, 0] + p[:, 2]) / 2
    assert scores.log_loss_direction(y, np.column_stack([half, p[:, 1], half])) == pytest.approx(math.log(2), rel=1e-12)


def test_calibration_slope_agrees_with_an_unpenalised_logit(rows):
    from sklearn.linear_model import LogisticRegression

    y, p, _ = rows
    moved = y != 0
    q = p[moved, 2] / (p[moved, 0] + p[moved, 2])
    fit = LogisticRegression(C=np.inf, tol=1e-10).fit(np.log(q / (1 - q))[:, None], y[moved] > 0)
    assert scores.calibration_slope(y, p) == pytest.approx(float(fit.coef_[0, 0]), abs=1e-5)


def test_slope_says_who_is_too_sure():
    rng = np.random.default_rng(5)
    z = rng.normal(size=60_000)
    y = np.where(rng.uniform(size=z.size) < 1 / (1 + np.exp(-z)), 1.0, -1.0)
    for stretch in (0.5, 1.0, 2.0):
        q = 1 / (1 + np.exp(-stretch * z))
        assert scores.calibration_slope(y, np.column_stack([1 - q, 0 * q, q])) == pytest.approx(1 / stretch, rel=0.04)


@pytest.mark.parametrize("up", [[True] * 6, [False, False, False, True, True, True]], ids=["one outcome", "separated"])
def test_a_logit_without_an_optimum_is_undefined(up):
    assert math.isnan(scores.fit_logit(np.array(up), np.arange(6.0)).slope)


def test_ece_is_a_loop_over_equal_bins():
    rng = np.random.default_rng(7)
    q = rng.uniform(0.2, 0.8, 1000)
    y = np.where(rng.uniform(size=1000) < q**2, 1.0, -1.0)
    order = np.argsort(q)
    slow = sum(abs(sum((y[i] > 0) - q[i] for i in order[k : k + 100])) for k in range(0, 1000, 100)) / 1000
    assert scores.ece(y, np.column_stack([1 - q, 0 * q, q])) == pytest.approx(slow)


def test_equal_chances_share_a_bin():
    assert np.unique(scores.equal_mass_bins(np.full(50, 0.5))).tolist() == [0]
    bins = scores.equal_mass_bins(np.repeat([0.1, 0.2, 0.9], [5, 60, 35]))
    assert [len(np.unique(part)) for part in np.split(bins, [5, 65])] == [1, 1, 1]


def test_certain_and_wrong_is_dear_not_infinite():
    assert scores.log_loss(np.array([1.0]), np.array([[1.0, 0.0, 0.0]])) == pytest.approx(-math.log(scores.SMALLEST))


def test_nothing_to_score_is_nan():
    none, p = np.zeros(0), np.zeros((0, 3))
    still, q = np.zeros(4), np.full((4, 3), 1 / 3)
    for value in (scores.r2(none, none), scores.log_loss(none, p), scores.mcc(none, p), scores.hit_rate(still, still)):
        assert math.isnan(value)
    for value in (scores.log_loss_direction(still, q), scores.ece(still, q), scores.calibration_slope(still, q), scores.r2(still, still)):
        assert math.isnan(value)
