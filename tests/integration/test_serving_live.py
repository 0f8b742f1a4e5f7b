"""The live state without sockets: packets, sessions, swaps and restarts change no bit of what is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.engine import Decisions, Engine, Pipeline, fold
from cift_models.errors import DataError, InputError, StoreUnavailable
from cift_models.events import Events
from cift_models.instruments import SECOND, Session
from cift_models.stores.online import MemoryOnline, Row
from serving import wire
from serving.journal import Journal
from serving.live import HELD, STRIDE, CatchUp, Live, Speaker, predict
from serving.mirror import Mirror
from serving.wire import Message, Standing, differences
from tests.panels import toy_universe
from tests.releases import pipeline, second_session
from tests.unit.test_engine import make_pipeline

SHORT = 240
"""Seconds of the session that these tests use."""


def old() -> Pipeline:
    return pipeline(("linear", "hawkes"))


def new() -> Pipeline:
    return pipeline(("queue_imbalance", "linear", "hawkes", "hmm"), "queue_imbalance", 0.0, 7)


@cache
def part() -> tuple[Session, Events]:
    session, events = second_session()
    cut = Session(session.day, session.open, session.open + SHORT * SECOND)
    return cut, events[events.ts <= cut.close]


@cache
def batch(which: str) -> Decisions:
    made = {"old": old, "new": new}[which]()
    return fold(made, made.panel(*part()))


def speaker(which: str) -> Speaker:
    made = {"old": old, "new": new}[which]()
    return Speaker(made, Standing(which, held=False, max_train_t1=0, sequence=1 if which == "old" else 2))


def opened(path: Path, which: str = "old") -> Live:
    return Live(speaker(which), Journal(path, old().universe))


def take(live: Live, **what: object) -> tuple[list[dict], dict]:
    """Decisions and acknowledgement of one message."""
    said = [orjson.loads(raw) for some in live.take(Message(1, **what)) for raw in some]  # type: ignore[arg-type]
    return said[:-1], said[-1]


def unequal(said: Iterable[dict]) -> list[str]:
    """What differs from the batch result of whichever release speaks."""
    bad = []
    for one in said:
        which = one["release"]
        t = int(np.searchsorted(batch(which).as_of, one["as_of"]))
        bad += differences({"old": old, "new": new}[which](), one, batch(which), t)[1]
    return bad


def times(said: Iterable[dict]) -> list[int]:
    return [one["as_of"] for one in said]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 4000), max_size=8), swap_at=st.integers(0, 8), restart_at=st.integers(0, 8))
def test_packets_a_swap_and_a_restart_anywhere_change_no_bit(tmp_path_factory, cuts, swap_at, restart_at):
    path = tmp_path_factory.mktemp("live") / "j.bin"
    session, events = part()
    live = opened(path)
    said, _ = take(live, session=session)
    edges = [0, *sorted(c % (len(events) + 1) for c in cuts), len(events)]
    swapped: int | None = None
    for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False)):
        if i == swap_at:
            following = CatchUp(live, speaker("new"))
            following.go()
            assert live.swap(following)
            swapped = len(said)
        if i == restart_at:
            live.journal.close()
            live = opened(path, "old" if swapped is None else "new")
        said += take(live, events=events[a:b])[0]
    said += take(live, advance=session.close + 1)[0]
    live.journal.close()
    assert times(said) == batch("old").as_of.tolist() and unequal(said) == []
    assert [one["release"] for one in said] == ["old"] * (SHORT if swapped is None else swapped) + ["new"] * (SHORT - len(said[:swapped]))


def test_a_swap_between_two_steps_of_one_message(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    take(live, session=session)
    said: list[dict] = []
    following = CatchUp(live, speaker("new"))
    following.go()
    for i, some in enumerate(live.take(Message(1, events=events))):
        said += [orjson.loads(raw) for raw in some]
        if i == 3:
            assert following.behind > 0 and live.swap(following)
    said = [one for one in said if "ack" not in one] + take(live, advance=session.close + 1)[0]
    names = [one["release"] for one in said]
    assert names == sorted(names, reverse=True) and set(names) == {"old", "new"}  # old, then new
    assert times(said) == batch("old").as_of.tolist() and unequal(said) == []
    assert max(names.count("old"), STRIDE) <= 4 * STRIDE + 1


def test_a_catch_up_in_a_thread_while_messages_are_taken(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    said, _ = take(live, session=session)
    half = len(events) // 2
    said += take(live, events=events[:half])[0]
    following = CatchUp(live, speaker("new"))
    thread = threading.Thread(target=lambda: [following.go() for _ in range(5)])
    thread.start()
    for at in range(half, len(events), 50):
        said += take(live, events=events[at : at + 50])[0]
        if not thread.is_alive() and live.speaker is not following.speaker:
            assert live.swap(following)
    thread.join()
    if live.speaker is not following.speaker:
        assert live.swap(following)
    said += take(live, advance=session.close + 1)[0]
    assert times(said) == batch("old").as_of.tolist() and unequal(said) == [] and said[-1]["release"] == "new"


def test_a_session_that_begins_during_a_catch_up_makes_it_start_over(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    take(live, session=session)
    following = CatchUp(live, speaker("new"))
    following.go()
    take(live, session=session, fresh=True)
    assert not live.swap(following) and live.speaker.standing.release == "old"
    take(live, events=events[:500])
    again = CatchUp(live, speaker("new"))
    again.go()
    assert live.swap(again)
    said, _ = take(live, events=events[500:])
    assert said and {one["release"] for one in said} == {"new"} and unequal(said) == []


def test_a_release_of_another_universe_is_refused(tmp_path):
    live = opened(tmp_path / "j.bin")
    with pytest.raises(InputError, match="otherwise"):
        CatchUp(live, Speaker(make_pipeline(), Standing("x", False, 0)))


def test_late_and_repeated_events_are_counted_and_change_nothing(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    said, _ = take(live, session=session)
    some, ack = take(live, events=events[:1000])
    said += some
    assert (ack["applied"], ack["late"]) == (1000, 0)
    some, ack = take(live, events=events[700:1500])
    said += some
    assert (ack["applied"], ack["late"]) == (500, 300) and live.late == 300
    assert ack["watermark"] == int(events.ts[1499])
    said += take(live, events=events[1500:])[0] + take(live, advance=session.close + 1)[0]
    assert times(said) == batch("old").as_of.tolist() and unequal(said) == []


def test_a_client_that_comes_back_hears_what_it_missed(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    take(live, session=session)
    heard, _ = take(live, events=events[:2000])
    live.journal.close()
    live = opened(tmp_path / "j.bin")
    again, ack = take(live, session=session, after=heard[-11]["as_of"])
    assert again == heard[-10:] and ack["watermark"] == int(events.ts[1999])
    assert take(live, session=session)[0] == []
    assert take(live, session=session, after=0)[0] == heard[-HELD:]
    assert live.latest["AAA"]["as_of"] == heard[-1]["as_of"]


def test_fresh_begins_anew_and_an_old_name_does_not(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    take(live, session=session)
    first, _ = take(live, events=events)
    assert take(live, session=session)[1]["watermark"] == int(events.ts[-1])
    assert take(live, session=session, fresh=True)[1]["watermark"] == 0
    assert take(live, session=session, after=0)[0] == []
    second, _ = take(live, events=events)
    assert first == second and len(first) > SHORT - 5


def test_events_between_sessions_are_left_out_and_the_next_session_begins(tmp_path):
    """Regular sessions of the calendar `simulated`: 09:00 to 12:00 UTC."""
    session, events = part()
    live = opened(tmp_path / "j.bin")
    said, _ = take(live, events=events[:200])
    regular = live.engine.session
    assert regular is not None and regular.day == session.day and regular.open == session.open and len(said) > 3
    after_hours = moved(events[:5], regular.close + SECOND - int(events.ts[0]))
    day = 86_400 * SECOND
    tomorrow = moved(events[:300], day)
    joined = Events(*(np.concatenate([getattr(a, n) for a in (after_hours, tomorrow)]) for n in Events.__slots__))
    said, ack = take(live, events=joined)
    assert (ack["applied"], ack["late"]) == (300, 5)
    assert live.engine.session is not None and live.engine.session.open == session.open + day
    decided_today = [one for one in said if one["as_of"] <= regular.close]
    assert decided_today[-1]["as_of"] == regular.close  # the session that is over was decided to its end
    made = old()
    panel = made.panel(live.engine.session, tomorrow)
    again = fold(made, panel)
    late = [one for one in said if one["as_of"] > regular.close]
    assert len(late) > 3 and all(differences(made, one, again, t)[1] == [] for t, one in enumerate(late))
    ack = take(live, events=moved(events[:5], 0))[1]
    assert (ack["applied"], ack["late"]) == (0, 5)


def test_events_after_the_close_begin_nothing(tmp_path):
    """Whether the session was named (and is shorter than the regular one) or none has begun yet."""
    session, events = part()
    live = opened(tmp_path / "j.bin")
    regular_close = session.open + 3 * 3600 * SECOND
    assert take(live, events=moved(events[:9], regular_close + SECOND - int(events.ts[0])))[1]["late"] == 9
    assert live.engine.session is None
    take(live, session=session)
    said = take(live, events=events)[0]
    some, ack = take(live, events=moved(events[:9], session.close + SECOND - int(events.ts[0])))
    assert (some, ack["applied"], ack["late"]) == ([], 0, 9) and live.engine.session == session
    said += take(live, advance=session.close + 1)[0]
    assert times(said) == batch("old").as_of.tolist() and unequal(said) == []


def moved(events: Events, ns: int) -> Events:
    out = events[np.arange(len(events))]
    out.ts[:] += ns
    return out


def test_a_long_silence_is_walked_through_in_strides(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    take(live, session=session)
    steps = [len(some) for some in live.take(Message(1, events=events[-1:]))]
    assert max(steps) <= STRIDE and sum(steps) - 1 >= SHORT - 2
    live.journal.close()
    assert opened(tmp_path / "j.bin").engine.watermark == int(events.ts[-1])


def test_time_before_a_session_is_refused_and_leaves_no_trace(tmp_path):
    live = opened(tmp_path / "j.bin")
    with pytest.raises(DataError, match="before a session"):
        take(live, advance=5)
    assert list(live.journal.entries()) == [] and live.engine.watermark == 0
    take(live, session=part()[0])
    assert take(live, advance=5)[1]["watermark"] == 5
    assert take(live, advance=4)[1]["watermark"] == 5


def test_a_heartbeat_outlives_a_restart(tmp_path):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    said = take(live, session=session)[0] + take(live, events=events[:1000])[0]
    told = int(events.ts[999]) + 12 * SECOND
    said += take(live, advance=told)[0]
    live.journal.close()
    live = opened(tmp_path / "j.bin")
    assert live.engine.watermark == told and live.engine.decided == len(said)
    late = int((events.ts[1000:] < told).sum())
    assert late > 10 and take(live, events=events[1000:])[1]["late"] == late
    kept = np.r_[np.ones(1000, bool), events.ts[1000:] >= told]
    assert [e for _, e in live.journal.entries() if isinstance(e, int)][-1] == told and live.events == int(kept[1000:].sum())


def test_a_model_that_fails_stops_everything_that_would_follow(tmp_path, monkeypatch):
    session, events = part()
    live = opened(tmp_path / "j.bin")
    take(live, session=session)
    monkeypatch.setattr(Engine, "_decide", lambda self, as_of, events: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(live, events=events)
    monkeypatch.undo()
    with pytest.raises(DataError, match="broken since a model failed: division by zero"):
        take(live, events=events)


def test_predict_says_the_batch_rows_and_the_future_changes_none():
    session, events = part()
    spoken = speaker("new")
    until = session.open + 100 * SECOND
    said = predict(spoken, session, events, until, 5)
    assert times(said) == batch("new").as_of[95:100].tolist() and unequal(said) == []
    early = events[events.ts <= until]
    assert predict(spoken, session, early, until, 5) == said
    assert len(predict(spoken, session, events, session.close, 600)) == SHORT
    for wrong in (session.open, session.close + 1):
        with pytest.raises(InputError, match="outside the session"):
            predict(spoken, session, events, wrong, 1)


def test_the_mirror_keeps_the_latest_row_of_each_symbol(tmp_path):
    session, events = part()
    live, store = opened(tmp_path / "j.bin"), MemoryOnline()
    mirror = Mirror(store)
    take(live, session=session)
    for at in range(0, len(events), 400):
        take(live, events=events[at : at + 400])
        mirror.offer(live.latest, 1)
    mirror.close()
    for symbol in ("AAA", "BBB", "CCC"):
        row = store.get(symbol)
        assert row is not None and orjson.loads(row.payload) == live.latest[symbol] and row.time == live.latest[symbol]["as_of"]
    assert mirror.failed == 0 and mirror.written + mirror.replaced >= 3


def test_an_older_row_never_replaces_a_newer_one():
    store = MemoryOnline()
    for sequence, as_of, stored in ((2, 50, True), (2, 40, False), (1, 60, False), (2, 50, True), (3, 10, True)):
        mirror = Mirror(store)
        mirror.offer({"AAA": {"as_of": as_of, "sequence": sequence}}, sequence)
        mirror.close()
        assert (mirror.written, mirror.refused) == ((1, 0) if stored else (0, 1))
    row = store.get("AAA")
    assert row is not None and (row.sequence, row.time) == (3, 10)


class Flaky(MemoryOnline):
    """Fails the first `times` round trips, and blocks each for `wait_s`."""

    def __init__(self, times: int, error: Exception, wait_s: float = 0.0) -> None:
        super().__init__()
        self.times, self.error, self.wait_s = times, error, wait_s

    def put_many(self, rows: Mapping[str, Row]) -> dict[str, bool]:
        time.sleep(self.wait_s)
        if self.times > 0:
            self.times -= 1
            raise self.error
        return super().put_many(rows)


@pytest.mark.parametrize("error", [StoreUnavailable("gone", hint="wait"), OSError("a driver's own")])
def test_a_store_that_fails_or_hangs_never_stops_the_stream_and_gets_the_last_row_later(tmp_path, error):
    session, events = part()
    live, store = opened(tmp_path / "j.bin"), Flaky(4, error, wait_s=0.02)
    mirror = Mirror(store, retry_s=0.01)
    take(live, session=session)
    offered = 0.0
    said: list[dict] = []
    for at in range(0, len(events), 200):
        said += take(live, events=events[at : at + 200])[0]
        began = time.perf_counter()
        mirror.offer(live.latest, 1)
        offered = max(offered, time.perf_counter() - began)
    assert unequal(said) == [] and len(said) > SHORT - 5
    until = time.monotonic() + 20
    while time.monotonic() < until and (mirror.failed < 4 or any(store.get(s) is None for s in live.latest)):
        time.sleep(0.01)
    mirror.close()
    assert mirror.failed == 4
    for symbol, row in live.latest.items():
        stored = store.get(symbol)
        assert stored is not None and orjson.loads(stored.payload) == row


def test_a_failed_row_gives_way_to_a_newer_one_that_waits():
    store = Flaky(1, StoreUnavailable("gone", hint="wait"), wait_s=0.1)
    mirror = Mirror(store, retry_s=0.01)
    mirror.offer({"AAA": {"as_of": 1}}, 1)
    time.sleep(0.03)
    mirror.offer({"AAA": {"as_of": 2}}, 1)
    mirror.close()
    row = store.get("AAA")
    assert row is not None and row.time == 2 and mirror.failed == 1 and mirror.written == 1


def test_the_wire_of_another_universe_does_not_fit():
    with pytest.raises(InputError, match="unknown symbol"):
        wire.read_events(wire.write_events(part()[1][:1], old().universe), toy_universe(2))
