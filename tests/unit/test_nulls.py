"""Cheap nulls: labels without direction, fitted and judged by the gate's own rule; and that a signal passes the same path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import InputError
from cift_models.evaluation import nulls
from cift_models.features.feature_set import flow_names


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
