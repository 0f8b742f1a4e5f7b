"""An exchange that only remembers: recorded captures over a real WebSocket and REST, as Binance serves them, on one port.

    ws://HOST:PORT/stream?streams=a/b   /stream and SUBSCRIBE   /ws/a (data alone)     a path before them (/public) is taken too
    GET /api/v3/depth, /api/v3/exchangeInfo, /api/v3/time                              /fapi/v1 and /dapi/v1 for the futures markets

Every message is sent byte for byte as it was recorded, with its times; the clock that REST tells is the recording's. A stream of another
speed than the recorded one gives what was recorded.

A question for a snapshot is answered by the exchange's own book as it stands; while that is not whole, the answer waits for the recorded
snapshot. Time begins with the first subscriber. At a speed above 0 it goes on whether or not anybody listens; at speed 0 it goes as fast as
the slowest listener takes it, waits while there is none, and stands still at a recorded snapshot until somebody has asked for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import orjson

from cift_models.errors import InputError
from cift_models.instruments import SECOND
from serving.feed.recording import Book, Line, Recording, exchange_info, recorded_by_us
from serving.feed.venue import DEPTH, OTHER, SNAPSHOT, VENUES, kind_of

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

log = logging.getLogger("cift.exchange")

ASKED_WITHIN_S = 10.0
"""How long time stands still at a recorded snapshot that nobody asks for."""
BREATHE = 64
"""Messages between two turns for whoever else waits, where a socket takes everything at once."""
_INVALID_SYMBOL = {"code": -1121, "msg": "Invalid symbol."}


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, by the number of a message (from 1, over all symbols).

    drop             these are not sent
    disconnect       every connection is cut after these
    lose             so many go by after a cut before anybody is served again
    silent           after these nothing more is sent over the connections that are open; 0: never
    snapshot_delay_s an answer takes so much longer
    snapshot_errors  so many questions are refused first (429, Retry-After)
    """

    drop: frozenset[int] = frozenset()
    disconnect: frozenset[int] = frozenset()
    lose: int = 0
    silent: frozenset[int] = frozenset()
    snapshot_delay_s: float = 0.0
    snapshot_errors: int = 0

    @classmethod
    def of(cls, texts: list[str]) -> Faults:
        """Faults from "drop=120,130", "disconnect=500", "lose=40", "silent=800", "snapshot-delay=2", "snapshot-errors=3"."""
        said: dict[str, Any] = {}
        for text in texts:
            name, _, value = text.partition("=")
            try:
                if name in ("drop", "disconnect", "silent"):
                    said[name] = frozenset(int(n) for n in value.split(","))
                elif name in ("lose", "snapshot-errors"):
                    said[name.replace("-", "_")] = int(value)
                elif name == "snapshot-delay":
                    said["snapshot_delay_s"] = float(value)
                else:
                    raise ValueError(name)
            except ValueError:
                raise InputError(
                    f"--fault {text!r} is not known.",
                    hint="Expected drop=N,N disconnect=N,N lose=N silent=N snapshot-delay=SECONDS or snapshot-errors=N.",
                ) from None
        return cls(**said)


@dataclass(slots=True, eq=False)
class Subscriber:
    """A connection, what it wants, whether it gets the data alone, and whether it will never hear anything again."""

    socket: ServerConnection
    bare: bool
    wants: set[tuple[str, int]] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    muted: bool = False


class Exchange:
    """Plays a recording to whoever subscribes. `sent`, `snapshots` and `connections` count; `at` is the recorded time that was reached.

    gate  awaited before each line: a test holds the exchange still with it
    """

    def __init__(
        self,
        recording: Recording,
        *,
        speed: float = 1.0,
        faults: Faults | None = None,
        gate: Callable[[Line], Awaitable[None]] | None = None,
    ) -> None:
        if not 0 <= speed <= 1e6:
            raise InputError(f"--speed is {speed:g}.", hint="1 is as it was, 10 ten times as fast, 0 as fast as it is taken.")
        self.recording = recording
        self.speed = speed
        self.faults = faults or Faults()
        self.sent = self.snapshots = self.refused = self.connections = self.number = 0
        self.at = 0
        self.ended = asyncio.Event()
        self._gate = gate
        self._venue = VENUES[recording.market]
        self._books = {symbol: Book(recording, symbol) for symbol in recording.symbols}
        self._subscribers: set[Subscriber] = set()
        self._came = asyncio.Event()
        self._questions: dict[str, list[asyncio.Future[bytes]]] = {symbol: [] for symbol in recording.symbols}
        self._asked = asyncio.Event()
        self._lose = 0
        self._weight = (0, 0)

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[int]:
        """Listen, and play; gives the port. Raises InputError where somebody else listens there."""
        import websockets

        try:
            server = await websockets.serve(
                self._serve, host, port, process_request=self._rest, compression=None, open_timeout=None, max_size=1 << 20,
                logger=log.getChild("websockets"),
            )  # fmt: skip
        except OSError as error:
            raise InputError(
                f"Cannot listen on {host}:{port}: {error.strerror}.", hint="Stop what listens there, or name another port."
            ) from None
        playing = asyncio.create_task(self._play())
        # What ends the play (a damaged file) must not look like a quiet market.
        playing.add_done_callback(lambda task: task.cancelled() or self.ended.set())
        try:
            yield next(iter(server.sockets)).getsockname()[1]
        finally:
            failed = playing.done() and not playing.cancelled() and playing.exception()
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            for waiting in self._questions.values():
                for one in waiting:
                    one.cancel()
            server.close()
            await server.wait_closed()
            if failed:
                raise failed

    @property
    def listening(self) -> int:
        """Connections that would get a message now."""
        return sum(not one.muted for one in self._subscribers)

    async def _play(self) -> None:
        await self._anybody()
        began, first = time.monotonic(), 0
        for line in self.recording.lines():
            first = first or line.time
            if self.speed:
                await _until(began + (line.time - first) / SECOND / self.speed)
            elif not self._lose:
                await self._anybody()
            if self._gate is not None:
                await self._gate(line)
            self.at = line.time
            if line.kind == SNAPSHOT:
                await self._recorded_snapshot(line)
            elif not recorded_by_us(line):
                await self._message(line)
            book = self._books[line.symbol]
            book.add(line)
            if line.kind == DEPTH and self._questions[line.symbol] and (body := book.snapshot(self._venue.depth_limit)) is not None:
                self._answer(line.symbol, body)

    async def _message(self, line: Line) -> None:
        self.number += 1
        n, faults = self.number, self.faults
        if self._lose:
            self._lose -= 1
        elif n not in faults.drop and line.kind != OTHER:
            await self._send(line)
        if n in faults.silent:
            for one in self._subscribers:
                one.muted = True
        if n in faults.disconnect:
            for one in self._subscribers:
                one.socket.transport.abort()
            self._subscribers.clear()
            self._lose = faults.lose
        if n % BREATHE == 0:
            await asyncio.sleep(0)

    async def _send(self, line: Line) -> None:
        import websockets

        for one in list(self._subscribers):
            if one.muted or (line.symbol, line.kind) not in one.wants:
                continue
            try:
                # Combined: {"stream":"...","data":{...}}; a bare stream is what stands behind "data":
                text = line.text[line.text.index(b'"data":') + 7 : -1] if one.bare else line.text
                await one.socket.send(text, text=True)
                self.sent += 1
            except websockets.ConnectionClosed:
                self._subscribers.discard(one)

    async def _recorded_snapshot(self, line: Line) -> None:
        """Answer whoever waits with what REST answered then."""
        wanted = any((line.symbol, DEPTH) in one.wants for one in self._subscribers)
        if not self.speed and wanted and not self._lose and self._books[line.symbol].snapshot(1) is None:
            until = time.monotonic() + ASKED_WITHIN_S
            while not self._questions[line.symbol] and (left := until - time.monotonic()) > 0:
                self._asked.clear()
                try:
                    async with asyncio.timeout(left):
                        await self._asked.wait()
                except TimeoutError:
                    log.warning("nobody asked for the snapshot of %s; going on", line.symbol)
        self._answer(line.symbol, line.text)

    def _answer(self, symbol: str, body: bytes) -> None:
        for waiting in self._questions[symbol]:
            if not waiting.done():
                waiting.set_result(body)
        self._questions[symbol].clear()

    async def _anybody(self) -> None:
        """Wait until somebody listens."""
        while not self.listening:
            self._came.clear()
            await self._came.wait()

    async def _serve(self, socket: ServerConnection) -> None:
        """One WebSocket, until it closes."""
        import websockets

        assert socket.request is not None
        url = urlsplit(socket.request.path)
        mine = Subscriber(socket, bare=not url.path.endswith("/stream"))
        self.connections += 1
        names = url.path.rpartition("/ws/")[2].split("/") if "/ws/" in url.path else parse_qs(url.query).get("streams", [""])[0].split("/")
        self._subscribe(mine, [name for name in names if name])
        try:
            async for text in socket:
                await socket.send(orjson.dumps(self._method(mine, text)), text=True)
        except websockets.ConnectionClosed:
            pass  # however it ended
        finally:
            self._subscribers.discard(mine)

    def _method(self, mine: Subscriber, text: str | bytes) -> dict[str, Any]:
        """Answer SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS."""
        try:
            said = orjson.loads(text)
            method, number, names = said["method"], said["id"], said.get("params", [])
            if method == "LIST_SUBSCRIPTIONS":
                return {"result": sorted(mine.names), "id": number}
            if method not in ("SUBSCRIBE", "UNSUBSCRIBE") or not all(isinstance(name, str) for name in names):
                raise ValueError(method)
            (self._subscribe if method == "SUBSCRIBE" else self._unsubscribe)(mine, names)
            return {"result": None, "id": number}
        except (ValueError, KeyError, TypeError) as error:
            return {"error": {"code": 2, "msg": f"Invalid request: {error}"}, "id": None}

    def _subscribe(self, mine: Subscriber, names: list[str]) -> None:
        mine.names.update(names)
        # As the exchange: a stream that does not exist is taken, and never says anything.
        mine.wants.update(known for name in names if (known := kind_of(name.encode())) is not None)
        if mine.wants:
            self._subscribers.add(mine)
            self._came.set()

    def _unsubscribe(self, mine: Subscriber, names: list[str]) -> None:
        mine.names.difference_update(names)
        mine.wants = {known for name in mine.names if (known := kind_of(name.encode())) is not None}

    async def _rest(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer what is no WebSocket; None lets the handshake go on."""
        if request.headers.get("upgrade", "").lower() == "websocket":
            last = urlsplit(request.path).path
            return None if last.endswith(("/stream", "/ws")) or "/ws/" in last else _response(404, {"code": 404, "msg": "No such stream."})
        url, ask = urlsplit(request.path), parse_qs(urlsplit(request.path).query)
        head, _, what = url.path.rpartition("/")
        if head != self._venue.path or what not in ("depth", "exchangeInfo", "time"):
            hint = f"This exchange serves {self._venue.path}/depth, /exchangeInfo and /time ({self.recording.market})."
            return _response(404, {"code": 404, "msg": hint})
        if what == "time":
            return _response(200, {"serverTime": (self.at or self.recording.begins) // 1_000_000})
        asked = orjson.loads(ask["symbols"][0]) if "symbols" in ask else ask.get("symbol", [])
        if any(symbol not in self._books for symbol in asked) or (what == "depth" and len(asked) != 1):
            return _response(400, _INVALID_SYMBOL)
        if what == "exchangeInfo":
            return _response(200, exchange_info(self.recording))
        return await self._depth(asked[0], int(ask.get("limit", ["100"])[0]))

    async def _depth(self, symbol: str, limit: int) -> Response:
        if self.refused < self.faults.snapshot_errors:
            self.refused += 1
            return _response(429, {"code": -1003, "msg": "Too many requests."}, {"Retry-After": "0"})
        await asyncio.sleep(self.faults.snapshot_delay_s)
        body = self._books[symbol].snapshot(limit)
        if body is None:
            waiting = asyncio.get_running_loop().create_future()
            self._questions[symbol].append(waiting)
            self._asked.set()
            body = await waiting
        self.snapshots += 1
        minute = int(time.time()) // 60
        self._weight = minute, (self._weight[1] if self._weight[0] == minute else 0) + self._venue.depth_weight
        return _response(200, body, {"X-MBX-USED-WEIGHT-1M": str(self._weight[1])})


def _response(status: int, body: bytes | dict[str, Any], more: dict[str, str] | None = None) -> Response:
    from http import HTTPStatus

    from websockets.datastructures import Headers
    from websockets.http11 import Response

    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(raw)), "Connection": "close", **(more or {})})
    return Response(status, HTTPStatus(status).phrase, headers, raw)


async def _until(moment: float) -> None:
    """Sleep until a moment of time.monotonic; one that has passed lets nobody wait."""
    left = moment - time.monotonic()
    if left > 0.0005:
        await asyncio.sleep(left)
