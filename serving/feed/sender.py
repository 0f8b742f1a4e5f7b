"""To the service: messages in order, never more unacknowledged than it may have, and again after a break what it did not acknowledge.

What the service acknowledges stands in its journal. An event that it has already is late there, by its place in (ts, symbol, sequence), and
changes nothing: so sending again loses nothing and doubles nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from cift_models.errors import InputError, StoreUnavailable
from cift_models.instruments import Session
from serving import wire
from serving.feed.rest import pause_s

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger("cift.feed")

IN_FLIGHT = 8
"""Messages that may wait for their acknowledgement."""
SILENCE_S = 120.0
"""Without a word for so long, while something waits for an acknowledgement, the service is taken for dead."""
LONGEST_PAUSE_S = 5.0
"""Between two tries to reach the service: a restart takes some seconds."""
MAX_MESSAGE = 16 << 20


@dataclass(slots=True)
class _Sent:
    """A message that is not acknowledged: its number, text, the session that it belongs to, and whether it went over this connection."""

    seq: int
    raw: bytes
    session: Session
    here: bool = False


def http_address(url: str) -> str:
    """Where the service of a WebSocket URL answers over HTTP. Raises InputError."""
    if not url.startswith(("ws://", "wss://")):
        raise InputError(f"--to is {url!r}.", hint="Expected the service's WebSocket: ws://127.0.0.1:3000/ticks.")
    return "http" + url[2:].rpartition("/")[0]


async def ask_model(url: str) -> dict[str, Any]:
    """What the service says of itself. Raises StoreUnavailable where it does not answer."""
    import httpx

    base = http_address(url)
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            said = (await client.get(f"{base}/model")).raise_for_status().json()
        return {name: said[name] for name in ("release", "symbols", "session", "watermark", "held")}
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError) as error:
        raise StoreUnavailable(
            f"No service answers at {base} ({type(error).__name__} {error}).", hint="Start one: cift serve --release challenger."
        ) from None


class Sender:
    """One stream of messages to one service, over as many connections as it takes.

    `run` keeps the connection until it is cancelled; `send` waits while in_flight messages are unacknowledged.

    acknowledged  messages; `late` events that the service counted late though they went once, `again` those that it had already
    restored      connections after the first
    watermark     time that the service has reached
    forgotten     a session that the service knows no more (its journal is gone): what is sent of it is dropped, a new one must begin
    """

    def __init__(
        self, url: str, symbols: tuple[str, ...], on_decision: Callable[[dict[str, Any]], None], in_flight: int = IN_FLIGHT
    ) -> None:
        self.url = url
        self.symbols = symbols
        self.acknowledged = self.applied = self.late = self.again = self.connections = 0
        self.watermark = 0
        self.forgotten: Session | None = None
        self.connected = False
        self._on_decision = on_decision
        self._in_flight = in_flight
        self._waiting: deque[_Sent] = deque()
        self._room = asyncio.Event()
        self._more = asyncio.Event()
        self._session: Session | None = None
        self._seq = 0
        self._heard = 0
        self._resent = 0

    async def send(self, session: Session, part: dict[str, Any]) -> None:
        """Hand over a message of a session: {"session": ...}, {"events": ...} or {"advance": ...}. Waits for room."""
        while len(self._waiting) >= self._in_flight:
            self._room.clear()
            await self._room.wait()
        if session == self.forgotten:
            return
        self._seq += 1
        self._session = session
        self._waiting.append(_Sent(self._seq, orjson.dumps({"v": wire.VERSION, "seq": self._seq, **part}), session))
        self._more.set()

    async def drained(self) -> None:
        """Wait until everything is acknowledged."""
        while self._waiting:
            self._room.clear()
            await self._room.wait()

    @property
    def unacknowledged(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """Returns never. Raises InputError where the service refuses a message, or serves other symbols."""
        failures = 0
        while True:
            before = self.acknowledged
            why = await self._connection()
            self.connected = False
            failures = 0 if self.acknowledged > before else failures + 1
            wait_s = pause_s(failures, LONGEST_PAUSE_S)
            log.warning("%s: %s; %d messages wait; connecting again in %.1f s", self.url, why, len(self._waiting), wait_s)
            await asyncio.sleep(wait_s)

    async def _connection(self) -> str:
        """One connection from its beginning to its end; returns why it ended."""
        import websockets

        try:
            served = await ask_model(self.url)
            if tuple(served["symbols"]) != self.symbols:
                raise InputError(
                    f"The service knows {', '.join(served['symbols'])} now; this feed was started for {', '.join(self.symbols)}.",
                    hint="Start the feed again.",
                )
            if served["watermark"] < self.watermark:
                self._forget()
            async with websockets.connect(
                self.url, compression=None, max_size=MAX_MESSAGE, max_queue=None, open_timeout=30, close_timeout=2,
                logger=log.getChild("websockets"),
            ) as socket:  # fmt: skip
                self.connections += 1
                self.connected = True
                for one in self._waiting:
                    one.here = False
                self._resent = self._seq
                if self._waiting and self.connections > 1:
                    await self._tell_session(socket)
                writing, reading = asyncio.create_task(self._write(socket)), asyncio.create_task(self._read(socket))
                try:
                    await asyncio.wait([writing, reading], return_when=asyncio.FIRST_COMPLETED)
                    await (reading if reading.done() else writing)
                finally:
                    writing.cancel()
                    reading.cancel()
                    await asyncio.gather(writing, reading, return_exceptions=True)
            raise AssertionError("neither writing nor reading ends without a reason")
        except StoreUnavailable as error:
            return error.message
        except websockets.ConnectionClosed as error:
            return f"closed ({error})"
        except TimeoutError:
            return f"no word for {SILENCE_S:.0f} s"
        except (OSError, websockets.WebSocketException) as error:
            return f"not reached ({type(error).__name__} {error})"

    def _forget(self) -> None:
        """The service stands before what it had acknowledged: what waits means nothing without that."""
        log.error("%s stands before what it had acknowledged: its journal is gone, a new session begins", self.url)
        self.forgotten = self._session
        self.watermark = 0
        self._waiting.clear()
        self._room.set()

    async def _tell_session(self, socket: ClientConnection) -> None:
        """Name the session of the oldest message that waits: it goes on, and what was decided meanwhile is said again."""
        session = self._waiting[0].session
        said = {"day": session.day, "open": session.open, "close": session.close, "after": max(self._heard, 0)}
        await socket.send(orjson.dumps({"v": wire.VERSION, "seq": 0, "session": said}), text=True)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            for one in list(self._waiting):
                if not one.here:
                    one.here = True
                    await socket.send(one.raw, text=True)
            self._more.clear()
            if all(one.here for one in self._waiting):
                await self._more.wait()

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    raw = await socket.recv()
            except TimeoutError:
                if self._waiting:
                    raise
                continue
            said = orjson.loads(raw)
            if "error" in said:
                raise InputError(f"The service refused message {said['seq']}: {said['error']}", hint="Look at its log.")
            if "ack" in said:
                self._acknowledge(said)
            elif said["as_of"] > self._heard:
                # What is said again after a break was heard before, as far as this one came.
                self._heard = said["as_of"]
                self._on_decision(said)

    def _acknowledge(self, said: dict[str, Any]) -> None:
        self.watermark = max(self.watermark, said["watermark"])
        if not self._waiting or said["ack"] != self._waiting[0].seq:
            return  # of the session that was told again
        self._waiting.popleft()
        self.acknowledged += 1
        self.applied += said["applied"]
        if said["ack"] <= self._resent and self.connections > 1:
            self.again += said["late"]
        else:
            self.late += said["late"]
        self._room.set()
