"""Ridge against scikit-learn, and the files it leaves."""

import numpy as np
import pytest

from cift_models.errors import FitError, ReleaseError, SchemaMismatch
from cift_models.models.linear import Linear, LinearConfig
from cift_models.models.linear.kernel import ridge
from cift_models.models.protocol import FitContext
from tests.panels import toy_panel


@pytest.mark.parametrize(("n", "k"), [(400, 7), (60, 20), (30, 50)])
def test_ridge_equals_ridgecv(n, k):
    from sklearn.linear_model import RidgeCV

    rng = np.random.default_rng(n)
    z = rng.normal(size=(n, k)) * rng.uniform(0.1, 3, k) + 1
    y = z @ rng.normal(size=k) + 5 * rng.normal(size=n)
    alphas = tuple(10 ** (i / 2) for i in range(11))
    oracle = RidgeCV(np.logspace(0, 5, 11)).fit(z, y)
    weights, bias, alpha, errors = ridge(z, y, alphas)
    assert alpha == pytest.approx(oracle.alpha_)
    np.testing.assert_allclose(weights, oracle.coef_, rtol=1e-7, atol=1e-10)
    assert bias == pytest.approx(oracle.intercept_, abs=1e-8)
    assert errors.min() == pytest.approx(-oracle.best_score_, rel=1e-8)


def test_leave_one_out_is_what_it_says():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    errors = ridge(z, y, (1.0, 10.0))[3]
    for alpha, error in zip((1.0, 10.0), errors, strict=True):
        left_out = []
        for i in range(12):
            keep = np.arange(12) != i
            weights, bias, _, _ = ridge(z[keep], y[keep], (alpha,))
            left_out.append((y[i] - bias - z[i] @ weights) ** 2)
        assert error == pytest.approx(np.mean(left_out))


def test_the_planted_column_is_found():
    train, test = toy_panel(seed=1, steps=3000), toy_panel(seed=2, steps=2000)
    place = train.features.index(["queue_imbalance"])[0]
    for panel in (train, test):
        panel.y[:] = 0.5 * panel.x[:, :, place] + np.random.default_rng(len(panel)).normal(size=panel.y.shape)
    model, report = Linear.fit(LinearConfig(), [train], [], FitContext())
    values, ready = model.predict(test)
    u, p = test.y[ready], values[..., 0][ready]
    assert 1 - ((u - p) ** 2).sum() / (u**2).sum() > 0.9 * 0.2  # 0.25 / 1.25 is the truth
    assert report.facts["max_train_t1"] == train.label_end[train.rows].max() and report.n_rows == train.rows.sum() * 3


def test_rows_that_are_not_marked_or_not_valid_teach_nothing():
    panel, spoilt = toy_panel(seed=3), toy_panel(seed=3)
    off = ~spoilt.rows
    spoilt.y[off] = 1e6
    spoilt.valid[100:140, 1] = False
    spoilt.x[100:140, 1] = np.nan
    panel.valid[100:140, 1] = False
    one, _ = Linear.fit(LinearConfig(), [panel], [], FitContext())
    two, _ = Linear.fit(LinearConfig(), [spoilt], [], FitContext())
    assert all(np.array_equal(one.weights[k], two.weights[k]) for k in one.weights)


def test_a_symbol_without_rows_is_never_ready_and_none_at_all_is_refused():
    panel = toy_panel()
    panel.valid[:, 2] = False
    model, _ = Linear.fit(LinearConfig(), [panel], [], FitContext())
    outputs = model.predict(toy_panel(seed=5))
    assert not outputs.ready[:, 2].any() and outputs.ready[20:, :2].all() and not outputs.values[:, 2].any()
    panel.valid[:] = False
    with pytest.raises(FitError):
        Linear.fit(LinearConfig(), [panel], [], FitContext())
    with pytest.raises(FitError):
        Linear.fit(LinearConfig(), [], [], FitContext())


def test_constant_columns_change_nothing():
    panel = toy_panel()
    panel.x[:, :, panel.features.index(["ofi_01_100ms"])] = 3.7
    model, report = Linear.fit(LinearConfig(), [panel], [], FitContext())
    j = model.columns.names.index("ofi_01_100ms")
    assert report.status == "converged" and np.abs(model.weights["weights"][:, j]).max() < 1e-6


def test_damaged_files_are_refused(tmp_path):
    panel = toy_panel(symbols=1, steps=220)
    model, _ = Linear.fit(LinearConfig(), [panel], [], FitContext())
    model.save(tmp_path)
    whole = (tmp_path / "weights.npz").read_bytes()
    for damage in (whole[:100], b"", b"PK" + whole[2:400]):
        (tmp_path / "weights.npz").write_bytes(damage)
        with pytest.raises(ReleaseError):
            Linear.load(tmp_path)
    np.savez(tmp_path / "weights.npz", **{k: v * np.nan if v.dtype.kind == "f" else v for k, v in model.weights.items()})
    with pytest.raises(ReleaseError, match="not finite"):
        Linear.load(tmp_path)
    (tmp_path / "weights.npz").write_bytes(whole)
    Linear.load(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"linear"', '"other"'))
    with pytest.raises(ReleaseError, match="kind"):
        Linear.load(tmp_path)


def test_other_features_are_refused():
    model, _ = Linear.fit(LinearConfig(), [toy_panel()], [], FitContext())
    other = toy_panel()
    step = other.step(50)
    from dataclasses import replace

    with pytest.raises(SchemaMismatch):
        model.update(model.start(), replace(step, x=step.x[:, :-1]))
