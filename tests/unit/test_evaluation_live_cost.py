"""What a live update takes: one time a model, of the instants at which everything is valid."""

from __future__ import annotations

import time

from cift_models.engine import fold
from cift_models.evaluation.live_cost import live_ms
from tests.releases import pipeline, second_session


def test_every_model_has_a_time_and_a_slow_one_is_seen(monkeypatch):
    made = pipeline()
    session, events = second_session()
    panel = made.panel(session, events).until(200)
    decided = fold(made, panel)
    found = live_ms(made, panel, decided, instants=40)
    assert set(found) == set(made.models) and all(0 < ms < 100 for ms in found.values())
    slow = type(made.models["linear"])
    update = slow.update

    def late(self, state, step):
        time.sleep(0.02)
        return update(self, state, step)

    monkeypatch.setattr(slow, "update", late)
    again = live_ms(made, panel, decided, instants=40)
    assert again["linear"] > 20 and again["linear"] > 5 * found["linear"]


def test_too_few_valid_instants_give_no_time():
    made = pipeline()
    session, events = second_session()
    panel = made.panel(session, events)
    cold = panel.until(int(panel.valid.all(axis=1).argmax()) + 5)
    assert live_ms(made, cold, fold(made, cold)) == {}
