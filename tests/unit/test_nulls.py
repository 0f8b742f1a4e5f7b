"""Cheap nulls: labels without direction, fitted and judged by the gate's own rule; and that a signal passes the same path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import InputError
from cift_models.evaluation import nulls
from cift_models.evaluation.certificate import CheapNulls
from cift_models.evaluation.gate import common_rows, is_better
from cift_models.features.feature_set import flow_names
from tests.evaluated import forecast
from tests.gated import contender, good, rows


@pytest.fixture(scope="module")
def market() -> nulls.Market:
    return nulls.market(3)


def test_a_null_keeps_zeros_and_volatility_and_loses_direction(market):
    panel = market.panel
    signed = nulls.without_direction(panel, "signs", 5)
    assert np.array_equal(np.abs(signed.y), np.abs(panel.y)) and not np.array_equal(signed.y, panel.y)
    other = nulls.without_direction(panel, "other signs", 5)
    assert not np.array_equal(other.y, signed.y)
    flows = panel.x[:, 0, panel.features.index([flow_names(panel.features)[0]])[0]]
    for how in nulls.LABELS:
        made = nulls.without_direction(panel, how, 5)
        assert abs(np.corrcoef(made.y[made.rows, 0], flows[made.rows])[0, 1]) < 0.05
    shifted = nulls.without_direction(panel, "shifted", 5)
    by = nulls.SHORTEST_SHIFT + 5
    assert np.array_equal(shifted.y[by:], panel.y[:-by]) and not (shifted.rows & ~panel.rows).any()
    with pytest.raises(InputError, match="cannot be made"):
        nulls.without_direction(panel, "sideways", 0)
    with pytest.raises(InputError, match="too short"):
        nulls.without_direction(panel.until(1000), "shifted", 0)


def test_nulls_are_held(market):
    for kind, how in (("ridge_reference", "as they are"), ("ridge_reference", "signs"), ("trees", "shifted")):
        card = nulls.judge_null(market, kind, how, 1)
        assert card.verdict == "held" and not nulls.promoted(card) and not card.clauses["better"] and card.clauses["rows"]


def test_what_knows_the_labels_is_promoted_by_the_same_path(market, monkeypatch):
    """A planted answer: without it a judge that holds everything would pass for a good one."""
    panel = market.panel
    rng = np.random.default_rng(0)
    known = panel.x.copy()
    reference, trees = nulls.REFERENCE, "ridge_reference"
    column = panel.features.index(["queue_imbalance"])[0]
    known[:, :, column] = 0.5 * panel.y / panel.y.std() + rng.normal(size=panel.y.shape)
    fitted = nulls._speak

    def speak(shown, calendar, kind, seed):
        return fitted(replace(shown, x=known) if kind == trees else shown, calendar, kind, seed)

    monkeypatch.setattr(nulls, "_speak", speak)
    card = nulls.judge_null(market, trees, "as they are", 1)
    assert reference == "linear" and card.clauses["better"] and card.clauses["worse"] and card.clauses["direction"]


def test_the_same_seed_gives_the_same_cards():
    one, two = ([(what, card.to_bytes()) for what, card in nulls.cheap_nulls(3, first_seed=9)] for _ in range(2))
    assert one == two and len({what for what, _ in one}) == 3


def test_a_skilled_forecast_is_not_better_on_labels_without_direction():
    challenger = good()
    found = nulls.fixed_nulls(challenger, None)
    assert is_better(common_rows(challenger, None)) and found == CheapNulls(n=200, promoted=0)
    assert nulls.fixed_nulls(challenger, None) == found and nulls.fixed_nulls(replace(challenger, rows={}), None).n == 0


def test_a_forecast_that_is_the_drift_of_its_session_is_found_by_labels_of_another_time():
    """It says the session's mean move at every row: better than linear, with skill, and no less so ten minutes off."""

    def drifting(part):
        moves = part.y + 0.5 * part.y.std()
        level = forecast(np.full(len(part), moves.mean()) + 1e-6 * part.y)
        return replace(part, y=moves, forecasts={"linear": part.forecasts["linear"], "best": level})

    made = good()
    challenger = replace(made, rows={symbol: drifting(part) for symbol, part in made.rows.items()})
    assert is_better(common_rows(challenger, None))
    found = nulls.fixed_nulls(challenger, None)
    assert found.promoted == 100 and found.too_many, "every shift, and no sign"


def test_labels_are_shifted_within_their_session_by_ten_minutes_at_least():
    part = good().rows["S0"]
    two = replace(part, y=np.arange(2400.0), session=np.repeat([20240108, 20240109], 1200))
    rolled = nulls._rolled(two, 600)
    assert np.array_equal(np.sort(rolled[:1200]), np.arange(1200.0)) and np.array_equal(rolled[1200:1800], np.arange(1800.0, 2400.0))
    assert np.abs(rolled - two.y).min() == nulls.SHORTEST_SHIFT


def test_a_short_session_is_not_shifted(monkeypatch):
    def refuse(part, by):
        raise AssertionError("shifted")

    monkeypatch.setattr(nulls, "_rolled", refuse)
    short = contender({"S0": rows(0, "S0", count=1200)})
    assert nulls.fixed_nulls(short, None, n=4).n == 4
    with pytest.raises(AssertionError, match="shifted"):
        nulls.fixed_nulls(contender({"S0": rows(0, "S0", count=1201)}), None, n=4)
