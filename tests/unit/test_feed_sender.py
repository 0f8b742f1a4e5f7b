"""Messages to the service: in order, acknowledged once each, over a connection that is cut anywhere."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import websockets
from websockets.datastructures import Headers
from websockets.http11 import Response

from cift_models.errors import InputError, StoreError, StoreUnavailable
from cift_models.instruments import SECOND, Session
from serving.feed import decisions as decisions_module
from serving.feed import join as join_module
from serving.feed import sender as module
from serving.feed import state as state_module
from serving.feed.backlog import Backlog
from serving.feed.client import Steady
from serving.feed.decisions import Decisions
from serving.feed.join import Join
from serving.feed.sender import Sender, ask_model
from serving.feed.state import read_state, write_state

OPEN = 1_723_161_254 * SECOND
SESSION = Session(20240808, OPEN, OPEN + 3600 * SECOND)
SYMBOLS = ("BTCUSDT.SPOT", "ETHUSDT.SPOT")


class FakeService:
    """Takes events as the service does: late ones are counted, an instant a second is decided, everything is acknowledged in order.

    cut      numbers of messages (from 1, over all connections) behind whose effect, and before whose acknowledgement, the connection is cut
    refuse   a number that is answered by an error
    quiet    nothing is acknowledged before the first cut, though what is decided is said
    """

    def __init__(self, cut: set[int] | None = None, refuse: int = 0, quiet: bool = False) -> None:
        self.cut, self.refuse, self.quiet = cut or set(), refuse, quiet
        self.applied: list[int] = []
        self.decided: list[int] = []
        self.sessions: list[dict] = []
        self.session: dict | None = None
        self.watermark = 0
        self.symbols = list(SYMBOLS)
        self.received = self.connections = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.port = 0

    @asynccontextmanager
    async def serving(self):
        async with websockets.serve(self._serve, "127.0.0.1", self.port, process_request=self._model) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield f"ws://127.0.0.1:{self.port}/ticks"

    def _model(self, socket: Any, request: Any) -> Response | None:
        if request.path != "/model":
            return None
        said = {"release": "r", "symbols": self.symbols, "session": self.session and self.session["day"], "held": True}
        body = orjson.dumps(said | {"watermark": self.watermark})
        return Response(200, "OK", Headers({"Content-Length": str(len(body)), "Connection": "close"}), body)

    async def _serve(self, socket: Any) -> None:
        self.connections += 1
        async for raw in socket:
            said = orjson.loads(raw)
            self.received += 1
            await self.hold.wait()
            if self.received == self.refuse:
                await socket.send(orjson.dumps({"v": 1, "seq": said["seq"], "error": "no"}))
                continue
            decided, applied, late = self._take(said)
            if self.quiet and self.received not in self.cut:
                for as_of in decided:
                    await socket.send(orjson.dumps({"v": 1, "as_of": as_of}))
                continue
            if self.received in self.cut:
                self.quiet = False
                await asyncio.sleep(0.05)
                socket.transport.abort()
                return
            for as_of in decided:
                await socket.send(orjson.dumps({"v": 1, "as_of": as_of}))
            await socket.send(orjson.dumps({"v": 1, "ack": said["seq"], "applied": applied, "late": late, "watermark": self.watermark}))

    def _take(self, said: dict) -> tuple[list[int], int, int]:
        decided: list[int] = []
        if "session" in said:
            told = {k: said["session"][k] for k in ("day", "open", "close")}
            if told != self.session or said["session"].get("fresh"):
                self.session, self.watermark, self.applied, self.decided = told, 0, [], []
                self.sessions.append(told)
            elif "after" in said["session"]:
                return [t for t in self.decided if t > said["session"]["after"]], 0, 0
            return [], 0, 0
        assert self.session is not None, "events before a session"
        times = [row["ts"] for row in said["events"]] if "events" in said else [said["advance"]]
        applied = late = 0
        for t in times:
            if "events" in said and t <= self.watermark:
                late += 1
                continue
            while self.session["open"] + (len(self.decided) + 1) * SECOND < t:
                self.decided.append(self.session["open"] + (len(self.decided) + 1) * SECOND)
                decided.append(self.decided[-1])
            self.watermark = max(self.watermark, t)
            if "events" in said:
                self.applied.append(t)
                applied += 1
        return decided, applied, late


def times(n: int) -> list[int]:
    return [OPEN + i * SECOND // 4 for i in range(1, n + 1)]


async def fed(service: FakeService, n: int, in_flight: int = 4, url: str = "") -> tuple[Sender, list[int]]:
    """Send n messages of two events each, and wait until all are acknowledged."""
    heard: list[int] = []
    sender = Sender(url, SYMBOLS, lambda said: heard.append(said["as_of"]), in_flight)
    running = asyncio.create_task(sender.run())

    async def write() -> None:
        await sender.send(SESSION, {"session": {"day": SESSION.day, "open": SESSION.open, "close": SESSION.close, "fresh": True}})
        for a, b in zip(times(2 * n)[::2], times(2 * n)[1::2], strict=True):
            await sender.send(SESSION, {"events": [{"ts": a}, {"ts": b}]})
        await sender.drained()

    writing = asyncio.create_task(write())
    try:
        async with asyncio.timeout(30):
            await asyncio.wait([writing, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        await writing
    finally:
        for task in (writing, running):
            task.cancel()
        await asyncio.gather(writing, running, return_exceptions=True)
    return sender, heard


def run(service: FakeService, body: Callable[[str], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        async with service.serving() as url:
            return await body(url)

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(module, "pause_s", lambda failures, longest_s=0: 0.01)


def test_everything_arrives_once_and_in_order():
    service = FakeService()
    sender, heard = run(service, lambda url: fed(service, 40, 4, url))
    assert service.applied == times(80) and heard == service.decided and len(heard) == 19
    assert (sender.acknowledged, sender.applied, sender.late, sender.again) == (41, 80, 0, 0)
    assert sender.watermark == times(80)[-1]


@pytest.mark.parametrize("cut", [{1}, {2}, {20}, {3, 4, 5, 6}, {9, 15, 31, 42}], ids=str)
def test_cut_anywhere_nothing_is_lost_or_doubled(cut: set[int]):
    service = FakeService(cut)
    sender, heard = run(service, lambda url: fed(service, 40, 4, url))
    # A session that was begun and not acknowledged is begun again, and everything of it comes again.
    begun = {"day": SESSION.day, "open": SESSION.open, "close": SESSION.close}
    assert service.applied == times(80) and service.sessions == [begun] * (2 if 1 in cut else 1)
    assert heard == service.decided and sender.connections == len(cut) + 1
    # What was applied before the cut came again, and was late there; what the service counts late for another reason would be seen.
    assert sender.late == 0 and sender.again + sender.applied == 2 * 40
    assert sender.again > 0 or cut == {1}


def test_what_is_decided_again_is_heard_once():
    """Nothing was acknowledged: the session begins anew and says again what was heard already."""
    service = FakeService({9}, quiet=True)
    sender, heard = run(service, lambda url: fed(service, 40, 12, url))
    assert len(service.sessions) == 2 and service.applied == times(80) and sender.connections == 2
    assert heard == service.decided and len(heard) == 19


def test_a_message_that_is_refused_ends_it():
    service = FakeService(refuse=5)
    with pytest.raises(InputError, match="refused message 5: no"):
        run(service, lambda url: fed(service, 40, 4, url))


def test_a_service_of_other_symbols_ends_it():
    service = FakeService({10})

    async def body(url: str) -> None:
        async def change() -> None:
            while service.received < 10:
                await asyncio.sleep(0)
            service.symbols = ["AAPL"]

        changing = asyncio.create_task(change())
        try:
            await fed(service, 40, 4, url)
        finally:
            await changing

    with pytest.raises(InputError, match="knows AAPL now"):
        run(service, body)


def test_a_service_without_its_journal_gets_a_new_session_and_nothing_of_the_old_one():
    service = FakeService({10})

    async def body(url: str) -> tuple[Sender, list[int]]:
        sender = Sender(url, SYMBOLS, lambda said: None, 4)
        running = asyncio.create_task(sender.run())
        await sender.send(SESSION, {"session": {"day": SESSION.day, "open": SESSION.open, "close": SESSION.close}})
        old = asyncio.create_task(_each(sender, SESSION, times(40)))
        while service.received < 10:
            await asyncio.sleep(0)
        service.session, service.watermark, service.applied, service.decided = None, 0, [], []
        async with asyncio.timeout(10):
            while sender.forgotten is None:
                await asyncio.sleep(0.001)
            await old  # what waits of the old session is dropped, not sent
        new = Session(SESSION.day, SESSION.open + 60 * SECOND, SESSION.close + 60 * SECOND)
        await sender.send(new, {"session": {"day": new.day, "open": new.open, "close": new.close}})
        await sender.send(new, {"events": [{"ts": new.open + 5}]})
        await sender.drained()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return sender, service.applied

    sender, applied = run(service, body)
    assert sender.forgotten == SESSION and applied == [SESSION.open + 60 * SECOND + 5]
    assert [one["open"] for one in service.sessions] == [SESSION.open, SESSION.open + 60 * SECOND]


async def _each(sender: Sender, session: Session, moments: list[int]) -> None:
    for t in moments:
        await sender.send(session, {"events": [{"ts": t}]})


def test_no_more_is_on_its_way_than_may_be_and_a_service_that_says_nothing_holds_the_sender_up():
    service = FakeService()

    async def body(url: str) -> tuple[int, int]:
        service.hold.clear()
        sender = Sender(url, SYMBOLS, lambda said: None, 3)
        running = asyncio.create_task(sender.run())
        writing = asyncio.create_task(_each(sender, SESSION, times(10)))
        await asyncio.sleep(0.3)
        waiting = sender.unacknowledged, sum(not task.done() for task in (writing, running))
        for task in (writing, running):
            task.cancel()
        await asyncio.gather(writing, running, return_exceptions=True)
        service.hold.set()
        return waiting

    assert run(service, body) == (3, 2)


def test_silence_with_something_on_its_way_is_a_dead_service(monkeypatch, caplog):
    monkeypatch.setattr(module, "SILENCE_S", 0.1)
    service = FakeService()

    async def body(url: str) -> int:
        service.hold.clear()
        sender = Sender(url, SYMBOLS, lambda said: None, 3)
        running = asyncio.create_task(sender.run())
        await sender.send(SESSION, {"advance": OPEN + 1})
        async with asyncio.timeout(10):
            while service.connections < 2:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        service.hold.set()
        return sender.connections

    with caplog.at_level(logging.WARNING, "cift.feed"):
        assert run(service, body) >= 2
    assert "no word for" in caplog.text


def test_no_service_is_said():
    with pytest.raises(StoreUnavailable, match=r"No service answers at http://127\.0\.0\.1:9"):
        asyncio.run(ask_model("ws://127.0.0.1:9/ticks"))
    with pytest.raises(InputError, match="--to"):
        asyncio.run(ask_model("http://127.0.0.1:9/ticks"))


class FakeClient:
    """Gives nothing; ends with an error once it is told to."""

    def __init__(self) -> None:
        self.backlog, self.rest, self.dies = Backlog(), self, asyncio.Event()

    async def run(self) -> None:
        await self.dies.wait()
        raise StoreUnavailable("HTTP 451.", hint="")

    def failed(self) -> None: ...

    async def close(self) -> None: ...


class FakeStream:
    """Some messages, one a reading, and one at the end."""

    def __init__(self, n: int) -> None:
        self.n, self.session, self.books = n, SESSION, self
        self.events = self.steps = 0

    def until_next_s(self, now: int) -> float:
        return 0.001

    def take(self, items: Any, now: int) -> list:
        self.n -= 1
        return [(SESSION, {"advance": OPEN + 1000 - self.n})] if self.n >= 0 else []

    def wanting(self) -> list:
        return []

    def finish(self) -> list:
        return [(SESSION, {"advance": OPEN + 2000})]


@pytest.mark.parametrize(("messages", "end", "error", "words"), [
    (100, "stop", StoreError, "2 messages were not acknowledged"),
    (100, "seconds", StoreError, "2 messages were not acknowledged"),
    (2, "client", StoreUnavailable, "HTTP 451"),
])  # fmt: skip
def test_a_service_that_is_gone_keeps_no_feed_from_ending(monkeypatch, messages: int, end: str, error: type[Exception], words: str):
    monkeypatch.setattr(join_module, "PATIENCE_S", 0.2)
    monkeypatch.setattr(join_module, "LAST_WORD_S", 0.2)

    async def body() -> None:
        client = FakeClient()
        made = Join([client], FakeStream(messages), Sender("ws://127.0.0.1:9/ticks", SYMBOLS, lambda said: None, 2))  # type: ignore[arg-type]
        running = asyncio.create_task(made.run(0.3 if end == "seconds" else None))
        while made.sender.unacknowledged < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        if end == "stop":
            made.stop()
        elif end == "client":
            client.dies.set()
        async with asyncio.timeout(5):
            await running

    with pytest.raises(error, match=words):
        asyncio.run(body())


def test_every_decision_is_counted_and_the_lags_of_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(decisions_module, "LAGS", 10)
    heard = Decisions(None)
    for n in range(25):
        heard({"as_of": OPEN + n * SECOND, "symbols": {"BTCUSDT.SPOT": {"action": "Hold"}, "ETHUSDT.SPOT": {"action": "Buy"}}})
    made = Join([FakeClient()], FakeStream(0), Sender("ws://127.0.0.1:9/ticks", SYMBOLS, heard, 2), decisions=heard)  # type: ignore[list-item, arg-type]
    made.clients = []
    assert made.summary()["decisions"] == 25 and len(heard.lag_ms) == 10 and heard.actions == {"Hold": 25, "Buy": 25}


DAY = Session(20240808, OPEN, OPEN + 3600 * SECOND)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty document"),
    (b"{", "does not say which session runs"),
    (b"[1]", "expected day, open and close"),
    (b'{"day":20240808,"open":1}', "expected day, open and close"),
    (b'{"day":20240808,"open":1,"close":2,"release":"x"}', "expected day, open and close"),
    (b'{"day":"20240808","open":1,"close":2}', "session.day is '20240808'. Expected an integer"),
    (b'{"day":20240808,"open":5,"close":2}', "does not end after it begins"),
    (b'{"day":20240808,"open":5,"close":9e99}', "session.close"),
    (b"\xff\x00", "does not say which session runs"),
    (None, "Is a directory"),
])  # fmt: skip
def test_a_state_file_that_no_feed_wrote_is_one_clear_error(tmp_path, content: bytes | None, words: str):
    path = tmp_path / "127.0.0.1_3000.json"
    path.mkdir() if content is None else path.write_bytes(content)
    service = FakeService()

    async def body(url: str) -> None:
        made = Join([FakeClient()], FakeStream(0), Sender(url, SYMBOLS, lambda said: None, 2), state=path)  # type: ignore[list-item, arg-type]
        async with asyncio.timeout(5):
            await made.run()

    with pytest.raises(StoreError, match=re.escape(words)) as raised:
        run(service, body)
    assert str(path) in raised.value.message and "Remove it" in raised.value.hint
    assert path.is_dir() if content is None else path.read_bytes() == content


@pytest.mark.parametrize("ahead", [0, 5 * SECOND])
def test_a_feed_that_comes_back_stamps_behind_the_gap_that_it_tells(tmp_path, monkeypatch, ahead: int):
    """Also where the service's time is ahead of our clock: what is recorded and what is fed say the same time."""
    path = tmp_path / "state.json"
    write_state(path, DAY)
    now = OPEN + 60 * SECOND

    class Now:
        def stamp(self, text: bytes) -> int:
            return now

        now = staticmethod(lambda: now)  # type: ignore[assignment]

    async def served(url: str) -> dict[str, Any]:
        return {"session": 20240808, "watermark": now + ahead}

    monkeypatch.setattr(join_module, "ask_model", served)
    stream = FakeStream(0)
    stream.resume = lambda session, watermark, at: stream.__dict__.update(reached=max(at, watermark + 1) + 1) or []  # type: ignore[attr-defined]
    clock = Steady(Now())  # type: ignore[arg-type]
    made = Join([FakeClient()], stream, Sender("ws://127.0.0.1:9/ticks", SYMBOLS, lambda said: None, 2), state=path, clock=clock)  # type: ignore[list-item, arg-type]
    asyncio.run(made._resume())
    assert clock.stamp(b"") == stream.reached == now + ahead + 2  # type: ignore[attr-defined]


def test_a_session_that_cannot_be_written_down_is_said(tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state_module, "write_atomic", full)
    with pytest.raises(StoreError, match=r"state\.json: No space left on device"):
        write_state(tmp_path / "state.json", DAY)
    monkeypatch.undo()
    write_state(tmp_path / "state.json", DAY)
    assert read_state(tmp_path / "state.json") == DAY and read_state(tmp_path / "none.json") is None


def test_decisions_that_cannot_be_written_end_the_feed_and_are_no_broken_connection():
    heard = Decisions(Path("/dev/full"))
    with pytest.raises(StoreError, match="/dev/full: No space left on device"):
        heard({"as_of": OPEN, "symbols": {}})
    heard.close()


def test_what_is_never_acknowledged_is_said_at_the_end():
    service = FakeService()

    async def body(url: str) -> None:
        service.hold.clear()
        sender = Sender(url, SYMBOLS, lambda said: None, 3)
        running = asyncio.create_task(sender.run())
        await sender.send(SESSION, {"advance": OPEN + 1})
        try:
            join = Join.__new__(Join)
            join.sender = sender
            await join._settled(running, 0.1)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            service.hold.set()

    with pytest.raises(StoreError, match="1 messages were not acknowledged"):
        run(service, body)
