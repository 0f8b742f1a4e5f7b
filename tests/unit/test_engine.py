"""The engine: live equals batch whatever the packets, late events are counted and not applied, sessions start anew."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.engine import Decisions, Engine, Pipeline, fold
from cift_models.errors import DataError, InputError
from cift_models.events import BOOK, Events
from cift_models.features import FeatureSet
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models.linear.model import Linear
from cift_models.models.protocol import FitContext
from cift_models.signals import SignalRule
from tests.panels import OPEN, toy_panel, toy_universe

STEPS = 200
SESSION = Session(20231114, OPEN, OPEN + STEPS * SECOND)


def make_events(seed: int) -> Events:
    events = toy_panel(seed, STEPS, 2, rate_hz=3).events
    events.ts[:] = events.ts // 100_000_000 * 100_000_000  # ties, some on the instants themselves
    return events[np.lexsort((events.sequence, events.symbol, events.ts))]


@cache
def make_pipeline() -> Pipeline:
    universe, features = toy_universe(2), FeatureSet(levels=2, warm_up_ns=20 * SECOND)
    unfitted = Pipeline(universe, features, {"none": Linear.__new__(Linear)}, {}, SignalRule(), "none")
    events = make_events(0)
    panel = unfitted.panel(SESSION, events)
    y, known, end = labels(events, universe, SESSION, panel.as_of, SECOND)
    panel = replace(panel, y=y, rows=known.all(axis=1), label_end=end)
    linear, _ = Linear.fit(Linear.Config(), [panel], [], FitContext())
    return Pipeline(universe, features, {"linear": linear}, {}, SignalRule(threshold_bps=-1e9), "linear")


def equal(live: list[Decisions], batch: Decisions, start: int = 0) -> bool:
    return all(
        one.as_of[0] == batch.as_of[start + t]
        and np.array_equal(one.valid[0], batch.valid[start + t])
        and one.values["linear"][0].tobytes() == batch.values["linear"][start + t].tobytes()
        and one.signal[0].tobytes() == batch.signal[start + t].tobytes()
        and one.cost_bps[0].tobytes() == batch.cost_bps[start + t].tobytes()
        for t, one in enumerate(live)
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(1, 50), cuts=st.lists(st.integers(0, 1000), max_size=20))
def test_live_equals_batch_whatever_the_packets(seed, cuts):
    pipeline, events = make_pipeline(), make_events(seed)
    batch = fold(pipeline, pipeline.panel(SESSION, events))
    engine = Engine(pipeline)
    engine.begin(SESSION)
    edges = [0, *sorted(min(c, len(events)) for c in cuts), len(events)]
    live = [d for a, b in zip(edges, edges[1:], strict=False) for d in engine.push(events[a:b])] + engine.finish()
    assert len(live) == STEPS and engine.late == 0
    assert equal(live, batch)
    assert np.abs(batch.signal).sum() > 10 and batch.ready["linear"].sum() > STEPS


def test_a_cost_is_half_the_spread_and_the_fee_of_each_symbol():
    made, events = make_pipeline(), make_events(2)
    universe = Universe(tuple(replace(one, fee_bps=0.3 * (s + 1)) for s, one in enumerate(made.universe.instruments)))
    pipeline = replace(made, universe=universe)
    panel = pipeline.panel(SESSION, events)
    found = fold(pipeline, panel).cost_bps
    expected = np.where(panel.valid, panel.column("half_spread_bps") + np.array([0.3, 0.6]), 0.0)
    assert panel.valid.any(axis=0).all() and not panel.valid.all()
    np.testing.assert_array_equal(found, expected)


def test_an_instant_waits_until_its_own_nanosecond_is_over():
    pipeline = make_pipeline()
    engine = Engine(pipeline)
    engine.begin(SESSION)
    event = Events.empty(1, 2)
    event.ts[:] = OPEN + SECOND
    event.kind[:] = BOOK
    assert engine.push(event) == []
    assert len(engine.advance(OPEN + SECOND + 1)) == 1
    assert engine.advance(OPEN + SECOND + 2) == []


def test_late_events_are_counted_and_change_nothing():
    pipeline, events = make_pipeline(), make_events(3)
    engine = Engine(pipeline)
    engine.begin(SESSION)
    n = len(events) // 2
    live = engine.push(events[:n])
    late = events[n - 40 : n]
    assert len(engine.applied(late)) == 0
    live += engine.push(late)
    assert engine.late == 40
    live += engine.push(events[n:]) + engine.finish()
    assert equal(live, fold(pipeline, pipeline.panel(SESSION, events)))


def test_a_new_session_carries_nothing_over():
    pipeline, first, second = make_pipeline(), make_events(4), make_events(5)
    day = 86_400 * SECOND
    second.ts[:] += day
    tomorrow = Session(20231115, SESSION.open + day, SESSION.close + day)
    engine = Engine(pipeline)
    engine.begin(SESSION)
    engine.push(first)
    engine.begin(tomorrow)
    live = engine.push(second) + engine.finish()
    assert equal(live, fold(pipeline, pipeline.panel(tomorrow, second)))


def test_events_after_the_close_end_the_session_and_begin_none():
    pipeline, events = make_pipeline(), make_events(7)
    engine = Engine(pipeline)
    engine.begin(SESSION)
    live = engine.push(events)
    after = events[:3]
    after.ts[:] = SESSION.close + 60 * SECOND
    live += engine.push(after)
    assert len(live) == STEPS and engine.session == SESSION and engine.push(after) == []


def test_disorder_a_missing_session_and_a_wrong_order_of_models_are_refused():
    pipeline, events = make_pipeline(), make_events(6)
    with pytest.raises(DataError, match="goes back"):
        Engine(pipeline).push(events[::-1])
    with pytest.raises(DataError, match="before a session"):
        Engine(pipeline).advance(1)
    with pytest.raises(InputError, match="not among"):
        replace(pipeline, decides="ensemble")
