"""The columnar job against slow, obvious loops; cut the stream anywhere, the same bits."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import DataError, InputError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.features.columns import EMPTY_OFFSET, Chunk, Job, Level, RollingZ, Rows, TickClock, TimeClock, VolumeClock
from cift_models.features.columns.bars import Bars
from cift_models.features.columns.job import copy
from cift_models.features.columns.volume_profile import MOST_BINS, Profile, VolumeProfile
from cift_models.features.columns.z_score import BLOCK

CLOCKS = (TimeClock(10), TimeClock(7, anchor_ns=3), TickClock(3), TickClock(1), VolumeClock(9))


def job(clock=CLOCKS[0], levels: int = 2, **more) -> Job:
    """A job with windows so short that small streams fill them."""
    small = {"bar_z": RollingZ(3), "tick_z": RollingZ(4), "profile": VolumeProfile(25, more.pop("bin_ticks", 1))}
    return Job(levels, clock, **small | more)


def stream(seed: int, n: int, levels: int = 2, kind: type = np.int32, near: bool = False) -> Chunk:
    """n rows with ties in time, stretches without a row, rows that are no trade, rows that repeat the book, and empty levels."""
    rng = np.random.default_rng(seed)
    ts = -40 + np.cumsum(rng.choice([0, 0, 1, 2, 5, 37], n))
    size = np.where(rng.uniform(size=n) < 0.6, rng.integers(1, 8, n), 0)
    price = np.where(size > 0, 50 + np.cumsum(rng.integers(-2, 3, n)), 0)
    book = []
    bid = 20 + np.cumsum(rng.integers(-1, 2, n))
    ask = bid + rng.integers(1, 4, n)
    for level in range(levels):
        columns = [bid - 2 * level - rng.integers(0, 2, n) * (level > 0), rng.integers(1, 9, n)]
        columns += [ask + 2 * level + rng.integers(0, 2, n) * (level > 0), rng.integers(1, 9, n)]
        for px, sz, empty in ((0, 1, EMPTY_BID), (2, 3, EMPTY_ASK)):
            gone = rng.uniform(size=n) < (0.2 if level else 0.0)
            columns[px][gone], columns[sz][gone] = empty, 0
        for i in np.flatnonzero(rng.uniform(size=n) < 0.3):
            if i and (level == 0 or not near):
                for column in columns:
                    column[i] = column[i - 1]
        if level == 0:
            bid, ask = columns[0], columns[2]
        if near and level:
            columns[0] = np.where(columns[0] == EMPTY_BID, EMPTY_OFFSET, bid - columns[0])
            columns[2] = np.where(columns[2] == EMPTY_ASK, EMPTY_OFFSET, columns[2] - ask)
        px = np.int16 if near and level else np.int32
        book.append(Level(columns[0].astype(px), columns[1].astype(kind), columns[2].astype(px), columns[3].astype(kind)))
    return Chunk(ts.astype(np.int64), price.astype(np.int32), size.astype(kind), tuple(book))


def absolute(chunk: Chunk) -> Chunk:
    """The same rows with every price in ticks."""
    best, book = chunk.levels[0], []
    for level in chunk.levels:
        if level.is_near:
            bid = [EMPTY_BID if d == EMPTY_OFFSET else b - d for b, d in zip(best.bid_px.tolist(), level.bid_px.tolist(), strict=True)]
            ask = [EMPTY_ASK if d == EMPTY_OFFSET else a + d for a, d in zip(best.ask_px.tolist(), level.ask_px.tolist(), strict=True)]
            level = Level(np.array(bid, np.int32), level.bid_sz, np.array(ask, np.int32), level.ask_sz)
        book.append(level)
    return Chunk(chunk.ts, chunk.price, chunk.size, tuple(book))


def ceiling(t: int, width: int, anchor: int) -> int:
    """The instant anchor + k width at or after t."""
    return anchor + -((anchor - t) // width) * width


def slow_bars(clock, chunk: Chunk) -> list[tuple[int, list[int]]]:
    """(as_of, rows) of every bar, the open one last."""
    bars: list[tuple[int, list[int]]] = []
    inside: list[int] = []
    for i in range(len(chunk)):
        if isinstance(clock, TimeClock):
            end = ceiling(int(chunk.ts[i]), clock.width_ns, clock.anchor_ns)
            if inside and ceiling(int(chunk.ts[inside[0]]), clock.width_ns, clock.anchor_ns) != end:
                bars.append((ceiling(int(chunk.ts[inside[0]]), clock.width_ns, clock.anchor_ns), inside))
                inside = []
            inside.append(i)
            continue
        inside.append(i)
        sizes = [int(chunk.size[j]) for j in inside]
        if (isinstance(clock, TickClock) and sum(s > 0 for s in sizes) == clock.trades) or (
            isinstance(clock, VolumeClock) and sum(sizes) >= clock.lots
        ):
            bars.append((int(chunk.ts[i]), inside))
            inside = []
    if inside:
        last = int(chunk.ts[inside[-1]])
        bars.append((ceiling(last, clock.width_ns, clock.anchor_ns) if isinstance(clock, TimeClock) else last, inside))
    return bars


def slow_e(chunk: Chunk, level: int) -> list[int]:
    """Order-flow increments of one level of prices in ticks."""
    book = chunk.levels[level]
    rows = list(zip(*(getattr(book, f.name).tolist() for f in fields(Level)), strict=True))
    e = [0] * min(len(rows), 1)
    for (b0, q0, a0, r0), (b1, q1, a1, r1) in pairwise(rows):
        e.append((b1 >= b0) * q1 - (b1 <= b0) * q0 - (a1 <= a0) * r1 + (a1 >= a0) * r0)
    return e


def slow_z(x: list[int], window: int) -> list[float]:
    """Rolling z-scores, each from its own window."""
    out = []
    for i in range(len(x)):
        held = x[max(0, i + 1 - window) : i + 1]
        n, s1, s2 = len(held), sum(held), sum(v * v for v in held)
        out.append((n * x[i] - s1) / math.sqrt(n * s2 - s1 * s1) if n * s2 > s1 * s1 else 0.0)
    return out


def slow_profile(profile: VolumeProfile, chunk: Chunk) -> list[tuple[int, int, int]]:
    """(as_of, price, volume), sorted."""
    table: dict[tuple[int, int], int] = {}
    for t, p, q in zip(chunk.ts.tolist(), chunk.price.tolist(), chunk.size.tolist(), strict=True):
        if q:
            key = (ceiling(t, profile.width_ns, profile.anchor_ns), p // profile.bin_ticks * profile.bin_ticks)
            table[key] = table.get(key, 0) + q
    return sorted((*key, volume) for key, volume in table.items())


def check(job: Job, chunk: Chunk, rows: Rows) -> None:
    """Every value of the rows of a whole stream against the loops above, to the bit."""
    plain = absolute(chunk)
    bars = slow_bars(job.clock, plain)
    assert rows.bars.as_of.tolist() == [as_of for as_of, _ in bars]
    last = 0
    for k, (_, inside) in enumerate(bars):
        trades = [(int(plain.price[i]), int(plain.size[i])) for i in inside if plain.size[i]]
        prices = [p for p, _ in trades] or [last]
        last = prices[-1]
        volume, turnover = sum(q for _, q in trades), sum(p * q for p, q in trades)
        got = [int(getattr(rows.bars, f.name)[k]) for f in fields(Bars)][1:]
        assert got == [
            plain.ts[inside[0]], prices[0], max(prices), min(prices), prices[-1], volume, turnover, len(trades), len(inside),
        ]  # fmt: skip
        assert rows.bars.vwap[k] == (turnover / volume if volume else last)
    for level in range(job.levels):
        e = slow_e(plain, level)
        ofi = [sum(e[i] for i in inside) for _, inside in bars]
        assert rows.ofi[level].tolist() == ofi
        assert rows.z_ofi[level].tolist() == slow_z(ofi, job.bar_z.window)
        if level == 0:
            assert rows.z_tick.tolist() == slow_z(e, job.tick_z.window)
    assert rows.warm_up == min(job.tick_z.window - 1, len(chunk))
    assert list(zip(*(getattr(rows.profile, f.name).tolist() for f in fields(Profile)), strict=True)) == slow_profile(job.profile, plain)


def test_a_job_without_scores_of_rows_is_the_same_job_else():
    chunk = stream(4, 300)
    whole, bare = job().run([chunk]), job(tick_z=None).run([chunk[:70], chunk[70:]])
    assert len(bare.z_tick) == bare.warm_up == 0 and len(whole.z_tick) == 300
    same_bits(replace(whole, z_tick=bare.z_tick, warm_up=0), bare)


def same_bits(a: Rows, b: Rows) -> None:
    for f in fields(Rows):
        one, two = getattr(a, f.name), getattr(b, f.name)
        if f.name == "warm_up":
            assert one == two
            continue
        pairs = [(one, two)] if isinstance(one, np.ndarray) else [(getattr(one, g.name), getattr(two, g.name)) for g in fields(one)]
        for x, y in pairs:
            assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), f.name


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 90), kind=st.sampled_from([np.int32, np.int64]), near=st.booleans())
@settings(max_examples=30)
def test_equals_the_loops(clock, seed, n, kind, near):
    chunk = stream(seed, n, kind=kind, near=near)
    check(job(clock), chunk, job(clock).run([chunk]))


@pytest.mark.parametrize("clock", CLOCKS[1:], ids=str)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 90), near=st.booleans(), cuts=st.lists(st.integers(0, 90), max_size=6))
@settings(max_examples=30)
def test_cut_anywhere_the_same_bits(clock, seed, n, near, cuts):
    made, chunk = job(clock), stream(seed, n, near=near)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    whole, after_whole = made.fold(made.start(), chunk)
    state, parts = made.start(), []
    for a, b in pairwise(edges):
        saved = copy(state)
        rows, state = made.fold(state, chunk[a:b])
        again, _ = made.fold(saved, chunk[a:b])
        same_bits(rows, again)
        parts.append(rows)
    same_bits(whole, Rows.join(parts))
    same_bits(made.finish(after_whole), made.finish(state))
    assert after_whole.keys() == state.keys()
    for name, part in state.items():
        for key, value in part.items():
            if key not in ("bins", "span"):  # how much room a profile took depends on where it was cut; what lies in it does not
                assert value.tobytes() == after_whole[name][key].tobytes(), (name, key)


@pytest.mark.parametrize("window", [2, 1000, BLOCK + 100])
@pytest.mark.parametrize("near", [False, True])
def test_streams_longer_than_a_block(window, near):
    chunk = stream(7, 3 * BLOCK + 77, near=near)
    made = job(TimeClock(100), tick_z=RollingZ(window), bar_z=RollingZ(50))
    check(made, chunk, made.run([chunk]))
    same_bits(made.run([chunk]), made.run([chunk[:1], chunk[1 : BLOCK + 3], chunk[BLOCK + 3 :]]))


def test_more_rows_than_a_block_of_distances():
    chunk = stream(8, 70_000, near=True)
    same_bits(job().run([chunk]), job().run([absolute(chunk)]))


@given(seed=st.integers(0, 2**32), bin_ticks=st.sampled_from([2, 5]), swing=st.sampled_from([1, 400, 3000]))
@settings(max_examples=30)
def test_profile_bins_wider_than_a_tick_and_prices_far_apart(seed, bin_ticks, swing):
    chunk = stream(seed, 60)
    chunk.price[:] = np.where(chunk.size > 0, chunk.price * swing - 30 * swing, 0)
    made = job(bin_ticks=bin_ticks)
    check(made, chunk, made.run([chunk]))
    same_bits(made.run([chunk]), made.run([chunk[:17], chunk[17:]]))


def test_finish_leaves_the_state_and_an_empty_stream_is_empty():
    made, chunk = job(), stream(3, 50)
    _, state = made.fold(made.start(), chunk[:30])
    before = copy(state)
    assert len(made.finish(state).bars) == 1
    assert all(state[a][b].tobytes() == before[a][b].tobytes() for a in state for b in state[a])
    nothing = made.run([stream(3, 0)])
    assert len(nothing.bars) == len(nothing.profile) == len(nothing.z_tick) == 0


def test_the_caller_may_lend_the_column_of_scores():
    made, chunk = job(), stream(4, 60)
    lent = np.full(80, np.nan)
    rows, _ = made.fold(made.start(), chunk, lent)
    assert np.shares_memory(rows.z_tick, lent) and len(rows.z_tick) == 60 and np.isnan(lent[60:]).all()
    same_bits(rows, made.fold(made.start(), chunk)[0])
    for wrong in (np.empty(59), np.empty(60, np.float32), np.empty(160)[::2]):
        with pytest.raises(DataError, match="contiguous float64"):
            made.fold(made.start(), chunk, wrong)


def test_no_row_knows_a_later_one():
    """Replace what comes after row 60 with noise: nothing that was complete before it changes."""
    made, chunk = job(), stream(5, 120)
    noise = stream(6, 60)
    noise.ts[:] += chunk.ts[59] - noise.ts[0]
    a, _ = made.fold(made.start(), chunk)
    state = made.start()
    rows, state = made.fold(state, chunk[:60])
    b = Rows.join([rows, made.fold(state, noise)[0]])
    k, r = len(rows.bars), len(rows.profile)
    assert k > 5 and r > 5
    assert a.z_tick[:60].tobytes() == b.z_tick[:60].tobytes()
    assert a.ofi[:, :k].tobytes() == b.ofi[:, :k].tobytes() and a.z_ofi[:, :k].tobytes() == b.z_ofi[:, :k].tobytes()
    assert a.profile.volume[:r].tobytes() == b.profile.volume[:r].tobytes()
    assert a.ofi.tobytes() != b.ofi.tobytes()
    assert (rows.bars.as_of <= chunk.ts[60]).all()


@pytest.mark.parametrize("window", [2, 300, 1000, 65_537])
def test_a_window_that_could_overflow_is_refused(window):
    most = math.isqrt(2**62 - 1) // window
    assert RollingZ(window, most).max_abs == RollingZ(window).max_abs == most
    with pytest.raises(InputError, match="not exact") as caught:
        RollingZ(window, most + 1)
    assert f"{most:,}" in caught.value.hint
    assert window * window * most * most < 2**62 <= window * window * (most + 1) ** 2


def test_windows_that_say_nothing_are_refused():
    for window, most in ((1, 0), (0, 1), (10, -1), (2**31, 1), (2**31, 0)):
        with pytest.raises(InputError):
            RollingZ(window, most)


def test_the_largest_values_stay_exact():
    z = RollingZ(1000)
    assert z.max_abs == 2_147_483
    rng = np.random.default_rng(1)
    x = rng.choice([-z.max_abs, z.max_abs, z.max_abs - 1], 5000)
    assert z.fold(z.start(), x).tolist() == slow_z(x.tolist(), 1000)
    with pytest.raises(DataError, match="2,147,484"):
        z.fold(z.start(), np.array([1, 2_147_484, 0]))
    with pytest.raises(DataError, match="-2,147,484"):
        z.fold(z.start(), np.array([1, -2_147_484, 0]))


def test_z_of_a_constant_is_zero_and_warm_up_is_counted():
    z = RollingZ(4)
    state = z.start()
    assert z.fold(state, np.full(3, 7)).tolist() == [0.0, 0.0, 0.0]
    assert z.n_warm_up(state, 3) == 3
    assert z.fold(state, np.array([9, 9])).tolist() == slow_z([7, 7, 7, 9, 9], 4)[3:]
    assert z.n_warm_up(state, 2) == 0


def changed(chunk: Chunk, **columns) -> Chunk:
    names = {"ts": chunk.ts, "price": chunk.price, "size": chunk.size}
    for at, level in enumerate(chunk.levels):
        names |= {f"{f.name}_{at:02d}": getattr(level, f.name) for f in fields(Level)}
    return Chunk.of_columns({k: v for k, v in (names | columns).items() if v is not None})


def test_time_that_goes_back_is_refused_within_and_between_chunks():
    chunk = stream(9, 40)
    ts = chunk.ts.copy()
    ts[21] = ts[20] - 1
    with pytest.raises(DataError, match="Row 21 goes back"):
        job().fold(job().start(), changed(chunk, ts=ts))
    state = job().start()
    _, state = job().fold(state, chunk)
    with pytest.raises(DataError, match="Row 40 goes back"):
        job().fold(state, changed(chunk, ts=chunk.ts - 1 + chunk.ts[-1] - chunk.ts[0]))


@pytest.mark.parametrize("name", ["size", "bid_sz_00", "ask_sz_01"])
@pytest.mark.parametrize(("kind", "lots"), [(np.int32, -1), (np.int32, 2**28), (np.int64, 2**40), (np.int64, -(2**63))])
def test_sizes_beyond_what_stays_exact_are_refused(name, kind, lots):
    chunk = stream(10, 40, kind=kind)
    column = {"size": chunk.size, "bid_sz_00": chunk.levels[0].bid_sz, "ask_sz_01": chunk.levels[1].ask_sz}[name].copy()
    column[33] = lots
    state = job().start()
    _, state = job().fold(state, chunk[:20])
    with pytest.raises(DataError, match=f"{name}: row 33 holds {lots:,} lots"):
        job().fold(state, changed(chunk, **{name: column})[20:])


def test_int64_sizes_may_be_larger_and_a_bar_too_large_is_refused():
    chunk = stream(11, 400, kind=np.int64)
    book = chunk.levels[0].bid_sz.copy()
    book[:] = 2**39
    made = job()
    with pytest.raises(DataError, match="increment of level 00 is"):
        made.fold(made.start(), changed(chunk, bid_sz_00=book))
    whole = job(TimeClock(10**9))
    chunk = stream(11, 400, kind=np.int64)
    size, price = np.full(400, 2**40 - 1), np.full(400, 2**31 - 1, np.int32)
    with pytest.raises(DataError, match="Expected sums below 2\\^62"):
        whole.fold(whole.start(), changed(chunk, size=size, price=price))


def test_a_bar_whose_order_flow_could_wrap_is_refused():
    n = 2**21 + 10
    zero, one = np.zeros(n, np.int64), np.ones(n, np.int32)
    big = np.full(n, 2**40 - 1)
    chunk = Chunk(zero, one, zero, (Level(one, zero + 1, one, zero + 1), Level(one, big, one, big)))
    made = Job(2)
    with pytest.raises(DataError, match="level 01: sizes of up to"):
        made.fold(made.start(), chunk)


def test_a_distance_below_zero_is_refused():
    chunk = stream(12, 30, near=True)
    chunk.levels[1].ask_px[17] = -1
    with pytest.raises(DataError, match="Level 01: row 17"):
        job().fold(job().start(), chunk)


def test_prices_that_jump_out_of_a_profile_are_refused():
    chunk = stream(13, 40)
    chunk.ts[:] = 5
    chunk.size[:] = 1
    chunk.price[:] = 0
    chunk.price[39] = MOST_BINS - 1
    assert len(job().run([chunk]).profile) == 2
    chunk.price[39] = MOST_BINS
    with pytest.raises(DataError, match="price bins apart"):
        job().run([chunk])


def test_columns_of_another_shape_are_refused():
    chunk = stream(14, 20)
    with pytest.raises(DataError, match=r"price is float64\[20\]. Expected int32\[20\]"):
        changed(chunk, price=chunk.price.astype(float))
    with pytest.raises(DataError, match="bid_sz_01 is int32"):
        changed(chunk, bid_sz_01=chunk.size[:-1])
    with pytest.raises(DataError, match="strided"):
        changed(chunk, size=np.zeros(40, np.int32)[::2])
    with pytest.raises(DataError, match="bid_px_00 is int16"):
        changed(chunk, bid_px_00=chunk.price.astype(np.int16), ask_px_00=chunk.price.astype(np.int16))
    with pytest.raises(DataError, match="same types on both sides"):
        changed(chunk, bid_px_01=chunk.price.astype(np.int16))
    with pytest.raises(DataError, match="lacks ask_sz_01"):
        changed(chunk, ask_sz_01=None)
    with pytest.raises(DataError, match="lack 'price'"):
        changed(chunk, price=None)
    with pytest.raises(DataError, match="has 2 levels of the book, the job 3"):
        job(levels=3).fold(job(levels=3).start(), chunk)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimeClock(0),
        lambda: TickClock(-1),
        lambda: VolumeClock(2**62),
        lambda: VolumeProfile(0),
        lambda: VolumeProfile(bin_ticks=0),
        lambda: Job(0),
        lambda: Rows.join([]),
    ],
)
def test_what_cannot_be_is_refused_when_made(make):
    with pytest.raises(InputError):
        make()


def test_a_level_that_empties_while_the_best_runs_away_is_still_empty():
    """A distance of EMPTY_OFFSET is no price: level 01 comes back far below where the best stood, and counts as a rise from nothing."""
    flat = np.ones(2, np.int32)
    best = Level(np.array([100_000, 40_000], np.int32), flat, np.array([200_000, 260_000], np.int32), flat)
    near = Level(
        np.array([EMPTY_OFFSET, 2], np.int16), np.array([0, 5], np.int32), np.array([EMPTY_OFFSET, 3], np.int16), np.array([0, 7], np.int32)
    )
    chunk = Chunk(np.zeros(2, np.int64), flat, flat, (best, near))
    assert slow_e(absolute(chunk), 1) == [0, 5 - 7]
    check(job(), chunk, job().run([chunk]))


@pytest.mark.parametrize("sizes", [[5, -1, 5, -1, 9, 9, 9], [-9] * 7])
def test_a_volume_clock_refuses_sizes_below_zero(sizes):
    chunk = stream(15, 7)
    with pytest.raises(DataError, match="size: row"):
        VolumeClock(3).ends(VolumeClock(3).start(), changed(chunk, size=np.array(sizes, np.int32)))
