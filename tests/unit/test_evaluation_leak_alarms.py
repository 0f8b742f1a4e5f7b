"""Each leak is planted and rings; the honest run is silent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models import scores
from cift_models.evaluation.leak_alarms import leak_alarms, random_signs, with_random_signs
from cift_models.instruments import SECOND
from tests.evaluated import OPEN, forecast, honest, market, with_forecasts


def kinds(alarms) -> set[tuple[str, str]]:
    return {(a.kind, a.model) for a in alarms}


def test_honest_models_are_silent():
    """Ten runs of three symbols with a better ensemble: the family's size is 1 %, so all of them are silent but for bad luck."""
    ringing = [a.text for seed in range(0, 30, 3) for a in leak_alarms([honest(seed + s, symbol=f"S{s}") for s in range(3)])]
    assert ringing == []


def test_nobody_rings_where_nothing_can_be_known():
    assert [leak_alarms([honest(seed, b=0.0)]) for seed in range(20)] == [[]] * 20


def test_a_label_in_the_features_rings():
    data = honest(rows=3600)
    leaking = data.forecasts["linear"].mean_bps + 0.05 * np.sign(data.y)
    alarms = leak_alarms([with_forecasts(data, {**data.forecasts, "trees": forecast(leaking)})])
    assert kinds(alarms) == {("hit_excess", "trees")}
    assert "hits" in alarms[0].text and "linear" in alarms[0].text


def test_a_label_seen_by_a_perfect_model_rings():
    data = honest(rows=3600)
    alarms = leak_alarms([with_forecasts(data, {**data.forecasts, "trees": forecast(data.y)})])
    assert ("hit_excess", "trees") in kinds(alarms)


def test_features_ahead_of_their_time_ring():
    data = honest(rows=3600)
    ahead = data.forecasts["linear"].mean_bps + 0.3 * data.y_delay[SECOND]
    alarms = leak_alarms([with_forecasts(data, {**data.forecasts, "gnn": forecast(ahead)})])
    assert kinds(alarms) == {("rises_with_delay", "gnn")}
    assert "1000 ms" in alarms[0].text


def test_a_bad_model_that_gets_less_bad_with_delay_is_no_leak():
    data = honest(rows=3600, b=0.8)
    wrong = forecast(-2 * data.forecasts["linear"].mean_bps)
    now, late = (scores.r2(y, wrong.mean_bps) for y in (data.y, data.y_delay[SECOND]))
    assert now < late - 0.2 < 0
    assert leak_alarms([with_forecasts(data, {"last_move": wrong})]) == []


def test_an_honest_model_beside_a_linear_one_that_is_upside_down_is_silent():
    data = honest(rows=3600, b=0.8)
    wrong = forecast(-data.forecasts["linear"].mean_bps)
    blind = forecast(np.random.default_rng(77).normal(size=3600))
    assert scores.hit_rate(data.y, wrong.mean_bps) < 0.4
    assert leak_alarms([with_forecasts(data, {"linear": wrong, "last_move": blind})]) == []


def fitted(data, x: np.ndarray):
    """Ridge of the labels on x over the first half, judged on the second."""
    half = len(x) // 2
    weights = np.linalg.solve(x[:half].T @ x[:half] + 10 * np.eye(x.shape[1]), x[:half].T @ data.y[:half])
    rows = slice(half, None)
    cut = replace(
        data,
        **{name: getattr(data, name)[rows] for name in ("as_of", "y", "half_spread_bps", "mid", "session")},
        **{name: {d: v[rows] for d, v in getattr(data, name).items()} for name in ("bid", "ask", "y_delay")},
    )
    return with_forecasts(cut, {"linear": forecast(x[rows] @ weights)})


def test_skill_on_random_signs_rings_only_for_features_that_hold_the_label():
    data, x = market(seed=8, rows=7200, b=0.3)
    signed = with_random_signs(data, seed=1)
    noise = np.random.default_rng(2).normal(size=(7200, 2))
    honest_features = np.column_stack([x, noise])
    assert fitted(data, honest_features).forecasts["linear"].mean_bps.std() > 0.05
    assert leak_alarms([], on_random_signs=[fitted(signed, honest_features)]) == []
    leaking = np.column_stack([honest_features, signed.y + 3 * noise[:, 0]])
    alarms = leak_alarms([], on_random_signs=[fitted(signed, leaking)])
    assert kinds(alarms) == {("skill_on_random_signs", "linear")}


def test_random_signs_are_fair_and_belong_to_the_second():
    as_of = OPEN + SECOND * np.arange(40_000)
    signs = random_signs(as_of, seed=0)
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 4 / 200 and abs(np.mean(signs[1:] * signs[:-1])) < 4 / 200
    assert np.array_equal(random_signs(as_of[::7] + 5, seed=0), signs[::7])
    assert abs(np.mean(signs * random_signs(as_of, seed=1))) < 4 / 200


def test_signs_keep_zeros_and_sizes():
    data, _ = market(seed=9)
    signed = with_random_signs(data, seed=3)
    assert np.array_equal(np.abs(signed.y), np.abs(data.y)) and not np.array_equal(signed.y, data.y)


@pytest.mark.parametrize("rows", [30, 300])
def test_short_runs_do_not_ring_or_crash(rows):
    assert leak_alarms([honest(rows=rows)]) == []
    data = honest(rows=rows)
    assert leak_alarms([with_forecasts(data, {"trees": data.forecasts["linear"]})]) == []
