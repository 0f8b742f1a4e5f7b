"""The meta-learner: its margin is the blend, its trees what the blend leaves, its rows out of fold."""

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import DataError, ReleaseError, SchemaMismatch
from cift_models.models.meta_learner import MetaLearner, MetaLearnerConfig
from cift_models.models.meta_learner.kernel import non_negative_blend
from cift_models.models.meta_learner.model import MEANS
from cift_models.models.protocol import FitContext, Panel
from tests.panels import toy_panel


def with_bases(seed: int, steps: int, symbols: int = 2, interaction: float = 0.0) -> Panel:
    """Forecasts of one signal: linear knows it, the others are noise; in one regime the expected buys say something too."""
    panel = toy_panel(seed=seed, steps=steps, symbols=symbols)
    rng = np.random.default_rng(seed)
    shape = panel.y.shape
    signal = 0.5 * rng.normal(size=shape)
    calm = rng.uniform(size=shape)
    scale = np.array([1.0, 10.0, 3.0])[:symbols]
    base = {name: 0.5 * rng.normal(size=(*shape, 3 if name == "hawkes" else 1)) * scale[:, None] for name in MEANS}
    base["linear"] = (signal * scale)[..., None]
    base["hawkes"][..., 1:] = rng.uniform(0, 2, (*shape, 2))
    more = interaction * (calm > 0.5) * np.sign(base["hawkes"][..., 1] - 1)
    y = (signal + more + rng.normal(size=shape)) * scale
    ready = {name: panel.valid.copy() for name in (*MEANS, "hmm")}
    base["hmm"] = np.stack([calm, 1 - calm], axis=-1)
    return replace(panel, y=y, base=base, base_ready=ready)


def r2(panel: Panel, values: np.ndarray, ready: np.ndarray) -> float:
    sd = panel.y.std(axis=0)
    u, p = (panel.y / sd)[ready], (values[..., 0] / sd)[ready]
    return 1 - ((u - p) ** 2).sum() / (u**2).sum()


def test_noise_gets_no_weight_and_the_signal_all_of_it():
    panel = with_bases(0, 8_000)
    model, report = MetaLearner.fit(MetaLearnerConfig(), [panel], [], FitContext())
    blend = report.facts["blend"]
    assert blend["linear"] == pytest.approx(1, abs=0.05) and max(blend[n] for n in MEANS[1:]) < 0.05
    assert report.facts["trees"] == 10 and report.n_rows == 2 * panel.rows.sum()
    test = with_bases(1, 4_000)
    assert r2(test, *model.predict(test)) > 0.95 * r2(test, test.base["linear"], test.valid)


def test_trees_find_what_the_blend_cannot_and_stop_where_nothing_is_left():
    train, stop, test = (with_bases(s, 6_000, interaction=0.8) for s in (2, 3, 4))
    model, report = MetaLearner.fit(MetaLearnerConfig(), [train], [stop], FitContext())
    linear = r2(test, test.base["linear"], test.valid)
    assert report.facts["trees"] > 20 and r2(test, *model.predict(test)) > 1.2 * linear
    train, stop = with_bases(5, 3_000), with_bases(6, 3_000)
    _, report = MetaLearner.fit(MetaLearnerConfig(), [train], [stop], FitContext())
    assert report.facts["trees"] < 40
    assert report.facts["max_train_t1"] == max(p.label_end[p.rows].max() for p in (train, stop))


def test_it_is_monotone_in_every_forecast():
    train = with_bases(7, 5_000, interaction=0.9)
    model, _ = MetaLearner.fit(MetaLearnerConfig(rounds_unwatched=80), [train], [], FitContext())
    panel = with_bases(8, 300)
    # The disagreement of the means moves with each of them and is not constrained: hold its input and move one mean in the forest alone.
    inputs = np.random.default_rng(0).normal(size=(500, model.forest.n_features))
    for j in range(len(MEANS)):
        steps = []
        for v in np.linspace(-2, 2, 41):
            inputs[:, j] = v
            steps.append(model.forest.predict(inputs, np.zeros(500)))
        assert (np.diff(np.array(steps), axis=0) >= -1e-6).all()
    assert model.predict(panel).ready[10:].all()


def test_xgboost_itself_says_the_same():
    import xgboost

    from cift_models.models.meta_learner.kernel import fill

    panel = with_bases(9, 3_000, interaction=0.8)
    model, _ = MetaLearner.fit(MetaLearnerConfig(), [panel], [], FitContext())
    sd, s = model.weights["sd_bps"], 1
    means = np.stack([panel.base[n][10:, s, 0] / sd[s] for n in MEANS], axis=1)
    inputs = np.empty((len(means), model.forest.n_features))
    context = np.ascontiguousarray(panel.x[10:, s][:, model.columns.places])
    margin = fill(
        means, panel.base["hmm"][10:, s], np.ascontiguousarray(panel.base["hawkes"][10:, s, 1:3]), context, model.weights["blend"], inputs
    )
    booster = xgboost.Booster(model_file=bytearray(model.forest_json))
    told = booster.predict(xgboost.DMatrix(inputs, base_margin=margin))
    np.testing.assert_allclose(model.predict(panel).values[10:, s, 0], told * sd[s], rtol=1e-6, atol=1e-5)


def test_ready_where_the_forecasts_are_and_equal_odds_where_the_regime_is_not_known():
    panel = with_bases(10, 400)
    model, _ = MetaLearner.fit(MetaLearnerConfig(), [panel], [], FitContext())
    before = model.predict(panel).values.copy()
    panel.base_ready["transformer"][50, 0] = False
    panel.base_ready["hmm"][60] = False
    panel.base["hmm"][61] = 0.5
    values, ready = model.predict(panel)
    assert not ready[50, 0] and ready[50, 1] and values[50, 0, 0] == 0 and ready[60].all()
    assert np.array_equal(values[62:], before[62:])


def test_nan_where_ready_and_other_regimes_are_refused():
    panel = with_bases(11, 300)
    model, _ = MetaLearner.fit(MetaLearnerConfig(), [panel], [], FitContext())
    three = replace(panel, base=panel.base | {"hmm": np.full((*panel.y.shape, 3), 1 / 3)})
    with pytest.raises(SchemaMismatch, match="3 regimes"):
        model.predict(three)
    with pytest.raises(SchemaMismatch, match="'gnn' are missing"):
        model.predict(replace(panel, base={k: v for k, v in panel.base.items() if k != "gnn"}))
    panel.base["gnn"][40, 0] = np.nan
    with pytest.raises(DataError, match="base gnn"):
        model.predict(panel)


def test_a_forest_of_another_model_is_refused(tmp_path):
    from cift_models.models.boosting import Rows, boost

    panel = with_bases(12, 300, symbols=1)
    model, _ = MetaLearner.fit(MetaLearnerConfig(), [panel], [], FitContext())
    model.save(tmp_path)
    assert np.array_equal(MetaLearner.load(tmp_path).predict(panel).values, model.predict(panel).values)
    (tmp_path / "forest.json").write_bytes(boost({}, Rows(panel.x[:, 0, :3], panel.y[:, 0]), None, 2, 2, 0, 1).model)
    with pytest.raises(ReleaseError):
        MetaLearner.load(tmp_path)
    (tmp_path / "forest.json").unlink()
    with pytest.raises(ReleaseError, match="cannot be read"):
        MetaLearner.load(tmp_path)


def test_the_blend_is_the_least_squares_of_non_negative_weights():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(500, 3))
    y = means @ [0.5, 0.0, 0.2] - 0.3 * means[:, 1] + 0.1 * rng.normal(size=500)
    w = non_negative_blend(means, y)
    assert w[1] == 0
    np.testing.assert_allclose(w[[0, 2]], np.linalg.lstsq(means[:, [0, 2]], y, rcond=None)[0])
