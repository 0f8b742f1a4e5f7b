"""Feature families against slow, obvious implementations; split, push, restore, threads: the same bits; nothing crosses a halt or a gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import DataError, FitError, InputError, SchemaMismatch, StoreError
from cift_models.events import BOOK, GAP, HALT, RESUME, TRADE, Events, merge
from cift_models.features import FeatureSet, flow_names, memory, stream
from cift_models.features.families import FAMILIES
from cift_models.features.integrated_ofi import IntegratedOFI
from cift_models.features.memory import Memory
from cift_models.features.stream import FeatureState
from cift_models.instruments import DAY, SECOND, Instrument, Session, Universe
from tests.event_streams import OPEN, stream_of
from tests.feature_oracle import slow_row

STEPS = 60


def columns(features: FeatureSet, x):
    return {name: x[..., i] for i, name in enumerate(features.names)}


@pytest.mark.parametrize(("seed", "interruptions"), [(0, 0), (1, 0), (2, 2), (3, 3), (4, 1)])
def test_every_column_agrees_with_its_definition(seed, interruptions):
    universe, features, session, events = stream_of(seed, symbols=3, interruptions=interruptions)
    as_of, _, x, valid, why = stream.build(universe, features, session, events)
    assert valid.any() and np.isfinite(x).all()
    for t in (0, 1, 7, 23, 31, 32, 47, 59):
        for s in range(3):
            want, reason = slow_row(universe, features, session, events, int(as_of[t]), s)
            assert set(want) == set(features.names)
            assert why[t, s] == reason
            if reason in (2, 3, 4):
                continue
            for name, value in want.items():
                found = x[t, s, features.index([name])[0]]
                assert found == pytest.approx(value, rel=1e-9, abs=1e-9), (name, t, s)


def test_flows_are_exact_integers():
    universe, features, session, events = stream_of(3)
    _, _, x, _, _ = stream.build(universe, features, session, events)
    lots = np.array([i.lot_scale for i in universe.instruments])[:, None]
    flows = x[:, :, features.index(flow_names(features))] * lots
    assert np.abs(flows - np.rint(flows)).max() < 1e-9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, STEPS), max_size=6), rate=st.sampled_from([0.5, 8.0, 80.0]))
def test_any_split_of_the_stream_gives_the_same_bits(seed, cuts, rate):
    universe, features, session, events = stream_of(seed, rate_hz=rate)
    as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
    state = stream.start(universe, features, session)
    edges = [0, *sorted(cuts), STEPS]
    for a, b in zip(edges, edges[1:], strict=False):
        part = events[int(offsets[a]) : int(offsets[b])]
        got = stream.fold(state, universe, features, part, offsets[a : b + 1] - offsets[a], as_of[a:b])
        assert got[0].tobytes() == x[a:b].tobytes()
        assert np.array_equal(got[1], valid[a:b]) and np.array_equal(got[2], why[a:b])
        state = FeatureState.from_bytes(universe, features, state.to_bytes())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([0.5, 8.0, 80.0]))
def test_pushed_one_by_one_gives_the_same_bits(seed, rate):
    universe, features, session, events = stream_of(seed, rate_hz=rate)
    as_of, offsets, x, _, why = stream.build(universe, features, session, events)
    book = np.stack([events.bid_px.astype(np.int64), events.bid_sz, events.ask_px.astype(np.int64), events.ask_sz], axis=1)
    state = stream.start(universe, features, session)
    for t in range(STEPS):
        for i in range(int(offsets[t]), int(offsets[t + 1])):
            state.push(
                int(events.ts[i]), int(events.symbol[i]), int(events.kind[i]), int(events.side[i]), int(events.trade_px[i]),
                int(events.trade_sz[i]), book[i],
            )  # fmt: skip
        row, reason = state.row(int(as_of[t]))
        assert row.tobytes() == x[t].tobytes() and np.array_equal(reason, why[t])


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_give_the_same_bits(threads):
    universe, features, session, events = stream_of(5, symbols=5, rate_hz=40)
    one = stream.build(universe, features, session, events)
    many = stream.build(universe, features, session, events, threads=threads)
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True)) and one[2].tobytes() == many[2].tobytes()


def test_a_copy_of_the_state_goes_its_own_way():
    universe, features, session, events = stream_of(6)
    as_of, offsets, x, _, _ = stream.build(universe, features, session, events)
    state = stream.start(universe, features, session)
    stream.fold(state, universe, features, events, offsets[:31], as_of[:30])
    fork = state.copy()
    stream.fold(fork, universe, features, events[:0], np.zeros(2, np.int64), as_of[30:31])
    rest = stream.fold(state, universe, features, events, offsets[30:], as_of[30:])
    assert rest[0].tobytes() == x[30:].tobytes()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, STEPS - 1))
def test_the_future_changes_nothing_before_it(seed, cut):
    universe, features, session, events = stream_of(seed)
    _, offsets, x, _, _ = stream.build(universe, features, session, events)
    n = int(offsets[cut])
    events.bid_sz[n:] += 7
    events.side[n:] *= -1
    events.ask_px[n:] -= 3
    _, _, noisy, _, _ = stream.build(universe, features, session, events)
    assert noisy[:cut].tobytes() == x[:cut].tobytes()
    if n < len(events) and int(offsets[-1]) > n + 50:
        assert noisy.tobytes() != x.tobytes()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(2, 40), gap=st.booleans())
def test_behind_an_interruption_a_symbol_is_as_new(seed, at, gap):
    """What came before a halt or a gap is forgotten: the rows behind it are those of a session that begins there."""
    universe, features, session, events = stream_of(seed, symbols=1, interruptions=0)
    ts = session.open + at * SECOND
    place = int(np.searchsorted(events.ts, ts, "right"))
    if not 0 < place < len(events):
        return
    told = Events.empty(2, events.levels)
    told.ts[:] = ts
    told.kind[:] = HALT | (GAP if gap else 0), RESUME | BOOK
    told.sequence[:] = 10_000_000, 10_000_001
    for name in ("bid_px", "bid_sz", "ask_px", "ask_sz"):
        getattr(told, name)[1] = getattr(events, name)[place - 1]
    head, tail = events[:place], events[place:]
    joined = Events(*(np.concatenate([getattr(p, f) for p in (head, told, tail)]) for f in Events.__slots__))
    as_of, _, x, _, why = stream.build(universe, features, session, joined)
    later = Session(session.day, ts, session.close)
    new = Events(*(np.concatenate([getattr(p, f) for p in (told, tail)]) for f in Events.__slots__))
    _, _, fresh, _, fresh_why = stream.build(universe, features, later, new)
    keep = [i for i, name in enumerate(features.names) if name != "session_share"]
    after = as_of > ts
    # The instant at the interruption itself took a mid: volatility and activity know one more.
    row_families = [i for i in keep if not features.names[i].startswith(("realised", "bipower", "activity", "z_"))]
    assert np.array_equal(x[after][:, :, row_families], fresh[:, :, row_families])
    assert np.array_equal(why[after], fresh_why)


def test_halts_gaps_absent_books_and_warm_up_say_why():
    universe, features, session, events = stream_of(7, interruptions=0)
    events = events[events.symbol == 0]
    events.bid_sz[:, 0], events.ask_sz[:, 0] = 100, 100
    events.kind[:] |= BOOK
    events.kind[100], events.kind[150] = HALT, RESUME
    events.kind[250], events.kind[300] = HALT | GAP, RESUME
    events.kind[251:300] = TRADE
    events.trade_px[251:300], events.trade_sz[251:300] = 10_000, 100
    events.ts[301:] += 3 * SECOND
    as_of, _, x, valid, why = stream.build(universe, features, session, events)
    assert (why[:, 1] == 4).all() and not valid[:, 1].any() and (x[:, 1, features.index(["mid"])] == 0).all()
    ts = events.ts
    halted = (as_of >= ts[100]) & (as_of < ts[150])
    gap = (as_of >= ts[250]) & (as_of < ts[300])
    unknown = (as_of >= ts[300]) & (as_of < ts[301])  # resumed, and no book has been told since
    warming = (as_of >= ts[301]) & (as_of < ts[300] + features.warm_up_ns)
    assert halted.any() and gap.any() and warming.any() and unknown.any()
    assert (why[halted, 0] == 3).all() and (why[gap, 0] == 2).all() and (why[unknown, 0] == 4).all() and (why[warming, 0] == 1).all()
    assert valid[-1, 0] and np.isfinite(x).all()


def test_integers_stay_exact_over_a_million_updates():
    """No drift: the sums of squares of a z-score and of the gaps come back to those of their window."""
    universe, features, session, events = stream_of(8, symbols=1, rate_hz=40, interruptions=0)
    as_of, offsets, _, _, _ = stream.build(universe, features, session, events)
    state = stream.start(universe, features, session)
    long = Session(session.day, session.open, session.close + 400 * (session.close - session.open))
    state = stream.start(universe, features, long)
    span = session.close - session.open
    for lap in range(400):
        shifted = replace(events, ts=events.ts + lap * span)
        stream.fold(state, universe, features, shifted, offsets, as_of + lap * span)
    m = state.memory.symbols[0]
    kept = state.memory.flows[0]
    assert int(m["pushed"]) > 800_000
    for c in range(2):
        assert int(m["z_sum"][c]) == int(kept[:, c].sum()) and int(m["z_squares"][c]) == int((kept[:, c] ** 2).sum())
    for what in range(2):
        assert int(m["gap_sum"][what]) == int(m["gaps"][what].sum()) and int(m["gap_squares"][what]) == int((m["gaps"][what] ** 2).sum())
    n = int(m["n_bins"])
    assert int(m["profile_lots"]) == int(state.memory.bins[0, :n, 1].sum())


def test_a_ring_that_is_overwritten_between_two_instants_loses_nothing(monkeypatch):
    """A burst, and a second one thirty seconds later within one second: the first leaves the longest window while the second comes in."""
    universe, features, session, quiet = stream_of(11, symbols=1, rate_hz=0.2, interruptions=0)
    bursts = []
    for k, at in enumerate((10_500_000_000, 40_900_000_000)):
        _, _, _, burst = stream_of(12 + k, symbols=1, rate_hz=15, interruptions=0)
        begin = np.int64(OPEN + at)
        bursts.append(replace(burst, ts=begin + (burst.ts - burst.ts[0]) // 1000, sequence=burst.sequence + 100_000 * (k + 1)))
    merged = merge([quiet, *bursts], quiet.levels)
    assert 700 < len(bursts[0]) < 1000 and 700 < len(bursts[1]) < 1000
    small = stream.build(universe, features, session, merged)[2]
    monkeypatch.setattr(memory, "FIRST_EVENTS", 16_384)
    assert stream.build(universe, features, session, merged)[2].tobytes() == small.tobytes()


def test_integers_hold_for_ten_btc_in_satoshi():
    """Ten coins at 1e-8 a lot, in every event: squares of a thousand such rows leave int64 where nobody looks."""
    universe = Universe((Instrument("BTC", 100, 1, 100_000_000, "coins", 0.0, "always", 1),))
    features = FeatureSet(levels=1, z_steps=60, warm_up_ns=0)
    n = 600
    events = Events.empty(n, 1)
    events.ts[:] = OPEN + np.arange(1, n + 1) * SECOND // 4
    events.sequence[:] = np.arange(n)
    events.kind[:] = BOOK | TRADE
    events.side[:] = np.where(np.arange(n) % 3, 1, -1)
    events.trade_px[:], events.trade_sz[:] = 6_100_000, 10 * 10**8
    events.bid_px[:, 0], events.ask_px[:, 0] = 6_100_000 + np.arange(n) % 2, 6_100_001 + np.arange(n) % 2
    events.bid_sz[:], events.ask_sz[:] = 25 * 10**8, 35 * 10**8
    session = Session(20231114, OPEN, OPEN + 150 * SECOND)
    _, _, x, _, _ = stream.build(universe, features, session, events)
    by = columns(features, x[:, 0])
    assert (by["volume"] == 40).all() and by["bar_vwap"] == pytest.approx(61_000)
    assert np.isfinite(x).all() and np.abs(by["z_ofi_00"]).max() < 60


@pytest.mark.parametrize(
    "made",
    [{"z_steps": 1}, {"z_steps": 3000}, {"windows_ns": tuple(range(1, 40))}],
    ids=["one row", "not exact", "too many windows"],
)
def test_sets_that_cannot_be_computed_exactly_are_refused(made):
    universe, features, session, _ = stream_of(9)
    with pytest.raises(InputError):
        stream.start(universe, replace(features, **made), session)


def test_other_levels_and_another_version_of_memory_are_refused():
    universe, features, session, events = stream_of(9)
    with pytest.raises(DataError, match="levels"):
        stream.build(universe, FeatureSet(levels=4), session, events)
    arrays = stream.start(universe, features, session).memory
    other = arrays._replace(symbols=arrays.symbols[["open", "span_ns"]].copy())
    with pytest.raises(StoreError, match="another version"):
        Memory.from_bytes(other.to_bytes())


def test_a_feature_set_is_a_value():
    a = FeatureSet(levels=3)
    assert a == FeatureSet(levels=3) and a.schema_hash == FeatureSet(levels=3).schema_hash
    others = [FeatureSet(levels=2), replace(a, z_steps=61), replace(a, tick_bar=50), replace(a, windows_ns=(SECOND,))]
    assert len({a.schema_hash, *(o.schema_hash for o in others)}) == 5
    assert FeatureSet.from_json(a.as_json()) == a
    with pytest.raises(SchemaMismatch):
        FeatureSet.from_json(a.as_json() | {"names": [*a.names[:-1], "other"]})
    assert len(set(a.names)) == len(a.names) == sum(len(f.names(a)) for f in FAMILIES)


def test_every_family_writes_all_of_its_columns_and_no_other():
    """A family that is missing from the kernel, or writes beside its place, is found: x is filled with a mark first."""
    universe, features, session, events = stream_of(10)
    as_of, offsets, want, _, _ = stream.build(universe, features, session, events)
    x = np.full(want.shape, -12345.5)
    state = stream.start(universe, features, session)
    stream._fold_into(state, events, offsets, as_of, 0, x, np.empty(x.shape[:2], np.int8))
    assert x.tobytes() == want.tobytes() and not (x == -12345.5).any()
    assert all(family.__doc__ and len(family.__doc__) > 60 for family in FAMILIES)


def test_a_venue_that_never_closes_has_shares_of_a_day():
    universe = Universe((Instrument("BTC", 100, 1, 1000, "coins", 0.0, "always", 3),))
    features = FeatureSet(levels=3)
    short, long = Session(20231114, OPEN, OPEN + 30 * SECOND), Session(20231114, OPEN, OPEN + DAY)
    shares = [stream.start(universe, features, session).row(OPEN + 5 * SECOND)[0][0, -1] for session in (short, long)]
    assert shares[0] == shares[1] == 5 * SECOND / DAY


def test_integrated_flow_is_the_first_component_of_the_past():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 100, 4000)
    levels = np.stack([common + rng.normal(0, s, 4000) for s in (30, 40, 50)], axis=1)
    made = IntegratedOFI.fit(levels)
    assert np.abs(made.weights).sum() == pytest.approx(1) and (made.weights > 0).all() and made.explained > 0.8
    u = np.linalg.svd(levels - levels.mean(0), full_matrices=False)[2][0]
    assert made.weights == pytest.approx(np.abs(u) / np.abs(u).sum(), rel=1e-6)
    whole = made.apply(levels)
    assert whole == pytest.approx(levels @ made.weights)
    assert all(made.apply(levels[i]).tobytes() == whole[i].tobytes() for i in range(50))
    assert np.corrcoef(whole, common)[0, 1] > max(np.corrcoef(levels[:, k], common)[0, 1] for k in range(3))
    again = IntegratedOFI.from_json(made.as_json())
    assert again.apply(levels, log=True).tobytes() == (np.copysign(np.log1p(np.abs(whole)), whole)).tobytes()
    with pytest.raises(FitError):
        IntegratedOFI.fit(np.ones((10, 3)))
    with pytest.raises(DataError):
        IntegratedOFI.fit(np.full((10, 3), np.nan))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 12))
def test_every_symbol_is_some_threads_and_none_has_far_more_than_its_share(events, groups):
    shared = stream._shared_out(np.array(events), groups)
    assert len(shared) <= groups and [s for first, end in shared for s in range(first, end)] == list(range(len(events)))
    share = sum(n + 1 for n in events) / groups
    assert max(sum(n + 1 for n in events[first:end]) for first, end in shared) <= share + max(events) + 1


def test_a_replay_calls_back_behind_every_event_once_and_remembers_what_batch_does():
    """Also where rings grow on the way, and for the events behind the last instant; a callback that raises ends it at its event."""
    universe, features, session, events = stream_of(14, symbols=2, rate_hz=60)
    as_of = np.array(session.instants(features.clock_ns), np.int64)[:-20]
    offsets = stream.step_offsets(events, as_of)
    assert offsets[-1] < len(events)
    state, called = stream.start(universe, features, session), []
    room = state.memory.ring.shape[1]
    stream.replay(state, events, as_of, on_event=called.append, on_row=lambda t, x, why: called.append(-t))
    want = []
    for t, end in zip(as_of.tolist(), offsets[1:].tolist(), strict=True):
        want += [*range(len(want) - sum(k < 0 for k in want), end), -t]
    assert called == want + list(range(int(offsets[-1]), len(events)))
    assert state.memory.ring.shape[1] > room
    pushed = stream.start(universe, features, session)
    stream.fold(pushed, universe, features, events[: int(offsets[-1])], offsets, as_of)
    for i in range(int(offsets[-1]), len(events)):
        e = events[i : i + 1]
        book = np.ascontiguousarray(np.concatenate([e.bid_px, e.bid_sz, e.ask_px, e.ask_sz]), np.int64)
        pushed.push(*(int(c[0]) for c in (e.ts, e.symbol, e.kind, e.side, e.trade_px, e.trade_sz)), book)
    assert state.to_bytes() == pushed.to_bytes()

    def stops(i: int) -> None:
        if i == 5:
            raise KeyboardInterrupt

    state, pushed = stream.start(universe, features, session), stream.start(universe, features, session)
    with pytest.raises(KeyboardInterrupt):
        stream.replay(state, events, as_of[:0], stops)
    stream.replay(pushed, events[:6], as_of[:0])
    assert state.to_bytes() == pushed.to_bytes()


def test_arrays_of_another_type_or_layout_are_never_read_as_if_they_were_not():
    """Kernels read memory by address: a book of int32, or a strided view, would be read as other numbers."""
    universe, features, session, events = stream_of(12)
    state = stream.start(universe, features, session)
    book = np.zeros((4, 3), np.int64)
    state.push(session.open, 0, BOOK, 0, 0, 0, book)
    for wrong in (book.astype(np.int32), book.astype(np.float64), np.asfortranarray(book), np.zeros((4, 6), np.int64)[:, ::2]):
        with pytest.raises(DataError, match="C-contiguous int64"):
            state.push(session.open, 0, BOOK, 0, 0, 0, wrong)
    for wrong in (book[:3], np.zeros((4, 4), np.int64)):
        with pytest.raises(DataError, match="expected 0 to 1 and"):
            state.push(session.open, 0, BOOK, 0, 0, 0, wrong)
    for symbol in (-1, 2):
        with pytest.raises(DataError, match="Symbol"):
            state.push(session.open, symbol, BOOK, 0, 0, 0, book)
    want = stream.build(universe, features, session, events)[2]
    wide = {name: np.repeat(getattr(events, name), 2, axis=1)[:, ::2] for name in ("bid_px", "bid_sz", "ask_px", "ask_sz")}
    assert not wide["bid_px"].flags.c_contiguous
    strided = replace(events, **wide, symbol=events.symbol.astype(np.int64), side=events.side.astype(np.int32))
    assert stream.build(universe, features, session, strided)[2].tobytes() == want.tobytes()
    as_of = np.array(session.instants(features.clock_ns), np.int64)
    rows = []
    stream.replay(stream.start(universe, features, session), strided, as_of, on_row=lambda t, x, why: rows.append(x))
    assert np.stack(rows).tobytes() == want.tobytes()
