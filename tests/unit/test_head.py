"""The head finds the class probabilities it was drawn from, and says each row alone."""

import numpy as np
import pytest

from cift_models.errors import DataError, FitError, ReleaseError
from cift_models.models.context import CONTEXT
from cift_models.models.head import PROBABILITIES, Head, has_own_probabilities
from tests.panels import toy_panel


def drawn(seed: int, steps: int, symbols: int = 2):
    """A panel whose y is drawn from a known logit of a forecast, and that forecast with its true probabilities."""
    panel = toy_panel(seed=seed, steps=steps, symbols=symbols)
    rng = np.random.default_rng(seed)
    mean_bps = 0.2 * rng.normal(size=panel.y.shape)
    a60, a600, ticks = (panel.column(name) for name in CONTEXT)
    move = 0.9 * np.log(a60 / (1 - a60)) + 0.3 * np.log(a600 / (1 - a600)) - 0.4 * np.log(ticks) + 0.5 * np.abs(mean_bps / 0.2) - 0.5
    logits = np.stack([move - 0.7 * mean_bps / 0.2, np.zeros_like(move), move + 0.7 * mean_bps / 0.2], axis=-1)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
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

    panel, mean_bps, _ = drawn(2, 3_000, symbols=1)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    rows = panel.rows & panel.valid[:, 0]
    yhat = mean_bps[:, 0] / panel.y[rows, 0].std()
    a60, a600, ticks = (panel.column(name)[:, 0] for name in CONTEXT)
    u = np.column_stack([yhat, abs(yhat), np.log(a60 / (1 - a60)), np.log(a600 / (1 - a600)), np.log(ticks)])
    oracle = LogisticRegression(C=1, tol=1e-8, max_iter=2000).fit(u[rows], panel.y[rows, 0])
    p = head.predict(mean_bps, panel.x, panel.valid)[rows, 0]
    assert np.abs(p - oracle.predict_proba(u[rows])).max() < 1e-3  # three half rows of 2,960 are all that differs


def test_one_row_is_the_row_of_the_batch_and_files_keep_the_bits(tmp_path):
    panel, mean_bps, _ = drawn(3, 300)
    head, _ = Head.fit([(panel, mean_bps, panel.valid)])
    p = head.predict(mean_bps, panel.x, panel.valid)
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    for t in range(0, 300, 7):
        assert np.array_equal(loaded.predict(mean_bps[t : t + 1], panel.x[t : t + 1], panel.valid[t : t + 1])[0], p[t])
    np.savez(tmp_path / "weights.npz", **(head.weights | {"bias": head.weights["bias"][:1]}))
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
