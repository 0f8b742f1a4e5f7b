"""Feature families against slow, obvious implementations; any split of the stream gives the same bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import DataError, InputError
from cift_models.events import BOOK, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.features import FeatureSet, stream
from cift_models.features.feature_set import flow_names
from cift_models.instruments import SECOND, Session
from tests.panels import OPEN, toy_panel, toy_universe

STEPS = 120


def random_session(seed: int, rate_hz: float = 6.0, symbols: int = 2):
    """A universe, its feature set, a session and events with ties and some hidden trades."""
    panel = toy_panel(seed, STEPS, symbols, rate_hz=rate_hz)
    rng = np.random.default_rng(seed)
    events = panel.events
    events.ts[:] = np.sort(events.ts // 50_000_000 * 50_000_000)  # 50 ms grid: many ties, some on the very instants
    order = np.lexsort((events.sequence, events.symbol, events.ts))
    events = events[order]
    traded = (events.kind & TRADE) > 0
    events.kind[traded & (rng.uniform(size=len(events)) < 0.3)] |= HIDDEN
    events.trade_px[traded] = 1_000_000 + rng.integers(-300, 300, int(traded.sum()))
    universe = toy_universe(symbols)
    features = FeatureSet(levels=2, z_steps=10, warm_up_ns=5 * SECOND)
    return universe, features, Session(20231114, OPEN, OPEN + STEPS * SECOND), events


def rows_of(events: Events, symbol: int, after: int, until: int) -> list[int]:
    return [i for i in range(len(events)) if events.symbol[i] == symbol and after < events.ts[i] <= until]


def slow_row(universe, features, session, events: Events, as_of: int, s: int) -> dict[str, float]:
    """One row straight from the definitions: loops over all events up to as_of."""
    past = rows_of(events, s, -1, as_of)
    books = [i for i in past if events.kind[i] & BOOK]
    ofi = {}
    for before, i in zip([None, *books], books, strict=False):
        for level in range(features.levels):
            if before is None:
                ofi[i, level] = 0
                continue
            b0, q0, a0, r0 = (int(c[before, level]) for c in (events.bid_px, events.bid_sz, events.ask_px, events.ask_sz))
            b1, q1, a1, r1 = (int(c[i, level]) for c in (events.bid_px, events.bid_sz, events.ask_px, events.ask_sz))
            ofi[i, level] = (b1 >= b0) * q1 - (b1 <= b0) * q0 - (a1 <= a0) * r1 + (a1 >= a0) * r0
    out: dict[str, float] = {}
    last = books[-1]
    half_ticks = int(events.bid_px[last, 0]) + int(events.ask_px[last, 0])
    out["mid"] = half_ticks * 0.01 / 2
    q, r = int(events.bid_sz[last, 0]), int(events.ask_sz[last, 0])
    out["queue_imbalance"] = (q - r) / (q + r)
    micro = (int(events.bid_px[last, 0]) * r + int(events.ask_px[last, 0]) * q) / (q + r) * 0.01
    out["microprice_bps"] = 1e4 * (micro - out["mid"]) / out["mid"]
    out["age_s"] = (as_of - int(events.ts[past[-1]])) / 1e9
    for w in features.windows_ns:
        inside = rows_of(events, s, as_of - w, as_of)
        ms = w // 1_000_000
        for level in range(features.levels):
            v = sum(ofi.get((i, level), 0) for i in inside)
            out[f"ofi_{level:02d}_{ms}ms"] = v
            out[f"log_ofi_{level:02d}_{ms}ms"] = math.copysign(math.log1p(abs(v)), v)
        v = sum(int(events.side[i]) * int(events.trade_sz[i]) for i in inside if events.kind[i] & TRADE and not events.kind[i] & HIDDEN)
        out[f"signed_volume_{ms}ms"] = v
        out[f"log_count_{ms}ms"] = math.log1p(len(inside))
    trades = [i for i in rows_of(events, s, as_of - SECOND, as_of) if events.kind[i] & TRADE]
    out["n_trades"] = len(trades)
    out["volume"] = sum(int(events.trade_sz[i]) for i in trades)
    if trades:
        prices = [int(events.trade_px[i]) / 10_000 for i in trades]
        out["bar_open"], out["bar_close"], out["bar_high"], out["bar_low"] = prices[0], prices[-1], max(prices), min(prices)
        out["bar_vwap"] = sum(int(events.trade_px[i]) * int(events.trade_sz[i]) for i in trades) / out["volume"] / 10_000
    profile: dict[int, int] = {}
    for i in rows_of(events, s, as_of - features.profile_ns, as_of):
        if events.kind[i] & TRADE:
            b = int(events.trade_px[i]) // 100
            profile[b] = profile.get(b, 0) + int(events.trade_sz[i])
    if profile:
        top = max(profile.values())
        out["profile_poc_ticks"] = min(b for b, v in profile.items() if v == top) - half_ticks / 2
        total = sum(profile.values())
        out["profile_entropy"] = -sum(v / total * math.log(v / total) for v in profile.values())
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_every_family_agrees_with_the_definitions(seed):
    universe, features, session, events = random_session(seed)
    as_of, _, x, valid, _ = stream.build(universe, features, session, events)
    assert valid[10:].all()
    place = {name: i for i, name in enumerate(features.names)}
    for t in (7, 31, 32, 60, 119):
        for s in range(2):
            for name, value in slow_row(universe, features, session, events, int(as_of[t]), s).items():
                assert x[t, s, place[name]] == pytest.approx(value, rel=1e-12, abs=1e-9), (name, t, s)


def test_flows_are_exact_integers():
    universe, features, session, events = random_session(3)
    _, _, x, _, _ = stream.build(universe, features, session, events)
    flows = x[:, :, features.index(flow_names(features))]
    assert np.array_equal(flows, np.rint(flows))


def test_moves_volatility_activity_and_z_score_follow_from_the_columns_they_read():
    universe, features, session, events = random_session(4)
    _, _, x, _, _ = stream.build(universe, features, session, events)
    col = {name: x[:, 0, i] for i, name in enumerate(features.names)}
    mid = col["mid"]
    assert col["move_5000ms"][40] == pytest.approx(mid[40] - mid[35], abs=1e-9)
    assert col["realised_vol_60s"][100] == pytest.approx(np.sqrt(np.mean((1e4 * np.diff(np.log(mid[40:101]))) ** 2)), rel=1e-9)
    moved = (np.diff(mid) != 0).astype(float)
    d = 0.5 ** (1 / 60)
    t = 100
    weights = d ** np.arange(t)[::-1]
    want = (0.5 * d**t + weights @ moved[:t]) / (d**t + weights.sum())
    assert col["activity_60s"][t] == pytest.approx(want, rel=1e-9)
    v = col["ofi_00_1000ms"][91:101]
    assert col["z_ofi_00"][100] == pytest.approx((v[-1] - v.mean()) / v.std(), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, STEPS), max_size=6), rate=st.sampled_from([0.5, 6.0, 60.0]))
def test_any_split_of_the_stream_gives_the_same_bits(seed, cuts, rate):
    universe, features, session, events = random_session(seed, rate)
    as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
    state = stream.start(universe, features, session)
    edges = [0, *sorted(cuts), STEPS]
    for a, b in zip(edges, edges[1:], strict=False):
        part = events[int(offsets[a]) : int(offsets[b])]
        got = stream.fold(state, universe, features, part, offsets[a : b + 1] - offsets[a], as_of[a:b])
        assert got[0].tobytes() == x[a:b].tobytes()
        assert np.array_equal(got[1], valid[a:b]) and np.array_equal(got[2], why[a:b])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, STEPS - 1))
def test_the_future_changes_nothing_before_it(seed, cut):
    universe, features, session, events = random_session(seed)
    as_of, offsets, x, _, _ = stream.build(universe, features, session, events)
    n = int(offsets[cut])
    events.bid_sz[n:] += 7
    events.side[n:] *= -1
    events.ask_px[n:] += 3
    _, _, noisy, _, _ = stream.build(universe, features, session, events)
    assert noisy[:cut].tobytes() == x[:cut].tobytes()
    if n < len(events) and int(offsets[-1]) > n:
        assert noisy.tobytes() != x.tobytes()


def test_halts_absent_books_and_warm_up_say_why():
    universe, features, session, events = random_session(5)
    events = events[events.symbol == 0]
    events.kind[100] |= HALT
    events.kind[200] |= RESUME
    as_of, _, x, valid, why = stream.build(universe, features, session, events)
    assert (why[:, 1] == 4).all() and not valid[:, 1].any() and (x[:, 1, features.index(["mid"])] == 0).all()
    halted = (as_of >= events.ts[100]) & (as_of < events.ts[200])
    assert halted.any() and (why[halted, 0] == 3).all()
    assert (why[1:4, 0] == 1).all() and valid[-1, 0]
    assert np.isfinite(x).all()


def test_a_wide_z_window_and_other_levels_are_refused():
    universe, features, session, events = random_session(6)
    with pytest.raises(InputError, match="not exact"):
        stream.start(universe, FeatureSet(levels=2, z_steps=1000), session)
    with pytest.raises(DataError, match="levels"):
        stream.build(universe, FeatureSet(levels=3), session, events)
