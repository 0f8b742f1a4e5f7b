"""One contract for every store of a role. A server's store is added to its role's list of openers and must keep every law."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import (
    Conflict,
    DataError,
    EmptyRange,
    InputError,
    NotStored,
    ReleaseError,
    SchemaMismatch,
    StoreError,
    UnknownSymbol,
)
from cift_models.events import BOOK, GAP, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.feeds.canonical import events_of_tables, tables_of_events
from cift_models.feeds.day import FeedDay
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_tables
from cift_models.files import sha256_bytes
from cift_models.instruments import SECOND, Instrument, Session, Universe, stretch
from cift_models.schema import BOOK as BOOK_TABLE
from cift_models.schema import BOOK_STATE, OUTPUTS, PREDICTIONS, TRADES
from cift_models.stores import lake
from cift_models.stores.features import FeatureArrays, FeatureStore, ParquetFeatures
from cift_models.stores.online import MemoryOnline, OnlineStore, Row
from cift_models.stores.panels import open_panel
from cift_models.stores.point_in_time import NO_AGE, PointInTime, point_in_time, version_at
from cift_models.stores.redis_online import RedisOnline
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import ParquetTicks, Partitions, TickStore
from tests.clickhouse_stores import chdb_store, fresh_store
from tests.lobster_made import lobster_made
from tests.lobster_slice import lobster_zip, slice_lobster
from tests.panels import toy_panel, toy_universe
from tests.tick_places import PLACES, Place

TICKS = ["parquet", pytest.param("questdb", marks=pytest.mark.slow)]
FEATURES = ["parquet", pytest.param("clickhouse", marks=pytest.mark.slow), pytest.param("chdb", marks=pytest.mark.slow)]
ONLINE = ["memory", pytest.param("redis", marks=pytest.mark.slow), pytest.param("valkey", marks=pytest.mark.slow)]
SESSION = Session(20231114, 1_000, 2_000)


@pytest.fixture(params=TICKS, scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with PLACES[request.param](tmp_path_factory.mktemp(request.param)) as place:
        yield place


@pytest.fixture
def ticks(place: Place) -> TickStore:
    return place.fresh()


class Clock:
    """What a writer's clock shows: the time, unless a test says another."""

    def __init__(self) -> None:
        self.now: int | None = None
        self.dies: Callable[[], bool] = lambda: False

    def __call__(self) -> int:
        if self.dies():
            raise Died
        return time.time_ns() if self.now is None else self.now


class Died(BaseException):
    """A process that is gone: nothing of ours catches it."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=FEATURES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> FeatureStore:
    if request.param == "parquet":
        return ParquetFeatures(tmp_path, clock)
    if request.param == "chdb":
        return chdb_store(request.getfixturevalue("chdb_session"), clock=clock)
    return fresh_store(request.getfixturevalue("clickhouse_server"), clock=clock)


@pytest.fixture(params=ONLINE, scope="module")
def online(request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
    """A store that the tests of a module share; each takes symbols of its own."""
    if request.param == "memory":
        yield MemoryOnline()
        return
    with closing(RedisOnline(request.getfixturevalue(f"{request.param}_server").url)) as store:
        yield store


# Ticks


@st.composite
def canonical_events(draw: st.DrawFn, levels: int = 2) -> Events:
    """One symbol's events of any legal kind, with ties in time, as a store must give them back."""
    kinds = [BOOK, TRADE, BOOK | TRADE, TRADE | HIDDEN, BOOK | TRADE | HIDDEN, HALT, BOOK | HALT | GAP, RESUME, BOOK | RESUME, TRADE | HALT]
    n = draw(st.integers(0, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    events = Events.empty(n, levels)
    events.ts[:] = SESSION.open + np.cumsum(rng.integers(0, 3, n))
    events.sequence[:] = draw(st.integers(-5, 2**40)) + np.cumsum(rng.integers(1, 4, n))
    events.kind[:] = draw(st.lists(st.sampled_from(kinds), min_size=n, max_size=n))
    traded, booked = events.kind & TRADE > 0, events.kind & BOOK > 0
    events.side[traded] = rng.integers(-1, 2, int(traded.sum()))
    events.trade_px[traded] = rng.integers(1, 2**40, int(traded.sum()))
    events.trade_sz[traded] = rng.integers(1, 2**40, int(traded.sum()))
    for name in ("bid_px", "bid_sz", "ask_px", "ask_sz"):
        array = getattr(events, name)
        array[booked] = rng.integers(1, 2**31 - 1, array[booked].shape)
    return events


def same(a: Events, b: Events) -> bool:
    return all(
        getattr(a, f.name).tobytes() == getattr(b, f.name).tobytes() and getattr(a, f.name).dtype == getattr(b, f.name).dtype
        for f in fields(Events)
    )


@given(canonical_events())
@settings(max_examples=60, deadline=None)
def test_events_survive_the_tables_to_the_byte(events: Events) -> None:
    assert same(events_of_tables(tables_of_events(events)), events)


@given(parts=st.lists(canonical_events(), min_size=2, max_size=2))
@settings(max_examples=10, deadline=None)
def test_events_survive_every_store_to_the_byte(parts: list[Events], place: Place) -> None:
    universe = toy_universe(2)
    store = place.fresh()
    for instrument, part in zip(universe.instruments, parts, strict=True):
        store.write_events(instrument, SESSION, part, {"feed": "test"})
    merged = store.events(universe, SESSION)
    for i, part in enumerate(parts):
        own = merged[merged.symbol == i]
        assert same(replace(own, symbol=np.zeros(len(own), np.int16)), part)
    order = np.lexsort((merged.sequence, merged.symbol, merged.ts))
    assert (order == np.arange(len(merged))).all()


def some_events(n: int = 20, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    events = Events.empty(n, 2)
    events.ts[:] = SESSION.open + np.sort(rng.integers(0, 900, n))
    events.sequence[:] = np.arange(n)
    events.kind[:] = BOOK
    events.bid_px[:], events.ask_px[:] = [10, 9], [11, 12]
    events.bid_sz[:] = events.ask_sz[:] = rng.integers(1, 9, (n, 2))
    return events


def test_the_same_write_gives_the_same_reference_and_touches_nothing(ticks: TickStore, place: Place) -> None:
    instrument = toy_universe(1).instruments[0]
    first = ticks.write_events(instrument, SESSION, some_events(), {"feed": "test"})
    before = place.state()
    assert ticks.write_events(instrument, SESSION, some_events(), {"feed": "test"}) == first
    assert place.state() == before
    other = ticks.write_events(instrument, SESSION, some_events(seed=1), {"feed": "test"})
    assert {r.key for r in other} == {r.key for r in first} and other[-1].sha256 != first[-1].sha256
    assert place.state() != before
    with pytest.raises(NotStored, match="not the one referred to"):
        ticks.read(first[-1])


def test_what_is_stored_can_be_found(ticks: TickStore) -> None:
    a, b = toy_universe(2).instruments
    later = replace(SESSION, day=20231115)
    for instrument, session in ((a, SESSION), (a, later), (b, later)):
        ticks.write_events(instrument, session, some_events(), {"feed": "test"})
    assert [(r.table, r.key.split("/")[2], r.rows) for r in ticks.partitions("book", end_day=20231114)] == [("book", "S0", 20)]
    assert len(ticks.partitions("book")) == 3 and len(ticks.partitions("trades", ["S1"])) == 1
    assert ticks.sessions(["S0", "S1"]) == (SESSION, later) and ticks.sessions(["S0", "S1"], 20231115) == (later,)
    assert ticks.instruments() == {"S0": a, "S1": b} and ticks.universe(["S1", "S0"]) == Universe((b, a))
    assert set(ticks.events(toy_universe(2), SESSION).symbol.tolist()) == {0}  # S1 is absent that day
    assert len(ticks.event_partitions(toy_universe(2), later)) == 6
    facts = ticks.facts(ticks.partitions("book")[0])
    assert facts["instrument"]["symbol"] == "S0" and facts["source"] == {"feed": "test"} and facts["first"] >= SESSION.open


def test_manifests_come_in_the_order_asked_for_and_all_of_them(ticks: TickStore) -> None:
    for instrument in toy_universe(2).instruments:
        for day in (20231114, 20231115):
            ticks.write_events(instrument, replace(SESSION, day=day), some_events(), {"feed": "test"})
    partitions = ticks._partitions
    keys = partitions.find()[::-1]
    assert len(keys) == 12 and [ref.key for ref, _ in partitions.manifests(keys)] == [key.path for key in keys]
    assert partitions.manifests(keys) == [partitions.manifest(key) for key in keys] and partitions.manifests([]) == []
    for wanted in ([keys[0], keys[0]._replace(day=20231116)], [keys[0]._replace(part="x")], [keys[0]._replace(symbol="S9"), keys[0]]):
        with pytest.raises(NotStored, match="No partition lake/trades/S"):
            partitions.manifests(wanted)


class Asked:
    """Partitions that write down what they are asked: the call, and how many keys it names."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self.questions: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*args: Any) -> object:
            self.questions.append((name, len(args[0]) if name == "manifests" else 1))
            return getattr(self._partitions, name)(*args)

        return call


def test_what_a_store_is_asked_does_not_grow_with_what_else_is_stored(ticks: TickStore) -> None:
    """A store of 500 symbols is asked for the one that is meant, and for many manifests at once."""
    for i, instrument in enumerate(toy_universe(3).instruments):
        ticks.write_events(instrument, SESSION, some_events(), {"feed": "test"})
        for day in range(20231114, 20231114 + 3):
            at = SESSION.open + day
            rows = {"ts_event": [at], "ts_recv": [at], "sequence": [i], "side": [1], "price": [100], "size": [1]}
            frame = pl.DataFrame(rows, schema=BOOK_STATE.polars_schema())
            ticks.write(BOOK_STATE.name, instrument, replace(SESSION, day=day), frame, {"feed": "test"})
    asked = Asked(ticks._partitions)
    store = TickStore(cast(Partitions, asked))
    assert [ref.key for ref in store.partitions("book", ["S1"])] == ["lake/book/S1/20231114"]
    assert asked.questions == [("find", 1), ("manifests", 1)]
    asked.questions.clear()
    before = store.book_before("S1", SESSION.open + 20231116)
    assert before is not None and before.key == "lake/book_state/S1/20231115" and asked.questions == [("find", 1), ("manifests", 3)]


def test_what_is_not_stored_is_named(ticks: TickStore) -> None:
    with pytest.raises(UnknownSymbol, match="Nothing is stored yet"):
        ticks.universe(["S0"])
    ticks.write_events(toy_universe(1).instruments[0], SESSION, some_events(), {"feed": "test"})
    with pytest.raises(UnknownSymbol, match="Stored are S0"):
        ticks.sessions(["S9"])
    with pytest.raises(UnknownSymbol):
        ticks.events(toy_universe(2), SESSION)
    with pytest.raises(EmptyRange, match="stored days: 20231114"):
        ticks.sessions(["S0"], 20240101, 20241231)
    with pytest.raises(EmptyRange, match="no quotes is stored"):
        ticks.partitions("quotes")


def test_rows_that_break_a_law_are_refused(ticks: TickStore) -> None:
    instrument = toy_universe(1).instruments[0]
    frame = tables_of_events(some_events())["book"]
    with pytest.raises(SchemaMismatch):
        ticks.write("book", instrument, SESSION, frame.drop("ask_sz_01"), {})
    with pytest.raises(SchemaMismatch, match="Unknown table"):
        ticks.write("bok", instrument, SESSION, frame, {})
    with pytest.raises(InputError, match="cannot be a folder"):
        ticks.write("book", replace(instrument, symbol="../S0"), SESSION, frame, {})
    with pytest.raises(DataError, match="levels"):
        ticks.write_events(replace(instrument, levels=3), SESSION, some_events(), {})
    double = some_events()
    double.sequence[5] = double.sequence[4]
    with pytest.raises(DataError):
        ticks.write_events(instrument, SESSION, double, {})
    silent = some_events()
    silent.kind[3] = 0
    with pytest.raises(DataError, match=r"event 3 .*kind 0"):
        ticks.write_events(instrument, SESSION, silent, {})


def test_another_scale_or_session_is_refused(ticks: TickStore) -> None:
    universe = toy_universe(1)
    ticks.write_events(universe.instruments[0], SESSION, some_events(), {"feed": "test"})
    with pytest.raises(SchemaMismatch, match="tick_units 100; the universe says tick_units 1"):
        ticks.events(Universe((replace(universe.instruments[0], tick_units=1),)), SESSION)
    with pytest.raises(DataError, match="asked was"):
        ticks.events(universe, replace(SESSION, close=3_000))
    ticks.write_events(toy_universe(2).instruments[1], replace(SESSION, close=3_000), some_events(), {"feed": "test"})
    with pytest.raises(DataError, match="one session a day"):
        ticks.sessions(["S0", "S1"])


def stretch_day(symbol: str, first_s: int, last_s: int, part: str, sequence: int) -> FeedDay:
    """A recording of a venue that never closes, one book a second; `part` begins its own range of sequences."""
    n = last_s - first_s + 1
    events = Events.empty(n, 1)
    events.ts[:] = np.arange(first_s, last_s + 1) * SECOND
    events.sequence[:] = sequence + np.arange(n)
    events.kind[:] = BOOK
    events.bid_px[:], events.ask_px[:], events.bid_sz[:], events.ask_sz[:] = 10, 11, 1, 1
    instrument = Instrument(symbol, 100, 1, 1, "coins", 0.0, "always", 1)
    return FeedDay(instrument, stretch(events.ts[0], events.ts[-1]), tables_of_events(events), {"feed": "test", "part": part}, part)


def store_days(ticks: TickStore, *days: FeedDay) -> None:
    for day in days:
        ticks.write_day(day, check_tables(day.tables, day.session, receive_clock=True))


def test_stretches_that_touch_are_one_session_and_a_hole_is_a_gap(ticks: TickStore) -> None:
    midnight = 1_723_161_600  # 2024-08-09
    before = stretch_day("A", midnight - 60, midnight, "t1", 0)
    behind = stretch_day("A", midnight, midnight + 30, "t2", 1 << 32)
    apart = stretch_day("A", midnight + 90, midnight + 120, "t3", 2 << 32)
    other = stretch_day("B", midnight - 50, midnight + 10, "t1", 0)
    store_days(ticks, apart, other, behind, before)  # in any order
    universe = ticks.universe(["A", "B"])
    (session,) = ticks.sessions(["A", "B"])
    assert session == Session(20240808, (midnight - 60) * SECOND, (midnight + 120) * SECOND)
    events = ticks.events(universe, session)
    own = events[events.symbol == 0]
    gaps = np.flatnonzero(own.kind & GAP)
    assert own.ts[gaps].tolist() == [(midnight + 30) * SECOND] and len(own) == 61 + 31 + 31 + 1
    assert len(ticks.event_partitions(universe, session)) == 12
    assert ticks.partitions("book", ["A"])[0].key == "lake/book/A/20240808/t1"


def test_two_recordings_of_one_stretch_are_refused(ticks: TickStore) -> None:
    store_days(ticks, stretch_day("A", 1_000, 1_060, "t1", 0), stretch_day("A", 1_030, 1_090, "t2", 1 << 32))
    (session,) = ticks.sessions(["A"])
    with pytest.raises(DataError, match=r"begins at 1030000000000 ns, before .* ends"):
        ticks.events(ticks.universe(["A"]), session)


def test_parts_of_a_day_may_hold_different_tables(ticks: TickStore) -> None:
    instrument = toy_universe(1).instruments[0]
    tables = tables_of_events(some_events())
    trades = TRADES.empty().extend(pl.DataFrame([(1_500, 1_500, 0, 0, 5, 5, False)], schema=TRADES.polars_schema(), orient="row"))
    quotes = tables["book"].with_columns(sequence=pl.col("sequence") + (1 << 40))
    for part, frames in (("quote", {"book": quotes}), ("trade", {"trades": trades})):
        store_days(ticks, FeedDay(instrument, SESSION, frames, {"feed": "test", "file": part}, part))
    events = ticks.events(Universe((instrument,)), SESSION)
    assert len(events) == 21 and int((events.kind & TRADE > 0).sum()) == 1


def test_half_an_ingest_is_no_session(ticks: TickStore) -> None:
    universe = toy_universe(1)
    instrument = universe.instruments[0]
    tables = tables_of_events(some_events())
    siblings = ("book", "status", "trades")
    ticks.write("trades", instrument, SESSION, tables["trades"], {"feed": "test"}, siblings=siblings)
    with pytest.raises(StoreError, match="half written: book, status missing"):
        ticks.events(universe, SESSION)
    for name in siblings:
        ticks.write(name, instrument, SESSION, tables[name], {"feed": "test"}, siblings=siblings)
    assert same(ticks.events(universe, SESSION), some_events())
    ticks.write("trades", instrument, SESSION, tables["trades"], {"feed": "other"}, siblings=siblings)
    with pytest.raises(StoreError, match="half written: its tables come from different writes"):
        ticks.events(universe, SESSION)


def test_half_an_ingest_of_the_same_file_again_is_no_session(ticks: TickStore) -> None:
    """Other code makes other rows of a file whose digest has not changed."""
    universe = toy_universe(1)
    old, new = some_events(), some_events(seed=1)
    *_, book = ticks.write_events(universe.instruments[0], SESSION, old, {"feed": "test"})
    said = ticks.facts(book)
    again = {"source": said["source"], "siblings": said["siblings"]}
    for name in ("trades", "status"):  # and killed before the book
        rows = tables_of_events(new)[name]
        ticks.write(name, universe.instruments[0], SESSION, rows, counts={"duplicate": 1}, **again)
        with pytest.raises(StoreError, match="half written: its tables come from different writes"):
            ticks.events(universe, SESSION)
    ticks.write_events(universe.instruments[0], SESSION, new, {"feed": "test"})
    assert same(ticks.events(universe, SESSION), new)


def test_a_file_sent_again_without_its_book_is_what_the_session_is_now(ticks: TickStore) -> None:
    """The old book stays where it lies and is read no more: neither half written, nor the new trades with the old book."""
    instrument = toy_universe(1).instruments[0]
    events = some_events()
    events.kind[::4] |= TRADE
    events.side[::4], events.trade_px[::4], events.trade_sz[::4] = 1, 1_050, 3
    tables = tables_of_events(events)
    store_days(ticks, FeedDay(instrument, SESSION, tables, {"feed": "test", "file": "whole"}))
    later = replace(SESSION, open=SESSION.open - 1)
    # What the symbol is may have changed too: no book, other levels.
    alone = FeedDay(replace(instrument, fee_bps=3.0), later, {"trades": tables["trades"]}, {"feed": "test", "file": "alone"})
    assert ticks.left_behind(alone) == ("status", "book")
    store_days(ticks, alone)
    assert ticks.instruments()["S0"].fee_bps == 3.0
    found = ticks.events(ticks.universe(["S0"]), later)
    assert set(found.kind.tolist()) == {TRADE} and len(found) == 5 and (found.bid_sz == 0).all()
    assert [ref.table for ref in ticks.event_partitions(ticks.universe(["S0"]), later)] == ["trades"]
    # A second file of other tables is no part of it.
    store_days(ticks, FeedDay(instrument, SESSION, {"status": tables["status"]}, {"feed": "test", "file": "other"}))
    with pytest.raises(StoreError, match=r"S0 20231114 holds tables of two recordings: trades of alone and status of other\.") as caught:
        ticks.events(toy_universe(1), SESSION)
    assert "Ingest one that holds all of these tables" in caught.value.hint
    whole = FeedDay(instrument, SESSION, tables, {"feed": "test", "file": "whole"})
    store_days(ticks, whole)
    assert ticks.left_behind(whole) == () and same(ticks.events(toy_universe(1), SESSION), events)
    # Stopped behind the trades, the book that lies there is not theirs.
    ticks.write("trades", instrument, SESSION, tables["trades"], {"feed": "test", "file": "new"}, siblings=("trades", "book"))
    with pytest.raises(StoreError, match="half written: its tables come from different writes") as caught:
        ticks.events(toy_universe(1), SESSION)
    assert "An ingest of new was stopped" in caught.value.hint


def test_quarantined_rows_are_counted_and_kept(ticks: TickStore, tmp_path: Path) -> None:
    day = read_lobster(lobster_made(tmp_path / "made.zip"))
    book = day.tables["book"].with_columns(bid_px_00=pl.when(pl.col("sequence") == 4).then(99_999).otherwise("bid_px_00").cast(pl.Int32))
    checked = check_tables({**day.tables, "book": book}, day.session, receive_clock=False)
    refs = {ref.table: ref for ref in ticks.write_day(day, checked)}
    assert ticks.facts(refs["book"])["quarantined"] == {"crossed": 1} and refs["book"].rows == 12
    kept = ticks.quarantined(refs["book"])
    assert kept is not None and kept["sequence"].to_list() == [4] and kept["reason"].to_list() == ["crossed"]
    assert ticks.quarantined(refs["trades"]) is None
    events = ticks.events(Universe((day.instrument,)), day.session)
    assert events.kind[4] == TRADE and events.trade_sz[4] == 30  # the trade of that message is no worse for it


def test_damage_on_disk_is_found(tmp_path: Path) -> None:
    ticks = ParquetTicks(tmp_path)
    *_, ref = ticks.write_events(toy_universe(1).instruments[0], SESSION, some_events(), {"feed": "test"})
    data = tmp_path / ref.key / lake.DATA
    good = data.read_bytes()
    for bad in (good[:-1], good[:50] + bytes([good[50] ^ 1]) + good[51:], b""):
        data.write_bytes(bad)
        with pytest.raises(StoreError, match="is damaged"):
            ticks.read(ref)
    data.unlink()
    with pytest.raises(StoreError, match="is damaged"):
        ticks.read(ref)
    # Writing again mends it: the manifest was right, the bytes were not.
    assert (
        ticks.write_events(toy_universe(1).instruments[0], SESSION, some_events(), {"feed": "test"})[-1] == ref
        and len(ticks.read(ref)) == 20
    )
    (tmp_path / ref.key / lake.MANIFEST).write_text("{}")
    with pytest.raises(StoreError, match=r"manifest of .* is damaged"):
        ticks.partitions("book")


def test_a_reader_who_is_overtaken_is_not_told_of_damage(tmp_path: Path) -> None:
    said = {"table": "book", "rows": 1, "schema_hash": "0" * 64}
    old = lake.write_partition(tmp_path, "lake/book/S0/20231114", {lake.DATA: b"old"}, said)
    _, manifest = lake.read_manifest(tmp_path, old.key)
    lake.write_partition(tmp_path, old.key, {lake.DATA: b"new"}, said)
    with pytest.raises(NotStored, match="is being written again"):
        lake.read_file(tmp_path, old.key, manifest, lake.DATA)
    (tmp_path / old.key / lake.MANIFEST).unlink()  # where a writer is between the two
    with pytest.raises(NotStored):
        lake.read_file(tmp_path, old.key, manifest, lake.DATA)


WRITER = """
import sys, numpy as np
from pathlib import Path
from cift_models.stores import lake
home, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(seed)
print("ready", flush=True)
while True:
    day, version = int(rng.integers(0, 4)), int(rng.integers(0, 3))
    data = {"data.parquet": bytes([version]) * 300_000, "more": bytes([version]) * 1000}
    lake.write_partition(home, f"lake/book/S0/{day:08d}", data, {"table": "book", "rows": version, "schema_hash": "0" * 64})
"""


@pytest.mark.parametrize("kills", [5, pytest.param(60, marks=pytest.mark.proof)])
def test_a_killed_writer_leaves_partitions_whole_or_absent(kills: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = 0
    for seed in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(seed)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(float(rng.uniform(0.01, 0.25)))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        for key in lake.find_manifests(tmp_path, "lake", "*/*/*"):
            ref, manifest = lake.read_manifest(tmp_path, key)
            data = {name: lake.read_file(tmp_path, key, manifest, name) for name in manifest["files"]}
            assert data == {"data.parquet": bytes([ref.rows]) * 300_000, "more": bytes([ref.rows]) * 1000}
            whole += 1
    assert whole > kills
    # The next writer is not held up by a dead one's lock, and clears what it left.
    for day in range(4):
        lake.write_partition(
            tmp_path, f"lake/book/S0/{day:08d}", {"data.parquet": b"x"}, {"table": "book", "rows": 1, "schema_hash": "0" * 64}
        )
        names = sorted(p.name for p in (tmp_path / f"lake/book/S0/{day:08d}").iterdir())
        assert names == [".lock", "data.parquet", "partition.json"]


def test_two_writers_of_one_partition_leave_one_whole(tmp_path: Path) -> None:
    def write(version: int) -> None:
        for _ in range(10):
            lake.write_partition(
                tmp_path, "lake/x", {"a": bytes([version]) * 10_000}, {"table": "book", "rows": version, "schema_hash": "0" * 64}
            )

    threads = [threading.Thread(target=write, args=(v,)) for v in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ref, manifest = lake.read_manifest(tmp_path, "lake/x")
    assert lake.read_file(tmp_path, "lake/x", manifest, "a") == bytes([ref.rows]) * 10_000


@pytest.mark.real_data
def test_a_recorded_slice_through_the_store(ticks: TickStore, tmp_path: Path) -> None:
    days = [read_lobster(slice_lobster(lobster_zip(s), tmp_path / f"{s}.zip", 36_000_000, 36_300_000)) for s in ("AAPL", "AMZN")]
    for day in days:
        ticks.write_day(day, check_tables(day.tables, day.session, receive_clock=False))
    universe = ticks.universe(["AAPL", "AMZN"])
    (session,) = ticks.sessions(universe.symbols)
    events = ticks.events(universe, session)
    assert len(events) == sum(len(d.tables["book"]) for d in days) and events.levels == 5
    assert (events.kind & BOOK > 0).all() and (events.kind & TRADE > 0).sum() == sum(len(d.tables["trades"]) for d in days)
    for i, day in enumerate(days):
        own = events[events.symbol == i]
        assert (own.bid_px[:, 0] == day.tables["book"]["bid_px_00"].to_numpy()).all()
        assert own.trade_sz.sum() == day.tables["trades"]["size"].sum()


# Features


def arrays_of(panel) -> dict[str, np.ndarray]:
    return {name: getattr(panel, name) for name in ("as_of", "offsets", "x", "valid", "why")}


def session_of(panel) -> Session:
    return Session(panel.session, panel.open, panel.close)


def test_features_come_back_to_the_bit(store: FeatureStore) -> None:
    panel = toy_panel(steps=50)
    odd = panel.x.copy()
    odd[0, 0, :6] = [-0.0, 0.0, 5e-324, -5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    panel = replace(panel, x=odd)
    ref = store.write(panel.universe, panel.features, session_of(panel), **arrays_of(panel))
    assert ref == store.write(panel.universe, panel.features, session_of(panel), **arrays_of(panel)) and ref.rows == 150
    found = store.read(panel.universe, panel.features, session_of(panel), ref.sha256)
    for name, array in arrays_of(panel).items():
        back = getattr(found, name)
        assert back.tobytes() == array.tobytes() and back.dtype == array.dtype and back.shape == array.shape and back.flags.writeable


def test_another_build_is_another_version_and_the_old_one_stays(store: FeatureStore) -> None:
    panel, other = toy_panel(steps=20), toy_panel(seed=1, steps=20)
    first, second = (store.write(p.universe, p.features, session_of(p), **arrays_of(p)) for p in (panel, other))
    assert first.sha256 != second.sha256 and set(store.versions(panel.universe, panel.features, session_of(panel))) == {first, second}
    assert (store.read(panel.universe, panel.features, session_of(panel), first.sha256).x == panel.x).all()
    with pytest.raises(NotStored):
        store.read(panel.universe, panel.features, session_of(panel), "0" * 64)
    with pytest.raises(NotStored):
        store.read(panel.universe, replace(panel.features, z_steps=61), session_of(panel), first.sha256)


def test_features_that_are_no_numbers_are_refused(store: FeatureStore) -> None:
    panel = toy_panel(steps=20)
    for bad in (np.nan, np.inf):
        x = panel.x.copy()
        x[3, 1, 0] = bad
        with pytest.raises(DataError, match=rf"S1 at .*{panel.features.names[0]} is"):
            store.write(panel.universe, panel.features, session_of(panel), **{**arrays_of(panel), "x": x})
    with pytest.raises(DataError, match="why has shape"):
        store.write(panel.universe, panel.features, session_of(panel), **{**arrays_of(panel), "why": panel.why[:-1]})


def test_outputs_and_predictions_by_run_model_and_fold(store: FeatureStore) -> None:
    row = {"symbol": "S0", "as_of": 2, "available_at": 2, "release": "", "model": "linear", "fold": 1, "max_train_t1": 1, "ready": True}
    predictions = pl.DataFrame([{**row, "mean_bps": 0.1, "p_down": None, "p_flat": None, "p_up": None}], schema=PREDICTIONS.polars_schema())
    outputs = pl.DataFrame([{**row, "name": "mean_bps", "value": -0.0}], schema=OUTPUTS.polars_schema())
    refs = [store.write_rows("predictions", "run", model, fold, predictions) for model, fold in (("hmm", 1), ("linear", 1), ("linear", 2))]
    assert store.rows("predictions", "run") == tuple(refs) and store.rows("predictions", "run", "linear", 2) == (refs[2],)
    assert store.rows("predictions", "other") == ()
    assert store.read_rows(refs[0]).equals(predictions)
    live = store.write_rows("outputs", "run", "linear", -1, outputs)
    assert store.read_rows(live).equals(outputs) and np.signbit(store.read_rows(live)["value"][0])
    with pytest.raises(SchemaMismatch):
        store.write_rows("outputs", "run", "linear", 1, predictions)
    with pytest.raises(InputError, match="does not hold what models say"):
        store.write_rows("book", "run", "linear", 1, predictions)


def test_odd_numbers_null_and_order_come_back_and_what_is_replaced_does_not(store: FeatureStore) -> None:
    row = {"available_at": 9, "release": "", "model": "linear", "fold": 1, "max_train_t1": -5, "ready": False}
    row |= {"p_down": None, "p_flat": None, "p_up": None}
    odd = [None, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -1e-310, 0.0]
    rows = [{**row, "symbol": f"S{i % 2}", "as_of": 8 - i // 2, "mean_bps": value} for i, value in enumerate(odd)]
    # Not sorted, and one row twice: a store gives back what it was given.
    frame = pl.DataFrame([*rows, rows[-1]], schema=PREDICTIONS.polars_schema())
    first = store.write_rows("predictions", "run", "linear", 1, frame)
    assert store.write_rows("predictions", "run", "linear", 1, frame) == first
    found = store.read_rows(first)
    assert found.equals(frame) and found.schema == frame.schema
    assert np.signbit(found["mean_bps"].to_numpy()).tolist() == np.signbit(frame["mean_bps"].to_numpy()).tolist()
    second = store.write_rows("predictions", "run", "linear", 1, frame[:3])
    assert store.rows("predictions", "run") == (second,) and store.read_rows(second).equals(frame[:3])
    with pytest.raises(NotStored, match="not the one referred to"):
        store.read_rows(first)
    with pytest.raises(NotStored):
        store.read_rows(second.model_copy(update={"key": "predictions/other/linear/fold_01"}))
    empty = store.write_rows("predictions", "run", "linear", 2, frame.clear())
    assert store.read_rows(empty).equals(frame.clear()) and len(store.rows("predictions", "run")) == 2


def test_a_panel_out_of_the_stores(ticks: TickStore, store: FeatureStore) -> None:
    panel = toy_panel(steps=60)
    session = session_of(panel)
    for i, instrument in enumerate(panel.universe.instruments):
        own = panel.events[panel.events.symbol == i]
        ticks.write_events(instrument, session, replace(own, symbol=np.zeros(len(own), np.int16)), {"feed": "test"})
    events = ticks.events(panel.universe, session)
    offsets = np.concatenate([[0], np.searchsorted(events.ts, panel.as_of, "right")]).astype(np.int64)
    ref = store.write(panel.universe, panel.features, session, **{**arrays_of(panel), "offsets": offsets})
    assert panel.y is not None and panel.rows is not None and panel.label_end is not None
    found = open_panel(ticks, store, panel.universe, panel.features, session, ref.sha256, (panel.y, panel.rows, panel.label_end))
    assert (found.x == panel.x).all() and len(found) == 60 and (found.open, found.close) == (session.open, session.close)
    assert sum(len(found.step(t).events) for t in range(60)) == offsets[-1] and (found.y == panel.y).all()
    wrong = store.write(panel.universe, panel.features, session, **{**arrays_of(panel), "offsets": np.zeros_like(offsets)})
    with pytest.raises(DataError, match="other events"):
        open_panel(ticks, store, panel.universe, panel.features, session, wrong.sha256)


# Features as they were known


def kept(store: FeatureStore, panel, x: np.ndarray | None = None, available_at: np.ndarray | None = None):
    """Write a panel's features, or others in their place."""
    arrays = arrays_of(panel) | ({} if x is None else {"x": x})
    return store.write(panel.universe, panel.features, session_of(panel), available_at=available_at, **arrays)


def history(store: FeatureStore, panel) -> list[tuple[int, str]]:
    return [(one.known_at, one.ref.sha256) for one in store.known(panel.universe, panel.features, session_of(panel))]


def joined(store: FeatureStore, panel, at, known_at=None, symbols: Any = "S0") -> PointInTime:
    return point_in_time(store, panel.universe, panel.features, [session_of(panel)], symbols, at, known_at)


def test_a_row_keeps_when_it_could_be_read(store: FeatureStore) -> None:
    panel = toy_panel(steps=20)
    late = panel.as_of + np.arange(20)[::-1] * 1_000_000_007
    now, later = kept(store, panel), kept(store, panel, available_at=late)
    assert now.sha256 != later.sha256  # another available_at is another version
    for ref, expected in ((now, panel.as_of), (later, late)):
        found = store.read(panel.universe, panel.features, session_of(panel), ref.sha256)
        assert found.available_at.dtype == np.int64 and found.available_at.tolist() == expected.tolist()
    late[7] = panel.as_of[7] - 1
    with pytest.raises(DataError, match=rf"The row at {panel.as_of[7]} was available before its time, at {late[7]}"):
        kept(store, panel, available_at=late)
    with pytest.raises(DataError, match="available_at has shape"):
        kept(store, panel, available_at=late[1:])
    with pytest.raises(DataError, match=rf"as_of {panel.as_of[4]} follows {panel.as_of[4]}"):
        as_of = np.insert(panel.as_of[:-1], 4, panel.as_of[4])
        store.write(panel.universe, panel.features, session_of(panel), **{**arrays_of(panel), "as_of": as_of})


def test_a_correction_is_not_seen_before_it_was_known(store: FeatureStore, clock: Clock) -> None:
    panel = toy_panel(steps=40)
    wrong = panel.x.copy()
    wrong[:30] += 1.0
    clock.now = panel.close + 100
    first = kept(store, panel, wrong)
    clock.now = panel.close + 200
    second = kept(store, panel)
    times = panel.as_of
    for known_at, x in ((panel.close + 100, wrong), (panel.close + 199, wrong), (panel.close + 200, panel.x), (2**63 - 1, panel.x)):
        for s, symbol in enumerate(panel.universe.symbols):
            found = joined(store, panel, times, known_at, symbol)
            assert found.found.all() and (found.x == x[:, s]).all() and (found.valid == panel.valid[:, s]).all()
    # At the times themselves nothing had been written: what was recorded is known from when it was stored.
    for found in (joined(store, panel, times), joined(store, panel, times, panel.close + 99)):
        assert not found.found.any() and not found.x.any() and (found.age_ns == NO_AGE).all()
    assert version_at(store, panel.universe, panel.features, session_of(panel), panel.close + 199) == first
    assert version_at(store, panel.universe, panel.features, session_of(panel), panel.close + 200) == second
    with pytest.raises(NotStored, match=rf"were known at {panel.close + 99}: the first was at {panel.close + 100}"):
        version_at(store, panel.universe, panel.features, session_of(panel), panel.close + 99)
    with pytest.raises(NotStored, match="none is stored"):
        version_at(store, panel.universe, panel.features, Session(20240101, 0, 1), panel.close)


def test_a_correction_in_mid_session_counts_from_when_it_came(store: FeatureStore, clock: Clock) -> None:
    """With no known_at each time is answered by what was the newest then: an earlier time in the same question by the earlier version."""
    panel = toy_panel(steps=10)
    clock.now = panel.open
    kept(store, panel)
    clock.now = int(panel.as_of[5])
    kept(store, panel, panel.x + 1.0)
    found = joined(store, panel, panel.as_of)
    assert (found.x[:5] == panel.x[:5, 0]).all() and (found.x[5:] == panel.x[5:, 0] + 1.0).all() and found.found.all()
    again = joined(store, panel, np.repeat(panel.as_of[3], 3), panel.as_of[[4, 5, 6]])
    assert (again.x == panel.x[3, 0] + np.array([[0.0], [1.0], [1.0]])).all()


def test_rows_that_came_in_another_order_count_by_their_instants(store: FeatureStore, clock: Clock) -> None:
    """The third row came behind the fourth: when it came, the fourth stays the last."""
    panel = toy_panel(steps=10)
    clock.now = panel.open
    late_s = np.array([0, 0, 4, 1, *[50] * 6])
    kept(store, panel, available_at=panel.as_of + late_s * SECOND)
    a, b, c, d = panel.as_of[:4].tolist()
    # Falling: a search that holds the times to be sorted meets the late one first.
    found = joined(store, panel, [panel.close, c + 4 * SECOND, d + SECOND, d + SECOND - 1, c, a, a - 1])
    assert found.as_of.tolist() == [d, d, d, b, b, a, 0] and found.found.tolist() == [True] * 6 + [False]
    assert found.age_ns.tolist() == [6 * SECOND, 3 * SECOND, SECOND, 3 * SECOND - 1, SECOND, 0, NO_AGE]


def test_the_same_rows_keep_when_they_were_first_known(store: FeatureStore, clock: Clock) -> None:
    panel = toy_panel(steps=5)
    written = []
    for now, shift in ((100, 0.0), (200, 0.0), (300, 1.0), (400, 1.0), (500, 0.0)):
        clock.now = now
        written.append(kept(store, panel, panel.x + shift).sha256)
    a, b = written[0], written[2]
    assert written == [a, a, b, b, a]
    # What comes back is the newest again, and was not in between.
    assert history(store, panel) == [(100, a), (300, b), (500, a)]
    # A clock that was set back, or another writer's that is behind, does not hide what is written last.
    clock.now = 50
    c = kept(store, panel, panel.x + 2.0).sha256
    assert kept(store, panel, panel.x + 1.0).sha256 == b
    assert history(store, panel) == [(100, a), (300, b), (500, a), (501, c), (502, b)]
    about = (store, panel.universe, panel.features, session_of(panel))
    assert [version_at(*about, t).sha256 for t in (100, 299, 300, 499, 500, 501, 9_999)] == [
        a, a, b, b, a, c, b,
    ]  # fmt: skip


def test_a_writer_that_dies_before_it_says_so_was_never_known(store: FeatureStore, clock: Clock) -> None:
    """The time is read when the version can be read: it is never too early. Without it the version is there for who has its reference."""
    panel = toy_panel(steps=5)
    about = (panel.universe, panel.features, session_of(panel))
    clock.now = 100
    first = kept(store, panel)
    clock.now = 200
    clock.dies = lambda: len(store.versions(*about)) == 2
    with pytest.raises(Died):
        kept(store, panel, panel.x + 1.0)
    clock.dies = lambda: False
    assert history(store, panel) == [(100, first.sha256)] and version_at(store, *about, 999) == first
    (dead,) = {ref.sha256 for ref in store.versions(*about)} - {first.sha256}
    assert (store.read(*about, dead).x == panel.x + 1.0).all()
    clock.now = 300
    assert kept(store, panel, panel.x + 1.0).sha256 == dead
    assert history(store, panel) == [(100, first.sha256), (300, dead)]
    assert joined(store, panel, panel.as_of, 299).x[0, 0] == panel.x[0, 0, 0] and joined(store, panel, panel.as_of, 300).x[0, 0] == (
        panel.x[0, 0, 0] + 1.0
    )


def test_a_version_that_is_mended_was_known_all_along(tmp_path: Path) -> None:
    clock = Clock()
    store, panel = ParquetFeatures(tmp_path, clock), toy_panel(steps=5)
    clock.now = 100
    ref = kept(store, panel)
    assert sorted(p.name for p in (tmp_path / ref.key).iterdir()) == [
        ".lock",
        "data.parquet",
        "known.json",
        "offsets.parquet",
        "partition.json",
    ]
    (tmp_path / ref.key / lake.DATA).write_bytes(b"")
    clock.now = 200
    assert kept(store, panel) == ref and history(store, panel) == [(100, ref.sha256)] and joined(store, panel, panel.as_of, 100).found.all()
    for damage in (b"", b"{}", b'["1"]', b"7", b'{"a": 1}'):
        (tmp_path / ref.key / lake.KNOWN).write_bytes(damage)
        with pytest.raises(StoreError, match=r"known\.json is damaged"):
            store.known(panel.universe, panel.features, session_of(panel))
        clock.now += 100
        # Late rather than early: nobody knows any more when it was.
        assert kept(store, panel) == ref and history(store, panel) == [(clock.now, ref.sha256)]


class Question(NamedTuple):
    """Sessions of a store, what is written into them when, and what is asked."""

    sessions: list[Session]
    versions: list[list[FeatureArrays]]
    """Three of each session."""
    writes: list[tuple[int, int, int]]
    """The clock, the session, the version."""
    at: np.ndarray
    symbols: Any
    known_at: Any


@st.composite
def asked_stores(draw: st.DrawFn, n_symbols: int, n_features: int) -> Question:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sessions, open_ = [], 1_000
    for day in range(draw(st.integers(1, 3))):
        close = open_ + draw(st.integers(8, 40))
        sessions.append(Session(20240101 + day, open_, close))
        open_ = close + draw(st.integers(0, 5))
    versions = []
    for session in sessions:
        versions.append([])
        for _ in range(3):
            times = np.arange(session.open + 1, session.close + 1)
            as_of = np.sort(rng.choice(times, int(rng.integers(0, min(8, len(times)) + 1)), replace=False)).astype(np.int64)
            n = len(as_of)
            shape = (n, n_symbols)
            versions[-1].append(
                FeatureArrays(
                    as_of, as_of + rng.integers(0, draw(st.sampled_from([1, 6, 25])), n), np.sort(rng.integers(0, 9, n + 1)),
                    rng.normal(size=(*shape, n_features)), rng.random(shape) < 0.7, rng.integers(0, 5, shape).astype(np.int8),
                )
            )  # fmt: skip
    clock, writes = 995, []
    for _ in range(draw(st.integers(1, 6))):
        clock += draw(st.integers(1, 15))
        writes.append((clock, draw(st.integers(0, len(sessions) - 1)), draw(st.integers(0, 2))))
    n = draw(st.integers(0, 25))
    at = rng.integers(990, open_ + 5, n)
    symbols = draw(st.sampled_from(["S0", [f"S{s}" for s in rng.integers(0, n_symbols, n)]]))
    known_at = draw(st.sampled_from([None, clock, int(rng.integers(990, clock + 5)), rng.integers(990, clock + 5, n)]))
    return Question(sessions, versions, writes, at, symbols, known_at)


def slowly(asked: Question, i: int) -> tuple[FeatureArrays, int] | None:
    """The version and the row that answer one question, found by reading everything from the start."""
    t = int(asked.at[i])
    k = t if asked.known_at is None else int(asked.known_at if np.ndim(asked.known_at) == 0 else asked.known_at[i])
    best = None
    for s, session in enumerate(asked.sessions):
        if session.open <= t <= session.close:
            best = None  # where two sessions touch, the later one
            for clock, where, version in asked.writes:
                if where == s and clock <= k:
                    best = None
                    for row, available in enumerate(asked.versions[s][version].available_at.tolist()):
                        if available <= t:
                            best = asked.versions[s][version], row
    return best


def test_no_row_is_seen_earlier_than_it_could_be_or_was_known(store: FeatureStore, clock: Clock) -> None:
    panel = toy_panel(steps=1, symbols=2)
    features = panel.features

    @given(asked_stores(2, len(features.names)))
    @settings(max_examples=150 if isinstance(store, ParquetFeatures) else 12, deadline=None)
    def holds(asked: Question) -> None:
        # A universe of its own for each example: nothing that is stored is met again.
        a, b = toy_universe(2).instruments
        universe = Universe((a, replace(b, fee_bps=float(uuid.uuid4().int % 2**50))))
        for clock.now, s, version in asked.writes:
            store.write(universe, features, asked.sessions[s], **asked.versions[s][version]._asdict())
        stored = {s for _, s, _ in asked.writes}
        sessions = [session for s, session in enumerate(asked.sessions) if s in stored]
        found = point_in_time(store, universe, features, sessions[::-1], asked.symbols, asked.at, asked.known_at)
        asked = asked._replace(
            sessions=sessions,
            versions=[v for s, v in enumerate(asked.versions) if s in stored],
            writes=[(clock, sorted(stored).index(s), v) for clock, s, v in asked.writes],
        )
        for i, t in enumerate(asked.at.tolist()):
            expected = slowly(asked, i)
            assert found.found[i] == (expected is not None), (i, t)
            if expected is None:
                assert not found.x[i].any() and (found.as_of[i], found.age_ns[i], found.valid[i], found.why[i]) == (0, NO_AGE, False, 0)
                continue
            arrays, row = expected
            symbol = asked.symbols if isinstance(asked.symbols, str) else asked.symbols[i]
            s = universe.symbols.index(symbol)
            assert found.x[i].tobytes() == arrays.x[row, s].tobytes() and arrays.available_at[row] <= t
            said = (found.as_of[i], found.age_ns[i], found.valid[i], found.why[i])
            assert said == (arrays.as_of[row], t - arrays.as_of[row], arrays.valid[row, s], arrays.why[row, s])

    holds()


class Counted:
    """A store that writes down which versions are read."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self.read_: list[tuple[int, str]] = []

    def read(self, universe, features, session: Session, sha256: str) -> FeatureArrays:
        self.read_.append((session.day, sha256))
        return self._store.read(universe, features, session, sha256)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_only_what_is_asked_for_is_opened_and_each_once(tmp_path: Path) -> None:
    clock = Clock()
    store, panels = Counted(ParquetFeatures(tmp_path, clock)), [toy_panel(steps=5, session=20231114 + i) for i in range(3)]
    sessions = []
    for i, panel in enumerate(panels):
        panel = panels[i] = replace(panel, as_of=panel.as_of + i * 10**12, open=panel.open + i * 10**12, close=panel.close + i * 10**12)
        sessions.append(session_of(panel))
        for clock.now, shift in ((100, 0.0), (200, 1.0), (300, 0.0), (400, 2.0)):
            kept(cast(FeatureStore, store), panel, panel.x + shift)
    about = (cast(FeatureStore, store), panels[0].universe, panels[0].features, sessions)
    at = np.concatenate([panels[2].as_of, panels[0].as_of])
    known = np.tile([350, 150, 250, 350, 150], 2)
    found = point_in_time(*about, "S1", at, known)
    # The version of 100 came back at 300: it is read once for both; that of 400 and the session between are not.
    assert sorted(day for day, _ in store.read_) == [20231114, 20231114, 20231116, 20231116] and len(set(store.read_)) == 4
    expected = np.concatenate([p.x[:, 1] + np.array([0, 0, 1, 0, 0])[:, None] for p in (panels[2], panels[0])])
    assert (found.x == expected).all()


def test_questions_that_cannot_be_answered(store: FeatureStore) -> None:
    panel = toy_panel(steps=5)
    kept(store, panel)
    for at, known_at, symbols, message in (
        (panel.as_of.astype(float), None, "S0", "at is float64"),
        (panel.as_of[None], None, "S0", "at has shape"),
        (panel.as_of, panel.as_of[1:], "S0", r"known_at has shape \[4\], and 5 times"),
        (panel.as_of, 1.5, "S0", "known_at is float64"),
        (panel.as_of, None, ["S0"], "1 symbols are given, and 5 times"),
        (panel.as_of, None, "S9", "does not know 'S9'"),
        (panel.as_of, None, ["S0"] * 4 + ["S9"], "does not know 'S9'"),
    ):
        with pytest.raises(InputError, match=message):
            joined(store, panel, at, known_at, symbols)
    about = (store, panel.universe, panel.features)
    with pytest.raises(InputError, match="before 20231114 ends"):
        point_in_time(*about, [session_of(panel), Session(20231115, panel.close - 1, panel.close + 9)], "S0", panel.as_of)
    elsewhere = Session(20231115, panel.close + 1, panel.close + 9)
    with pytest.raises(NotStored, match="No features of 20231115 are stored"):
        point_in_time(*about, [session_of(panel), elsewhere], "S0", [panel.close + 5])
    # It is not asked: it need not be there.
    now = 2**63 - 1
    assert point_in_time(*about, [session_of(panel), elsewhere], "S0", panel.as_of, now).found.all()
    for nothing in (point_in_time(*about, [], "S0", panel.as_of, now), joined(store, panel, [panel.open, panel.close + 1], now)):
        assert not nothing.found.any()
    assert joined(store, panel, []).x.shape == (0, len(panel.features.names))


# Online


def new_symbols(count: int) -> list[str]:
    """Symbols that no test has used."""
    return [f"{i} {uuid.uuid4()}" for i in range(count)]


NOW = 1_700_000_000_123_456_789
"""A time that float64 cannot hold: its neighbours are 256 ns away."""


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("start", [0, NOW, 1_699_999_999_999_999_998, 2**63 - 4], ids=["zero", "now", "over a second", "the last"])
@given(order=st.permutations([(s, t) for s in range(3) for t in range(4)]))
@settings(max_examples=25, deadline=None)
def test_the_newest_row_wins_in_whatever_order_rows_arrive(
    order: list[tuple[int, int]], start: int, many: bool, online: OnlineStore
) -> None:
    best = None
    a, b = new_symbols(2)
    for sequence, at in order:
        newer = best is None or (sequence, at) >= best
        row = Row(b"%d %d" % (sequence, at), sequence, start + at)
        assert (online.put_many({a: row, b: row}) == {a: newer, b: newer}) if many else (online.put(a, *row) is newer)
        best = (sequence, at) if newer else best
    assert online.get(a) == (b"2 3", 2, start + 3) and online.get_many([a, b])[1] == ((b"2 3", 2, start + 3) if many else None)


def test_online_rows(online: OnlineStore) -> None:
    a, b, c = new_symbols(3)
    assert online.get(a) is None and online.get_many([a, b]) == [None, None] and online.get_many([]) == []
    assert online.put(b, b"a", sequence=1, time=5) and online.put(b, b"a", sequence=1, time=5)  # a repeated write is harmless
    assert not online.put(b, b"old", sequence=1, time=4) and not online.put(b, b"old", sequence=0, time=9)
    assert online.put(b, b"new release", sequence=2, time=1)
    assert online.get_many([a, b, b]) == [None, (b"new release", 2, 1), (b"new release", 2, 1)]
    odd = bytes(range(256)) + b"\r\n$-1\r\n"
    assert online.put(c, odd, 0, 0) and online.put(c, odd, 2**53 - 1, 2**63 - 1) and online.get(c) == (odd, 2**53 - 1, 2**63 - 1)
    assert online.put(a, b"", 1, 1) and online.get(a) == (b"", 1, 1)
    assert online.flaws() == []


def test_many_online_rows_are_each_judged_on_their_own(online: OnlineStore) -> None:
    a, b, c = new_symbols(3)
    assert online.put_many({}) == {}
    assert online.put(a, b"newer", 1, NOW + 1)
    assert online.put_many({s: Row(s.encode(), 1, NOW) for s in (c, a, b)}) == {c: True, a: False, b: True}
    assert online.get_many([a, b, c]) == [(b"newer", 1, NOW + 1), (b.encode(), 1, NOW), (c.encode(), 1, NOW)]
    assert online.put_many({a: Row(b"next", 2, 0), b: Row(b"late", 0, NOW)}) == {a: True, b: False}


@pytest.mark.parametrize(("sequence", "time"), [(-1, 0), (2**53, 0), (0, -1), (0, 2**63)])
def test_a_row_that_cannot_be_ordered_is_refused(online: OnlineStore, sequence: int, time: int) -> None:
    a, b = new_symbols(2)
    with pytest.raises(InputError, match=f"sequence {sequence} and time {time}"):
        online.put_many({a: Row(b"", 1, 1), b: Row(b"", sequence, time)})
    assert online.get_many([a, b]) == [None, None]


def test_online_writers_race_and_the_newest_stays(online: OnlineStore) -> None:
    symbols = new_symbols(2)

    def write(start: int) -> None:
        for at in range(start, 1_500, 3):
            online.put_many({s: Row(b"%d" % at, 1, NOW + at) for s in symbols})

    def read() -> None:
        last, until = 0, monotonic() + 30
        while last < NOW + 1499:
            assert monotonic() < until
            # Asked so often that a server reads the question in several parts, and may take a write between two.
            one, *others = online.get_many(symbols * 200)
            # What is written together is seen together, and time does not run back.
            assert others == [one] * 399
            assert one is None or one.time >= last
            last = one.time if one else 0

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(read), *(threads.submit(write, i) for i in range(3))]:
            done.result(60)
    assert online.get_many(symbols) == [(b"1499", 1, NOW + 1499)] * 2


# Releases


def release(home: Path, text: str) -> str:
    name = sha256_bytes(text.encode())
    (home / "releases" / name).mkdir(parents=True)
    (home / "releases" / name / "manifest.json").write_text(text)
    return name


def test_serve_move_and_roll_back(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    assert releases.served() is None and releases.challenger() is None and releases.all() == ()
    a, b, c = (release(tmp_path, t) for t in "abc")
    assert {r.sha256 for r in releases.all()} == {a, b, c}
    releases.set_challenger(b)
    assert releases.resolve("challenger") == b and releases.resolve(a[:8]) == a
    with pytest.raises(NotStored, match="Nothing is served"):
        releases.resolve("champion")
    assert releases.compare_and_set(0, a, "promoted").sequence == 1
    assert releases.compare_and_set(1, b).sequence == 2 and releases.resolve("champion") == b
    with pytest.raises(InputError, match="was never served"):
        releases.rollback(2, c)
    served = releases.rollback(2)
    assert (served.release, served.sequence) == (a, 3) and [m.release for m in served.history] == [a, b, a]
    assert served.history[0].note == "promoted" and releases.served() == served
    assert releases.rollback(3, b).release == b


def test_a_lost_race_is_a_conflict(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    names = [release(tmp_path, str(i)) for i in range(8)]
    won: list[str] = []

    def promote(name: str) -> None:
        try:
            Releases(tmp_path).compare_and_set(0, name)
            won.append(name)
        except Conflict:
            pass

    threads = [threading.Thread(target=promote, args=(n,)) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = releases.served()
    assert served is not None and won == [served.release] and served.sequence == 1
    with pytest.raises(Conflict, match="sequence 1, expected 0"):
        releases.compare_and_set(0, names[0])
    with pytest.raises(Conflict):
        releases.rollback(0)


def test_what_cannot_be_served(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    a = release(tmp_path, "a")
    with pytest.raises(NotStored):
        releases.compare_and_set(0, "0" * 64)
    (tmp_path / "releases" / a / "manifest.json").write_text("b")
    with pytest.raises(ReleaseError, match="not the one that names it"):
        releases.compare_and_set(0, a)
    with pytest.raises(InputError):
        releases.directory("../x")
    with pytest.raises(InputError):
        releases.rollback(0)
    with pytest.raises(NotStored, match="No release 'zzz'"):
        releases.resolve("zzz")
    assert releases.served() is None
    (tmp_path / "served.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        releases.served()


def test_only_releases_have_a_manifest_json() -> None:
    assert lake.MANIFEST == "partition.json"


def test_book_columns_are_the_canonical_ones() -> None:
    assert tuple(tables_of_events(some_events())["book"].columns) == BOOK_TABLE.with_levels(2).names


def test_a_disk_that_takes_no_more_is_said_and_loses_nothing(tmp_path: Path) -> None:
    ticks = ParquetTicks(tmp_path)
    instrument = toy_universe(1).instruments[0]
    refs = ticks.write_events(instrument, SESSION, some_events(), {"feed": "test"})
    wide, tomorrow = some_events(900), Session(SESSION.day + 1, SESSION.open, SESSION.close)
    wide.bid_sz[:], wide.ask_sz[:] = np.random.default_rng(0).integers(1, 2**50, (2, 900, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, hard))  # what a full disk answers, without one
    try:
        with pytest.raises(StoreError, match=r"lake/book/S0/\d+ cannot be written below .*: File too large"):
            ticks.write_events(instrument, tomorrow, wide, {"feed": "test"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [ticks.read(ref).height for ref in refs] == [ref.rows for ref in refs]
    with pytest.raises(StoreError, match="half written: book missing"):
        ticks.events(Universe((instrument,)), tomorrow)
    ticks.write_events(instrument, tomorrow, wide, {"feed": "test"})
    assert len(ticks.events(Universe((instrument,)), tomorrow)) == 900
