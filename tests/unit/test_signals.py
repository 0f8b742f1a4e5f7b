"""The signal rule: one kernel for a step and for a fold, and a threshold chosen on what it was given."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from cift_models.errors import InputError
from cift_models.signals import FEWEST_TRADES, Signal, SignalRule, choose_threshold, round_trips, signals


def one(rule: SignalRule, means, cost: float = 0.0, ready=None) -> list[int]:
    mean = np.array(means, float)[:, None]
    ready = np.ones(mean.shape, bool) if ready is None else np.array(ready)[:, None]
    return signals(rule, mean, np.full(mean.shape, cost), ready)[:, 0].tolist()


def slow(rule: SignalRule, mean, cost, ready) -> np.ndarray:
    """The rule in words, one symbol and one row at a time."""
    out = np.zeros(mean.shape, np.int8)
    for s in range(mean.shape[1]):
        position, threshold = 0, rule.thresholds(mean.shape[1])[s]
        for t in range(len(mean)):
            if not ready[t, s] or not np.isfinite(mean[t, s]):
                continue
            side = int(np.sign(mean[t, s]))
            favour = abs(mean[t, s])
            wants = favour - cost[t, s] > threshold and favour > rule.exit_bps and side * position < rule.cap
            against = position != 0 and mean[t, s] * np.sign(position) < rule.exit_bps
            order = side if wants else -int(np.sign(position)) if against else 0
            out[t, s] = order
            position += order
    return out


@pytest.mark.parametrize("rule", [SignalRule(threshold_bps=0.5, exit_bps=0.1), SignalRule(threshold_bps=(0.1, 0.4, 0.9), cap=3)])
def test_fold_equals_live_steps_and_the_rule_in_words(rule):
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(3000, 3))
    cost = rng.uniform(0, 0.5, size=mean.shape)
    ready = rng.uniform(size=mean.shape) > 0.1
    mean[rng.uniform(size=mean.shape) > 0.98] = np.nan
    batch = signals(rule, mean, cost, ready)
    state, live = rule.start(3), np.zeros_like(batch)
    for t in range(len(mean)):
        state, live[t] = rule.decide(state, mean[t], cost[t], ready[t])
    assert live.tobytes() == batch.tobytes()
    assert batch.tobytes() == slow(rule, mean, cost, ready).tobytes()
    assert np.abs(np.cumsum(batch, axis=0)).max() == rule.cap
    assert (batch[~ready] == Signal.HOLD).all()


def test_hysteresis_holds_between_exit_and_entry():
    rule = SignalRule(threshold_bps=1.0, exit_bps=0.2)
    assert one(rule, [0.9, 1.1, 0.9, 0.3, 0.1, 0.9, -1.1, -0.3, 0.0]) == [0, 1, 0, 0, -1, 0, -1, 0, 1]


def test_cost_is_charged_on_entry_only():
    assert one(SignalRule(threshold_bps=1.0), [1.5, 2.5, 1.5, -0.1], cost=1.0) == [0, 1, 0, -1]


def test_not_ready_holds_and_remembers():
    assert one(SignalRule(threshold_bps=1.0), [2, -2, -2], ready=[True, False, True]) == [1, 0, -1]
    assert one(SignalRule(threshold_bps=1.0), [float("nan"), float("inf"), 2]) == [0, 0, 1]


def test_a_negative_threshold_never_orders_both_sides():
    assert one(SignalRule(threshold_bps=-1.0, exit_bps=-1.0), [0.0, -0.1, 0.1, 0.0]) == [0, -1, 1, 0]


def test_a_rule_refuses_nonsense():
    for bad in ({"threshold_bps": float("nan")}, {"threshold_bps": (0.1, float("inf"))}, {"cap": 0}, {"hysteresis": 1}):
        with pytest.raises(ValidationError):
            SignalRule(**bad)
    with pytest.raises(InputError, match="2 thresholds"):
        SignalRule(threshold_bps=(0.1, 0.2)).decide(np.zeros(3, np.int64), np.zeros(3), np.zeros(3), np.ones(3, bool))


def test_a_rule_survives_json():
    rule = SignalRule(threshold_bps=(0.1, -0.25), exit_bps=0.05, cap=2)
    assert SignalRule.model_validate_json(rule.model_dump_json()) == rule


def test_round_trips_pay_the_spread_and_match_first_in_first_out():
    bid = np.array([99.0, 100.0, 101.0, 102.0, 101.0])
    ask = bid + 1
    trips = round_trips(np.array([1, 1, 0, -1, 0], np.int8), bid, ask, fee_bps=2.0)
    assert trips.entry.tolist() == [0, 1] and trips.exit.tolist() == [3, 4] and trips.side.tolist() == [1, 1]
    assert trips.net_bps == pytest.approx([1e4 * (102 - 100) / 99.5 - 4, 1e4 * (101 - 101) / 100.5 - 4])
    assert trips.gross_bps == pytest.approx([1e4 * 3 / 99.5, 1e4 * 1 / 100.5])


def test_a_short_trip_is_the_mirror():
    trips = round_trips(np.array([-1, 0, 1], np.int8), np.array([99.0, 98.0, 97.0]), np.array([100.0, 99.0, 98.0]))
    assert trips.net_bps == pytest.approx([1e4 * (99 - 98) / 99.5]) and trips.side.tolist() == [-1]


def test_an_order_without_a_market_is_dropped():
    bid, ask = np.array([np.nan, 99.0, 0.0]), np.array([100.0, 100.0, 101.0])
    assert len(round_trips(np.array([1, 0, -1], np.int8), bid, ask)) == 0
    trips = round_trips(np.array([0, 1, 0], np.int8), bid, ask)
    assert trips.exit.tolist() == [1] and trips.net_bps[0] < 0


def planted(edge_bps: float, half_bps: float, rows: int = 4000):
    """A forecast that is right: the mid moves by it in the next second; one row in twenty is large."""
    rng = np.random.default_rng(2)
    mean = rng.normal(size=rows) * np.where(rng.uniform(size=rows) < 0.05, edge_bps, 0.05)
    mid = 100 * np.exp(np.cumsum(np.append(0, (mean + 0.1 * rng.normal(size=rows))[:-1])) * 1e-4)
    return mean, np.full(rows, half_bps), np.ones(rows, bool), mid * (1 - half_bps * 1e-4), mid * (1 + half_bps * 1e-4)


def test_a_profitable_threshold_is_found():
    choice = choose_threshold(*planted(edge_bps=8.0, half_bps=0.5))
    assert choice.profitable and choice.net_bps > 0 and choice.n_trades >= FEWEST_TRADES
    assert choice.threshold_bps in [t for t, _, _ in choice.tried]
    best = max(n * net for _, n, net in choice.tried if n >= FEWEST_TRADES)
    assert choice.n_trades * choice.net_bps == pytest.approx(best)


def test_without_profit_it_trades_seldom_and_says_so():
    choice = choose_threshold(*planted(edge_bps=0.3, half_bps=2.0))
    assert not choice.profitable and choice.net_bps < 0
    assert 0 < choice.n_trades <= 4000 // 1000 + 1
    assert "no threshold was profitable" in choice.why and "expected loss" in choice.why


def test_no_ready_row_gives_a_threshold_all_the_same():
    mean, cost, ready, bid, ask = planted(1.0, 1.0, rows=50)
    choice = choose_threshold(mean, cost, ~ready, bid, ask)
    assert choice.threshold_bps == 0.0 and choice.n_trades == 0 and "no validation row" in choice.why


def test_a_choice_does_not_trade_across_sessions():
    mean, cost, ready, bid, ask = planted(edge_bps=8.0, half_bps=0.5, rows=2000)
    jump = np.where(np.arange(2000) < 1000, 1.0, 2.0)
    session = np.where(np.arange(2000) < 1000, 1, 2)
    whole = choose_threshold(mean, cost, ready, bid, ask, session=session)
    moved = choose_threshold(mean, cost, ready, bid * jump, ask * jump, session=session)
    assert whole.net_bps == pytest.approx(moved.net_bps)
