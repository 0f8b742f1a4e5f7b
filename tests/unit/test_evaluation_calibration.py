"""A model whose chances are true passes, one that is too sure does not."""

from __future__ import annotations

import numpy as np
import pytest

from cift_models import scores
from cift_models.evaluation import calibration
from cift_models.evaluation.significance import Blocks
from cift_models.instruments import SECOND


def drawn(seed: int, stretch: float = 1.0, rows: int = 6000):
    """Outcomes from the true chances; the model states them with its log odds multiplied by `stretch`."""
    rng = np.random.default_rng(seed)
    z = 0.6 * rng.normal(size=rows)
    y = np.where(rng.uniform(size=rows) < 0.5, 0.0, np.where(rng.uniform(size=rows) < 1 / (1 + np.exp(-z)), 1.0, -1.0))
    q = 1 / (1 + np.exp(-stretch * z))
    return SECOND * np.arange(rows), y, np.column_stack([0.5 * (1 - q), np.full(rows, 0.5), 0.5 * q])


def test_slope_interval_holds_the_truth_and_the_plain_slope():
    as_of, y, p = drawn(0)
    slope = calibration.slope(as_of, y, p, Blocks([as_of]))
    assert slope.value == pytest.approx(scores.calibration_slope(y, p))
    assert slope.lo < 1 < slope.hi and slope.hi - slope.lo < 0.5


def test_one_newton_step_is_close_to_refitting_every_draw():
    as_of, y, p = drawn(1, rows=3600)
    blocks = Blocks([as_of], draws=200)
    slope = calibration.slope(as_of, y, p, blocks)
    where = blocks.place(as_of)
    refitted = []
    for weights in blocks.weights:
        rows = np.concatenate([np.flatnonzero(where == b) for b in np.repeat(np.arange(len(blocks)), weights.astype(int))])
        refitted.append(scores.calibration_slope(y[rows], p[rows]))
    assert (slope.hi - slope.lo) / (2 * 1.96) == pytest.approx(np.std(refitted), rel=0.2)


def test_too_sure_is_seen_by_slope_and_ece():
    as_of, y, p = drawn(2, stretch=2.5)
    assert calibration.slope(as_of, y, p, Blocks([as_of])).hi < 1
    perfect = calibration.ece_against_perfect(y, p, draws=500)
    assert perfect.ece > perfect.point_99 and perfect.p_value < 0.01


def test_perfect_models_pass_as_often_as_they_should():
    p_values = [calibration.ece_against_perfect(*drawn(seed, rows=800)[1:], draws=200, seed=seed).p_value for seed in range(60)]
    assert 0.35 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15


def test_models_that_are_off_by_the_slope_alone_pass_among_their_like():
    stretch = 1.25
    p_values = [
        calibration.ece_against_perfect(*drawn(seed, stretch, rows=4000)[1:], draws=200, seed=seed, slope=1 / stretch).p_value
        for seed in range(40)
    ]
    assert 0.3 < np.mean(p_values) < 0.7
    perfect = [calibration.ece_against_perfect(*drawn(seed, stretch, rows=4000)[1:], draws=200, seed=seed).p_value for seed in range(40)]
    assert np.mean(perfect) < 0.6 * np.mean(p_values)


def test_the_measured_ece_is_that_of_scores():
    _, y, p = drawn(3)
    assert calibration.ece_against_perfect(y, p, draws=10).ece == pytest.approx(scores.ece(y, p))


def test_without_direction_there_is_nothing_to_calibrate():
    as_of, y, p = drawn(4)
    p = np.column_stack([np.full(len(y), 0.25), np.full(len(y), 0.5), np.full(len(y), 0.25)])
    slope = calibration.slope(as_of, y, p, Blocks([as_of]))
    assert slope.value is None and "no direction" in slope.reason
    assert calibration.ece_against_perfect(np.zeros(5), p[:5]) is None


def test_reliability_counts_every_move_once():
    _, y, p = drawn(5)
    curve = calibration.reliability(y, p)
    assert curve.moves.sum() == (y != 0).sum() and len(curve.moves) == calibration.BINS
    assert (curve.lo <= curve.share).all() and (curve.share <= curve.hi).all()
    assert (np.diff(curve.chance) > 0).all()
    inside = (curve.lo <= curve.chance) & (curve.chance <= curve.hi)
    assert inside.mean() >= 0.7
