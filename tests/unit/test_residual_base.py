"""The base that level-1 models add to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import DataError
from cift_models.models.residual_base import RIDGE, apply_base, base_is_ready, fit_base, label_rows
from tests.panels import toy_panel


def planted(seed: int, weights: np.ndarray):
    panel = toy_panel(seed, steps=500)
    y = weights[:, 0] * panel.base["linear"][..., 0] + weights[:, 1] * panel.base["hawkes"][..., 0]
    return replace(panel, y=y)


def test_recovers_planted_weights_over_sessions():
    truth = np.array([[0.5, 0.2], [1.0, -0.3], [0.0, 2.0]])
    found = fit_base([planted(0, truth), planted(1, truth)])
    np.testing.assert_allclose(found, truth, atol=3 * RIDGE)
    assert not np.array_equal(found, truth)  # the ridge is there


def test_equals_ridge_written_as_least_squares_on_augmented_rows():
    panel = toy_panel(3)
    found = fit_base([panel])
    keep = panel.rows & panel.base_oof
    for s in range(3):
        use = keep & panel.valid[:, s]
        x = np.column_stack([panel.base[k][use, s, 0] for k in ("linear", "hawkes")])
        augmented = np.vstack([x, np.diag(np.sqrt(RIDGE * (x**2).sum(0)))])
        expected = np.linalg.lstsq(augmented, np.r_[panel.y[use, s], 0, 0], rcond=None)[0]
        np.testing.assert_allclose(found[s], expected, rtol=1e-10)


def test_rows_out_of_the_fold_or_not_ready_teach_nothing():
    truth = np.array([[0.5, 0.2]] * 3)
    panel = planted(0, truth)
    clean = fit_base([panel])
    bad = np.zeros(len(panel), bool)
    bad[50:100] = True
    y = panel.y.copy()
    y[bad] = 1e6
    not_ready = {"linear": panel.base_ready["linear"] & ~bad[:, None], "hawkes": panel.base_ready["hawkes"]}
    masked = (
        replace(panel, y=y, base_oof=panel.base_oof & ~bad),
        replace(panel, y=y, rows=panel.rows & ~bad),
        replace(panel, y=y, base_ready=not_ready),
        replace(panel, y=y, valid=panel.valid & ~bad[:, None]),
    )
    for panel_masked in masked:
        assert not label_rows(panel_masked)[bad].any()
        np.testing.assert_allclose(fit_base([panel_masked]), clean, atol=1e-3)


def test_degenerate_columns():
    panel = toy_panel(0)
    zero = {k: np.zeros_like(v) for k, v in panel.base.items()}
    np.testing.assert_array_equal(fit_base([replace(panel, base=zero)]), np.tile([1.0, 0.0], (3, 1)))
    only_linear = fit_base([replace(panel, base=panel.base | {"hawkes": zero["hawkes"]})])
    assert (only_linear[:, 1] == 0).all() and (only_linear[:, 0] != 0).all()
    only_hawkes = fit_base([replace(panel, base=panel.base | {"linear": zero["linear"]})])
    assert (only_hawkes[:, 0] == 0).all() and (only_hawkes[:, 1] != 0).all()
    twins = fit_base([replace(panel, base={"linear": panel.base["linear"], "hawkes": panel.base["linear"]})])
    np.testing.assert_allclose(twins[:, 0], twins[:, 1])


def test_step_and_panel_give_the_same_bits():
    panel = toy_panel(0)
    weights = np.random.default_rng(0).normal(size=(3, 2))
    whole = apply_base(weights, panel.base)
    steps = np.stack([apply_base(weights, panel.step(t).base) for t in range(len(panel))])
    assert whole.tobytes() == steps.tobytes()
    assert base_is_ready(panel.base_ready).shape == (400, 3)


def test_refusals():
    panel = toy_panel(0)
    with pytest.raises(DataError, match="no training panel"):
        fit_base([])
    with pytest.raises(DataError, match="base_oof"):
        fit_base([replace(panel, base_oof=None)])
    with pytest.raises(DataError, match="needs the outputs of 'hawkes'"):
        apply_base(np.ones((3, 2)), {"linear": panel.base["linear"]})
