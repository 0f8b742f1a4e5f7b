"""Windows, snapshots and event times: by index, causal, and the panel's own memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import InputError
from cift_models.events import HIDDEN, TRADE
from cift_models.features import stream
from cift_models.features.tensors import EventTimes, Snapshots, Windows
from tests.event_streams import OPEN, stream_of


def panel(seed: int, steps: int = 30, symbols: int = 2, features: int = 3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, symbols, features)), rng.uniform(size=(steps, symbols)) < 0.8


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, 40))
def test_a_window_is_the_valid_rows_up_to_its_end(seed, length):
    x, valid = panel(seed)
    windows = Windows.of(x, valid, length)
    wanted = [(t, s) for t in range(length - 1, 30) for s in range(2) if valid[t - length + 1 : t + 1, s].all()]
    assert [tuple(end) for end in windows.ends.tolist()] == wanted
    if wanted:
        taken = windows.take(np.arange(len(windows)))
        for n, (t, s) in enumerate(wanted):
            assert np.array_equal(taken[n], x[t - length + 1 : t + 1, s].astype(np.float32))
            assert np.array_equal(windows.view[t - length + 1, s].T, x[t - length + 1 : t + 1, s])


def test_windows_are_views_and_take_chosen_rows_and_columns():
    x, valid = panel(1)
    rows = np.arange(30) % 5 == 0
    windows = Windows.of(x, valid, 4, rows)
    assert np.shares_memory(windows.view, x) and windows.x is x and (windows.ends[:, 0] % 5 == 0).all() and len(windows)
    columns = np.array([2, 0])
    one = windows.take(np.array([0]), columns)
    t, s = windows.ends[0]
    assert one.shape == (1, 4, 2) and np.array_equal(one[0], x[t - 3 : t + 1, s][:, columns].astype(np.float32))
    x[t + 1 :] += 1  # the future
    assert np.array_equal(windows.take(np.array([0]), columns), one)
    assert len(Windows.of(x[:3], valid[:3], 4)) == 0 and len(Windows.of(x[:3], valid[:3], 4).take(np.empty(0, np.int64))) == 0
    with pytest.raises(InputError):
        Windows.of(x, valid, 0)


def test_snapshots_leave_out_the_edges_of_the_absent():
    x, valid = panel(2, symbols=3)
    edges = np.array([[0, 0, 1, 2], [1, 2, 2, 0]])
    snapshots = Snapshots(x, valid, edges)
    for t in range(len(snapshots)):
        nodes, alive, between = snapshots[t]
        assert np.shares_memory(nodes, x) and np.array_equal(nodes, x[t])
        kept = [(a, b) for a, b in edges.T.tolist() if alive[a] and alive[b]]
        assert [tuple(e) for e in between.T.tolist()] == kept


def test_event_times_are_the_signed_visible_trades():
    universe, features, session, events = stream_of(3, interruptions=0)
    times = EventTimes.of(events, 1, session.open)
    wanted = [
        i
        for i in range(len(events))
        if events.symbol[i] == 1 and events.kind[i] & TRADE and not events.kind[i] & HIDDEN and events.side[i] and events.ts[i] >= OPEN
    ]
    assert times.place.tolist() == wanted
    assert times.t_s == pytest.approx([(int(events.ts[i]) - OPEN) / 1e9 for i in wanted], abs=1e-12)
    assert times.mark.tolist() == [0 if events.side[i] > 0 else 1 for i in wanted]
    late = events.ts + np.int64(5)
    gap = (late[times.place] - events.ts[times.place]) * 1e-9
    assert (gap == 5e-9).all()


def test_windows_of_a_built_session_never_hold_a_row_that_is_not_valid():
    universe, features, session, events = stream_of(4)
    _, _, x, valid, _ = stream.build(universe, features, session, events)
    windows = Windows.of(x, valid, 8)
    assert len(windows)
    for t, s in windows.ends.tolist():
        assert valid[t - 7 : t + 1, s].all()
