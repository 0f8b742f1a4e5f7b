"""The Hawkes model as a forecaster: counts against simulation, live against batch, and what it does when there is little to learn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import DataError, FitError, ReleaseError, SchemaMismatch
from cift_models.events import BOOK, HIDDEN, TRADE, Events
from cift_models.models.hawkes import (
    Baseline,
    HawkesConfig,
    HawkesOrderFlowModel,
    Parameters,
    forecast_map,
    log_likelihood,
    simulate_clusters,
    simulate_thinning,
)
from cift_models.models.hawkes.arrivals import session_arrivals
from cift_models.models.protocol import FitContext, Panel, State, fold
from tests.panels import OPEN, toy_panel

SECOND = 1_000_000_000


EXCITED = Parameters(
    np.array([50.0, 0.5]), Baseline("spline", 1, 1.0), np.full((2, 2), 0.3), np.eye(2)[:, :, None] * np.array([0.25, 0.35])
)
"""What `excited_panel` is drawn from: each side excites itself alone, for 20 ms and 2 s."""


def fit(*panels: Panel, **config: float) -> tuple[HawkesOrderFlowModel, dict]:
    model, report = HawkesOrderFlowModel.fit(HawkesConfig(**config), list(panels), [], FitContext())
    return model, report.facts


def excited_panel(seed: int = 0, steps: int = 4000, slope: float = 0.4) -> Panel:
    """A toy panel of one symbol: its trades are a Hawkes process, its move `slope` times the next second's imbalance, and noise."""
    panel = toy_panel(seed=seed, steps=steps, symbols=1)
    window = np.array([steps * SECOND])
    arrivals = simulate_clusters(EXCITED, window, window, np.random.default_rng(seed))
    events = Events.empty(len(arrivals), 2)
    events.ts[:] = OPEN + arrivals.t_ns
    events.sequence[:] = np.arange(len(arrivals))
    events.kind[:] = BOOK | TRADE
    events.side[:] = 1 - 2 * arrivals.side
    offsets = np.concatenate([[0], np.searchsorted(events.ts, panel.as_of, "right")]).astype(np.int64)
    signed = np.concatenate([[0], np.cumsum(events.side)])
    ahead = signed[np.searchsorted(events.ts, panel.as_of + SECOND, "right")] - signed[offsets[1:]]
    y = slope * ahead[:, None] + np.random.default_rng(seed + 1).normal(0, 0.3, (steps, 1))
    return replace(panel, events=events, offsets=offsets, y=y)


def test_expected_counts_are_those_of_many_simulated_seconds():
    """From one excited state under a sloping baseline: 8,000 futures by thinning, mean within 4 standard errors on each side."""
    rng = np.random.default_rng(0)
    decays = np.array([200.0, 3.0, 0.3])
    alpha = rng.uniform(0, 0.2, (2, 2, 3))
    parameters = Parameters(decays, Baseline("spline", 1, 1.0), np.zeros((2, 2)), alpha)
    sums = np.array([[0.8, 3.0, 6.0], [0.0, 0.5, 9.0]])
    level = np.array([0.5, 0.2])
    solved = forecast_map(parameters, 1.0)
    expected = np.einsum("ijm,jm->i", solved.sums, sums) + (solved.now + solved.next) @ level
    counts = np.zeros((8_000, 2))
    for k in range(len(counts)):
        _, side = simulate_thinning(level, decays, alpha, sums.copy(), 1.0, rng)
        counts[k] = (side == 0).sum(), (side == 1).sum()
    error = counts.std(axis=0) / np.sqrt(len(counts))
    assert (np.abs(counts.mean(axis=0) - expected) < 4 * error).all()


def test_forecast_map_obeys_its_equation():
    """Against small Euler steps of the mean equation, baseline rising from mu to mu'."""
    rng = np.random.default_rng(1)
    decays, alpha = np.array([20.0, 0.5]), rng.uniform(0, 0.3, (2, 2, 2))
    sums, begin, end = rng.uniform(0, 3, (2, 2)), np.array([0.3, 0.1]), np.array([0.9, 0.2])
    parameters = Parameters(decays, Baseline("spline", 1, 1.0), np.zeros((2, 2)), alpha)
    solved = forecast_map(parameters, 2.0)
    fast = np.einsum("ijm,jm->i", solved.sums, sums) + solved.now @ begin + solved.next @ end
    state, total, steps = sums.copy(), np.zeros(2), 10_000
    for k in range(steps):
        intensity = begin + (end - begin) * (k + 0.5) / steps + np.einsum("ijm,jm->i", alpha * decays, state)
        total += intensity * 2.0 / steps
        state += (intensity[:, None] - decays * state) * 2.0 / steps
    np.testing.assert_allclose(fast, total, rtol=2e-3)
    assert all((part >= 0).all() for part in solved)


def test_sums_are_those_over_all_trades():
    """The live sums at the last event, and so the intensity, against the sum over every arrival: 1e-12."""
    panel = toy_panel(seed=3, steps=300)
    model, _ = fit(panel)
    state = model.start()
    for t in range(len(panel)):
        state, _ = model.update(state, panel.step(t))
    end = int(panel.as_of[-1])
    for s, symbol in enumerate(model.symbols):
        p = model.parameters(symbol)
        arrivals = session_arrivals(panel.events, s, OPEN, end - OPEN, end - OPEN)
        age = (end - OPEN - arrivals.t_ns) * 1e-9
        faded = state["sums"][s] * np.exp(-p.decays_hz * (end - state["last_ns"][s]) * 1e-9)
        slow = np.stack([np.exp(-age[arrivals.side == i][:, None] * p.decays_hz).sum(axis=0) for i in range(2)])
        np.testing.assert_allclose(
            np.einsum("ijm,jm->i", p.alpha * p.decays_hz, faded), (p.alpha * p.decays_hz * slow).sum((1, 2)), rtol=1e-12
        )


def test_trades_of_one_time_and_side_are_one_arrival():
    """Four trades in one nanosecond, two a side: one buy and one sell, live and in the fit; hidden and unsigned ones are none."""
    events = Events.empty(7, 2)
    events.ts[:] = OPEN + np.array([10, 10, 10, 10, 20, 30, 40])
    events.sequence[:] = np.arange(7)
    events.kind[:] = [TRADE, TRADE | BOOK, TRADE, TRADE, TRADE | HIDDEN, TRADE, BOOK]
    events.side[:] = [1, -1, 1, -1, 1, 0, 0]
    arrivals = session_arrivals(events, 0, OPEN, SECOND, SECOND)
    np.testing.assert_array_equal(arrivals.t_ns, [10, 10])
    np.testing.assert_array_equal(arrivals.side, [0, 1])
    panel = toy_panel(steps=200, symbols=1)
    model, _ = fit(panel)
    state, _ = model.update(model.start(), replace(panel.step(0), events=events))
    np.testing.assert_array_equal(state["sums"][0], 1.0)
    assert state["last_ns"][0] == OPEN + 10


def test_update_folds_to_predict_to_the_bit():
    """Also over a state that was written out and read back half way."""
    panel = toy_panel(seed=5, steps=200)
    model, _ = fit(panel)
    batch, live = model.predict(panel), fold(model, panel)
    assert batch.values.tobytes() == live.values.tobytes()
    assert (batch.ready == panel.valid).all()
    assert (batch.values[~panel.valid] == 0).all()
    state = model.start()
    for t in range(len(panel)):
        if t == 100:
            state = State.from_bytes(state.to_bytes())
        state, output = model.update(state, panel.step(t))
        assert output.values.tobytes() == batch.values[t].tobytes()


def test_future_changes_no_forecast():
    panel = toy_panel(seed=6, steps=200)
    model, _ = fit(panel)
    assert model.predict(panel.until(120)).values.tobytes() == model.predict(panel).values[:120].tobytes()


def test_imbalance_forecasts_the_move():
    """The slope is recovered; out of sample the forecast has 90 % of the R2 that the true process has, and counts are right on average."""
    model, facts = fit(excited_panel(0))
    panel = excited_panel(1)
    arrivals = session_arrivals(panel.events, 0, OPEN, panel.close - OPEN, panel.close - OPEN)
    rows = np.flatnonzero(panel.rows & panel.valid[:, 0])
    values, y = model.predict(panel).values[rows, 0], panel.y[rows, 0]
    assert facts["S0"]["bps_per_arrival"] == pytest.approx(0.4, abs=0.1)
    np.testing.assert_allclose(values[:, 1:].mean(axis=0), arrivals.counts / len(panel), rtol=0.1)
    solved = forecast_map(EXCITED, 1.0)
    oracle = np.zeros(len(rows))
    for k, t in enumerate(rows):
        now = panel.as_of[t] - OPEN
        recent = slice(*np.searchsorted(arrivals.t_ns, [now - 60 * SECOND, now], "right"))
        faded = np.exp(-(now - arrivals.t_ns[recent])[:, None] * 1e-9 * EXCITED.decays_hz)
        counts = sum((solved.sums[:, i] * faded[arrivals.side[recent] == i].sum(axis=0)).sum(axis=1) for i in range(2))
        oracle[k] = 0.4 * (counts[0] - counts[1])
    best, reached = (1 - ((y - f) ** 2).sum() / (y**2).sum() for f in (oracle, values[:, 0]))
    assert best > 0.04
    assert reached >= 0.9 * best


def test_slope_uses_marked_rows_only():
    """Moves outside `rows`, however large, change nothing."""
    panel = excited_panel(2)
    y = np.where(panel.rows[:, None], panel.y, 1e6)
    assert fit(panel)[1]["S0"]["bps_per_arrival"] == fit(replace(panel, y=y))[1]["S0"]["bps_per_arrival"]


def test_fit_sees_no_trade_after_the_cut():
    """A cut panel has the fit of its own past: the window ends at its last instant."""
    panel = toy_panel(seed=7, steps=400)
    model, facts = fit(panel.until(250))
    assert model.symbol_fit("S0").window_ns[0] == panel.as_of[249] - OPEN
    inside = session_arrivals(panel.events, 0, OPEN, int(panel.as_of[249]) - OPEN, panel.close - OPEN)
    assert facts["S0"]["n_buys"] + facts["S0"]["n_sells"] == len(inside)


def test_sessions_do_not_excite_each_other():
    """The likelihood of two sessions is that of each, added."""
    one, two = toy_panel(seed=8, steps=300), toy_panel(seed=9, steps=300, session=20231115)
    model, facts = fit(one, two)
    assert len(model.symbol_fit("S1").window_ns) == 2
    parts = [session_arrivals(p.events, 1, OPEN, 300 * SECOND, 300 * SECOND) for p in (one, two)]
    assert sum(log_likelihood(a, model.parameters("S1")) for a in parts) == pytest.approx(model.symbol_fit("S1").log_likelihood, rel=1e-12)
    assert facts["S1"]["status"] == "converged"


@pytest.mark.parametrize("trades", [0, 20])
def test_few_trades_give_a_poisson_process_without_opinion(trades):
    """Under 50 arrivals: ready, constant counts, mean 0, and the report says so."""
    panel = toy_panel(seed=10, steps=300, symbols=2)
    mine = np.flatnonzero((panel.events.symbol == 0) & ((panel.events.kind & TRADE) > 0))[trades:]
    panel.events.kind[mine] = BOOK
    model, facts = fit(panel)
    outputs = model.predict(panel)
    assert facts["S0"]["status"] == "poisson"
    assert "too few" in facts["S0"]["note"]
    assert facts["S1"]["status"] == "converged"
    assert outputs.ready[50, 0]
    assert (outputs.values[:, 0, 0] == 0).all()
    np.testing.assert_allclose(outputs.values[50:, 0, 1:].sum(axis=1), trades / 300, rtol=1e-9)
    fitted = model.symbol_fit("S0")
    kept = session_arrivals(panel.events, 0, OPEN, 300 * SECOND, 300 * SECOND)
    slow = log_likelihood(kept, fitted.parameters) if trades else 0.0
    assert fitted.log_likelihood == pytest.approx(slow, rel=1e-12)


def test_fit_without_labels_has_no_slope():
    panel = replace(toy_panel(steps=200), y=None, rows=None)
    model, facts = fit(panel)
    assert (model.weights.slope == 0).all()
    assert facts["S0"]["bps_per_arrival"] == 0


def test_same_fit_twice():
    panel = toy_panel(seed=11, steps=200)
    one, two = fit(panel)[0].weights, fit(panel)[0].weights
    assert all(getattr(one, n).tobytes() == getattr(two, n).tobytes() for n in ("nu_hz", "alpha", "slope", "map_sums"))


def test_saved_model_predicts_the_same_bytes(tmp_path):
    panel = toy_panel(seed=12, steps=200)
    model, _ = fit(panel)
    model.save(tmp_path / "m")
    loaded = HawkesOrderFlowModel.load(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "weights.npz"]
    assert loaded.predict(panel).values.tobytes() == model.predict(panel).values.tobytes()
    assert loaded.symbol_fit("S1").parameters.branching_ratio(60) == model.symbol_fit("S1").parameters.branching_ratio(60)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "weights.npz").unlink(),
        lambda d: (d / "weights.npz").write_bytes(b"PK\x03\x04 no archive"),
        lambda d: (d / "config.json").write_text("[]"),
        lambda d: (d / "config.json").write_text((d / "config.json").read_text().replace('"hawkes"', '"hmm"')),
        lambda d: (d / "config.json").write_text((d / "config.json").read_text().replace("session_share", "share_of_session")),
        lambda d: spoil(d, alpha=lambda a: a[:, :, :, 1:]),
        lambda d: spoil(d, alpha=lambda a: -a - 1),
        lambda d: spoil(d, slope=lambda a: a * np.nan),
        lambda d: spoil(d, decays_hz=lambda a: a.astype(np.float32)),
        lambda d: spoil(d, status=lambda a: a + 9),
    ],
)
def test_damaged_model_is_refused(tmp_path, damage):
    model, _ = fit(toy_panel(steps=200))
    model.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ReleaseError, match="not a hawkes model"):
        HawkesOrderFlowModel.load(tmp_path)


def spoil(directory, **changes):
    with np.load(directory / "weights.npz") as arrays:
        kept = dict(arrays)
    np.savez(directory / "weights.npz", **{name: changes.get(name, lambda a: a)(array) for name, array in kept.items()})


def test_what_cannot_be_is_refused():
    panel = toy_panel(steps=200)
    model, _ = fit(panel)
    with pytest.raises(SchemaMismatch, match="was fitted on S0, S1, S2"):
        model.predict(toy_panel(steps=50, symbols=1))
    with pytest.raises(FitError, match="no step"):
        fit(panel.until(0))
    with pytest.raises(FitError, match="20231115"):
        fit(panel, toy_panel(steps=50, symbols=2, session=20231115))
    x = panel.x.copy()
    x[50, 1, 0] = np.nan
    with pytest.raises(DataError):
        model.predict(replace(panel, x=x))
    with pytest.raises(DataError):
        model.update(model.start(), replace(panel, x=x).step(50))
