"""The same fits at other moments of the second: nothing changes at offset 0, and a model that lives on the round second is found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from cift_models import scores
from cift_models.engine import Pipeline, fold
from cift_models.errors import InputError
from cift_models.evaluation.offsets import OFFSETS_NS, by_offset, shifted
from cift_models.instruments import SECOND
from cift_models.labels import labels
from cift_models.models.protocol import Outputs
from cift_models.signals import SignalRule
from cift_models.splits import TEST, block_calendar
from tests.market import small_market
from tests.releases import pipeline, second_session

OFFSETS = (0, 300_000_000, 700_000_000)


@cache
def stored():
    session, events = second_session()
    made = pipeline()
    return session, made.panel(session, events), block_calendar([session])


class KnowsTheRoundSecond:
    """Says nothing of the second, but of its own moment: a tenth of the coming move on the round second, noise elsewhere."""

    needs, outputs = (), ("mean_bps",)

    def __init__(self, always: bool) -> None:
        self.always = always

    def predict(self, panel) -> Outputs:
        session = next(s for s in small_market().sessions if s.day == panel.session)
        y, _, _ = labels(panel.events, panel.universe, session, panel.as_of, SECOND)
        rng = np.random.default_rng(int(panel.as_of[0] % SECOND) + panel.session)
        noise = rng.permutation(y)
        on = self.always or panel.as_of[0] % SECOND == 0
        return Outputs((0.3 * (y if on else noise) + 0.1 * rng.normal(size=y.shape))[:, :, None], panel.valid.copy())


def with_model(model) -> Pipeline:
    return Pipeline(pipeline().universe, pipeline().features, {"linear": model}, {}, SignalRule(), "linear")


def test_at_offset_0_it_is_the_stored_panel_to_the_bit():
    session, panel, _ = stored()
    same = shifted(panel, session, 0)
    assert np.array_equal(same.x, panel.x) and np.array_equal(same.valid, panel.valid) and np.array_equal(same.as_of, panel.as_of)


def test_a_moved_instant_knows_what_has_happened_until_then_and_no_more():
    session, panel, _ = stored()
    moved = shifted(panel, session, 300_000_000)
    assert moved.as_of[-1] <= session.close and len(moved) == len(panel) - 1
    for t in (100, 700):
        seen = panel.events.ts <= moved.as_of[t]
        assert moved.offsets[t + 1] == seen.sum()
    assert not np.array_equal(moved.x[100], panel.x[100])
    later = panel.events.ts > moved.as_of[700]
    cut = replace(panel, events=panel.events[~later])
    assert np.array_equal(shifted(cut, session, 300_000_000).x[:701], moved.x[:701])


def test_the_round_second_is_the_figure_that_the_judge_gives():
    session, panel, calendar = stored()
    made = with_model(pipeline().models["linear"])
    found = by_offset(made, [(session, panel)], calendar, ("linear",), OFFSETS)
    said = fold(made, panel)
    y, known, _ = labels(panel.events, panel.universe, session, panel.as_of, SECOND)
    for s, symbol in enumerate(small_market().universe.symbols):
        rows = calendar.mask(panel.session, panel.as_of, TEST) & panel.valid[:, s] & known[:, s] & said.ready["linear"][:, s]
        row = found[symbol]["linear"]["offsets"][0]
        assert row["offset_ms"] == 0 and row["rows"] == int(rows.sum())
        assert row["value"] == pytest.approx(scores.r2(y[rows, s], said.mean_bps(made, "linear")[rows, s]))
        assert [r["offset_ms"] for r in found[symbol]["linear"]["offsets"]] == [0, 300, 700]


@pytest.mark.parametrize(("always", "text"), [(False, "better on the round second"), (True, "does not live on the round second")])
def test_a_model_that_lives_on_the_round_second_is_found(always, text):
    market = small_market()
    sessions = [(session, pipeline().panel(session, market.stream(k))) for k, session in enumerate(market.sessions)]
    calendar = block_calendar(market.sessions)
    found = by_offset(with_model(KnowsTheRoundSecond(always)), sessions, calendar, ("linear",), OFFSETS, blocks=range(10))
    for by_kind in found.values():
        assert by_kind["linear"]["text"].startswith(text)
        gain = by_kind["linear"]["round_second"]
        assert (gain["lo"] > 0.3) if not always else (gain["lo"] < 0 < gain["hi"] < 0.1)


def test_the_default_is_ten_tenths_and_nonsense_is_refused():
    assert len(OFFSETS_NS) == 10 and OFFSETS_NS[0] == 0 and OFFSETS_NS[-1] == 900_000_000
    session, panel, calendar = stored()
    with pytest.raises(InputError, match="0 first"):
        by_offset(pipeline(), [(session, panel)], calendar, ("linear",), (100,))
    with pytest.raises(InputError, match="hmm has no forecast"):
        by_offset(pipeline(), [(session, panel)], calendar, ("hmm",), OFFSETS)
