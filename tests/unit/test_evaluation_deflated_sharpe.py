"""Luck of the best of many: the formula against simulation and scipy, the size under the null, and the table of trials."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cift_models.errors import DataError
from cift_models.evaluation import backtest
from cift_models.evaluation.deflated_sharpe import deflated_sharpe, expected_max, probabilistic_sharpe
from cift_models.evaluation.trials import Trial, Trials, trial_of, trials_of
from cift_models.signals import SignalRule
from tests.evaluated import honest, market


def trial(net: np.ndarray, name: str = "a", trades: int = 100, data: str = "d") -> Trial:
    return Trial(name, "S0", "c", "k", data, np.arange(len(net)), np.asarray(net, float), np.full(len(net), np.nan), trades)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_the_expected_maximum_is_what_simulation_shows(n):
    seen = np.random.default_rng(n).normal(size=(4000, n)).max(axis=1).mean()
    assert expected_max(n) == pytest.approx(seen, rel=0.05)
    exact = stats.norm.expect(lambda x: x * n * stats.norm.cdf(x) ** (n - 1), lb=-8, ub=8)
    assert expected_max(n) == pytest.approx(exact, rel=0.03)


def test_one_trial_is_deflated_by_nothing():
    net = np.random.default_rng(0).normal(0.3, 1, 300)
    found = deflated_sharpe(trial(net), Trials())
    assert expected_max(1) == found.benchmark == 0 and (found.trials, found.clusters) == (1, 1)
    assert found.value == pytest.approx(probabilistic_sharpe(net, 0.0)) and found.value > 0.99


def test_against_zero_and_without_moments_it_is_the_t_test():
    rng = np.random.default_rng(1)
    half = rng.normal(size=2000)
    net = np.concatenate([half, -half]) + 0.02
    t = stats.ttest_1samp(net, 0, alternative="greater")
    assert probabilistic_sharpe(net, 0.0) == pytest.approx(1 - t.pvalue, abs=2e-3)


def test_fat_left_tails_make_a_sharpe_less_sure():
    rng = np.random.default_rng(2)
    drops = np.where(rng.uniform(size=4000) < 0.02, -6.0, 0.25) + 0.2 * rng.normal(size=4000)
    rises = 2 * drops.mean() - drops
    assert probabilistic_sharpe(drops, 0.0) < probabilistic_sharpe(rises, 0.0)


def test_the_formula_is_that_of_the_paper():
    net = np.random.default_rng(6).standard_t(4, size=60) + 0.9
    z = (net - net.mean()) / net.std()
    sharpe, skewness, fourth = net.mean() / net.std(ddof=1), (z**3).mean(), (z**4).mean()
    assert sharpe > 0.5 and fourth > 3.5
    error = np.sqrt((1 - skewness * sharpe + (fourth - 1) / 4 * sharpe**2) / 59)
    assert probabilistic_sharpe(net, 0.4) == pytest.approx(stats.norm.cdf((sharpe - 0.4) / error), rel=1e-12)


@pytest.mark.parametrize("n", [10, 100])
def test_the_best_of_many_without_skill_is_seldom_called_skill(n):
    """DSR > .95 in at most 1 % (methods.md section 7)."""
    rng = np.random.default_rng(n)
    called = naive = 0
    for _ in range(400):
        net = rng.normal(size=(n, 120))
        sharpe = net.mean(axis=1) / net.std(axis=1, ddof=1)
        best = net[sharpe.argmax()]
        called += probabilistic_sharpe(best, float(sharpe.std(ddof=1)) * expected_max(n)) > 0.95
        naive += probabilistic_sharpe(best, 0.0) > 0.95
    assert called <= 4 < 0.3 * 400 < naive


def test_the_best_of_many_is_deflated_by_the_table():
    rng = np.random.default_rng(5)
    trials = Trials().add(*(trial(rng.normal(size=240), f"t{i}") for i in range(20)))
    best = max(trials.table, key=lambda t: t.sharpe)
    found = deflated_sharpe(best, trials)
    assert (found.trials, found.clusters) == (20, 20)
    assert found.benchmark == pytest.approx(np.std([t.sharpe for t in trials.table], ddof=1) * expected_max(20))
    assert found.value < 0.8 < probabilistic_sharpe(best.net_bps, 0.0)


def test_few_trips_and_a_loss_are_null_with_the_reason():
    net = np.random.default_rng(0).normal(0.5, 1, 300)
    assert "29 round trips" in deflated_sharpe(trial(net, trades=29), Trials()).reason
    lost = deflated_sharpe(trial(-net), Trials())
    assert lost.value is None and "not above 0" in lost.reason and lost.sharpe < 0
    assert deflated_sharpe(trial(np.zeros(300)), Trials()).sharpe is None


def test_trials_in_other_clothes_are_one():
    rng = np.random.default_rng(3)
    ideas = rng.normal(size=(3, 400))
    table = [trial(ideas[i % 3] + 0.5 * rng.normal(size=400), f"t{i}") for i in range(12)]
    trials = Trials().add(*table)
    clusters = trials.clusters()
    assert len(set(clusters.tolist())) == 3 and all(len(set(clusters[k::3].tolist())) == 1 for k in range(3))
    loose = [trial(ideas[0] + 1.5 * rng.normal(size=400), f"u{i}") for i in range(6)]  # correlation .31: under .5
    assert len(set(Trials().add(*loose).clusters().tolist())) == 6


def test_trials_that_never_traded_are_one_and_other_data_do_not_count():
    net = np.random.default_rng(0).normal(0.3, 1, 300)
    trials = Trials().add(trial(np.zeros(300), "x"), trial(np.zeros(300), "y"), trial(net, "z"), trial(net[::-1], "w", data="other day"))
    found = deflated_sharpe(trial(net, "z"), trials)
    assert (found.trials, found.clusters, found.benchmark) == (3, 2, 0.0)


def test_the_table_only_grows():
    rng = np.random.default_rng(4)
    one, two = trial(rng.normal(size=60), "a"), trial(rng.normal(size=60), "b")
    trials = Trials().add(one, two)
    assert trials.add(one) == trials and trials.add(trial(rng.normal(size=60), "c")).table[:2] == trials.table
    with pytest.raises(DataError, match="another outcome"):
        trials.add(trial(rng.normal(size=60), "a"))
    again = Trials.from_rows(trials.rows())
    assert again.rows() == trials.rows() and np.array_equal(again.table[1].net_bps, two.net_bps)


def test_a_trial_is_what_the_backtest_earned_by_the_minute():
    data = honest(0)
    forecast = data.forecasts["linear"]
    trades = backtest.trade(data, forecast.mean_bps, forecast.ready, forecast.rule)
    rows = data.ready(["linear", "ensemble"])
    made = trial_of(data, "linear", trades, rows)
    assert len(made.minute) == 40 and made.trades == int(rows[trades.entry].sum())
    in_first = (data.as_of[trades.entry] // 60_000_000_000 == made.minute[0]) & rows[trades.entry]
    assert made.net_bps[0] == pytest.approx(trades.net_bps[in_first].sum())
    assert made.net_bps.sum() == pytest.approx(trades.net_bps[rows[trades.entry]].sum())
    last = rows & (data.as_of // 60_000_000_000 == made.minute[-1])
    assert made.loss[-1] == pytest.approx(np.mean((data.y - forecast.mean_bps)[last] ** 2))


def test_a_damaged_trial_is_refused():
    with pytest.raises(DataError, match="rising minutes"):
        Trial("a", "S0", "", "", "", np.array([1, 1]), np.zeros(2), np.zeros(2), 0)
    data, _ = market(0, 120)
    trades = backtest.trade(data, np.zeros(120), np.ones(120, bool), SignalRule())
    assert len(trades) == 0


def test_a_run_counts_each_of_its_models_that_traded_as_a_trial():
    from cift_models.evaluation import metrics

    data = [honest(0), honest(1, symbol="S1")]
    own = trials_of(data, {"linear": "c1"}, "k", "d")
    assert {t.symbol for t in own} == {"S0", "S1"} and {t.model for t in own} == {"last_move", "linear", "transformer", "ensemble"}
    assert own[1].key == ("linear", "S0", "c1", "k", "d")
    earlier = Trials().add(*(trial_of(data[0], "linear", *_traded(data[0]), config=f"old{i}", code="k", test_data="d") for i in range(3)))
    built = metrics.build(data, draws=50, own=own, earlier=earlier)
    metrics.validate(built)
    seen = {s: built["economics"][s]["linear"]["deflated_sharpe"] for s in ("S0", "S1")}
    assert seen["S0"]["trials"] == 7 and seen["S1"]["trials"] == 4 and seen["S0"]["value"] is None
    assert seen["S0"]["clusters"] <= 4 and "not above 0" in seen["S0"]["reason"]
    assert metrics.build(data, draws=50)["economics"]["S1"]["linear"]["deflated_sharpe"] == seen["S1"]


def _traded(data):
    forecast = data.forecasts["linear"]
    return backtest.trade(data, forecast.mean_bps, forecast.ready, forecast.rule), data.ready(["linear"])
