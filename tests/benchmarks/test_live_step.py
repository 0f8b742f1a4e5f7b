"""What one decision instant costs live, model by model, beside the same session in batch: ratios of one run (`make bench`)."""

from __future__ import annotations

import statistics
import time

import pytest

from cift_models.engine import Engine, fold
from cift_models.features import stream
from cift_models.models.protocol import Step
from tests.releases import pipeline, second_session

pytestmark = pytest.mark.benchmark

INSTANTS = 600


def test_live_against_batch(capsys):
    made = pipeline()
    session, events = second_session()
    panel = made.panel(session, events).until(INSTANTS)
    fold(made, panel)  # compile
    engine = Engine(made)
    engine.begin(session)
    engine.push(events[: int(panel.offsets[60])])

    began = time.perf_counter()
    batch = fold(made, panel)
    batch_us = 1e6 * (time.perf_counter() - began) / INSTANTS
    live = []
    for t in range(60, INSTANTS):
        part = events[int(panel.offsets[t]) : int(panel.offsets[t + 1])]
        began = time.perf_counter()
        decided = [*engine.push(part), *engine.advance(int(panel.as_of[t]) + 1)]
        live.append(1e6 * (time.perf_counter() - began))
        assert len(decided) <= 2
    rows = [("whole instant, live", statistics.median(live)), ("whole instant, batch", batch_us)]

    state = stream.start(made.universe, made.features, session)
    spent = []
    for t in range(INSTANTS):
        part = events[int(panel.offsets[t]) : int(panel.offsets[t + 1])]
        offsets = panel.offsets[t : t + 2] - panel.offsets[t]
        began = time.perf_counter()
        stream.fold(state, made.universe, made.features, part, offsets, panel.as_of[t : t + 1])
        spent.append(1e6 * (time.perf_counter() - began))
    rows.append(("features, live", statistics.median(spent)))
    for kind, model in made.models.items():
        memory = model.start()
        spent = []
        for t in range(INSTANTS):
            at = panel.step(t)
            base = {k: batch.values[k][t] for k in model.needs}
            ready = {k: batch.ready[k][t] for k in model.needs}
            at = Step(at.as_of, at.session, at.x, at.valid, at.why, at.events, base, ready)
            began = time.perf_counter()
            memory, _ = model.update(memory, at)
            spent.append(1e6 * (time.perf_counter() - began))
        rows.append((f"{kind}, live", statistics.median(spent)))
    with capsys.disabled():
        print()
        for name, us in rows:
            print(f"{name:24} {us:10.1f} us   {us / rows[0][1]:6.1%} of an instant")
    assert all(us > 0 for _, us in rows)
