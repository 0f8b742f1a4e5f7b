"""The causality audit: what CIFT ships is clean, and every planted leak is found and named."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from functools import cache

import numpy as np
import pytest

from cift_models import engine
from cift_models.errors import DataError, InputError
from cift_models.evaluation import audited
from cift_models.evaluation.causality import (
    Audit,
    Leak,
    Rows,
    Subject,
    as_given,
    audit,
    cut_places,
    standing,
)
from cift_models.evaluation.other_future import OtherFuture
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, HIDDEN, RESUME, TRADE, Events, check_order
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND, Session
from cift_models.labels import labels, mid_path
from tests.panels import OPEN, toy_panel, toy_universe

STEPS = 240
UNIVERSE = toy_universe(3)
FEATURES = FeatureSet(levels=2, z_steps=10, warm_up_ns=5 * SECOND)
SESSION = Session(20231114, OPEN, OPEN + STEPS * SECOND)
MID = FEATURES.names.index("mid")


@cache
def made(seed: int = 0) -> Events:
    """Events with ties within and between symbols, on the instants too, halts, feed gaps behind which a book begins anew, a silent minute,
    and a third symbol that appears late. Shared: never written into."""
    panel = toy_panel(seed, STEPS, 3, rate_hz=6.0)
    rng = np.random.default_rng(seed)
    events = panel.events
    events.ts[:] = events.ts // 50_000_000 * 50_000_000
    keep = ((events.symbol != 2) | (events.ts > OPEN + 60 * SECOND)) & ~(
        (events.ts > OPEN + 100 * SECOND) & (events.ts < OPEN + 130 * SECOND)
    )
    events = events[keep]
    events = events[np.lexsort((events.sequence, events.symbol, events.ts))]
    traded = events.kind & TRADE > 0
    events.kind[traded & (rng.uniform(size=len(events)) < 0.3)] |= HIDDEN
    events.trade_px[traded] = 1_000_000 + rng.integers(-300, 300, int(traded.sum()))
    for s, start, end, why in ((0, 500, 600, 0), (1, 700, 900, GAP), (0, 2500, 2501, GAP), (2, 1900, 1960, 0)):
        own = np.flatnonzero(events.symbol == s)
        i, j = own[np.searchsorted(own, [start, end])]
        events.kind[i], events.kind[j] = events.kind[i] | HALT | why, events.kind[j] | RESUME | BOOK
        if why:
            lost = own[(own > i) & (own < j)]
            events.kind[lost], events.side[lost], events.trade_px[lost], events.trade_sz[lost] = TRADE, 1, 1_000_000, 100
    check_order(events)
    return events


def audited_features() -> Subject:
    return audited.features(UNIVERSE, FEATURES, SESSION)


def built(events: Events) -> Rows:
    as_of, _, x, valid, why = stream.build(UNIVERSE, FEATURES, SESSION, events)
    return Rows(as_of, as_of, {FEATURES.names: x, ("valid",): valid[:, :, None], ("why",): why[:, :, None]})


def look(subject: Subject, cuts: int = 24, seed: int = 0, events: Events | None = None) -> Audit:
    return audit(subject, made() if events is None else events, UNIVERSE.symbols, SESSION, cuts=cuts, seed=seed)


def test_what_is_shipped_is_clean_on_a_session_that_holds_every_trouble():
    found = look(audited_features(), cuts=64)
    assert found.clean, found.leaks[:3]
    assert found.rows == STEPS * 3 and found.columns == len(FEATURES.names) + 2
    assert found.probes["cut"] == found.probes["noise"] == 64 + 8 and found.probes["resume"] >= 64
    assert set(found.places) == {"open", "first", "close", "time", "instant", "event", "tie", "stop"}
    assert found.compared > found.rows * found.columns


@pytest.mark.parametrize("latency_ms", [0, 1, 100, 1000])
def test_labels_are_clean_up_to_their_end(latency_ms):
    found = look(audited.targets(UNIVERSE, SECOND, SESSION, latency_ns=latency_ms * 1_000_000), cuts=96)
    assert found.clean, found.leaks[:3]
    assert found.probes["cut"] == 24


# Planted leaks. Each takes what is shipped and adds one column, or spoils one.


def centred(x):
    """A mean over two rows before and two behind."""
    return np.stack([np.convolve(x[:, s], np.ones(5) / 5, "same") for s in range(x.shape[1])], axis=1)


def normalised(x):
    """A z-score whose mean and deviation are those of the session."""
    return (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)


def smoothed(x):
    """An exponential filter run forward and then back."""
    out = x.copy()
    for t in range(1, len(x)):
        out[t] = 0.9 * out[t - 1] + 0.1 * x[t]
    for t in reversed(range(len(x) - 1)):
        out[t] = 0.9 * out[t + 1] + 0.1 * out[t]
    return out


def filled_from_behind(x):
    """A gap that takes the next value there is."""
    out = x.copy()
    for t in reversed(range(len(x) - 1)):
        out[t] = np.where(out[t] == 0, out[t + 1], out[t])
    return out


def of_one_symbol(x):
    """One symbol's next mid, in a column that is sound for the others."""
    out = x.copy()
    out[:-1, 1] = x[1:, 1]
    return out


def whether_it_ends_higher(x):
    """One bit of the close, in the last bit of a number."""
    return np.where(x[-1] > 100, np.nextafter(x, np.inf), x)


def signed_zero(x):
    """The close in the sign of a zero: equal as numbers, not as bits."""
    return np.broadcast_to(np.where(x[-1] > 100, -0.0, 0.0), x.shape).copy()


@pytest.mark.parametrize(
    "leak",
    [centred, normalised, smoothed, filled_from_behind, of_one_symbol, whether_it_ends_higher, signed_zero],
    ids=lambda f: f.__name__,
)
def test_a_column_that_knows_the_future_is_found_and_named(leak):
    def build(events: Events) -> Rows:
        rows = built(events)
        return rows._replace(
            blocks={
                **rows.blocks,
                ("planted", "sound"): np.stack(
                    [leak(rows.blocks[FEATURES.names][:, :, MID]), rows.blocks[FEATURES.names][:, :, MID]], axis=2
                ),
            }
        )

    found = look(Subject("features", build), cuts=16)
    assert {one.column for one in found.leaks} == {"planted"}
    assert {one.symbol for one in found.leaks} <= set(UNIVERSE.symbols)
    if leak is of_one_symbol:
        assert {one.symbol for one in found.leaks} == {"S1"}
    for one in found.leaks:
        assert one.probes.keys() <= {"cut", "noise"} and one.probes
        assert SESSION.open < one.as_of < one.cut and one.rows >= 1


def test_a_leak_says_where_it_begins_and_by_how_much():
    def build(events: Events) -> Rows:
        rows = built(events)
        return rows._replace(blocks={("n",): np.full((STEPS, 3, 1), float(len(events)))})

    found = look(Subject("features", build), cuts=8)
    kept = int((made().ts <= OPEN + SECOND).sum())
    one = found.leaks[0]
    assert isinstance(one, Leak) and (one.as_of, one.cut) == (OPEN + SECOND, OPEN + SECOND + 1)
    # Of all that changed the first row there, the first cut is the one that is told; the last cut changed all rows but its own.
    assert (one.was, one.became) == (float(len(made())), float(kept)) and one.largest == one.was - one.became
    assert one.rows == STEPS - 1 and one.probes == {"cut": 6, "noise": 7}


def test_the_earliest_row_that_changed_is_told_whichever_cut_found_it():
    def build(events: Events) -> Rows:
        rows = built(events)
        ahead = rows.blocks[FEATURES.names][:, :, MID : MID + 1].copy()
        ahead[:-1] = ahead[1:]
        return rows._replace(blocks={("ahead",): ahead})

    leaks = {one.symbol: one for one in look(Subject("features", build), cuts=8).leaks}
    assert (leaks["S0"].as_of, leaks["S0"].cut) == (OPEN + SECOND, OPEN + SECOND + 1)
    assert sum(leaks["S0"].probes.values()) > 4


def test_the_store_is_asked_for_what_came_before_the_cut():
    events, asked = made(), []

    def known(t: int) -> Events:
        asked.append(t)
        return events[: int(np.searchsorted(events.ts, t, "right"))]

    assert look(replace(audited_features(), known=known), cuts=16).clean
    rng = np.random.default_rng([0, SESSION.day])
    places = cut_places(events, np.array(SESSION.instants(SECOND), np.int64), SESSION.open, SESSION.close, 16, rng)
    assert len(asked) == 4 and {t + 1 for t in asked} <= {place.at for place in places}


def test_marks_are_columns_too():
    def build(events: Events) -> Rows:
        rows = built(events)
        valid = rows.blocks["valid",].copy()
        halts = events.ts[(events.kind & HALT > 0) & (events.symbol == 0)]
        valid[[(h - OPEN) // SECOND - 1 for h in halts if h > OPEN + 2 * SECOND], 0] = False
        return rows._replace(blocks={**rows.blocks, ("valid",): valid})

    found = look(Subject("features", build), cuts=48)
    assert [(one.column, one.symbol, one.largest) for one in found.leaks] == [("valid", "S0", 1.0)]


def test_instants_that_are_counted_from_the_end_are_found():
    def build(events: Events) -> Rows:
        ts = np.unique(events.ts)[::-40][::-1] if len(events) else np.array([OPEN + 1])
        return Rows(ts, ts, {("one",): np.ones((len(ts), 3, 1))})

    found = look(Subject("bars", build), cuts=8)
    assert {one.column for one in found.leaks} == {"as_of"} and found.leaks[0].symbol == ""


def test_bars_on_an_event_clock_are_clean_where_they_are():
    def build(events: Events) -> Rows:
        inside = events.ts[events.ts > OPEN]
        ts = np.unique(inside[99::100])
        counts = np.searchsorted(inside, ts, "right")
        return Rows(ts, ts, {("count",): np.repeat(counts[:, None, None], 3, axis=1)})

    assert look(Subject("bars", build), cuts=32).clean


def test_a_label_that_looks_too_far_is_found_although_it_denies_it():
    as_of = np.array(SESSION.instants(SECOND), np.int64)

    def build(events: Events, further_ns: int, said_ns: int) -> Rows:
        y, known, _ = labels(events, UNIVERSE, SESSION, as_of, SECOND + further_ns, 0)
        return Rows(as_of, as_of + said_ns, {("y",): y[:, :, None], ("known",): known[:, :, None]})

    lies = look(Subject("labels", lambda events: build(events, 200_000_000, SECOND), reach_ns=SECOND), cuts=48)
    assert {"y"} <= {one.column for one in lies.leaks} <= {"y", "known"} and all(set(one.probes) <= {"cut", "noise"} for one in lies.leaks)
    admits = look(Subject("labels", lambda events: build(events, SECOND, 2 * SECOND), reach_ns=SECOND), cuts=48)
    assert [(one.column, one.was, one.became, one.probes) for one in admits.leaks] == [("known_at", 2e9, 1e9, {"reach": 1})]
    # As a feature it would be a leak at every row.
    assert {one.column for one in look(Subject("features", lambda events: build(events, 0, 0)), cuts=8).leaks} >= {"y"}


def test_a_label_against_a_past_mean_is_found_where_a_label_says_that_it_is_anchored():
    as_of = np.array(SESSION.instants(SECOND), np.int64)

    def build(events: Events) -> Rows:
        y, known, end = labels(events, UNIVERSE, SESSION, as_of, SECOND, 0)
        for s in range(len(UNIVERSE)):
            ts, twice_mid = mid_path(events, events.symbol == s)
            at = np.searchsorted(ts, as_of[:, None] - SECOND * np.arange(5), "right") - 1
            seen = (at >= 0).all(axis=1) & known[:, s]
            stood, to = twice_mid[at[seen]], twice_mid[np.searchsorted(ts, end[seen], "right") - 1]
            y[seen, s] = to / stood.mean(axis=1) - 1
        return Rows(as_of, end, {("y",): y[:, :, None], ("known",): known[:, :, None]})

    anchored = Subject("labels", build, reach_ns=SECOND, anchor_ns=0)
    found = look(anchored, cuts=16)
    assert {(one.column, one.symbol) for one in found.leaks} == {("y", symbol) for symbol in UNIVERSE.symbols}
    for one in found.leaks:
        assert one.probes.keys() == {"past"} and one.as_of >= one.cut
    assert found.probes["past"] == 16
    assert look(replace(anchored, anchor_ns=None), cuts=16).clean, "nothing of it lies in the future"


def test_how_a_symbol_stands_is_its_last_book_and_its_last_halt_or_resumption():
    events = made()
    for index in (0, 1, 555, len(events)):
        kept = standing(events, index)
        expected = set()
        for s in range(3):
            for bits in (BOOK, HALT | RESUME):
                own = [i for i in range(index) if events.symbol[i] == s and events.kind[i] & bits]
                expected |= set(own[-1:])
        assert kept.tolist() == sorted(expected)


def test_rows_that_are_not_as_they_were_made_are_named():
    rows = built(made())
    x = rows.blocks[FEATURES.names].copy()
    assert as_given("given features", rows, rows._replace(blocks={**rows.blocks, FEATURES.names: x}), UNIVERSE.symbols, 1).clean
    x[7:9, 1, MID] += 0.5
    found = as_given("given features", rows, rows._replace(blocks={**rows.blocks, FEATURES.names: x}), UNIVERSE.symbols, 1)
    (one,) = found.leaks
    assert (one.what, one.column, one.symbol, one.as_of, one.rows) == ("given features", "mid", "S1", OPEN + 8 * SECOND, 2)
    assert one.was is not None and one.became is not None and one.was - one.became == 0.5 and one.probes == {"given": 1}
    assert found.compared == STEPS * 3 * (len(FEATURES.names) + 2)


def folding(spoil) -> Subject:
    """What is shipped, with one thing done otherwise in `fold`."""
    shipped = audited_features()
    assert shipped.folding is not None
    fold = shipped.folding.fold
    return replace(shipped, folding=replace(shipped.folding, fold=lambda *arguments: spoil(fold, *arguments)))


def test_a_kernel_that_reads_the_event_behind_its_last_is_found():
    def peeks(fold, memory, events, offsets, as_of):
        rows = fold(memory, events, offsets, as_of)
        x = rows.blocks[FEATURES.names].copy()
        for t in range(len(as_of)):
            if offsets[t + 1] < len(events) and events.symbol[offsets[t + 1]] == 0:
                x[t, 0, MID] += 1e-9
        return rows._replace(blocks={**rows.blocks, FEATURES.names: x})

    found = look(folding(peeks), cuts=16)
    assert {(one.column, one.symbol) for one in found.leaks} == {("mid", "S0")}
    # Behind the last event of its chunk a live kernel has nothing to read, so it also differs from one pass.
    assert "resume" in found.leaks[0].probes


def test_memory_that_is_not_in_the_state_is_found():
    seen = {"rows": 0}

    def remembers(fold, memory, events, offsets, as_of):
        rows = fold(memory, events, offsets, as_of)
        x = rows.blocks[FEATURES.names].copy()
        x[:, :, MID] += 1e-6 * (seen["rows"] > 0)
        seen["rows"] += len(as_of)
        return rows._replace(blocks={**rows.blocks, FEATURES.names: x})

    found = look(folding(remembers), cuts=8)
    assert {one.column for one in found.leaks} == {"mid"} and all("resume" in one.probes for one in found.leaks)


def test_a_state_that_loses_something_on_its_way_through_bytes_is_found():
    shipped = audited_features()
    assert shipped.folding is not None
    restore = shipped.folding.restore

    def forgets(data: bytes):
        state = restore(data)
        state.memory.symbols["z_sum"] = 0
        return state

    found = look(replace(shipped, folding=replace(shipped.folding, restore=forgets)), cuts=16)
    assert {one.column for one in found.leaks} == {"z_ofi_00", "z_signed_volume"} and all("resume" in one.probes for one in found.leaks)


def test_no_leak_hides_behind_another_subject():
    """The same plant in `build` is found although `folding` is sound: whole sessions are made again too."""
    shipped = audited_features()

    def build(events: Events) -> Rows:
        rows = built(events)
        x = rows.blocks[FEATURES.names].copy()
        x[:, :, MID] = smoothed(x[:, :, MID])
        return rows._replace(blocks={**rows.blocks, FEATURES.names: x})

    found = look(replace(shipped, build=build), cuts=16)
    assert {one.column for one in found.leaks} == {"mid"} and {"cut", "noise"} <= {p for one in found.leaks for p in one.probes}


# Models.


def test_models_are_clean_and_one_that_reads_ahead_is_named():
    from tests import releases

    pipeline = releases.pipeline()
    session, events = releases.second_session()
    symbols = pipeline.universe.symbols
    found = audit(audited.models(pipeline, session), events, symbols, session, cuts=48)
    assert found.clean, found.leaks[:3]
    assert found.rows == 1200 * len(symbols) and found.probes["cut"] == 3
    # Outputs of each model and whether it is ready, probabilities of those that forecast, cost and signal.
    assert found.columns == sum(len(m.outputs) + 1 for m in pipeline.models.values()) + 3 * (len(pipeline.models) - 1) + 2

    class Ahead:
        def __init__(self, model):
            self._model, self.outputs, self.needs = model, model.outputs, model.needs

        def predict(self, panel):
            values, ready = self._model.predict(panel)
            return np.concatenate([values[1:], values[-1:]]), ready

    ahead = engine.Pipeline(
        pipeline.universe, pipeline.features, {**pipeline.models, "linear": Ahead(pipeline.models["linear"])}, pipeline.heads,
        pipeline.rule, pipeline.decides,
    )  # fmt: skip
    found = audit(audited.models(ahead, session), events, symbols, session, cuts=48)
    names = {one.column for one in found.leaks}
    assert "linear.mean_bps" in names and names <= {"linear.mean_bps", "signal", *(f"linear.head.p_{p}" for p in ("down", "flat", "up"))}


# How it cuts, and what it puts in the place of the future.


def test_places_are_where_they_say_and_the_seed_decides():
    events, as_of = made(), np.array(SESSION.instants(SECOND), np.int64)
    places = cut_places(events, as_of, SESSION.open, SESSION.close, 60, np.random.default_rng(3))
    assert places == cut_places(events, as_of, SESSION.open, SESSION.close, 60, np.random.default_rng(3))
    assert places != cut_places(events, as_of, SESSION.open, SESSION.close, 60, np.random.default_rng(4))
    assert len(places) == 60 and [p.at for p in places] == sorted(p.at for p in places)
    for index, at, place in places:
        assert (index == 0 or events.ts[index - 1] <= at) and (index == len(events) or events.ts[index] >= at)
        if place in ("open", "first", "close", "instant", "time"):
            assert index == 0 or events.ts[index - 1] < at
        if place == "tie":
            assert events.ts[index] == events.ts[index - 1] == at
        if place == "stop":
            assert events.kind[index] & (HALT | RESUME)
        if place == "instant":
            assert (at - 1 - OPEN) % SECOND == 0 and events.ts[index - 1] == at - 1
    assert {p.at for p in places if p.place == "open"} == {OPEN} and {p.at for p in places if p.place == "close"} == {SESSION.close}


def test_noise_is_in_order_keeps_what_stays_and_changes_all_else():
    events = made()
    other = OtherFuture(events, 3)
    rng = np.random.default_rng(0)
    for index in (0, 1, 777, len(events)):
        at = int(events.ts[index]) if index < len(events) else int(events.ts[-1])
        for n in (0, 8, 2000):
            noisy = other.after(index, at, SESSION.close, n, rng)
            check_order(noisy)
            assert len(noisy) == index + n
            for name in Events.__dataclass_fields__:
                assert getattr(noisy, name)[:index].tobytes() == getattr(events, name)[:index].tobytes(), name
            if n:
                assert noisy.ts[index] == at and noisy.ts[-1] <= SESSION.close
    noise = other.after(0, OPEN, SESSION.close, 5000, rng)
    assert set(noise.kind) == {1, 3, 2, 6, 8, 40, 16, 17} and set(noise.symbol) == {0, 1, 2} and set(noise.side) == {-1, 0, 1}
    assert (np.diff(noise.ts) == 0).any() and noise.bid_px[:, 0].max() > 1.3 * events.bid_px[:, 0].max()
    book = noise.kind & BOOK > 0
    assert (noise.bid_sz[book] == 0).any() and (noise.bid_sz[book].max() <= events.bid_sz.max())
    assert ((noise.bid_sz[book] == 0) == (noise.bid_px[book] == EMPTY_BID)).all()
    assert ((noise.ask_sz[book] == 0) == (noise.ask_px[book] == EMPTY_ASK)).all()
    whole = (noise.bid_sz[book] > 0).all(axis=1) & (noise.ask_sz[book] > 0).all(axis=1)
    px = np.concatenate([noise.bid_px[book][:, ::-1], noise.ask_px[book]], axis=1)[whole]
    assert (np.diff(px, axis=1) > 0).all() and px.min() > 0 and len(px) > 1000
    assert built(noise).blocks[FEATURES.names].shape == (STEPS, 3, len(FEATURES.names))


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(InputError, match="0 cuts"):
        look(audited_features(), cuts=0)
    rows = built(made())
    for bad, what in (
        (rows._replace(blocks={("x",): np.zeros((STEPS, 2, 1))}), "Expected"),
        (rows._replace(blocks={}), "no row"),
        (rows._replace(as_of=rows.as_of[::-1]), "do not rise"),
    ):
        with pytest.raises(DataError, match=what):
            look(Subject("odd", lambda events, bad=bad: bad))
    with pytest.raises(DataError, match="other columns"):
        look(Subject("odd", lambda events: rows._replace(blocks={(f"n{len(events)}",): np.zeros((STEPS, 3, 1))})))


def test_an_empty_stream_and_a_silent_session_are_audited():
    assert look(audited_features(), events=made()[:0]).clean
    assert look(audited_features(), events=made()[:5]).clean


# Recorded data.


@pytest.mark.real_data
def test_a_recorded_quarter_of_an_hour_is_clean(tmp_path):
    from cift_models.events import merge
    from cift_models.feeds.canonical import events_of_tables
    from cift_models.feeds.lobster import read_lobster
    from cift_models.instruments import Universe
    from tests.lobster_slice import lobster_zip, slice_lobster

    days = [
        read_lobster(slice_lobster(lobster_zip(symbol), tmp_path / f"{symbol}.zip", 36_000_000, 36_900_000)) for symbol in ("AAPL", "GOOG")
    ]
    universe = Universe(tuple(day.instrument for day in days))
    events = merge([events_of_tables(day.tables, i) for i, day in enumerate(days)], universe.levels)
    session, features = days[0].session, FeatureSet(levels=universe.levels)
    assert session.day == int(f"{date(2012, 6, 21):%Y%m%d}") and len(events) > 10_000
    for subject in (audited.features(universe, features, session), audited.targets(universe, SECOND, session, latency_ns=10_000_000)):
        found = audit(subject, events, universe.symbols, session, cuts=48)
        assert found.clean, found.leaks[:3]
    assert "tie" in found.places and math.isfinite(float(found.compared))
