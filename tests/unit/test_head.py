"""The head finds the class probabilities it was drawn from, and says each row alone."""

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import DataError, FitError, ReleaseError
from cift_models.models.context import CONTEXT
from cift_models.models.head import LEAST_VOL, PROBABILITIES, Head, has_own_probabilities
from tests.panels import toy_panel


def drawn(seed: int, steps: int, symbols: int = 2):
    """A panel whose y is drawn from known logits of a forecast, and that forecast with its true probabilities."""
    panel = toy_panel(seed=seed, steps=steps, symbols=symbols)
    rng = np.random.default_rng(seed)
    mean_bps = 0.2 * rng.normal(size=panel.y.shape)
    a60, a600, ticks = (panel.column(name) for name in CONTEXT)
    z, against = mean_bps / 0.2, mean_bps / np.maximum(panel.column("realised_vol_300s"), 0.25)
    move = 0.9 * np.log(a60 / (1 - a60)) + 0.3 * np.log(a600 / (1 - a600)) - 0.4 * np.log(ticks) + 0.5 * np.abs(z) - 0.5
    up = 0.4 * z + 1.5 * against - np.array([0.2, -0.3])[:symbols]
    move, up = 1 / (1 + np.exp(-move)), 1 / (1 + np.exp(-up))
    p = np.stack([move * (1 - up), 1 - move, move * up], axis=-1)
    u = rng.uniform(size=(*panel.y.shape, 1))
    panel.y[:] = (u > p.cumsum(axis=-1)).sum(axis=-1) - 1
    return panel, mean_bps, p


def test_the_planted_probabilities_are_found():
    panel, mean_bps, _ = drawn(0, 20_000)
    head, report = Head.fit([(panel, mean_bps, panel.valid)])
    test, forecast, truth = drawn(1, 4_000)
    p = head.predict(forecast, test.x, test.valid)
    assert report.status == "converged" and report.facts["rows"] == {"S0": 19_960, "S1": 19_960}
    np.testing.assert_allclose(p[test.valid].sum(axis=-1), 1, atol=1e-12)
    assert np.abs(p - truth)[test.valid].max() < 0.05 and np.abs(p - truth)[test.valid].mean() < 0.01
    assert not p[~test.valid].any()


def test_it_equals_scikit_learn_row_by_row():
    from sklearn.linear_model import LogisticRegression

    panel, mean_bps, _ = drawn(2, 3_000)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    rows = panel.rows & panel.valid[:, 0]
    sd = panel.y[rows].std(axis=0)
    z = mean_bps / sd
    against = mean_bps / np.maximum(panel.column("realised_vol_300s"), LEAST_VOL * sd)
    a60, a600, ticks = (panel.column(name) for name in CONTEXT)
    context = np.stack([np.log(a60 / (1 - a60)), np.log(a600 / (1 - a600)), np.log(ticks)], axis=-1)
    logit = LogisticRegression(C=1, tol=1e-8, max_iter=2000)
    move = np.empty(z.shape)
    for s in range(2):
        u = np.column_stack([abs(z[:, s]) - abs(z[rows, s]).mean(), context[:, s]])
        move[:, s] = logit.fit(u[rows], panel.y[rows, s] != 0).predict_proba(u)[:, 1]
    u = np.stack([z, against, np.broadcast_to([0.0, 1.0], z.shape)], axis=-1)
    moved = rows[:, None] & (panel.y != 0)
    up = logit.fit(u[moved], panel.y[moved] > 0).predict_proba(u.reshape(-1, 3))[:, 1].reshape(z.shape)
    p = head.predict(mean_bps, panel.x, panel.valid)
    wanted = np.stack([move * (1 - up), 1 - move, move * up], axis=-1)
    assert np.abs(p - wanted)[rows].max() < 1e-3  # two half rows of 2,960 are all that differs


def test_a_sure_forecast_says_less_where_moves_are_large():
    panel, mean_bps, _ = drawn(7, 20_000)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    quiet, wild = panel.x[100:102].copy(), panel.x[100:102].copy()
    place = panel.features.index(["realised_vol_300s"])[0]
    quiet[..., place], wild[..., place] = 0.5, 5.0
    p, q = (head.predict(np.full((2, 2), 0.3), x, np.ones((2, 2), bool)) for x in (quiet, wild))
    assert (p[..., 2] / (1 - p[..., 1]) > q[..., 2] / (1 - q[..., 1]) + 0.05).all()
    np.testing.assert_allclose(p[..., 1], q[..., 1])  # how likely a move is, it leaves to the activity


def test_nothing_but_the_forecast_says_which_way():
    """Of the same forecast the odds of up against down are the same, whatever the spread and the activity were when the mid drifted."""
    panel, mean_bps, _ = drawn(8, 3_000)
    drift = panel.column("activity_60s") > 0.5
    panel.y[:] = np.where(panel.y != 0, np.where(drift, 1.0, -1.0), 0.0)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    p = head.predict(np.zeros_like(mean_bps), panel.x, panel.valid)
    for s in range(2):
        own = p[panel.valid[:, s], s]
        assert np.ptp(own[:, 2] / own[:, 0]) < 1e-9 and np.ptp(own[:, 1]) > 0.3


def test_symbols_share_a_slope_until_their_moves_say_otherwise():
    panel, mean_bps, _ = drawn(10, 6_000)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    assert not head.weights["direction_own"].any()
    # The second symbol moves by one tick, and which way is as good as known.
    rng = np.random.default_rng(11)
    moved = np.abs(panel.y[:, 1])
    panel.y[:, 1] = moved * np.where(rng.uniform(size=len(moved)) < 1 / (1 + np.exp(-8 * mean_bps[:, 1] / 0.2)), 1.0, -1.0)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    own = head.weights["direction_own"]
    assert own[1] - own[0] > 3
    p = head.predict(mean_bps, panel.x, panel.valid)[panel.rows]
    up = panel.y[panel.rows] > 0
    said = np.where(up, p[..., 2], p[..., 0]) / (1 - p[..., 1])
    loss = -np.log(said)[:, 1][panel.y[panel.rows][:, 1] != 0].mean()
    assert loss < 0.3, loss


def test_rows_on_which_the_model_was_silent_teach_the_activity_alone():
    panel, mean_bps, truth = drawn(9, 20_000)
    spoke = panel.valid.copy()
    spoke[:17_000] = False
    head, report = Head.fit([(panel, np.where(spoke, mean_bps, np.nan), spoke)])
    few, _ = Head.fit([(replace(panel, rows=panel.rows & spoke[:, 0]), mean_bps, spoke)])
    assert report.facts["rows"] == {"S0": 2_980, "S1": 2_980} and report.facts["rows_of_activity"] == {"S0": 19_960, "S1": 19_960}
    assert np.array_equal(head.weights["direction"], few.weights["direction"])
    errors = [np.abs(h.predict(mean_bps, panel.x, panel.valid)[..., 1] - truth[..., 1])[panel.valid].mean() for h in (head, few)]
    assert errors[0] < 0.8 * errors[1], errors


def test_one_row_is_the_row_of_the_batch_and_files_keep_the_bits(tmp_path):
    panel, mean_bps, _ = drawn(3, 300)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    p = head.predict(mean_bps, panel.x, panel.valid)
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    for t in range(0, 300, 7):
        assert np.array_equal(loaded.predict(mean_bps[t : t + 1], panel.x[t : t + 1], panel.valid[t : t + 1])[0], p[t])
    np.savez(tmp_path / "weights.npz", **(head.weights | {"size": head.weights["size"][:1]}))
    with pytest.raises(ReleaseError, match="shape"):
        Head.load(tmp_path)


def test_classes_that_never_occur_and_symbols_without_rows_have_a_probability():
    panel, mean_bps, _ = drawn(4, 300)
    panel.y[:, 0] = np.abs(panel.y[:, 0])
    panel.valid[:, 1] = False
    head, report = Head.fit([(panel, mean_bps, panel.valid)])
    p = head.predict(mean_bps, panel.x, np.ones_like(panel.valid))
    assert (p[:, 0, 0] > 0).all() and p[:, 0, 0].mean() < 0.02
    assert np.allclose(p[:, 1], 1 / 3) and report.facts["rows"]["S1"] == 0
    with pytest.raises(FitError):
        Head.fit([(panel, mean_bps, np.zeros_like(panel.valid))])
    with pytest.raises(FitError):
        Head.fit([])


def test_a_forecast_that_is_always_zero_leaves_the_activity():
    panel, mean_bps, _ = drawn(5, 3_000)
    head, _ = Head.fit([(panel, np.zeros_like(mean_bps), panel.valid)])
    p = head.predict(np.zeros_like(mean_bps), panel.x, panel.valid)[panel.valid]
    assert p[:, 1].std() > 0.1


def test_nan_is_refused_where_ready():
    panel, mean_bps, _ = drawn(6, 300)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    mean_bps[0] = np.nan
    head.predict(mean_bps, panel.x, panel.valid)
    mean_bps[50, 1] = np.nan
    with pytest.raises(DataError, match="head: row"):
        head.predict(mean_bps, panel.x, panel.valid)


def test_models_with_probabilities_need_no_head():
    assert has_own_probabilities(("mean_bps", *PROBABILITIES)) and not has_own_probabilities(("mean_bps",))
