"""Labels times random signs: honest models know nothing of them, and one that reads the label is found out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.leak_alarms import leak_alarms
from cift_models.evaluation.rows import touch
from cift_models.evaluation.sign_check import on_random_signs
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND
from cift_models.labels import labels
from cift_models.models.protocol import Panel
from cift_models.splits import TEST, block_calendar
from tests.market import small_market


@cache
def panels() -> dict[int, Panel]:
    market = small_market()
    universe, features = market.universe, FeatureSet(levels=market.universe.levels)
    out = {}
    for k, session in enumerate(market.sessions):
        events = market.stream(k)
        as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
        y, known, end = labels(events, universe, session, as_of, SECOND)
        rows = (known | ~valid).all(axis=1)
        out[session.day] = Panel(
            universe,
            features,
            session.day,
            session.open,
            session.close,
            as_of,
            x,
            valid,
            why,
            events,
            offsets,
            y=y,
            label_end=end,
            rows=rows,
        )
    return out


def test_rows(calendar) -> list[Evaluated]:
    out = []
    for s, symbol in enumerate(small_market().universe.symbols):
        parts = []
        for day in calendar.sessions(TEST):
            panel = panels()[day]
            rows = calendar.mask(day, panel.as_of, TEST) & panel.valid[:, s] & panel.rows
            bid, ask = touch(panel.events, panel.universe, panel.as_of[rows])
            parts.append(
                (
                    panel.as_of[rows],
                    panel.y[rows, s],
                    panel.column("half_spread_bps")[rows, s],
                    panel.column("mid")[rows, s],
                    bid[:, s],
                    ask[:, s],
                )
            )
        as_of, y, half, mid, bid, ask = (np.concatenate(c) for c in zip(*parts, strict=True))
        out.append(Evaluated(symbol, as_of, y, half, mid, {0: bid}, {0: ask}, {}))
    return out


test_rows.__test__ = False


def test_honest_models_stay_silent_and_a_reader_of_labels_rings():
    calendar = block_calendar(small_market().sessions)
    data = test_rows(calendar)
    kinds = ("queue_imbalance", "linear")
    honest = on_random_signs(kinds, data, calendar, panels().__getitem__)
    assert {k for part in honest for k in part.forecasts} == set(kinds)
    assert all(abs(np.mean(np.sign(h.y) == np.sign(d.y)) - 0.5) < 0.3 for h, d in zip(honest, data, strict=True))
    assert leak_alarms(honest, on_random_signs=honest) == []
    leaking = [
        replace(part, forecasts={"linear": replace(part.forecasts["linear"], mean_bps=part.forecasts["linear"].mean_bps + 0.5 * part.y)})
        for part in honest
    ]
    assert any(alarm.kind == "skill_on_random_signs" for alarm in leak_alarms(honest, on_random_signs=leaking))
