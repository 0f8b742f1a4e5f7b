"""RegimeHMM as a model: bars, causality, bits, files."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import DataError, FitError, ReleaseError, SchemaMismatch, SettingsError
from cift_models.events import Events
from cift_models.features import FeatureSet
from cift_models.instruments import SECOND
from cift_models.models import model_class
from cift_models.models.hmm import HMMConfig, RegimeHMM, simulate_returns
from cift_models.models.hmm.bars import rows_of, sequences_of
from cift_models.models.hmm.comparison import compare_held_out
from cift_models.models.hmm.emission import hmm_class
from cift_models.models.hmm.fit import NO_REGIMES
from cift_models.models.hmm.kernel import PHI, raw_bars
from cift_models.models.hmm.recovery import planted_parameters
from cift_models.models.protocol import FitContext, Panel, State, Why, fold
from tests.panels import OPEN, toy_panel, toy_universe

BAR = 30
QUICK = HMMConfig(restarts=3)


def market(seed: int, bars: int = 200, symbols: int = 3, session: int = 20231114, open_ns: int = OPEN) -> Panel:
    """A session in which each symbol walks through the planted regimes: the move of a bar is an AR(1), in noisy seconds."""
    universe, steps = toy_universe(symbols), bars * BAR
    features = FeatureSet(levels=universe.levels)
    rng = np.random.default_rng(seed)
    x = np.zeros((steps, symbols, len(features.names)))
    mid, n_trades = (int(features.index([name])[0]) for name in ("mid", "n_trades"))
    for s in range(symbols):
        moves, states = simulate_returns(planted_parameters(), bars, seed=1_000 * seed + s)
        noise = rng.normal(size=(bars, BAR)) * np.where(states == 2, 5.0, 2.0)[:, None]
        seconds = (3 * moves[:, None] / BAR + noise - noise.mean(axis=1, keepdims=True)).ravel()
        x[:, s, mid] = (50 + 50 * s) * np.exp(1e-4 * np.cumsum(seconds))
        x[:, s, n_trades] = rng.poisson(np.repeat(np.where(states == 2, 3.0, 1.0), BAR))
    valid = np.ones((steps, symbols), bool)
    valid[:59] = False
    as_of = open_ns + SECOND * np.arange(1, steps + 1)
    rows = np.zeros(steps, bool)
    rows[120:-60] = True
    return Panel(
        universe, features, session, open_ns, open_ns + steps * SECOND, as_of, x, valid,
        np.where(valid, Why.OK, Why.WARM_UP).astype(np.int8), Events.empty(0, universe.levels), np.zeros(steps + 1, np.int64),
        y=np.zeros((steps, symbols)), rows=rows, label_end=as_of + SECOND, base_oof=rows.copy(),
    )  # fmt: skip


def with_holes(panel: Panel, seed: int = 0) -> Panel:
    """Some steps of some symbols are not valid and hold NaN."""
    rng = np.random.default_rng(seed)
    valid, x = panel.valid.copy(), panel.x.copy()
    for s in range(len(panel.universe)):
        for begin in rng.integers(60, len(panel), 6):
            valid[begin : begin + int(rng.integers(1, 100)), s] = False
    x[~valid] = np.nan
    return replace(panel, valid=valid, x=x, why=np.where(valid, Why.OK, Why.GAP).astype(np.int8))


@pytest.fixture(scope="module")
def fitted() -> RegimeHMM:
    train = [market(seed, session=20231114 + seed) for seed in range(4)]
    return RegimeHMM.fit(QUICK, train, [], FitContext(seed=3))[0]


def test_it_is_the_registered_kind(fitted):
    assert model_class("hmm") is RegimeHMM
    assert fitted.outputs == ("regime_0", "regime_1", "regime_2") and RegimeHMM.needs == ()


def test_fold_of_update_is_predict_to_the_bit(fitted):
    panel = with_holes(market(9))
    batch, stream = fitted.predict(panel), fold(fitted, panel)
    np.testing.assert_array_equal(batch.values, stream.values)
    np.testing.assert_array_equal(batch.ready, stream.ready)
    assert batch.ready.any() and not batch.ready[panel.valid == 0].any()
    assert (batch.values[~batch.ready] == 0).all()
    np.testing.assert_allclose(batch.values[batch.ready].sum(axis=-1), 1, atol=1e-12)


def test_predict_equals_plain_python(fitted):
    """Bars by slicing, densities from scipy, the recursion in numpy: no line shared with the kernel."""
    from scipy.stats import norm

    panel = with_holes(market(10, bars=60))
    found = fitted.predict(panel)
    mid, trades, p = panel.column("mid"), panel.column("n_trades"), fitted.parameters
    for s in range(len(panel.universe)):
        alpha, last, observed = np.full(3, 1 / 3), None, 0
        sd, offset, v_mean, v_sd, u_mean, u_sd = fitted.scales[s]
        for t in range(len(panel)):
            if (t + 1) % BAR == 0:
                whole = t >= BAR and panel.valid[t - BAR : t + 1, s].all()
                if whole:
                    moves = 1e4 * np.diff(np.log(mid[t - BAR : t + 1, s]))
                    x = moves.sum() / sd
                    v = (np.log((moves**2).sum() + offset) - v_mean) / v_sd
                    u = (np.log1p(trades[t - BAR + 1 : t + 1, s].sum()) - u_mean) / u_sd
                    b = np.array(
                        [
                            (1 if last is None else norm.pdf(x, c + phi * last, sigma)) * norm.pdf(v, vm, vs) * norm.pdf(u, um, us)
                            for c, phi, sigma, vm, vs, um, us in p.states
                        ]
                    )
                    alpha, last, observed = alpha * b / (alpha * b).sum(), x, observed + 1
                else:
                    last = None
                alpha = p.transition.T @ alpha
            assert found.ready[t, s] == (panel.valid[t, s] and observed > 0)
            if found.ready[t, s]:
                np.testing.assert_allclose(found.values[t, s], alpha, atol=1e-9)


def test_first_whole_bar_makes_it_ready(fitted):
    """Warm-up ends at open + 60 s, so the bar from 60 to 90 s is the first that is whole."""
    ready = fitted.predict(market(11, bars=5)).ready
    assert not ready[:89].any() and ready[89:].all()


def test_between_closes_the_last_word_stands(fitted):
    panel = market(12, bars=20)
    values = fitted.predict(panel).values
    changes = np.nonzero((np.diff(values[90:], axis=0) != 0).any(axis=(1, 2)))[0] + 91
    assert set((changes + 1) % BAR) == {0}


def test_the_future_changes_no_past(fitted):
    panel = with_holes(market(13, bars=40))
    whole = fitted.predict(panel)
    for n in (100, 599, 600, 601):
        part = fitted.predict(panel.until(n))
        np.testing.assert_array_equal(part.values, whole.values[:n])
        x = panel.x.copy()
        x[n:] = np.where(np.isfinite(x[n:]), x[n:] * 1.01 + 1, x[n:])
        changed = fitted.predict(replace(panel, x=x))
        np.testing.assert_array_equal(changed.values[:n], whole.values[:n])
        assert not np.array_equal(changed.values[n:], whole.values[n:])


def test_what_leaves_is_filtered_and_not_smoothed(fitted):
    """At each close the output is the filter's next state; the smoothed probability of that state, which EM knows, is another number."""
    panel = market(14)
    panel = replace(panel, rows=None)
    found = fitted.predict(panel)
    rows = rows_of(sequences_of(panel, BAR * SECOND), fitted.scales)
    engine = hmm_class()(fitted.parameters)
    begin = 0
    for s, length in enumerate(rows.lengths):
        part = rows.values[begin : begin + length]
        begin += length
        _, _, smoothed, forward, _ = engine._fit_scaling(part)
        filtered = forward / forward.sum(axis=1, keepdims=True)
        said = found.values[89::BAR, s]
        # The two skipped bars of the warm-up take a prediction step each, from the same uniform start.
        np.testing.assert_allclose(said[20:-1], (filtered @ fitted.parameters.transition)[20:-1], atol=1e-6)
        assert np.abs(said[:-1] - smoothed[1:]).max() > 0.1


def test_state_survives_a_store_and_a_fork(fitted):
    panel = with_holes(market(15, bars=20))
    whole = fitted.predict(panel)
    state = fitted.start()
    for t in range(333):
        state, _ = fitted.update(state, panel.step(t))
    fork = state.copy()
    restored = State.from_bytes(state.to_bytes())
    for t in range(333, 400):
        state, a = fitted.update(state, panel.step(t))
        restored, b = fitted.update(restored, panel.step(t))
        np.testing.assert_array_equal(a.values, whole.values[t])
        np.testing.assert_array_equal(b.values, whole.values[t])
    fork, c = fitted.update(fork, panel.step(333))
    np.testing.assert_array_equal(c.values, whole.values[333])
    assert all(len(v) == (1 if name == "anchor_ns" else 3) for name, v in state.items())
    assert (state["observed_ns"] > panel.open).all() and state["n_bars"].min() > 0


def test_a_valid_nan_is_refused(fitted):
    panel = market(16, bars=4)
    panel.x[70, 1, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fitted.predict(panel)
    with pytest.raises(DataError, match="not finite"):
        fitted.update(fitted.start(), panel.step(70))


def test_another_feature_set_or_universe_is_refused(fitted):
    with pytest.raises(SchemaMismatch, match="symbols"):
        fitted.predict(market(17, bars=3, symbols=2))
    panel = market(17, bars=3)
    other = FeatureSet(levels=panel.universe.levels + 1)
    with pytest.raises(SchemaMismatch):
        fitted.predict(replace(panel, features=other, x=np.zeros((len(panel), 3, len(other.names)))))


def test_save_and_load_say_the_same_bytes(fitted, tmp_path):
    panel = with_holes(market(18))
    fitted.save(tmp_path / "a")
    loaded = RegimeHMM.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "weights.npz"]
    for name in ("config.json", "weights.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    np.testing.assert_array_equal(loaded.predict(panel).values, fitted.predict(panel).values)
    assert (loaded.names, loaded.regimes, loaded.outputs) == (fitted.names, fitted.regimes, fitted.outputs)


@pytest.mark.parametrize("damage", ["negative", "row", "sigma", "shape", "names", "config", "kind"])
def test_damaged_files_are_refused(fitted, tmp_path, damage):
    import orjson

    fitted.save(tmp_path)
    with np.load(tmp_path / "weights.npz") as file:
        arrays = {name: file[name] for name in file.files}
    saved = orjson.loads((tmp_path / "config.json").read_bytes())
    if damage == "negative":
        arrays["transition"][0, :2] = (-0.5, arrays["transition"][0, :2].sum() + 0.5)
    elif damage == "row":
        arrays["transition"][0, 0] += 0.1
    elif damage == "sigma":
        arrays["states"][1, 2] = 0.0
    elif damage == "shape":
        arrays["scales"] = arrays["scales"][:2]
    elif damage == "names":
        saved["names"] = ["quiet"]
    elif damage == "config":
        del saved["clock_ns"]
    else:
        saved["kind"] = "linear"
    np.savez(tmp_path / "weights.npz", **arrays)
    (tmp_path / "config.json").write_bytes(orjson.dumps(saved))
    with pytest.raises(ReleaseError):
        RegimeHMM.load(tmp_path)


def planted_sessions() -> list[Panel]:
    return [market(seed, session=20231114 + seed) for seed in range(6)]


def test_fit_finds_the_planted_regimes_in_sessions_of_steps():
    train = planted_sessions()
    model, report = RegimeHMM.fit(HMMConfig(emissions=("return",)), train, [], FitContext(seed=3))
    assert report.status == "converged" and model.regimes, report.facts
    assert model.names == ("volatile", "trending", "mean_reverting")
    np.testing.assert_allclose(model.parameters.states[:, PHI], [0, 0.35, -0.35], atol=0.1)
    closes = np.arange(BAR - 1, len(train[0]), BAR)
    assert report.n_rows == 6 * 3 * int(train[0].rows[closes].sum())
    assert report.facts["max_train_t1"] == train[0].as_of[closes[train[0].rows[closes]]].max()
    assert np.diff(report.curves["objective"]).min() > -1e-6


def test_log_variance_and_trade_rate_sharpen_the_volatile_regime():
    """Filtered p(volatile) tells the planted volatile bars apart, and better where the other two emissions speak."""
    train, right = planted_sessions(), {}
    panel = market(99)
    planted = np.column_stack([simulate_returns(planted_parameters(), 200, seed=99_000 + s)[1] == 2 for s in range(3)])
    assert 0.05 < planted.mean() < 0.95
    for emissions in (("return",), ("return", "log_variance", "log_trade_rate")):
        model, _ = RegimeHMM.fit(HMMConfig(n_states=2, emissions=emissions), train, [], FitContext(seed=3))
        volatile = np.nonzero(np.array(model.names) == "volatile")[0][0]
        said = model.predict(panel).values[BAR - 1 :: BAR, :, volatile] > 0.5
        right[len(emissions)] = (said == planted)[3:].mean()
    assert right[3] > 0.95 and right[3] > right[1]


def test_same_seed_same_fit_and_labels_are_not_read():
    train = [market(seed, bars=100) for seed in range(2)]
    first = RegimeHMM.fit(QUICK, train, [], FitContext(seed=5))[0]
    other = [replace(p, y=np.full_like(p.y, 7.0)) for p in train]
    second = RegimeHMM.fit(QUICK, other, other, FitContext(seed=5))[0]
    np.testing.assert_array_equal(first.parameters.states, second.parameters.states)
    np.testing.assert_array_equal(first.parameters.transition, second.parameters.transition)


def test_rows_that_are_not_for_training_teach_nothing():
    panel = market(20, bars=100)
    changed = panel.x.copy()
    outside = ~panel.rows
    outside[:120] = False
    changed[outside] *= 1.5
    fits = [RegimeHMM.fit(QUICK, [p], [], FitContext())[0] for p in (panel, replace(panel, x=changed))]
    np.testing.assert_array_equal(fits[0].parameters.states, fits[1].parameters.states)
    np.testing.assert_array_equal(fits[0].scales, fits[1].scales)


def test_previous_fit_keeps_the_order(tmp_path):
    train = [market(seed) for seed in range(2)]
    model = RegimeHMM.fit(QUICK, train, [], FitContext(seed=1))[0]
    turned = np.array([2, 0, 1])
    model.parameters = model.parameters.reordered(turned)
    model.save(tmp_path)
    again, report = RegimeHMM.fit(QUICK, train, [], FitContext(seed=2, previous=tmp_path))
    assert report.facts["matched_to_previous"]
    np.testing.assert_allclose(again.parameters.states[:, :3], model.parameters.states[:, :3], atol=0.02)


@pytest.mark.parametrize("symbols", [1, 3])
def test_short_session_falls_back_and_says_so(symbols, tmp_path):
    panel = toy_panel(steps=300, symbols=symbols)
    model, report = RegimeHMM.fit(QUICK, [panel], [], FitContext())
    assert report.facts["regimes"] == NO_REGIMES and "observed bars" in report.facts["fallback"] and not model.regimes
    found = model.predict(panel)
    assert found.ready.any()
    np.testing.assert_allclose(found.values[found.ready], 1 / 3, atol=1e-15)
    model.save(tmp_path)
    np.testing.assert_array_equal(RegimeHMM.load(tmp_path).predict(panel).values, found.values)


def test_one_symbol_without_bars_is_scaled_like_the_others():
    panel = market(21, bars=100)
    panel.valid[:, 1] = False
    model, report = RegimeHMM.fit(QUICK, [panel], [], FitContext())
    np.testing.assert_allclose(model.scales[1], (model.scales[0] + model.scales[2]) / 2)
    assert report.n_rows > 0 and not model.predict(panel).ready[:, 1].any()


def test_a_price_that_never_moves_breaks_nothing():
    panel = market(22, bars=80)
    panel.x[:, 0, :] = 100.0
    model, report = RegimeHMM.fit(QUICK, [panel], [], FitContext())
    assert report.status in ("converged", "max_iter")
    assert np.isfinite(model.predict(panel).values).all()


def test_bars_are_anchored_at_the_open_wherever_it_lies():
    """A session that opens at no round second has the same bars as one that does."""
    panel, odd = market(23, bars=20), market(23, bars=20, open_ns=OPEN + 7_000_000_013)
    model = RegimeHMM.fit(QUICK, [market(s, bars=60) for s in range(2)], [], FitContext())[0]
    np.testing.assert_array_equal(model.predict(panel).values, model.predict(odd).values)


def test_refusals_of_fit():
    with pytest.raises(FitError, match="no training session"):
        RegimeHMM.fit(QUICK, [], [], FitContext())
    panel = market(24, bars=4)
    slow = replace(panel, features=replace(panel.features, clock_ns=7 * SECOND))
    with pytest.raises(SettingsError, match="multiple of the clock"):
        RegimeHMM.fit(QUICK, [slow], [], FitContext())
    with pytest.raises(SchemaMismatch, match="other symbols"):
        RegimeHMM.fit(QUICK, [panel, market(24, bars=4, symbols=2)], [], FitContext())


def test_raw_bars_of_a_gap():
    """A step that is missing spoils its bar, and the bar's opening mid being missing spoils the next one."""
    as_of = SECOND * np.arange(1, 121)
    mid, trades, valid = np.full((120, 1), 100.0), np.ones((120, 1)), np.ones((120, 1), bool)
    valid[59] = False
    closing, raw, complete = raw_bars(as_of, mid, trades, valid, 0, SECOND, BAR * SECOND)
    assert closing.tolist() == [29, 59, 89, 119]
    assert complete[:, 0].tolist() == [False, False, False, True]
    assert raw[3, 0].tolist() == [0.0, 0.0, 30.0]


def test_the_model_is_imported_without_hmmlearn():
    import subprocess
    import sys

    code = "import sys, cift_models.models.hmm.emission; print(sorted({'hmmlearn', 'sklearn', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def lobster_day() -> Panel:
    """2012-06-21, AAPL, AMZN, GOOG with the two columns that the model reads; the others are 0."""
    import zipfile

    import polars as pl

    folder = Path(os.environ.get("CIFT_TEST_DATA", "")) / "lobster_20120621"
    if not os.environ.get("CIFT_TEST_DATA") or not folder.is_dir():
        pytest.skip("CIFT_TEST_DATA does not lead to lobster_20120621")
    universe = toy_universe(3)
    features = FeatureSet(levels=universe.levels)
    seconds = np.arange(34_201, 57_601)
    x = np.zeros((len(seconds), 3, len(features.names)))
    mid, n_trades = (int(features.index([name])[0]) for name in ("mid", "n_trades"))
    for s, (symbol, levels) in enumerate((("AAPL", 1), ("AMZN", 5), ("GOOG", 5))):
        with zipfile.ZipFile(folder / f"LOBSTER_SampleFile_{symbol}_2012-06-21_{levels}.zip") as archive:
            names = archive.namelist()
            message, book = (
                pl.read_csv(archive.read(next(n for n in names if what in n)), has_header=False, columns=columns, infer_schema_length=0)
                .cast(pl.Float64)
                .to_numpy()
                for what, columns in (("message", [0, 1]), ("orderbook", [0, 2]))
            )
        at = np.searchsorted(message[:, 0], seconds, "right")
        x[:, s, mid] = (book.sum(axis=1) / 2e4)[at - 1]
        traded = np.concatenate([[0], np.cumsum(message[:, 1] == 4)])
        x[:, s, n_trades] = np.diff(traded[at], prepend=0)
    valid = np.ones(x.shape[:2], bool)
    valid[:59] = False
    opened = OPEN // SECOND * SECOND
    as_of = opened + SECOND * (seconds - 34_200)
    rows = (seconds >= 34_800) & (seconds < 57_000)
    return Panel(
        universe, features, 20120621, opened, int(as_of[-1]), as_of.astype(np.int64), x, valid,
        np.where(valid, Why.OK, Why.WARM_UP).astype(np.int8), Events.empty(0, universe.levels), np.zeros(len(seconds) + 1, np.int64),
        rows=rows,
    )  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("emissions", [("return",), ("return", "log_variance", "log_trade_rate")])
def test_real_day_against_states_without_memory_and_an_ewma(emissions):
    """Fit on the first six blocks of ten, score the returns of the last three. Memory is worth nothing sure here: it is printed."""
    panel = lobster_day()
    config = HMMConfig(emissions=emissions)
    cut = int(np.nonzero(panel.rows)[0][0]) + 13_320
    begun = time.perf_counter()
    model, report = RegimeHMM.fit(config, [panel.until(cut)], [], FitContext())
    seconds = time.perf_counter() - begun
    sequences = sequences_of(panel, BAR * SECOND)
    rows = rows_of(sequences, model.scales)
    print(f"\n{emissions}: {report.status}, {report.n_rows} bars, {seconds:.2f} s")
    print(report.facts)
    for s, symbol in enumerate(("AAPL", "AMZN", "GOOG")):
        own = rows.symbol == s
        # Blocks b0-b5 teach; b6 is left out; b7-b9 are scored.
        later = rows.close_ns[own] > panel.as_of[cut + 2_220]
        scores = compare_held_out(rows.values[own], np.array([own.sum()]), later, model.parameters)
        print(symbol, {k: round(v, 4) for k, v in scores.items()})
        # An emission that is off its scale costs nats; the three rivals lie within .06 of each other on this day.
        assert scores["n"] > 200 and max(scores["hmm"], scores["iid_states"], scores["ewma_t5"]) < -1.1
        assert abs(scores["hmm"] - scores["iid_states"]) < 0.05 and abs(scores["hmm"] - scores["ewma_t5"]) < 0.08
    begun = time.perf_counter()
    found = model.predict(panel)
    print(f"predict of {len(panel)} steps: {time.perf_counter() - begun:.3f} s; dwell {model.parameters.dwell_bars.round(1)}")
    assert report.n_rows == 3 * 444
    assert not model.regimes and report.facts["regimes"] == NO_REGIMES
    np.testing.assert_array_equal(model.predict(panel.until(cut)).values, found.values[:cut])
    np.testing.assert_allclose(found.values[found.ready].sum(axis=-1), 1, atol=1e-12)
    assert seconds < 30
