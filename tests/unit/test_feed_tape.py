"""The recording beside a feed: whole while the service is away, its own reader, and loud where the disk is too slow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cift_models.errors import StoreError
from cift_models.events import GAP, RESUME, merge
from cift_models.instruments import SECOND, Universe
from serving import wire
from serving.feed import client as client_module
from serving.feed import join as join_module
from serving.feed import tape as module
from serving.feed.backlog import OVERHEAD, Backlog, Item, Source
from serving.feed.books import Books
from serving.feed.capture import Captures
from serving.feed.client import Client, WallClock
from serving.feed.exchange import Exchange, Faults
from serving.feed.join import Join, join
from serving.feed.record import Options
from serving.feed.recording import Recording
from serving.feed.rest import Rest
from serving.feed.tape import Tape
from serving.feed.venue import BREAK, DEPTH, QUOTE, SNAPSHOT, TRADE, is_break, venue
from tests.feed_made import START, batch_events, made
from tests.feed_recorded import lines_of
from tests.unit.test_feed_messages import unlike

BTC, ETH = Source("BTCUSDT", "spot"), Source("ETHUSDT", "spot")
BOTH = ("BTCUSDT", "ETHUSDT")
MIDNIGHT = 1_723_161_600 * SECOND


@pytest.fixture(scope="module")
def captures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("captures")
    return [made("BTCUSDT", 6, 1).write(folder), made("ETHUSDT", 6, 2, snapshot_at=9).write(folder)]


@pytest.fixture(scope="module")
def universe(captures) -> Universe:
    return batch_events(captures, 10)[0]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client_module, "pause_s", lambda failures, longest_s=0: 0.01)
    monkeypatch.setattr(client_module, "AGAIN_S", 0.01)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(join_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(join_module, "LAST_WORD_S", 0.1)


async def made_join(monkeypatch: pytest.MonkeyPatch, port: int, universe: Universe, out: Path, limit: int, in_flight: int = 2,
    clock: WallClock | None = None) -> Join:  # fmt: skip
    """A feed of a service that was there when it was made and is away ever since, which records."""

    async def known(url: str) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(join_module, "ask_model", known)
    monkeypatch.setattr(join_module, "universe_of", lambda served: (universe, SECOND))
    return await join(
        "ws://127.0.0.1:9/ticks", symbols=None, venue=lambda market: venue(market, f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
        options=Options(limit=limit), in_flight=in_flight, record=out, clock=clock or WallClock(START - time.time_ns()),
    )  # fmt: skip


def away(
    monkeypatch: pytest.MonkeyPatch, captures: Sequence[Path], universe: Universe, out: Path, faults: Faults | None = None,
    limit: int = 6_000, in_flight: int = 2, clock: WallClock | None = None,
) -> tuple[Join, int]:  # fmt: skip
    """A recorded feed from a recording's beginning to its end, while no service answers; and the most that waited for it."""
    most = 0

    async def run() -> Join:
        nonlocal most
        exchange = Exchange(Recording(captures), speed=6, faults=faults)
        async with exchange.serving("127.0.0.1", 0) as port:
            feed = await made_join(monkeypatch, port, universe, out, limit, in_flight, clock)
            assert feed.tape is not None
            feed.tape.backlog.limit = 64 << 20
            running = asyncio.create_task(feed.run())
            async with asyncio.timeout(30):
                while not exchange.ended.is_set():
                    most = max(most, feed.clients[0].backlog.size)
                    assert not running.done(), running
                    await asyncio.sleep(0.002)
                await asyncio.sleep(0.3)
                feed.stop()
                with pytest.raises(StoreError, match="not acknowledged"):
                    await running
        return feed

    return asyncio.run(run()), most


def test_the_recording_is_whole_while_the_service_is_away_and_memory_is_bounded(captures, universe, tmp_path, monkeypatch):
    feed, most = away(monkeypatch, captures, universe, tmp_path)
    backlog = feed.clients[0].backlog
    # The feed had no room: it dropped, trades in the end too, and said so.
    assert backlog.dropped.total() > 0 and backlog.trades.total() > 0 and backlog.gaps.total() > 0 and feed.sender.acknowledged == 0
    assert most <= 6_000 + 2 * (OVERHEAD + 200)
    # What was recorded beside it is everything, byte for byte, in order.
    for original in captures:
        here = lines_of(tmp_path / original.name)
        texts = [text for _, text in here if not text.startswith(b'{"last')]
        assert texts == [text for _, text in lines_of(original) if not text.startswith(b'{"last')]
        assert [recv for recv, _ in here] == sorted(recv for recv, _ in here)
        assert any(text.startswith(b'{"last') for _, text in here)
    said = feed.summary()
    assert said["recorded"]["lines"] == sum(len(lines_of(tmp_path / one.name)) for one in captures) > 400
    assert said["recorded"]["dropped"] == {} == said["recorded"]["dropped_trades"] and said["recorded"]["conflated"] == 0
    assert sum(said["markets"]["spot"]["dropped_trades"].values()) == backlog.trades.total()


def test_a_gap_that_comes_while_the_service_is_away_is_mended_in_the_recording(captures, universe, tmp_path, monkeypatch):
    feed, _ = away(monkeypatch, captures, universe, tmp_path, Faults(disconnect=frozenset({150}), lose=5))
    assert feed.clients[0].counts.connects == 2 and feed.tape is not None
    assert feed.tape.books.whole == 2 and feed.tape.books.gaps == 2 and feed.tape.books.resyncs == 4
    # The feed's own books stand where the service was lost: it is not they who asked.
    assert feed.stream.books.resyncs < 4
    _, events = batch_events([tmp_path / one.name for one in captures], 10)
    for place in (0, 1):
        kinds = events.kind[(events.symbol == place) & (events.kind & (GAP | RESUME) > 0)]
        assert [bool(kind & GAP) for kind in kinds] == [True, False, True, False]


def test_a_disk_that_is_slow_is_counted_and_said_and_holds_nobody_up(captures, universe, tmp_path, monkeypatch, caplog):
    write = Captures.write

    def slowly(self: Captures, items: Sequence[Item]) -> list[Source]:
        time.sleep(0.15)
        return write(self, items)

    monkeypatch.setattr(Captures, "write", slowly)
    heard: Counter[int] = Counter()
    most = 0

    async def run() -> Join:
        exchange = Exchange(Recording(captures), speed=6)
        async with exchange.serving("127.0.0.1", 0) as port:
            feed = await made_join(monkeypatch, port, universe, tmp_path, 6_000)
            feed.clients[0].backlog.limit = 64 << 20
            feeds.append(feed)
            running = asyncio.create_task(feed.run())
            async with asyncio.timeout(30):
                await exchange.ended.wait()
                await asyncio.sleep(0.3)
                feed.stop()
                with pytest.raises(StoreError, match="not acknowledged"):
                    await running
        return feed

    feeds: list[Join] = []
    offer = Backlog.offer

    def counting(self: Backlog, item: Item) -> bool:
        nonlocal most
        taken = offer(self, item)
        if feeds and feeds[0].tape is not None and self is feeds[0].tape.backlog:
            heard[item.kind] += 1
            most = max(most, self.size)
        return taken

    monkeypatch.setattr(Backlog, "offer", counting)
    with caplog.at_level(logging.WARNING, "cift.feed"):
        feed = asyncio.run(run())
    assert feed.tape is not None
    tape = feed.tape.backlog
    lost = tape.conflated + tape.dropped.total() + tape.trades.total()
    assert lost > 50 and most <= 6_000 + 2 * (OVERHEAD + 200)
    assert "the disk is too slow" in caplog.text and feed.clients[0].backlog.dropped.total() == 0
    # Every line is there, or is counted; where changes or trades are missing, a gap is declared.
    lines = [line for one in captures for line in lines_of(tmp_path / one.name)]
    gaps = sum(is_break(text) for _, text in lines)
    assert len(lines) - gaps + lost == heard.total() - heard[BREAK] and gaps == tape.gaps.total() > 0
    said = feed.summary()["recorded"]
    assert sum(said["overflows"].values()) == gaps and sum(said["dropped"].values()) == tape.dropped.total()


def test_without_a_recording_the_connection_waits_as_ever():
    waiting, never = Backlog(2_000), Backlog(2_000, waits=False)
    for n in range(100):
        taken = waiting.offer(Item(n, TRADE, BTC, b"x" * 100)), never.offer(Item(n, TRADE, BTC, b"x" * 100))
        assert taken[1] and taken[0] is (n < 4)
    out = never.drain()
    assert out[0].kind == BREAK and is_break(out[0].text) and out[0].recv == 0
    assert never.trades == {BTC: 100 - sum(item.kind == TRADE for item in out)} and never.gaps == {BTC: 1}


def test_everything_that_waits_is_dropped_as_a_gap_of_each_symbol_where_its_first_line_was():
    backlog = Backlog(6 * (100 + OVERHEAD), waits=False)
    kinds = [(TRADE, ETH), (TRADE, BTC), (TRADE, BTC), (QUOTE, ETH), (TRADE, ETH), (TRADE, BTC), (TRADE, BTC)]
    for n, (kind, source) in enumerate(kinds):
        assert backlog.offer(Item(n, kind, source, b"x" * 100))
    out = backlog.drain()
    assert [(item.recv, item.kind, item.source) for item in out] == [(0, BREAK, ETH), (1, BREAK, BTC), (6, TRADE, BTC)]
    assert backlog.trades == {BTC: 3, ETH: 2} and backlog.conflated == 1 and backlog.gaps == {BTC: 1, ETH: 1} and backlog.size == 0


class Asked:
    """A client that takes no question before the third, and keeps what it was asked."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog, self.venue = backlog, venue("spot")
        self.asked: list[str] = []

    def ask(self, symbol: str, tape: bool = False) -> None:
        assert not tape
        self.asked.append(symbol)

    def settle(self, symbol: str, tape: bool = False) -> None: ...

    def failed(self) -> None: ...


def test_the_new_days_snapshot_is_asked_for_until_it_is_there(tmp_path, universe):
    async def run() -> tuple[list[str], list[str]]:
        backlog = Backlog()
        client: Any = Asked(backlog)
        tape = Tape([client], backlog, Captures(tmp_path), Books({}))
        running = asyncio.create_task(tape.run())
        for recv in (MIDNIGHT - 1, MIDNIGHT):
            backlog.offer(Item(recv, DEPTH, BTC, b"{}"))
        async with asyncio.timeout(5):
            while len(client.asked) < 3:  # the first two came too soon after another question
                await asyncio.sleep(0.005)
        backlog.offer(Item(MIDNIGHT + 9, SNAPSHOT, BTC, b"{}"))
        await asyncio.sleep(0.1)
        before, client.asked = client.asked, []
        await asyncio.sleep(0.1)
        tape.stop()
        await running
        return before, client.asked

    before, after = asyncio.run(run())
    assert set(before) == {"BTCUSDT"} and after == []


def test_a_question_that_came_too_soon_is_asked_again(tmp_path, universe, monkeypatch, captures):
    """The real client refuses a second question within AGAIN_S; the turn of the day lies within it."""
    monkeypatch.setattr(client_module, "AGAIN_S", 0.4)

    async def run() -> int:
        exchange = Exchange(Recording(captures), speed=1000)
        async with exchange.serving("127.0.0.1", 0) as port:
            rest = Rest(venue("spot", f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"))
            client = Client(rest, ("BTCUSDT",), Backlog(), clock=WallClock(MIDNIGHT - 60 * SECOND - time.time_ns()))
            connection = asyncio.create_task(client.run())
            tape = Tape([client], client.backlog, Captures(tmp_path), Books({}))
            running = asyncio.create_task(tape.run())
            async with asyncio.timeout(10):
                await exchange.ended.wait()
                client.backlog.offer(Item(MIDNIGHT - 60 * SECOND, DEPTH, BTC, b"{}"))
                client.ask("BTCUSDT")
                while client.counts.snapshots < 1:
                    await asyncio.sleep(0.005)
                client.backlog.offer(Item(MIDNIGHT + 1, DEPTH, BTC, b"{}"))
                while client.counts.snapshots < 2:
                    await asyncio.sleep(0.005)
            connection.cancel()
            await asyncio.gather(connection, return_exceptions=True)
            tape.stop()
            await running
            await rest.close()
        return client.counts.snapshots

    assert asyncio.run(run()) == 2
    new = [text for path in tmp_path.glob("*0809.gz") for _, text in lines_of(path)]
    assert sum(text.startswith(b'{"last') for text in new) == 1


def test_a_disk_that_takes_no_more_ends_the_feed_though_the_service_is_away(captures, universe, tmp_path, monkeypatch):
    def full(self: Captures, items: Sequence[Item]) -> list[Source]:
        if items:
            raise StoreError("No space left on device.", hint="")
        return []

    monkeypatch.setattr(Captures, "write", full)

    async def run() -> None:
        exchange = Exchange(Recording(captures), speed=6)
        async with exchange.serving("127.0.0.1", 0) as port:
            feed = await made_join(monkeypatch, port, universe, tmp_path, 64 << 20)
            async with asyncio.timeout(20):
                await feed.run()

    with pytest.raises(StoreError, match="No space left"):
        asyncio.run(run())


def test_what_was_received_is_written_however_the_feed_ends(captures, universe, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 60.0)  # it sleeps when the end comes

    async def run() -> int:
        exchange = Exchange(Recording(captures), speed=1000)
        async with exchange.serving("127.0.0.1", 0) as port:
            feed = await made_join(monkeypatch, port, universe, tmp_path, 64 << 20)
            running = asyncio.create_task(feed.run())
            async with asyncio.timeout(20):
                while not exchange.ended.is_set() or feed.clients[0].counts.messages < exchange.sent:
                    await asyncio.sleep(0.005)
                assert feed.tape is not None and len(feed.tape.backlog) > 300
                feed.stop()
                with pytest.raises(StoreError, match="not acknowledged"):
                    await running
        return exchange.sent

    sent = asyncio.run(run())
    texts = [text for one in captures for _, text in lines_of(tmp_path / one.name)]
    assert sum(text.startswith(b'{"stream"') for text in texts) == sent > 300


def test_a_price_off_the_grid_does_not_end_the_feed_and_is_in_its_summary(captures, universe, tmp_path, monkeypatch, caplog):
    """Of one symbol; every line of it is recorded all the same."""
    odd = made("BTCUSDT", 6, 1)
    at = next(i for i, (_, text) in enumerate(odd.lines) if i > 200 and b"@trade" in text)
    odd.lines[at] = odd.lines[at][0], odd.lines[at][1].replace(b'0000","q"', b'0007","q"')
    (tmp_path / "odd").mkdir()
    files = [odd._replace(lines=odd.lines).write(tmp_path / "odd"), captures[1]]
    with caplog.at_level(logging.WARNING, "cift.feed"):
        feed, _ = away(monkeypatch, files, universe, tmp_path / "out", limit=64 << 20, in_flight=100_000)
    said = feed.summary()["markets"]["spot"]
    assert list(said["broken"]) == ["BTCUSDT.SPOT"] == list(said["quarantined"]) and said["quarantined"]["BTCUSDT.SPOT"] == 1
    assert 0 < said["unread"]["BTCUSDT.SPOT"] <= len(odd.lines) - at + 100 and feed.stream.books.whole == 1
    assert "BTCUSDT.SPOT is left out" in feed._progress(1.0) and caplog.text.count("is left out for 10 s") == 1
    texts = [text for _, text in lines_of(tmp_path / "out" / files[0].name) if not text.startswith(b'{"last')]
    assert texts == [text for _, text in odd.lines if not text.startswith(b'{"last')]


@dataclass(frozen=True)
class StepsBack(WallClock):
    """A clock that goes back in the middle of what it stamps."""

    lines: list[bytes] = field(default_factory=list)

    def stamp(self, text: bytes) -> int:
        self.lines.append(text)
        return super().stamp(text) - (300_000_000 if len(self.lines) > 200 else 0)


def test_what_is_sent_is_batch_of_what_is_recorded_to_the_bit_though_the_clock_goes_back(captures, universe, tmp_path, monkeypatch):
    clock = StepsBack(START - time.time_ns())
    feed, _ = away(monkeypatch, captures, universe, tmp_path, limit=64 << 20, in_flight=100_000, clock=clock)
    _, batch = batch_events([tmp_path / one.name for one in captures], 10)
    said = [wire.read(one.raw, universe).events for one in feed.sender._waiting]
    got = merge([one for one in said if one is not None], 10)
    assert unlike(got[got.sequence != 2**61], batch) == [] and len(batch) > 100
    assert feed.summary()["clock_steps"] > 20 and feed.stream.steps == 0 and len(clock.lines) > 400


def test_both_readers_are_sent_what_either_asked_for():
    async def run() -> None:
        rest: Any = type("Nobody", (), {"venue": venue("spot"), "snapshot": lambda self, symbol: asyncio.sleep(0, b"{}")})()
        client = Client(rest, ("BTCUSDT",), Backlog(), tape=Backlog())
        assert client.tape is not None
        client.ask("BTCUSDT")
        await asyncio.sleep(0.02)
        assert len(client.backlog) == len(client.tape) == 1
        client.settle("BTCUSDT")
        client.ask("BTCUSDT", tape=True)  # its own lies there unread
        await asyncio.sleep(0.02)
        assert client.counts.snapshots == 1
        client.settle("BTCUSDT", tape=True)
        client.ask("BTCUSDT", tape=True)
        await asyncio.sleep(0.02)
        assert client.counts.snapshots == 2

    asyncio.run(run())
