"""The baselines say what a line of numpy says."""

import numpy as np
import pytest

from cift_models.features import signed_counts
from cift_models.models.baselines import (
    Activity,
    ActivityConfig,
    LastMove,
    Prior,
    PriorConfig,
    QueueImbalance,
    RidgeReference,
    SlopeConfig,
    StrongLinear,
    Trees,
    TreesConfig,
)
from cift_models.models.context import CONTEXT
from cift_models.models.linear import Linear, LinearConfig
from cift_models.models.protocol import FitContext
from tests.panels import toy_panel


def test_prior_counts():
    panel = toy_panel(steps=300)
    panel.y[:, 0] = np.resize([0.0, 0.0, 1.5, -0.2], 300)
    model, _ = Prior.fit(PriorConfig(), [panel], [], FitContext())
    values, ready = model.predict(panel)
    rows = panel.rows & panel.valid[:, 0]
    n = np.array([(np.sign(panel.y[rows, 0]) == c).sum() for c in (-1, 0, 1)])
    np.testing.assert_allclose(values[200, 0], [0, *((n + 0.5) / (n.sum() + 1.5))])
    assert not values[~ready].any() and np.array_equal(ready, panel.valid)


def test_activity_finds_the_planted_rate_and_has_no_view():
    panel = toy_panel(steps=12_000, symbols=1)
    rng = np.random.default_rng(0)
    a60, a600, ticks = (panel.column(name) for name in CONTEXT)
    logit = 0.8 * np.log(a60 / (1 - a60)) + 0.4 * np.log(a600 / (1 - a600)) - 0.5 * np.log(ticks)
    truth = 1 / (1 + np.exp(-logit))
    panel.y[:] = (rng.uniform(size=truth.shape) < truth) * rng.choice([-1, 1], truth.shape)
    model, report = Activity.fit(ActivityConfig(), [panel], [], FitContext())
    values, ready = model.predict(panel)
    assert report.status == "converged" and np.abs(1 - values[..., 2] - truth)[ready].max() < 0.06
    assert np.array_equal(values[..., 1], values[..., 3]) and not values[..., 0].any()
    np.testing.assert_allclose(values[ready][:, 1:].sum(axis=1), 1)


@pytest.mark.parametrize(
    ("model", "signal"),
    [(LastMove, lambda p: 1e4 * p.column("move_1000ms") / p.column("mid")), (QueueImbalance, lambda p: p.column("queue_imbalance"))],
)
def test_one_signal_has_its_least_squares_slope(model, signal):
    panel = toy_panel(steps=500)
    fitted, _ = model.fit(SlopeConfig(), [panel], [], FitContext())
    values, ready = fitted.predict(panel)
    for s in range(3):
        rows = panel.rows & panel.valid[:, s]
        slope = np.linalg.lstsq(signal(panel)[rows, s][:, None], panel.y[rows, s], rcond=None)[0][0]
        np.testing.assert_allclose(values[ready[:, s], s, 0], slope * signal(panel)[ready[:, s], s], rtol=1e-9)


def test_ridge_reference_has_the_columns_of_appendix_a():
    panel = toy_panel()
    names = RidgeReference.column_names(panel.features)
    assert names[:6] == ["queue_imbalance", "queue_imbalance_x_spread", "spread", "move_1000ms", "move_5000ms", "move_30000ms"]
    assert names[6:10] == ["ofi_00_100ms", "ofi_01_100ms", "signed_volume_100ms", "log_count_100ms"] and names[-1] == "age_s"
    assert len(names) == 6 + 6 * (2 + 2) + 1 == len(set(names))


def test_strong_linear_sees_what_a_burst_of_trades_left_minutes_ago_and_linear_does_not():
    panel = toy_panel(seed=1, steps=2_000, symbols=1)
    slow = panel.column("count_180000ms")
    slow[:] = np.random.default_rng(3).normal(size=slow.shape)
    panel.y[:] = slow + np.random.default_rng(4).normal(size=slow.shape)
    r2 = {}
    for cls in (Linear, StrongLinear):
        names = cls.column_names(panel.features)
        assert len(names) == len(set(names))
        model, _ = cls.fit(LinearConfig(), [panel], [], FitContext())
        values, ready = model.predict(panel)
        u = panel.y[ready]
        r2[cls] = 1 - ((u - values[..., 0][ready]) ** 2).sum() / (u**2).sum()
    assert r2[StrongLinear] > 0.4 > 0.1 > r2[Linear]  # the truth is .5
    added = StrongLinear.column_names(panel.features)[len(Linear.column_names(panel.features)) :]
    assert added == list(signed_counts.names(panel.features)) and len(added) == 12


def test_trees_find_an_interaction_and_stop_early():
    panel, other = toy_panel(seed=1, steps=4_000, symbols=1), toy_panel(seed=2, steps=3_000, symbols=1)
    for p in (panel, other):
        a, b = p.column("queue_imbalance"), p.column("age_s")
        p.y[:] = np.sign(a) * np.sign(b) + np.random.default_rng(len(p)).normal(size=a.shape)
    model, report = Trees.fit(TreesConfig(rounds=60, eta=0.2), [panel], [other], FitContext())
    values, ready = model.predict(other)
    u = other.y[ready]
    assert 1 - ((u - values[..., 0][ready]) ** 2).sum() / (u**2).sum() > 0.3  # the truth is .5, a model without the interaction has 0
    assert len(report.curves["S0_stop_rmse_bps"]) <= 60 and report.facts["trees"]["S0"] > 5
    alone, _ = Trees.fit(TreesConfig(rounds=60, eta=0.2), [panel], [], FitContext())
    assert len(alone.forests[0].roots) == 60


def test_a_symbol_without_rows_is_never_ready():
    panel = toy_panel(steps=220)
    panel.valid[:, 1] = False
    for cls in (Prior, Activity, LastMove, QueueImbalance, RidgeReference, StrongLinear, Trees):
        model, _ = cls.fit(cls.Config(), [panel], [], FitContext())
        outputs = model.predict(toy_panel(seed=9, steps=100))
        assert not outputs.ready[:, 1].any() and not outputs.values[:, 1].any() and outputs.ready[10:, 0].all(), cls.kind
