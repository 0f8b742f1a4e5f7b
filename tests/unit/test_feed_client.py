"""The connection: what comes is kept as it came, what is lost is declared, what is refused is asked again or said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
import pytest
import websockets
from websockets.datastructures import Headers
from websockets.http11 import Response

from cift_models.errors import FeedError, InputError, StoreUnavailable
from serving.feed import client as client_module
from serving.feed import rest as rest_module
from serving.feed.backlog import Backlog, Item, Source
from serving.feed.client import Client, clock_beside
from serving.feed.exchange import Exchange, Faults
from serving.feed.record import listings
from serving.feed.recording import Recording
from serving.feed.rest import Rest, pause_s
from serving.feed.venue import BREAK, DEPTH, SNAPSHOT, TRADE, venue
from tests.feed_made import made

BTC, ETH = Source("BTCUSDT", "spot"), Source("ETHUSDT", "spot")
BOTH = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(scope="module")
def captures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("captures")
    return [made("BTCUSDT", 6, 1).write(folder), made("ETHUSDT", 6, 2, snapshot_at=9).write(folder)]


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    for module in (client_module, rest_module):
        monkeypatch.setattr(module, "pause_s", lambda failures, longest_s=0: 0.01)
    monkeypatch.setattr(client_module, "AGAIN_S", 0.01)


def rest_at(port: int, market: str = "spot") -> Rest:
    return Rest(venue(market, f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"))


def played(
    captures: list[Path], *, faults: Faults | None = None, ask: bool = True, until: int | None = None, **options: Any
) -> tuple[list[Item], Client, Exchange]:
    """Everything that a client makes of a recording, until it has ended, or so many items have come."""

    async def run() -> tuple[list[Item], Client, Exchange]:
        exchange = Exchange(Recording(captures), speed=0, faults=faults)
        items: list[Item] = []
        async with exchange.serving("127.0.0.1", 0) as port:
            rest = rest_at(port)
            client = Client(rest, BOTH, Backlog(), **options)
            running = asyncio.create_task(client.run())
            asked: set[Source | None] = set()
            try:
                async with asyncio.timeout(30):
                    while True:
                        some = await client.backlog.take(timeout_s=0.3)
                        items += some
                        if not some and exchange.ended.is_set():
                            break
                        for item in some:
                            if ask and item.kind == DEPTH and item.source not in asked and item.source is not None:
                                asked.add(item.source)
                                client.ask(item.source.symbol)
                        client.failed()
                        if running.done() or (until is not None and len(items) >= until):
                            break
            finally:
                running.cancel()
                ended = await asyncio.gather(running, return_exceptions=True)
                await rest.close()
            if not isinstance(ended[0], asyncio.CancelledError):
                raise ended[0]  # type: ignore[misc]
            return items, client, exchange

    return asyncio.run(run())


def sent(captures: list[Path]) -> list[bytes]:
    """Texts of a recording in the order in which they go out, snapshots aside."""
    return [line.text for line in Recording(captures).lines() if line.kind != SNAPSHOT]


def test_every_message_is_kept_as_it_was_sent(captures):
    items, client, exchange = played(captures)
    assert [item.text for item in items if item.kind != SNAPSHOT] == sent(captures)
    assert {item.source for item in items} == {BTC, ETH}
    assert [item.recv for item in items] == sorted(item.recv for item in items) and time.time_ns() - items[0].recv < 30e9
    snapshots = {item.source: item.text for item in items if item.kind == SNAPSHOT}
    recorded = {Source(line.symbol, "spot"): line.text for line in Recording(captures).lines() if line.kind == SNAPSHOT}
    assert snapshots == recorded and exchange.snapshots == client.counts.snapshots == 2
    assert client.counts.messages == len(sent(captures)) and client.counts.connects == 1 and not client.counts.breaks


def test_a_connection_that_is_cut_is_made_again_and_every_symbol_has_a_gap(captures):
    items, client, exchange = played(captures, faults=Faults(disconnect=frozenset({60, 110}), lose=7))
    assert client.counts.connects == exchange.connections == 3
    gaps = [item for item in items if item.kind == BREAK]
    assert Counter(item.source for item in gaps) == {BTC: 2, ETH: 2} and client.counts.breaks.total() == 4
    # Between the gaps stands what was sent, without a hole; what was on its way at a cut is lost, and what goes by unheard is too.
    stretches: list[list[bytes]] = [[]]
    for before, item in zip([None, *items], items, strict=False):
        if item.kind == BREAK and before is not None and before.kind != BREAK:
            stretches.append([])
        if item.kind not in (SNAPSHOT, BREAK):
            stretches[-1].append(item.text)
    everything = sent(captures)
    first, second, third = stretches
    assert first == everything[: len(first)] and 0 < len(first) <= 60
    assert second == everything[67 : 67 + len(second)] and 0 < len(second) <= 43
    assert third == everything[117:]


def test_a_connection_that_says_nothing_is_given_up(captures, caplog):
    with caplog.at_level(logging.WARNING, "cift.feed"):
        items, client, _ = played(captures, faults=Faults(silent=frozenset({50})), silence_s=0.5)
    assert client.counts.connects == 2 and client.counts.breaks == {"no message for 0.5 s": 2}
    assert "no message for 0.5 s; connecting again" in caplog.text
    # At speed 0 the exchange waits for a listener: nothing was lost, and the gap is declared all the same.
    assert [item.text for item in items if item.kind not in (SNAPSHOT, BREAK)] == sent(captures)


def test_a_reader_that_holds_the_client_up_is_not_silence(captures):
    async def run() -> Counter[str]:
        exchange = Exchange(Recording(captures), speed=0)
        async with exchange.serving("127.0.0.1", 0) as port:
            rest = rest_at(port)
            client = Client(rest, BOTH, Backlog(limit=2000), silence_s=0.2)
            running = asyncio.create_task(client.run())
            await asyncio.sleep(1.2)
            assert len(client.backlog) and client.counts.connects == 1 and client.backlog.waited > 0
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return client.counts.breaks

    assert asyncio.run(run()) == {}


def test_a_message_that_was_dropped_on_the_way_is_not_made_up(captures):
    items, _, _ = played(captures, faults=Faults(drop=frozenset({40, 41, 80})))
    everything = sent(captures)
    assert [item.text for item in items if item.kind != SNAPSHOT] == [t for i, t in enumerate(everything, 1) if i not in (40, 41, 80)]


def test_snapshots_that_are_refused_or_late_are_got_all_the_same(captures):
    items, client, exchange = played(captures, faults=Faults(snapshot_errors=3, snapshot_delay_s=0.2))
    assert client.counts.snapshots == 2 and exchange.refused == client.rest.refused == 3 and client.rest.asked == 5
    assert sum(item.kind == SNAPSHOT for item in items) == 2


def test_a_snapshot_is_asked_for_once_until_it_was_read(captures):
    async def run() -> tuple[int, int]:
        exchange = Exchange(Recording(captures), speed=0)
        async with exchange.serving("127.0.0.1", 0) as port:
            rest = rest_at(port)
            client = Client(rest, BOTH, Backlog())
            running = asyncio.create_task(client.run())
            items: list[Item] = []
            while sum(item.kind == SNAPSHOT for item in items) < 1:
                items += await client.backlog.take(timeout_s=0.05)
                client.ask("BTCUSDT")
                client.ask("BTCUSDT")
                await asyncio.sleep(0.02)
            for _ in range(5):  # it lies there, unread as far as the client knows
                client.ask("BTCUSDT")
                await asyncio.sleep(0.02)
            first = rest.asked
            client.settle("BTCUSDT")
            client.ask("BTCUSDT")
            while client.counts.snapshots < 2:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await rest.close()
            return first, rest.asked

    assert asyncio.run(run()) == (1, 2)


async def _with_server(
    answer: Callable[[str], tuple[int, bytes, dict[str, str]]], body: Callable[[int], Coroutine[Any, Any, Any]],
    talk: Callable[[Any], Awaitable[None]] | None = None,
) -> Any:  # fmt: skip
    """Something that answers REST as told, and talks over WebSockets as told."""

    def rest(socket: Any, request: Any) -> Response | None:
        if request.headers.get("upgrade") == "websocket" and talk is not None:
            return None
        status, text, headers = answer(request.path)
        return Response(
            status, HTTPStatus(status).phrase, Headers({"Content-Length": str(len(text)), "Connection": "close", **headers}), text
        )

    async def quiet(socket: Any) -> None:
        await socket.wait_closed()

    async with websockets.serve(talk or quiet, "127.0.0.1", 0, process_request=rest) as server:
        return await body(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    ("status", "text"), [(429, b'{"code":-1003,"msg":"Too many requests"}'), (418, b""), (500, b"<html>"), (503, b"{}")]
)
def test_what_may_pass_is_asked_again(status: int, text: bytes, caplog):
    answers = deque([(status, text, {}), (status, text, {}), (200, b'{"lastUpdateId":1,\n"bids":[],"asks":[]}\n', {})])

    async def body(port: int) -> bytes:
        rest = rest_at(port)
        try:
            return await rest.snapshot("BTCUSDT")
        finally:
            await rest.close()

    with caplog.at_level(logging.WARNING, "cift.feed"):
        said = asyncio.run(_with_server(lambda path: answers.popleft(), body))
    # A body of several lines would be several lines of a capture.
    assert said == b'{"lastUpdateId":1,"bids":[],"asks":[]}' and caplog.text.count(f"HTTP {status}") == 2


def test_retry_after_is_obeyed(monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    answers = deque([(429, b"{}", {"Retry-After": "17"}), (200, b"{}", {})])

    async def body(port: int) -> None:
        rest = rest_at(port)
        with monkeypatch.context() as patch:
            patch.setattr(rest_module.asyncio, "sleep", sleep)
            await rest.snapshot("BTCUSDT")
        await rest.close()

    asyncio.run(_with_server(lambda path: answers.popleft(), body))
    assert 17 in slept


@pytest.mark.parametrize(
    ("status", "text", "error", "words"),
    [
        (400, b'{"code":-1121,"msg":"Invalid symbol."}', InputError, "spot has no symbol NOPE"),
        (451, b'{"code":0,"msg":"Service unavailable from a restricted location"}', StoreUnavailable, "451 Service unavailable"),
        (404, b"", StoreUnavailable, "answers 404"),
    ],
)
def test_what_will_never_be_answered_is_said_at_once(status: int, text: bytes, error: type[Exception], words: str):
    async def body(port: int) -> None:
        rest = rest_at(port)
        try:
            await rest.snapshot("NOPE")
        finally:
            await rest.close()

    with pytest.raises(error, match=words):
        asyncio.run(_with_server(lambda path: (status, text, {}), body))


def test_the_weight_of_a_minute_is_kept_within(monkeypatch):
    """The exchange says what was used; beyond a share of it the next question waits for the next minute."""
    now = [1_700_000_000.0 // 60 * 60 + 12]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    used = deque(["50", "4790", "60", "110"])

    async def body(port: int) -> None:
        rest = rest_at(port)
        with monkeypatch.context() as patch:
            patch.setattr(rest_module.time, "time", lambda: now[0])
            patch.setattr(rest_module.asyncio, "sleep", sleep)
            for _ in range(4):
                await rest.snapshot("BTCUSDT")
        await rest.close()

    asyncio.run(_with_server(lambda path: (200, b"{}", {"X-MBX-USED-WEIGHT-1M": used.popleft()}), body))
    assert [s for s in slept if s > 1] == [48.0]


def test_questions_that_wait_for_the_next_minute_share_it(monkeypatch):
    """All of them count in the minute they waited for, and it is a minute: they do not push its end away from each other."""
    minute = 1_700_000_000.0 // 60 * 60
    now = [minute + 12]

    async def sleep(seconds: float) -> None:
        until = now[0] + seconds
        await asyncio.tasks.__sleep0()
        now[0] = max(now[0], until)

    async def body() -> Rest:
        rest = rest_at(9)
        rest._used, rest._used_until = rest.venue.weight_a_minute, minute + 60
        monkeypatch.setattr(rest_module.time, "time", lambda: now[0])
        monkeypatch.setattr(rest_module.asyncio, "sleep", sleep)
        await asyncio.gather(*(rest._within(50) for _ in range(4)))
        return rest

    rest = asyncio.run(body())
    assert now[0] == minute + 60 and (rest._used, rest._used_until) == (200, minute + 120)


def test_the_exchanges_clock_is_looked_at_before_ours_is_believed(captures):
    async def run(which: str) -> int:
        exchange = Exchange(Recording(captures), speed=0)
        async with exchange.serving("127.0.0.1", 0) as port:
            rest = rest_at(port)
            try:
                return (await clock_beside(rest, which)).stamp(b"")
            finally:
                await rest.close()

    assert abs(asyncio.run(run("exchange")) - Recording(captures).begins) < 60e9
    with pytest.raises(InputError, match="hours from this machine's"):
        asyncio.run(run("here"))
    with pytest.raises(InputError, match="--clock"):
        asyncio.run(run("there"))

    async def now(port: int) -> int:
        rest = rest_at(port)
        try:
            return (await clock_beside(rest, "here")).now()
        finally:
            await rest.close()

    answer = orjson.dumps({"serverTime": time.time_ns() // 1_000_000 + 1270})
    assert abs(asyncio.run(_with_server(lambda path: (200, answer, {}), now)) - time.time_ns()) < 30e9
    with pytest.raises(FeedError, match="answers no time"):
        asyncio.run(_with_server(lambda path: (200, b"<html>", {}), now))


def test_what_is_listed_is_asked_for_and_kept(captures, tmp_path):
    async def run(symbols: tuple[str, ...]) -> Any:
        exchange = Exchange(Recording(captures), speed=0)
        async with exchange.serving("127.0.0.1", 0) as port:
            rest = rest_at(port)
            try:
                return await listings(rest, symbols, tmp_path, None), await listings(
                    rest, symbols, None, tmp_path / "spot_exchangeinfo.json"
                )
            finally:
                await rest.close()

    asked, kept = asyncio.run(run(BOTH))
    assert asked == kept and {s.symbol: (g.price_places, g.tick_units, g.lot_places) for s, g in asked.items()} == {
        "BTCUSDT": (2, 1, 5), "ETHUSDT": (2, 1, 4),
    }  # fmt: skip
    with pytest.raises(InputError, match="spot has no symbol"):
        asyncio.run(run(("BTCUSDT", "NOPE")))


def client_talks(talk: Callable[[Any], Awaitable[None]], **options: Any) -> tuple[Client, list[Item]]:
    """What a client makes of a server that talks as told; ends when the server has set `done` or the client has ended."""

    async def body(port: int) -> tuple[Client, list[Item]]:
        client = Client(rest_at(port), options.pop("symbols", BOTH), Backlog(), **options)
        running = asyncio.create_task(client.run())
        try:
            async with asyncio.timeout(20):
                while not running.done() and not client.counts.other and client.counts.connects < 3:
                    await asyncio.sleep(0.01)
            if running.done():
                running.result()
            await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return client, client.backlog.drain()

    return asyncio.run(_with_server(lambda path: (404, b"", {}), body, talk))


def test_streams_are_subscribed_in_portions_and_what_was_not_asked_for_is_counted(monkeypatch, caplog):
    monkeypatch.setattr(client_module, "IN_ONE", 4)
    asked: list[list[str]] = []

    async def talk(socket: Any) -> None:
        for _ in range(2):
            said = orjson.loads(await socket.recv())
            asked.append(said["params"])
            await socket.send(orjson.dumps({"result": None, "id": said["id"]}))
        # Futures may write another speed than was asked for.
        await socket.send('{"stream":"ethusdt@depth@0ms","data":{}}')
        await socket.send('{"stream":"ethusdt@trade","data":{}}')
        await socket.send('{"stream":"xrpusdt@trade","data":{}}')
        await socket.wait_closed()

    with caplog.at_level(logging.WARNING, "cift.feed"):
        client, items = client_talks(talk)
    assert [len(one) for one in asked] == [4, 2]
    assert [name for one in asked for name in one] == [f"{s.lower()}@{k}" for s in BOTH for k in ("depth@100ms", "bookTicker", "trade")]
    assert [(item.source, item.kind) for item in items] == [(ETH, DEPTH), (ETH, TRADE)]
    assert client.counts.other == 1 and "not asked for" in caplog.text


def test_a_refusal_of_the_streams_is_said():
    async def talk(socket: Any) -> None:
        await socket.recv()
        await socket.send('{"error":{"code":2,"msg":"Invalid request"},"id":1}')
        await socket.wait_closed()

    with pytest.raises(InputError, match=r"refuses the streams.*Invalid request"):
        client_talks(talk)


def test_a_subscription_that_is_not_answered_is_made_again(monkeypatch):
    monkeypatch.setattr(client_module, "ANSWER_S", 0.2)

    async def talk(socket: Any) -> None:
        while True:  # messages come, an answer does not
            await socket.send('{"stream":"ethusdt@trade","data":{}}')
            await asyncio.sleep(0.02)

    client, _ = client_talks(talk, silence_s=0.4)
    assert client.counts.connects >= 3 and any("SUBSCRIBE" in why for why in client.counts.breaks)


def test_a_place_that_is_not_served_is_said():
    async def body(port: int) -> None:
        await Client(rest_at(port), BOTH, Backlog()).run()

    with pytest.raises(StoreUnavailable, match=r"refuses a connection .HTTP 451"):
        asyncio.run(_with_server(lambda path: (451, b"", {}), body))


def test_pauses_double_up_to_the_longest_with_jitter(monkeypatch):
    monkeypatch.undo()
    for n, whole in enumerate((0.5, 1, 2, 4, 8, 16, 30, 30)):
        pauses = {pause_s(n, 30) for _ in range(50)}
        assert len(pauses) > 40 and whole / 2 <= min(pauses) and max(pauses) <= whole
    assert pause_s(10_000) <= 60
