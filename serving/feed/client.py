"""One market's connection: streams in, lines into the backlog; it comes back by itself, and says where lines are missing.

Nothing is parsed here: a message is stamped with our clock, its stream's name is read, and its text is kept as it came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import orjson

from cift_models.errors import InputError, StoreUnavailable
from cift_models.instruments import SECOND
from serving.feed.backlog import Backlog, Item, Source
from serving.feed.rest import Rest, pause_s
from serving.feed.venue import BREAK, OTHER, SNAPSHOT, break_line, kind_of, stream_of, streams

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger("cift.feed")

APART_NS = 600 * SECOND
"""Clocks that are so far apart are not both clocks of now."""
SILENCE_S = 10.0
"""Without a message for so long a connection is taken for dead. A quiet market of few symbols may need more."""
LONGEST_PAUSE_S = 30.0
"""Between two tries to connect."""
LASTS_S = 60.0
"""A connection that lasted so long was a good one: the next pause is the shortest. Binance bans an address that connects too often."""
AGAIN_S = 1.0
"""Between two questions for one symbol's snapshot."""
IN_ONE = 100
"""Streams in one SUBSCRIBE."""
ANSWER_S = 10.0
"""How long a SUBSCRIBE may stay unanswered."""
FRAMES = 64
"""Messages that may wait inside the WebSocket library before it stops reading the socket."""
MAX_MESSAGE = 16 << 20


class Clock(Protocol):
    """Where receive times come from."""

    def stamp(self, text: bytes) -> int:
        """When a message that has just come was received, ns UTC. A recorder keeps what its clock says, also where it goes back."""
        ...

    def now(self) -> int:
        """A time, ns UTC, that no later stamp lies before, as far as the clock knows."""
        ...


@dataclass(frozen=True, slots=True)
class WallClock:
    """This machine's clock, moved by a constant: 0, or what a recording that is replayed lies in the past."""

    ahead_ns: int = 0

    def stamp(self, text: bytes) -> int:
        return time.time_ns() + self.ahead_ns

    def now(self) -> int:
        return time.time_ns() + self.ahead_ns


@dataclass(slots=True)
class Steady:
    """A receive clock that never goes back: where the one below it does, time stands until that has caught up.

    A live decision cannot wait for a line that will be stamped with an earlier time, a stored one can: see Stream. Stamped so, what is fed
    and what is recorded beside it say the same time of every line, and live is batch to the bit.

    steps   lines that came while time stood
    stands  whether it does
    """

    below: Clock
    steps: int = 0
    stands: bool = False
    _reached: int = 0

    def stamp(self, text: bytes) -> int:
        said = self.below.stamp(text)
        if said < self._reached:
            if not self.stands:
                behind_s = (self._reached - said) / SECOND
                log.warning("the receive clock is %.6f s behind what it said before: time stands until it catches up", behind_s)
            self.steps += 1
        self.stands = said < self._reached
        self._reached = max(self._reached, said)
        return self._reached

    def now(self) -> int:
        self._reached = max(self._reached, self.below.now())
        return self._reached

    def reach(self, time: int) -> None:
        """Let no stamp lie before a time."""
        self._reached = max(self._reached, time)


async def clock_beside(rest: Rest, which: str) -> WallClock:
    """The receive clock: "here" is this machine's, "exchange" is moved so that it agrees with the exchange's now.

    Raises InputError where this machine's is APART_NS from the exchange's or more: receive times would mean nothing.
    """
    if which not in ("here", "exchange"):
        raise InputError(f"--clock is {which!r}.", hint="Expected here or exchange.")
    ahead = await rest.server_time() - time.time_ns()
    if which == "exchange":
        return WallClock(ahead)
    if abs(ahead) >= APART_NS:
        raise InputError(
            f"The exchange's clock is {ahead / 3.6e12:+,.1f} hours from this machine's.",
            hint="Set this machine's clock (NTP). A recording that is replayed has its own time: pass --clock exchange.",
        )
    return WallClock()


class Lost(Exception):
    """A connection that must be given up; says why."""


@dataclass(slots=True)
class Counts:
    """What a client has met. `breaks` are declared gaps by why; `connects` counts connections that were made."""

    messages: int = 0
    snapshots: int = 0
    connects: int = 0
    breaks: Counter[str] = field(default_factory=Counter)
    other: int = 0


class Client:
    """Keeps one market's streams flowing into a backlog until it is cancelled.

    `run` connects, subscribes, and connects again whenever the connection ends, for whatever reason: a close after 24 hours is one.
    Every end is a declared gap of every symbol. `ask` fetches a snapshot, which becomes a line as any; who reads the lines knows when
    one is needed. A tape gets every line too, before the backlog does: it has a reader of its own, whom no reader of the backlog holds up.
    """

    def __init__(
        self,
        rest: Rest,
        symbols: Sequence[str],
        backlog: Backlog,
        *,
        tape: Backlog | None = None,
        clock: Clock | None = None,
        depth_ms: int = 100,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.venue = rest.venue
        self.rest = rest
        self.sources = tuple(Source(symbol, self.venue.market) for symbol in symbols)
        self.backlog = backlog
        self.tape = tape
        self.counts = Counts()
        self.connected = False
        self._clock = clock or WallClock()
        self._silence_s = silence_s
        self._names = [name for symbol in symbols for name in streams(symbol, self.venue.market, depth_ms)]
        self._known: dict[bytes, tuple[Source, int]] = {}
        self._waiting: dict[int, int] = {}
        self._asked: dict[str, asyncio.Task] = {}
        self._asked_at: dict[str, float] = {}
        self._unread: set[tuple[str, bool]] = set()
        self._heard = 0.0
        self._held_up = 0

    async def run(self) -> None:
        """Returns never. Raises InputError, StoreUnavailable for what no new connection would change."""
        failures = 0
        try:
            while True:
                before, began = self.counts.messages, time.monotonic()
                why = await self._connection()
                self.connected = False
                if self.counts.messages > before:
                    await self._break(why)
                if time.monotonic() - began > LASTS_S:
                    failures = 0
                wait_s = pause_s(failures, LONGEST_PAUSE_S)
                failures += 1
                log.warning("%s: %s; connecting again in %.1f s", self.venue.ws, why, wait_s)
                await asyncio.sleep(wait_s)
        finally:
            self.connected = False
            for task in self._asked.values():
                task.cancel()

    def ask(self, symbol: str, tape: bool = False) -> None:
        """Fetch a symbol's snapshot, unless one is on its way (until `settle`) or was asked for just now. Errors come out of `failed`.

        tape  whether the tape's reader asks. What either reader is sent, both are.
        """
        task, now = self._asked.get(symbol), time.monotonic()
        on_its_way = (symbol, tape) in self._unread or (task is not None and not task.done())
        if not on_its_way and now - self._asked_at.get(symbol, -AGAIN_S) >= AGAIN_S:
            self._asked_at[symbol] = now
            self._unread |= {(symbol, False), (symbol, True)} if self.tape is not None else {(symbol, False)}
            self._asked[symbol] = asyncio.create_task(self._snapshot(symbol))

    def settle(self, symbol: str, tape: bool = False) -> None:
        """Say that a snapshot was read, or that it may have been lost with a gap: another may be asked for."""
        self._unread.discard((symbol, tape))

    def failed(self) -> None:
        """Raise what a snapshot's question ended with, if one did."""
        for task in self._asked.values():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _snapshot(self, symbol: str) -> None:
        body = await self.rest.snapshot(symbol)
        self.counts.snapshots += 1
        await self._put(Item(self._clock.stamp(body), SNAPSHOT, Source(symbol, self.venue.market), body))

    async def _connection(self) -> str:
        """One connection from its beginning to its end; returns why it ended."""
        import websockets

        try:
            async with websockets.connect(
                f"{self.venue.ws}/stream", compression=None, max_size=MAX_MESSAGE, max_queue=FRAMES, open_timeout=20, close_timeout=2,
                logger=log.getChild("websockets"),
            ) as socket:  # fmt: skip
                self.counts.connects += 1
                self.connected = True
                self._heard = time.monotonic()
                self._waiting.clear()
                listening, watching = asyncio.create_task(self._listen(socket)), asyncio.create_task(self._watch())
                tasks = [listening, watching, asyncio.create_task(self._subscribe(socket))]
                try:
                    await asyncio.wait([listening, watching], return_when=asyncio.FIRST_COMPLETED)
                    await (listening if listening.done() else watching)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            raise AssertionError("neither listening nor watching ends without a reason")
        except Lost as error:
            return str(error)
        except websockets.InvalidStatus as error:
            status = error.response.status_code
            if 400 <= status < 500 and status not in (403, 408, 418, 425, 429):
                raise StoreUnavailable(
                    f"{self.venue.ws} refuses a connection (HTTP {status}).",
                    hint="451 means that Binance does not serve this place. Otherwise check --ws and --market.",
                ) from None
            return f"HTTP {status}"
        except websockets.InvalidURI as error:
            raise InputError(f"{self.venue.ws} is no WebSocket address ({error}).", hint="Expected wss://HOST:PORT.") from None
        except websockets.ConnectionClosed as error:
            return f"closed ({error})"
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            return f"not reached ({type(error).__name__} {error})"

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Name the streams, not faster than the exchange takes it."""
        for n, at in enumerate(range(0, len(self._names), IN_ONE)):
            names = self._names[at : at + IN_ONE]
            self._waiting[n + 1] = len(names)
            await socket.send(orjson.dumps({"method": "SUBSCRIBE", "params": names, "id": n + 1}), text=True)
            await asyncio.sleep(1.5 / self.venue.subscriptions)

    async def _watch(self) -> None:
        """End the connection where nothing is heard, or a SUBSCRIBE is not answered. A reader that holds us up is not silence."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, self._silence_s / 4))
            now = time.monotonic()
            if not self._held_up and now - self._heard > self._silence_s:
                raise Lost(f"no message for {self._silence_s:g} s")
            if self._waiting and now - began > ANSWER_S + len(self._names) / IN_ONE:
                raise Lost(f"SUBSCRIBE was not answered for {ANSWER_S:g} s")

    async def _listen(self, socket: ClientConnection) -> None:
        while True:
            text = await socket.recv(decode=False)
            recv = self._clock.stamp(text)
            self._heard = time.monotonic()
            name = stream_of(text)
            known = self._known.get(name) if name is not None else None
            if known is None:
                if name is None and self._answered(text):
                    continue
                known = self._learn(name)
            source, kind = known if known is not None else (None, OTHER)
            if source is None:
                self.counts.other += 1
                log.warning("%s: a message that was not asked for: %s", self.venue.ws, text[:120].decode("utf-8", "replace"))
                continue
            self.counts.messages += 1
            await self._put(Item(recv, kind, source, text))

    def _learn(self, name: bytes | None) -> tuple[Source, int] | None:
        """Whose a stream is, remembered; a server may write another speed into the name than was asked for."""
        found = kind_of(name) if name is not None else None
        if name is None or found is None or Source(found[0], self.venue.market) not in self.sources:
            return None
        self._known[name] = Source(found[0], self.venue.market), found[1]
        return self._known[name]

    def _answered(self, text: bytes) -> bool:
        """Take the answer to a SUBSCRIBE. Raises InputError for a refusal."""
        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(said, dict) or not said.keys() & {"result", "error", "code"}:
            return False
        if "error" in said or "code" in said:
            raise InputError(f"{self.venue.ws} refuses the streams: {text[:200].decode('utf-8', 'replace')}", hint="Check --symbols.")
        self._waiting.pop(said.get("id", 0), None)
        return True

    async def _break(self, why: str) -> None:
        """Declare a gap of every symbol, received now."""
        self.counts.breaks[why.partition(" (")[0]] += len(self.sources)
        for source in self.sources:
            text = break_line(*source, why)
            await self._put(Item(self._clock.stamp(text), BREAK, source, text))

    async def _put(self, item: Item) -> None:
        """Hand a line to the readers. Where there is room nothing else runs before it is handed over."""
        if self.tape is not None:
            self.tape.offer(item)
        if not self.backlog.offer(item):
            self._held_up += 1
            try:
                await self.backlog.put(item)
            finally:
                self._held_up -= 1
            self._heard = time.monotonic()
