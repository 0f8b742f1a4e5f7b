"""What a model is told of those below it is out of fold to the nanosecond, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import LeakError
from cift_models.instruments import SECOND
from cift_models.models.protocol import Panel
from cift_models.splits import BlockCalendar, Learned, Span
from cift_models.stacking import Spoken, free_from, told
from tests.panels import toy_panel

FIRST = 20
"""The first decision row of the calendar; b1 begins with the 25th instant."""


def small() -> tuple[Panel, BlockCalendar]:
    """A session of 80 s, ten blocks of five decision rows."""
    panel = toy_panel(steps=80)
    at = panel.as_of
    spans = [Span(panel.session, int(at[FIRST + 5 * b]), int(at[FIRST + 5 * b + 4])) for b in range(10)]
    return panel, BlockCalendar(SECOND, SECOND, tuple((span,) for span in spans))


def says(panel: Panel, value: float, free: int) -> Spoken:
    return Spoken(np.full((len(panel), len(panel.universe), 1), value), panel.valid.copy(), free)


def test_each_block_hears_its_own_fold_and_rows_that_no_fold_speaks_of_are_marked() -> None:
    panel, calendar = small()
    out = told(panel, calendar, {"linear": {f"k{k}": says(panel, k, calendar.first(k)) for k in (1, 2)}})
    assert out.base_oof is not None
    assert np.flatnonzero(out.base_oof).tolist() == list(range(25, 35))
    assert out.base["linear"][25:35, 0, 0].tolist() == [1.0] * 5 + [2.0] * 5


@pytest.mark.parametrize("late_ns", [0, 1])
@pytest.mark.parametrize(("name", "block"), [("k1", 1), ("k5", 5), ("final", 6)])
def test_a_fit_may_speak_from_the_instant_that_it_is_free_of_and_not_a_nanosecond_before(name: str, block: int, late_ns: int) -> None:
    panel, calendar = small()
    heard = {"linear": {name: says(panel, 1.0, calendar.first(block) + late_ns)}}
    if not late_ns:
        assert told(panel, calendar, heard).base_oof is not None
        return
    with pytest.raises(LeakError, match=rf"linear {name} speaks of {calendar.first(block)} .*\(1 such rows\)") as caught:
        told(panel, calendar, heard)
    assert caught.value.row == FIRST + 5 * block


def test_a_session_without_decision_rows_is_told_nothing_that_could_leak() -> None:
    panel, calendar = small()
    other = replace(panel, session=panel.session + 1)
    assert not told(other, calendar, {"linear": {"k1": says(panel, 1.0, 2**62)}}).base_oof.any()  # type: ignore[union-attr]


def test_a_fit_is_as_late_as_the_latest_that_it_reads_and_the_fixed_recipe_has_no_purge() -> None:
    own = Learned(label=100 * SECOND, row=105 * SECOND)
    assert free_from("linear", own) == 110 * SECOND + 1
    assert free_from("gnn", own, (90 * SECOND, 120 * SECOND)) == 120 * SECOND
    assert free_from("ridge_reference", own) == 105 * SECOND + 1
    assert free_from("ridge_reference", own._replace(row=99 * SECOND)) == 100 * SECOND
