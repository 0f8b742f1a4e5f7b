"""Money: what a taker pays, what a patient order saves, and the figures of the real day."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cift_models.evaluation import backtest
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.significance import Blocks
from cift_models.instruments import SECOND
from cift_models.signals import SignalRule
from tests.evaluated import honest, market


def everywhere(data: Evaluated) -> np.ndarray:
    return np.ones(len(data), bool)


def test_a_taker_without_knowledge_loses_the_spread():
    data, _ = market(seed=1, rows=3000)
    noise = np.random.default_rng(0).normal(size=len(data))
    trades = backtest.trade(data, noise, everywhere(data), SignalRule(threshold_bps=-1.0))
    blocks = Blocks([data.as_of])
    net = backtest.net_per_trade(data, trades, blocks)
    assert len(trades) > 100 and net.lo < -2 * 1.5 < net.hi
    assert trades.gross_bps - trades.net_bps == pytest.approx(np.full(len(trades), 3.0), abs=0.02)
    sharpe = backtest.sharpe_net(data, trades, blocks)
    assert sharpe.value == pytest.approx(trades.net_bps.mean() / trades.net_bps.std()) and sharpe.hi < 0


def test_fees_are_paid_twice():
    data, x = market(seed=1)
    rule = SignalRule(threshold_bps=-1.4)
    free = backtest.trade(data, 0.06 * x, everywhere(data), rule)
    dear = backtest.trade(replace(data, fee_bps=0.5), 0.06 * x, everywhere(data), SignalRule(threshold_bps=-1.9))
    assert np.array_equal(free.entry, dear.entry) and dear.net_bps == pytest.approx(free.net_bps - 1.0)


def test_the_delay_fills_at_the_later_touch():
    data, x = market(seed=2)
    now, late = (backtest.trade(data, 0.06 * x, everywhere(data), SignalRule(threshold_bps=-1.4), d) for d in (0, 100_000_000))
    assert np.array_equal(now.entry, late.entry)
    first = now.entry[0], now.exit[0]
    paid, got = (data.ask, data.bid) if now.side[0] > 0 else (data.bid, data.ask)
    mid = (data.bid[100_000_000][first[0]] + data.ask[100_000_000][first[0]]) / 2
    expected = 1e4 * now.side[0] * (got[100_000_000][first[1]] - paid[100_000_000][first[0]]) / mid
    assert late.net_bps[0] == pytest.approx(expected)


def test_drift_is_taken_out():
    """Always long on a day that only drifts: all of the P&L before costs is drift."""
    data, _ = market(seed=0, rows=2000)
    mid = 100 * np.exp(1e-6 * np.arange(2000))
    data = replace(data, mid=mid, bid={0: mid}, ask={0: mid}, half_spread_bps=np.zeros(2000))
    mean = np.where(np.arange(2000) % 20 < 10, 1.0, -0.1)
    trades = backtest.trade(data, np.where(mean > 0, mean, mean), everywhere(data), SignalRule(threshold_bps=0.5))
    assert len(trades) == 100 and (trades.side == 1).all()
    assert trades.net_bps.mean() == pytest.approx(0.1, rel=1e-3)
    net = backtest.net_per_trade(data, trades, Blocks([data.as_of]), without_drift=True)
    assert net.value == pytest.approx(0.0, abs=1e-4)


def test_drift_is_a_matter_of_its_session():
    data, _ = market(seed=0, rows=200)
    mid = 100 * np.exp(1e-5 * np.where(np.arange(200) < 100, np.arange(200), 50))
    data = replace(data, mid=mid, bid={0: mid}, ask={0: mid}, session=np.where(np.arange(200) < 100, 1, 2))
    trades = backtest.trade(data, np.full(200, 5.0), everywhere(data), SignalRule(threshold_bps=0.5))
    assert trades.drift_bps == pytest.approx([9.9, 0.0], abs=1e-6)


def test_a_session_ends_flat_and_the_next_starts_flat():
    data, _ = market(seed=0, rows=200)
    data = replace(data, session=np.where(np.arange(200) < 100, 1, 2))
    trades = backtest.trade(data, np.full(200, 5.0), everywhere(data), SignalRule(threshold_bps=0.5))
    assert trades.entry.tolist() == [0, 100] and trades.exit.tolist() == [99, 199]


def test_few_trips_have_no_sharpe_and_none_no_mean():
    data, _ = market(seed=0, rows=2000)
    blocks = Blocks([data.as_of])
    none = backtest.trade(data, np.zeros(2000), everywhere(data), SignalRule(threshold_bps=0.5))
    assert backtest.net_per_trade(data, none, blocks).value is None
    few = backtest.trade(data, np.full(2000, 5.0), everywhere(data), SignalRule(threshold_bps=0.5))
    assert len(few) == 1 and "30 are needed" in backtest.sharpe_net(data, few, blocks).reason


def slow_timing(data: Evaluated, mean: np.ndarray, delay: int) -> list[float]:
    """One parent order at a time."""
    savings = []
    bid, ask = data.bid[delay], data.ask[delay]
    for start in range(0, len(data) - 9, 10):
        window = range(start, start + 10)
        bought = next((ask[k] for k in window if mean[k] >= 0), ask[start + 9])
        sold = next((bid[k] for k in window if mean[k] <= 0), bid[start + 9])
        saved = sum(ask[k] for k in window) / 10 - bought + sold - sum(bid[k] for k in window) / 10
        savings.append(1e4 * saved / 2 / data.mid[start])
    return savings


def test_timing_is_what_one_order_at_a_time_would_save():
    data, x = market(seed=3, rows=605)
    timing = backtest.execution_timing(data, x, everywhere(data))
    assert timing.saving_bps == pytest.approx(slow_timing(data, x, 100_000_000))
    assert 0 < timing.waited.mean() < 9


def test_knowledge_saves_and_noise_does_not():
    data, x = market(seed=4, rows=6000, b=0.6)
    blocks = Blocks([data.as_of])
    known = backtest.timing_value(data, x, everywhere(data), blocks, 0)
    blind = backtest.timing_value(data, np.random.default_rng(0).normal(size=6000), everywhere(data), blocks, 0)
    assert known.lo > 0 and blind.lo < 0 < blind.hi
    null = backtest.shifted_null(data, x, everywhere(data), 0)
    assert len(null) == 9 and max(null) < known.value


def test_windows_stop_at_gaps_sessions_and_missing_touches():
    data, x = market(seed=5, rows=100)
    step = np.where(np.arange(100) < 35, 0, 7 * SECOND)
    ask = {d: a.copy() for d, a in data.ask.items()}
    ask[100_000_000][70] = np.nan
    data = replace(data, as_of=data.as_of + step, ask=ask, session=np.where(np.arange(100) < 52, 1, 2))
    assert backtest.execution_timing(data, x, everywhere(data)).row.tolist() == [0, 10, 20, 35, 52, 71, 81]


def test_nobody_waits_for_a_model_that_is_not_ready():
    data, x = market(seed=6, rows=100)
    timing = backtest.execution_timing(data, x, np.zeros(100, bool))
    assert (timing.waited == 0).all()


def test_what_cannot_be_known_says_why():
    data = honest(rows=300)
    mean = data.forecasts["linear"].mean_bps
    blocks = Blocks([data.as_of])
    assert "not given" in backtest.timing_value(data, mean, everywhere(data), blocks, 5).reason
    assert backtest.shifted_null(data, mean, everywhere(data), 5) == []


def ridge_reference(path: Path, levels: int):
    """Appendix A's recipe, to its forecasts: (second of the day, forecast, y, mid, touch at each delay)."""
    from sklearn.linear_model import RidgeCV

    z = zipfile.ZipFile(path)

    def table(k):
        return np.loadtxt(z.open(next(q for q in z.namelist() if k in q)), delimiter=",")

    M, O = table("message"), table("orderbook")  # noqa: E741
    t, K = M[:, 0], min(levels, 5)
    e = np.zeros((len(t), K))
    for level in range(K):
        a, qa, b, qb = O[:, 4 * level : 4 * level + 4].T
        e[1:, level] = (b[1:] >= b[:-1]) * qb[1:] - (b[1:] <= b[:-1]) * qb[:-1] - (a[1:] <= a[:-1]) * qa[1:] + (a[1:] >= a[:-1]) * qa[:-1]
    C = np.vstack([np.zeros(K), e.cumsum(0)])
    V = np.r_[0, np.where(M[:, 1] == 4, -M[:, 5] * M[:, 3], 0).cumsum()]
    mid, g = (O[:, 0] + O[:, 2]) / 2e4, np.arange(34800, 57001.0)

    def k(x):
        return np.searchsorted(t, x, "right")

    i = k(g) - 1
    m, sp, q = mid[i], (O[i, 0] - O[i, 2]) / 1e4, (O[i, 3] - O[i, 1]) / (O[i, 3] + O[i, 1])
    F = [q, q * sp, sp, np.r_[0, np.diff(m)], m - mid[k(g - 5) - 1], m - mid[k(g - 30) - 1]]
    for h in (0.1, 0.5, 1, 3, 10, 30):
        F += [*(C[k(g)] - C[k(g - h)]).T, V[k(g)] - V[k(g - h)], np.log1p(k(g) - k(g - h))]
    X, y = np.column_stack([*F, g - t[i]]), 1e4 * (mid[k(g + 1) - 1] - m) / m
    a, b = int(0.6 * len(g)), int(0.7 * len(g))
    Z = np.clip((X - X[:a].mean(0)) / (X[:a].std(0) + 1e-9), -5, 5)
    test = slice(b, len(g) - 1)
    forecast = RidgeCV(np.logspace(0, 5, 11)).fit(Z[:a], y[:a]).predict(Z[test])
    touch = {d: (O[k(g[test] + d / 1e9) - 1, 2] / 1e4, O[k(g[test] + d / 1e9) - 1, 0] / 1e4) for d in (0, 100_000_000)}
    return g[test], forecast, y[test], m[test], touch


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("symbol", "levels", "value", "error"), [("AAPL", 1, 0.088, 0.020), ("AMZN", 5, 0.225, 0.038), ("GOOG", 5, 0.105, 0.025)]
)
def test_timing_value_of_ridge_reference_on_the_real_day(symbol, levels, value, error):
    root = os.environ.get("CIFT_TEST_DATA")
    path = Path(root or ".") / "lobster_20120621" / f"LOBSTER_SampleFile_{symbol}_2012-06-21_{levels}.zip"
    if root is None or not path.exists():
        pytest.skip("CIFT_TEST_DATA does not name a folder with the LOBSTER samples")
    seconds, forecast, y, mid, touch = ridge_reference(path, levels)
    data = Evaluated(
        symbol=symbol,
        as_of=(seconds * SECOND).astype(np.int64),
        y=y,
        half_spread_bps=1e4 * (touch[0][1] - touch[0][0]) / 2 / mid,
        mid=mid,
        bid={d: t[0] for d, t in touch.items()},
        ask={d: t[1] for d, t in touch.items()},
        forecasts={},
    )
    blocks = Blocks([data.as_of])
    assert len(data) == 6660 and len(blocks) == 111
    estimate = backtest.timing_value(data, forecast, everywhere(data), blocks)
    assert estimate.value == pytest.approx(value, abs=0.0005)
    assert (estimate.hi - estimate.lo) / (2 * 1.98) == pytest.approx(error, rel=0.1)
    null = backtest.shifted_null(data, forecast, everywhere(data))
    assert len(null) == 10 and max(null) < estimate.value


def test_the_size_at_the_touch_is_of_the_side_that_is_taken():
    data, x = market(0, 600)
    data = replace(data, bid_lots=np.full(600, 3.0), ask_lots=np.full(600, 7.0))
    ready = np.ones(600, bool)
    buys = np.where(np.arange(600) % 2 == 0, 3.0, 0.5)
    rule = SignalRule(threshold_bps=0.0, exit_bps=1.0)
    found = backtest.touch_size(data, buys, ready, rule)
    # Long when 3 bps are expected, out a second later: as many buys at the ask as sells at the bid.
    assert found["signal"] == {"fires": 600, "mean_lots": 5.0, "median_lots": 5.0}
    always_up = backtest.touch_size(data, np.full(600, 5.0), ready, SignalRule())
    assert always_up["signal"] == {"fires": 1, "mean_lots": 7.0, "median_lots": 7.0}
    assert always_up["timing"] == {"fires": 120, "mean_lots": 5.0, "median_lots": 5.0} and always_up["always"]["fires"] == 1200
    assert "not given" in backtest.touch_size(market(0, 60)[0], x[:60], ready[:60], rule)["timing"]["reason"]
    assert "no threshold" in backtest.touch_size(data, buys, ready, None)["signal"]["reason"]


def test_a_patient_order_takes_the_size_of_its_own_second():
    data, _ = market(0, 600)
    lots = np.arange(600.0) + 1
    data = replace(data, bid_lots=lots, ask_lots=lots + 10_000)
    mean = np.where(np.arange(600) % 10 < 4, -1.0, 1.0)
    timing = backtest.execution_timing(data, mean, np.ones(600, bool))
    assert (timing.buy % 10 == 4).all() and (timing.sell % 10 == 0).all()
    found = backtest.touch_size(data, mean, np.ones(600, bool), None)["timing"]
    expected = np.concatenate([lots[timing.buy] + 10_000, lots[timing.sell]])
    assert found["mean_lots"] == pytest.approx(expected.mean()) and found["median_lots"] == pytest.approx(np.median(expected))
