"""The live path on the recorded captures: exchange, client, recorder, ingest; exchange, feed, a real service."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from cift_models.engine import Decisions as Batch
from cift_models.engine import Pipeline, fold
from cift_models.events import Events
from cift_models.feeds.binance import read_binance
from cift_models.feeds.day import FeedDay
from cift_models.instruments import SECOND, Session, Universe
from cift_models.stores.releases import Releases
from serving import wire
from serving.feed.backlog import Backlog
from serving.feed.decisions import Decisions
from serving.feed.exchange import Exchange, Faults
from serving.feed.join import Join, join
from serving.feed.record import Options, Recorder, recorder
from serving.feed.recording import Line, Recording
from serving.feed.tape import Tape
from serving.feed.venue import DEPTH, venue
from tests.feed_made import batch_events
from tests.feed_recorded import InStep, RecordedClock, exchange_of, lines_of, recorded, slices
from tests.processes import ROOT, environment, free_port, stop
from tests.releases import fitted, labelled, write_release
from tests.service import Service, serving

pytestmark = [pytest.mark.slow, pytest.mark.real_data]
SYMBOLS = ("BTCUSDT", "ETHUSDT")
LEVELS = 10
LIVE = Options(clock="exchange")


@pytest.fixture(scope="module")
def captures(tmp_path_factory) -> list[Path]:
    """Forty seconds of spot."""
    return slices(tmp_path_factory.mktemp("captures"), 40)


@pytest.fixture(scope="module")
def minutes(tmp_path_factory) -> list[Path]:
    """As much as a model needs to learn something: features warm up for a minute."""
    return slices(tmp_path_factory.mktemp("minutes"), 170)


async def recorded_from(
    exchange: Exchange, out: Path, *, gate: InStep | None = None, clock: RecordedClock | None = None, options: Options = LIVE,
    market: str = "spot", symbols: Sequence[str] = SYMBOLS, patience_s: float = 90,
) -> Recorder:  # fmt: skip
    """Record everything that an exchange has."""
    async with exchange.serving("127.0.0.1", 0) as port:
        where = venue(market, f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
        recording = await recorder(where, symbols, out, options, clock=clock, flush_s=0.1)
        if gate is not None:
            gate.client = recording.client
        running = asyncio.create_task(recording.run())
        async with asyncio.timeout(patience_s):
            ended = asyncio.create_task(exchange.ended.wait())
            await asyncio.wait([ended, running], return_when=asyncio.FIRST_COMPLETED)
            quiet = 0
            while quiet < 5 and not running.done():
                before = recording.client.counts.messages
                await asyncio.sleep(0.1)
                quiet = quiet + 1 if recording.client.counts.messages == before else 0
            recording.stop()
            await running
        return recording


def captured(folder: Path) -> list[Path]:
    return [folder / f"spot_{symbol.lower()}_20240808.gz" for symbol in SYMBOLS]


def one_day(path: Path, levels: int = LEVELS) -> FeedDay:
    (day,) = read_binance(path, levels=levels)
    return day


def test_with_the_recorded_receive_times_the_recording_is_the_recording_to_the_byte(captures, tmp_path):
    gate = InStep()
    recording = asyncio.run(recorded_from(exchange_of(captures, gate), tmp_path, gate=gate, clock=RecordedClock(captures)))
    for original, copy in zip(captures, captured(tmp_path), strict=True):
        assert lines_of(copy) == lines_of(original)
        # The same bytes give the same tables; so does what the live client gave, whose state machine this is: see the test of the service.
        for name, table in one_day(original).tables.items():
            assert one_day(copy).tables[name].equals(table), name
    assert recording.books.whole == 2 and recording.books.gaps == 0 and recording.books.resyncs == 2
    assert recording.summary()["lines"] == sum(len(lines_of(path)) for path in captures)


@pytest.mark.parametrize(("market", "names", "symbols"), [
    ("usdm", ("usdm_btcusdt_20240808", "usdm_ethusdt_20240808"), ("BTCUSDT", "ETHUSDT")),
    ("coinm", ("cm_btcusd_perp_20240808", "cm_ethusd_perp_20240808"), ("BTCUSD_PERP", "ETHUSD_PERP")),
])  # fmt: skip
def test_the_futures_markets_come_back_to_the_byte_too(tmp_path, market: str, names: tuple[str, ...], symbols: tuple[str, ...]):
    captures, gate = slices(tmp_path, 12, names), InStep()
    out = tmp_path / "out"
    exchange = exchange_of(captures, gate)
    recording = asyncio.run(
        recorded_from(
            exchange, out, gate=gate, clock=RecordedClock(captures), options=replace(LIVE, depth_ms=0), market=market, symbols=symbols
        )
    )
    for original, symbol in zip(captures, symbols, strict=True):
        assert lines_of(out / f"{market}_{symbol.lower()}_20240808.gz") == lines_of(original)
    assert recording.books.whole == 2 and recording.books.gaps == 0 and not recording.books.broken


def test_over_midnight_there_are_two_files_that_chain_and_the_second_stands_alone(tmp_path, monkeypatch):
    # Six minutes pass in less than the second that lies between two questions.
    monkeypatch.setattr("serving.feed.client.AGAIN_S", 0.0)

    class Slower(InStep):
        """In step, and behind midnight it waits for the answer to the question of the new day, however slow the machine is."""

        behind = waits = 0

        async def __call__(self, line: Line) -> None:
            await super().__call__(line)
            if line.time >= 1_723_161_600 * SECOND:
                self.behind += 1
                await asyncio.sleep(0.002)
                # Not at once: the question is asked when the first of these lines has come. Not for ever: silence ends the connection.
                while self.behind > 50 and self.waits < 2_000 and self.client is not None and self.client.counts.snapshots < 2:
                    self.waits += 1
                    await asyncio.sleep(0.002)

    day, gate = recorded("spot_ethusdt_20240808"), Slower()
    (night,) = slices(tmp_path, 8, ("spot_ethusdt_20240809",))
    exchange = exchange_of([day, night], gate)
    recording = asyncio.run(recorded_from(exchange, tmp_path / "out", gate=gate, clock=RecordedClock([day, night]), symbols=("ETHUSDT",)))
    first, second = (tmp_path / "out" / f"spot_ethusdt_{date}.gz" for date in (20240808, 20240809))
    assert lines_of(first) == lines_of(day)
    # A snapshot was asked for when the day turned; otherwise the second file is what was recorded.
    asked = [line for line in lines_of(second) if line[1].startswith(b'{"last')]
    assert len(asked) == 1 and recording.client.counts.snapshots == 2
    assert [line for line in lines_of(second) if line not in asked] == lines_of(night)
    # Behind the first day the book goes on and the snapshot is spare; alone the second begins with it, and its book is the same.
    (before,) = read_binance(first, levels=LEVELS)
    (chained,) = read_binance(second, levels=LEVELS, before=lambda symbol, ns: before.tables["book_state"])
    (truth,) = read_binance(night, levels=LEVELS, before=lambda symbol, ns: before.tables["book_state"])
    (alone,) = read_binance(second, levels=LEVELS)
    columns = [name for name in truth.tables["book"].columns if name != "sequence"]
    assert (
        chained.tables["book"][columns].equals(truth.tables["book"][columns]) and chained.source["continues"] == truth.source["continues"]
    )
    assert chained.apart["book"]["reason"].to_list() == ["spare_snapshot"]
    assert alone.source["snapshots"] == 1 and alone.source["depth_gaps"] == 0
    _same_books(alone.tables["book"], truth.tables["book"], most_missing=40)
    assert recording.books.gaps == 0


def test_with_the_clock_of_now_everything_but_receive_times_and_the_snapshots_place_is_equal(captures, tmp_path):
    """Through the command line: the processes that a person starts.

    Equal, by symbol: every text and their order (the snapshot aside, whose place in the stream is when its answer came); so the trades and
    quotes to the last column that is not a receive time; and every book row behind the later of the two beginnings.
    """
    port = free_port()
    served = _start("replay", "binance", *map(str, captures), "--as-exchange", str(port), "--speed", "0", home=tmp_path)
    asked = ["record", "binance", "--symbols", "BTCUSDT,ETHUSDT", "--out", str(tmp_path / "out"), "--flush", "0.2", "--json"]
    recording = _start(*asked, *_at(port), home=tmp_path)
    try:
        served.wait(120)
    finally:
        stop(recording)
        stop(served)
    assert served.returncode == 0, served.log()
    done = orjson.loads(recording.log("stdout"))
    assert recording.returncode == 0 and "Traceback" not in recording.log()
    assert "The recording has ended" in served.log() and done["snapshots"] == 2 and done["conflated"] == 0 == sum(done["dropped"].values())
    assert done["breaks"] == {"closed": 2}, recording.log()
    for original, copy in zip(captures, captured(tmp_path / "out"), strict=True):
        here, there = lines_of(copy, ours=False), lines_of(original)
        assert [t for _, t in here if not t.startswith(b'{"last')] == [t for _, t in there if not t.startswith(b'{"last')]
        assert [t for _, t in here if t.startswith(b'{"last')] == [t for _, t in there if t.startswith(b'{"last')]
        assert abs(here[0][0] - there[0][0]) < 120 * SECOND  # the exchange's clock, not ours
        mine, its = one_day(copy).tables, one_day(original).tables
        assert mine["trades"].drop("ts_recv", "sequence").equals(its["trades"].drop("ts_recv", "sequence"))
        times = ("ts_recv", "ts_event", "sequence")  # spot's best bid and ask have no time of the exchange
        assert mine["quotes"].drop(times).equals(its["quotes"].drop(times)) and len(its["quotes"]) > 1000
        _same_books(mine["book"], its["book"])


def _same_books(mine: pl.DataFrame, its: pl.DataFrame, most_missing: int = 60) -> None:
    """Rows of changes by their exchange time: those of the shorter one are the tail of the longer one's."""
    a, b = (t.filter(pl.col("ts_event") != pl.col("ts_recv")).drop("ts_recv", "sequence") for t in (mine, its))
    n = min(len(a), len(b))
    assert n > len(its) - most_missing and a.tail(n).equals(b.tail(n))


def test_a_cut_and_a_lost_change_are_gaps_that_a_snapshot_mends(captures, tmp_path):
    sent = [line for line in Recording(captures).lines() if line.text.startswith(b'{"stream"')]
    lost = next(n for n, line in enumerate(sent, 1) if n > 1500 and line.kind == DEPTH and line.symbol == "ETHUSDT")
    faults = Faults(drop=frozenset({lost}), disconnect=frozenset({4000}), lose=150, snapshot_errors=1, snapshot_delay_s=0.05)
    # Eight times as fast as it was: what is asked for is answered before the recording has ended.
    exchange = Exchange(Recording(captures), speed=8, faults=faults)
    recording = asyncio.run(recorded_from(exchange, tmp_path))
    counts = recording.client.counts
    assert counts.connects == 2 and counts.breaks == {"closed": 2}
    # BTC lost its book at the cut, ETH at the lost change and at the cut: each was mended, and what was asked was asked again when refused.
    assert recording.books.gaps == 3 and recording.books.resyncs == 5 and recording.books.whole == 2
    assert counts.snapshots >= 5 and exchange.refused == 1
    for original, copy, gaps in zip(captures, captured(tmp_path), (1, 2), strict=True):
        day = one_day(copy)
        assert day.source["depth_gaps"] == gaps and day.source["snapshots"] == gaps + 1
        status = day.tables["status"]
        assert status["halted"].to_list() == [True, False] * (gaps + 1)
        assert [text for _, text in lines_of(copy) if b'"gap":"closed' in text and len(text) < 400] != []
        assert _true_rows(day, original) > 0.4
        # Trades: those that went by unheard are missing, no other, and none is there twice.
        mine, its = (_trade_ids(path) for path in (copy, original))
        assert len(set(mine)) == len(mine) and mine == [t for t in its if t in set(mine)] and len(its) - len(mine) < 250


def _true_rows(day: FeedDay, original: Path) -> float:
    """Share of the true book's rows that were recorded; every recorded one must be true: nothing was put together across a gap."""
    truth = one_day(original).tables["book"].drop("ts_recv", "sequence")
    rows = day.tables["book"].filter(pl.col("ts_event") != pl.col("ts_recv")).drop("ts_recv", "sequence")
    assert len(rows.join(truth, on=rows.columns, how="anti", nulls_equal=True)) == 0
    return len(rows) / len(truth)


def _trade_ids(path: Path) -> list[int]:
    return [int(m[1]) for _, text in lines_of(path) if (m := re.search(rb'"e":"trade".*"t":(\d+)', text))]


def test_a_reader_that_stops_for_a_while_loses_quotes_and_book_changes_counted_and_no_trade(captures, tmp_path, monkeypatch):
    exchange = Exchange(Recording(captures), speed=8)
    work, stops = Tape._work, [2.5]

    def stopping(self: Tape, *arguments: Any) -> Any:
        out = work(self, *arguments)
        if self.clients[0].counts.messages > 2000 and self.books.whole == 2 and stops:
            time.sleep(stops.pop())
        return out

    monkeypatch.setattr(Tape, "_work", stopping)
    sizes: list[int] = []
    offer = Backlog.offer

    def watched(self: Backlog, item: Any) -> bool:
        taken = offer(self, item)
        sizes.append(self.size)
        return taken

    monkeypatch.setattr(Backlog, "offer", watched)
    limit = 400_000
    recording = asyncio.run(recorded_from(exchange, tmp_path, options=Options(limit=limit, clock="exchange")))
    backlog, counts = recording.client.backlog, recording.client.counts
    assert max(sizes) <= limit + 400 and backlog.conflated > 100 and backlog.dropped.total() > 50
    assert len(backlog.gaps) == 2 and max(backlog.gaps.values()) < 5 and backlog.waited > 0
    # A connection that was held up is not a dead one.
    assert counts.connects == 1 and not counts.breaks
    assert recording.books.gaps >= 2 and recording.books.resyncs == recording.books.gaps + 2 and recording.books.whole == 2
    written = 0
    for source, original, copy in zip(recording.client.sources, captures, captured(tmp_path), strict=True):
        assert _trade_ids(copy) == _trade_ids(original)
        lines = lines_of(copy)
        assert sum(b'"gap":"overflow"' in text for _, text in lines) == backlog.gaps[source]
        day = one_day(copy)
        assert day.source["lines"] == len(lines) and 0 < _true_rows(day, original) < 1
        written += len(lines)
        # The newest quote is there.
        quotes = [[t for _, t in lines_of(path) if b"@bookTicker" in t] for path in (copy, original)]
        assert quotes[0][-1] == quotes[1][-1] and len(quotes[0]) < len(quotes[1])
    assert written == counts.messages + counts.snapshots + backlog.gaps.total() - backlog.conflated - backlog.dropped.total()


def test_a_recorder_that_is_killed_leaves_readable_files_and_goes_on_in_them(captures, tmp_path):
    port, out = free_port(), tmp_path / "out"
    served = _start("replay", "binance", *map(str, captures), "--as-exchange", str(port), "--speed", "2", home=tmp_path)
    kept: list[list[tuple[int, bytes]]] = [[], []]
    try:
        for kill in range(3):
            asked = ["record", "binance", "--symbols", "BTCUSDT,ETHUSDT", "--out", str(out), "--flush", "0.05", *_at(port)]
            recording = _start(*asked, home=tmp_path)
            before = [path.stat().st_size if path.exists() else 0 for path in captured(out)]
            _until(
                lambda b=before: all(p.exists() and p.stat().st_size > s + 20_000 for p, s in zip(captured(out), b, strict=True)), recording
            )
            if kill == 2:
                assert stop(recording) == 0, recording.log()
                break
            os.killpg(recording.pid, signal.SIGKILL)
            recording.wait(10)
            for i, path in enumerate(captured(out)):
                lines = lines_of(path)  # gzip reads it to its end
                assert lines[: len(kept[i])] == kept[i] and len(lines) > len(kept[i])
                one_day(path)
                kept[i] = lines
    finally:
        stop(recording)
        stop(served)
    for path, lines, original in zip(captured(out), kept, captures, strict=True):
        final = lines_of(path)
        assert final[: len(lines)] == lines and len(final) > len(lines)
        restarts = [i for i, (_, text) in enumerate(final) if b"recorder restarted" in text and len(text) < 400]
        assert len(restarts) == 2 and all(final[i][0] == final[i - 1][0] for i in restarts)
        day = one_day(path)
        assert day.source["depth_gaps"] == 2 and day.source["snapshots"] == 3
        truth, ids = _trade_ids(original), _trade_ids(path)
        assert ids == [t for t in truth if t in set(ids)]


@contextmanager
def _home(folder: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, Pipeline, Universe, Events]]:
    """A home with a release that learned from captures; its pipeline, and the captures' events."""
    universe, events = batch_events(paths, LEVELS)
    session = Session(20240808, int(events.ts[0]) // SECOND * SECOND, (int(events.ts[-1]) // SECOND + 1) * SECOND)
    panel = labelled(universe, session, events)
    made = fitted(panel, ("last_move", "queue_imbalance", "linear", "hawkes"), "linear", -0.3)
    name = write_release(folder, made, panel)
    Releases(folder).set_challenger(name)
    yield folder, made, universe, events


@pytest.fixture(scope="module")
def home(tmp_path_factory, minutes) -> Iterator[tuple[Path, Pipeline, Universe, Events]]:
    with _home(tmp_path_factory.mktemp("home"), minutes) as made:
        yield made


@pytest.fixture(scope="module")
def service(home) -> Iterator[Service]:
    with serving(home[0], "challenger") as running:
        yield running


def _differences(pipeline: Pipeline, said: Sequence[dict[str, Any]], session: Session, events: Events) -> tuple[int, list[str]]:
    """(values compared, those that differ in a bit) of every decision against the batch result of the same session and events."""
    batch: Batch = fold(pipeline, pipeline.panel(session, events))
    as_of = np.asarray(batch.as_of)
    compared, bad = 0, []
    assert [one["as_of"] for one in said] == as_of[: len(said)].tolist()
    for t, one in enumerate(said):
        n, unequal = wire.differences(pipeline, one, batch, t)
        compared += n
        bad += [f"{one['as_of']} {text}" for text in unequal]
    return compared, bad


async def _feed(
    exchange: Exchange, service: Service, decisions: Decisions, *, gate: InStep | None = None, clock: RecordedClock | None = None,
    **more: Any,
) -> Join:  # fmt: skip
    async with exchange.serving("127.0.0.1", 0) as port:
        made = await join(
            service.ticks, symbols=SYMBOLS, market="spot", clock=clock, decisions=decisions, session_hours=1,
            venue=lambda market: venue(market, f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"), **more,
        )  # fmt: skip
        if gate is not None:
            gate.client = made.clients[0]
        running = asyncio.create_task(made.run())
        async with asyncio.timeout(150):
            ended = asyncio.create_task(exchange.ended.wait())
            await asyncio.wait([ended, running], return_when=asyncio.FIRST_COMPLETED)
            while made.clients[0].counts.messages < exchange.sent and not running.done():
                await asyncio.sleep(0.05)
            made.stop()
            await running
        return made


def test_what_the_service_says_live_is_the_batch_result_of_the_recorded_files_to_the_bit(home, service, minutes, tmp_path, monkeypatch):
    """The strongest form: with the recorded receive times, live over sockets equals ingest of the original captures, bit by bit."""
    folder, pipeline, _, events = home
    monkeypatch.setenv("CIFT_HOME", str(folder))
    gate, heard = InStep(), Decisions(tmp_path / "said.jsonl")
    made = asyncio.run(
        _feed(exchange_of(minutes, gate), service, heard, gate=gate, clock=RecordedClock(minutes), record=tmp_path / "captures")
    )
    heard.close()
    said = [orjson.loads(line) for line in (tmp_path / "said.jsonl").read_bytes().splitlines()]
    session = made.stream.session
    assert session is not None and session.close - session.open == 3600 * SECOND
    compared, bad = _differences(pipeline, said, session, events)
    assert bad == [] and compared > 5000
    # Every second that passed was decided, models were ready, and something was said.
    assert len(said) == (int(RecordedClockEnd(minutes)) - session.open - 1) // SECOND and len(said) >= 165
    ready = [
        one["symbols"][s]["models"][kind]["ready"]
        for one in said[90:]
        for s in ("BTCUSDT.SPOT", "ETHUSDT.SPOT")
        for kind in ("linear", "hawkes")
    ]
    assert sum(ready) > 0.9 * len(ready)
    assert {one["symbols"]["BTCUSDT.SPOT"]["signal"] for one in said} >= {"Buy", "Sell"}
    summary = made.summary()
    assert summary["late"] == 0 and summary["events"] == len(events) and summary["applied"] == len(events) + 2
    assert summary["clock_steps"] == 0 and summary["markets"]["spot"]["gaps"] == 0
    # What was recorded beside it is the original, to the byte.
    for original, copy in zip(minutes, captured(tmp_path / "captures"), strict=True):
        assert lines_of(copy) == lines_of(original)


def RecordedClockEnd(paths: Sequence[Path]) -> int:  # noqa: N802
    return max(lines_of(path)[-1][0] for path in paths)


def test_the_feed_as_a_person_runs_it_with_a_service_that_is_killed(home, captures, tmp_path):
    """`cift replay --as-exchange`, `cift feed`, `cift serve`; the service dies by -9 in the middle and comes back.

    Every second is decided once, in real time, as the batch result of what was recorded beside it says, to the bit.
    """
    folder, pipeline, _, _ = home
    port, out, said_path = free_port(), tmp_path / "captures", tmp_path / "said.jsonl"
    with serving(folder, "challenger") as service:
        served = _start("replay", "binance", *map(str, captures), "--as-exchange", str(port), home=folder)
        asked = [
            "feed",
            "binance",
            "--to",
            service.ticks,
            "--record",
            str(out),
            "--decisions",
            str(said_path),
            "--json",
            "--session-hours",
            "1",
        ]
        feeding = _start(*asked, *_at(port), home=folder)
        try:
            _until(lambda: said_path.exists() and said_path.read_bytes().count(b"\n") >= 4, feeding)
            service.kill(service.get("/model").json()["pid"])
            time.sleep(0.5)
            service.start()
            after = said_path.read_bytes().count(b"\n")
            _until(lambda: said_path.read_bytes().count(b"\n") >= after + 6, feeding)
        finally:
            code = stop(feeding, 40)
            stop(served)
    assert code == 0, feeding.log()
    done = orjson.loads(feeding.log("stdout"))
    said = [orjson.loads(line) for line in said_path.read_bytes().splitlines()]
    assert done["service_connections"] == 2 and done["late"] == 0 and done["decisions"] == len(said) >= 10
    _, events = batch_events(captured(out), LEVELS)
    compared, bad = _differences(pipeline, said, Session(**done["session"]), events)
    assert bad == [] and compared > 15 * len(said)
    assert done["markets"]["spot"]["gaps"] == 0 and done["events"] == len(events)
    # A quiet moment is decided too, and in time: half of the decisions were there within a second of their instant.
    assert done["lag_ms"]["p50"] < 1000 or os.getloadavg()[0] > 8


def test_a_service_that_is_away_for_long_costs_a_gap_and_the_recording_nothing(home, captures, tmp_path, monkeypatch):
    """Longer than the feed's backlog has room for: what it dropped is a gap that a snapshot ends, and all of it is recorded."""
    folder, said_path = home[0], tmp_path / "said.jsonl"
    monkeypatch.setenv("CIFT_HOME", str(folder))
    exchange, heard = Exchange(Recording(captures), speed=1.5), Decisions(said_path)

    async def run(service: Service) -> Join:
        async with exchange.serving("127.0.0.1", 0) as port:
            made = await join(
                service.ticks, symbols=None, decisions=heard, session_hours=1, record=tmp_path / "captures",
                venue=lambda market: venue(market, f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
                options=Options(limit=200_000, clock="exchange"),
            )  # fmt: skip
            assert made.tape is not None
            made.tape.backlog.limit = 64 << 20
            running = asyncio.create_task(made.run())
            async with asyncio.timeout(120):
                while heard.count < 4:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(service.kill, service.get("/model").json()["pid"])
                while made.clients[0].backlog.trades.total() == 0:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(service.start)
                await exchange.ended.wait()
                while made.clients[0].counts.messages < exchange.sent:
                    await asyncio.sleep(0.02)
                made.stop()
                await running
        return made

    with serving(folder, "challenger") as service:
        made = asyncio.run(run(service))
    heard.close()
    done = made.summary()
    assert done["late"] == 0 and done["service_connections"] == 2 and done["markets"]["spot"]["connects"] == 1
    assert sum(done["markets"]["spot"]["dropped"].values()) > 0 and done["recorded"]["gaps"] == 0
    assert done["recorded"]["conflated"] == 0 and not done["recorded"]["overflows"]
    for original, copy in zip(captures, captured(tmp_path / "captures"), strict=True):
        here, there = lines_of(copy), lines_of(original)
        assert [t for _, t in here if not t.startswith(b'{"last')] == [t for _, t in there if not t.startswith(b'{"last')]
        assert one_day(copy).source["depth_gaps"] == 0
    said = [orjson.loads(line) for line in said_path.read_bytes().splitlines()]
    times = [one["as_of"] for one in said]
    assert times == list(range(times[0], times[-1] + 1, SECOND)) and len(said) == done["decisions"]
    for symbol in ("BTCUSDT.SPOT", "ETHUSDT.SPOT"):
        whys = [one["symbols"][symbol]["why"] for one in said]
        # No book at first; a gap while nobody was told; then what is known again. (What the end says may come after the last instant.)
        lost = len(whys) - whys[::-1].index("gap") if "gap" in whys[4:] else 0
        assert 4 < lost < len(whys), whys


def test_a_feed_that_is_killed_goes_on_in_the_session_behind_a_gap(home, captures, tmp_path):
    with serving(home[0], "challenger") as service:
        _kill_a_feed(home[0], service, captures, tmp_path)


def _kill_a_feed(folder: Path, service: Service, captures: list[Path], tmp_path: Path) -> None:
    port, said_path = free_port(), tmp_path / "said.jsonl"
    served = _start("replay", "binance", *map(str, captures), "--as-exchange", str(port), home=folder)
    asked = ["feed", "binance", "--to", service.ticks, "--decisions", str(said_path), "--session-hours", "1", *_at(port)]
    try:
        first = _start(*asked, home=folder)
        _until(lambda: said_path.exists() and said_path.read_bytes().count(b"\n") >= 4, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(10)
        before = said_path.read_bytes().count(b"\n")
        second = _start(*asked, home=folder)
        # What the service had decided and the first feed had not written comes first, then the gap, then what is known again.
        _until(lambda: "gap" in (whys := _whys(said_path, before)) and whys[-1] != "gap", second)
        assert stop(second, 40) == 0, second.log()
    finally:
        stop(first)
        stop(second)
        stop(served)
    assert "going on with the session" in second.log()
    said = [orjson.loads(line) for line in said_path.read_bytes().splitlines()]
    times = [one["as_of"] for one in said]
    # No second is left out: what nobody knew is decided as a gap.
    assert times == list(range(times[0], times[-1] + 1, SECOND))
    whys = _whys(said_path, before)
    assert whys.count("gap") >= 1 and "gap" not in whys[whys.index("gap") + whys.count("gap") :], whys


def _whys(said: Path, since: int) -> list[str]:
    """Why bitcoin's rows were not valid, decision by decision, after so many of them; a line that is being written does not count."""
    lines = said.read_bytes().splitlines(keepends=True)[since:]
    return [orjson.loads(line)["symbols"]["BTCUSDT.SPOT"]["why"] for line in lines if line.endswith(b"\n")]


class Started(subprocess.Popen):
    """A command, with what it said."""

    out: Path

    def log(self, which: str = "stderr") -> str:
        return (self.out / f"{self.name}.{which}").read_text()

    name: str


def _start(command: str, *arguments: str, home: Path) -> Started:
    home.mkdir(parents=True, exist_ok=True)
    name = f"{command}-{time.monotonic_ns()}"
    with open(home / f"{name}.stdout", "wb") as stdout, open(home / f"{name}.stderr", "wb") as stderr:
        run = [sys.executable, "-m", "flows.cli", command, *arguments]
        started = Started(
            run, cwd=ROOT, env=environment(home), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    started.out, started.name = home, name
    return started


def _at(port: int) -> list[str]:
    return ["--ws", f"ws://127.0.0.1:{port}", "--rest", f"http://127.0.0.1:{port}", "--clock", "exchange"]


def _until(what: Any, process: Started, patience_s: float = 90) -> None:
    until = time.monotonic() + patience_s
    while not what():
        assert process.poll() is None and time.monotonic() < until, process.log()
        time.sleep(0.05)
