"""Weights on the simplex: noise gets none, an oracle all, opposite experts take turns with the regime."""

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import FitError, SchemaMismatch
from cift_models.models.ensemble import Ensemble, EnsembleConfig
from cift_models.models.ensemble.kernel import _minimise, blend, fit_weights, gate_gain
from cift_models.models.ensemble.model import MEANS
from cift_models.models.protocol import FitContext, Panel
from tests.panels import toy_panel


def experts(seed: int, n: int, sd_of_signal: float = 0.2):
    """y = signal + noise in sd, the signal known exactly by an oracle."""
    rng = np.random.default_rng(seed)
    signal = sd_of_signal * rng.normal(size=n)
    return rng, signal, signal + rng.normal(size=n)


def test_noise_gets_no_weight_and_an_oracle_all():
    rng, signal, y = experts(0, 20_000, 0.3)
    means = np.stack([0.3 * rng.normal(size=len(y)), signal, 0.3 * rng.normal(size=len(y))], axis=1)
    found = fit_weights(means, np.full((len(y), 2), 0.5), y, 1.0, 2000, 500)
    assert found.converged and found.overall[1] > 0.95 and found.by_regime[:, 1].min() > 0.95  # the standard error of a weight is .024
    assert found.slope == pytest.approx(1.6, abs=0.3)  # the logit of the sign of N(m, 1) has slope near 1.6 at 0


def test_the_minimum_is_the_least_on_a_grid():
    rng, signal, y = experts(1, 4_000)
    means = np.stack([signal + 0.2 * rng.normal(size=len(y)), 0.5 * signal + 0.05 * rng.normal(size=len(y))], axis=1)
    w, ok = _minimise(means, np.ones((len(y), 1)), y, 1.0, 1.6, np.full((1, 2), 0.5), np.full(2, 0.5), 0.0, 500)
    grid = np.linspace(0, 1, 2001)

    def loss(a: float) -> float:
        m = a * means[:, 0] + (1 - a) * means[:, 1]
        return np.mean((y - m) ** 2) + np.mean(np.log1p(np.exp(-1.6 * np.sign(y) * m)))

    assert ok and w[0, 0] == pytest.approx(grid[int(np.argmin([loss(a) for a in grid]))], abs=1e-3)


def regime_day(seed: int, n: int):
    """Two sticky regimes, opposite experts, filtered one-step probabilities by the true parameters and by wrong ones."""
    rng = np.random.default_rng(seed)
    stay, separation = 0.995, 0.6
    state = np.cumsum(rng.uniform(size=n) > stay) % 2
    seen = rng.normal(size=n) + separation * (2 * state - 1)
    signal = 0.3 * rng.normal(size=n)
    y = np.where(state == 1, 1.0, -1.0) * signal + rng.normal(size=n)

    def filtered(stay: float, separation: float):
        p, out = 0.5, np.empty(n)
        for t in range(n):
            out[t] = p = stay * p + (1 - stay) * (1 - p)
            up, down = p * np.exp(separation * seen[t]), (1 - p) * np.exp(-separation * seen[t])
            p = up / (up + down)
        return np.stack([1 - out, out], axis=1)

    return np.stack([-signal, signal], axis=1), y, filtered(stay, separation), filtered(0.98, 0.8)


def test_two_regimes_with_opposite_experts():
    means, y, _, wrong = regime_day(0, 20_000)
    weights = fit_weights(means, wrong, y, 1.0, 2000, 500)
    means, y, truth, wrong = regime_day(1, 20_000)
    optimal = np.mean((y - (truth * means).sum(axis=1)) ** 2)
    equal = np.mean((y - means.mean(axis=1)) ** 2)
    ready = np.ones((len(y), 1), bool)
    said = blend(means[:, None], wrong[:, None], ready, ready, weights.by_regime, weights.overall)[:, 0]
    gated = np.mean((y - said) ** 2)
    assert equal - optimal > 0.03
    assert gated - optimal <= 0.2 * (equal - optimal)


def test_few_rows_of_a_regime_stay_near_the_overall_row():
    means, y, truth, _ = regime_day(2, 4_000)
    free = fit_weights(means, truth, y, 1.0, 0.0, 500)
    held = fit_weights(means, truth, y, 1.0, 1e9, 500)
    assert np.abs(held.by_regime - held.overall).max() < 1e-3 < 0.4 < np.abs(free.by_regime - free.overall).max()


def test_the_gate_pays_with_regimes_and_not_with_noise():
    means, y, truth, _ = regime_day(3, 10_000)
    early = np.arange(10_000) < 5_000
    gain, t = gate_gain(means, truth, y, early, 1.0, 2000, 500)
    assert gain > 0.02 and t > 5
    noise = np.random.default_rng(0).dirichlet(np.ones(2), 10_000)
    assert gate_gain(means, noise, y, early, 1.0, 0.0, 500)[1] < 2
    assert gate_gain(means, np.zeros_like(noise), y, early, 1.0, 2000, 500) == (0.0, 0.0)


def with_bases(panel: Panel, seed: int = 0, n_states: int = 2) -> Panel:
    rng = np.random.default_rng(seed)
    base = {name: 0.3 * rng.normal(size=(*panel.y.shape, 3 if name == "hawkes" else 1)) for name in MEANS}
    regimes = rng.dirichlet(np.ones(n_states), panel.y.shape)
    ready = {name: panel.valid.copy() for name in (*MEANS, "hmm")}
    ready["hmm"][:40] = False
    return replace(panel, base=base | {"hmm": np.where(ready["hmm"][..., None], regimes, 0)}, base_ready=ready)


def test_the_overall_row_speaks_where_the_regime_is_not_known_and_a_missing_forecast_silences():
    panel = with_bases(toy_panel(steps=400))
    model, report = Ensemble.fit(EnsembleConfig(gate_t=-100), [panel], [], FitContext())
    off, _ = Ensemble.fit(EnsembleConfig(gate_t=100), [panel], [], FitContext())
    assert (off.weights["by_regime"] == off.weights["overall"]).all() and report.facts["gate"]["on"]
    assert np.abs(model.weights["by_regime"] - model.weights["overall"]).max() > 1e-3
    panel.base_ready["gnn"][100, 1] = False
    values, ready = model.predict(panel)
    means = np.stack([panel.base[name][..., 0] for name in MEANS], axis=-1)
    np.testing.assert_allclose(values[20, :, 0], means[20] @ model.weights["overall"])
    np.testing.assert_allclose(values[60, :, 0], np.einsum("sb,sk,kb->s", means[60], panel.base["hmm"][60], model.weights["by_regime"]))
    assert ready[100].tolist() == [True, False, True] and values[100, 1, 0] == 0 and not ready[:10].any()
    assert report.n_rows == 3 * panel.rows.sum()
    np.testing.assert_allclose(model.weights["by_regime"].sum(axis=1), 1)


def test_only_out_of_fold_rows_teach():
    panel = with_bases(toy_panel(steps=400))
    panel.base_oof[:] = panel.rows & (np.arange(400) < 200)
    spoilt = replace(panel, y=np.where(panel.base_oof[:, None], panel.y, 1e3))
    one, report = Ensemble.fit(EnsembleConfig(), [panel], [], FitContext())
    two, _ = Ensemble.fit(EnsembleConfig(), [spoilt], [], FitContext())
    assert report.n_rows == 3 * 180 and np.array_equal(one.weights["by_regime"], two.weights["by_regime"])
    assert report.facts["max_train_t1"] == panel.label_end[199]
    with pytest.raises(FitError):
        Ensemble.fit(EnsembleConfig(), [replace(panel, base_oof=None)], [], FitContext())


def test_no_regimes_today_and_another_number_of_them():
    panel = with_bases(toy_panel(steps=400))
    panel.base_ready["hmm"][:] = False
    model, _ = Ensemble.fit(EnsembleConfig(), [panel], [], FitContext())
    assert np.array_equal(model.weights["by_regime"], np.repeat(model.weights["overall"][None], 2, axis=0))
    with pytest.raises(SchemaMismatch, match="3 regimes"):
        model.predict(with_bases(toy_panel(), n_states=3))
