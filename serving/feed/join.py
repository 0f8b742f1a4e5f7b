"""The live feed of a service: clients, stream and sender at work together, from an exchange's sockets to the service's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cift_models import release
from cift_models.errors import CiftError, InputError, StoreError
from cift_models.feeds.binance.listing import canonical
from cift_models.instruments import SECOND, Session, Universe
from cift_models.settings import get_settings
from cift_models.stores.releases import Releases
from serving import wire
from serving.feed.backlog import Backlog, Item, Source
from serving.feed.books import Books, listing_of
from serving.feed.capture import Captures
from serving.feed.client import Client, Clock, Steady, WallClock, clock_beside
from serving.feed.decisions import Decisions
from serving.feed.messages import BEAT_S, Stream, sources_of
from serving.feed.record import Options, counted, listings
from serving.feed.rest import Rest
from serving.feed.sender import IN_FLIGHT, Sender, ask_model, http_address
from serving.feed.state import read_state, write_state
from serving.feed.tape import Tape
from serving.feed.venue import BREAK, SNAPSHOT, Venue

log = logging.getLogger("cift.feed")

GATHER_S = 0.01
"""Pause between two readings of the backlog, shorter where an instant is near: a reading costs about as much for one line as for a hundred
(2 to 3 ms)."""
LAST_WORD_S = 5.0
"""How long a feed that ends in an error tries to say that it does."""
PATIENCE_S = 30.0
"""How long a feed that is asked to end waits for a service that does not acknowledge."""
SESSION_HOURS = 24
"""A session that the feed begins lasts so long. A venue that never closes has none of its own, and the wire wants a close."""


def universe_of(served: Mapping[str, Any]) -> tuple[Universe, int]:
    """The instruments of the release that a service speaks for, and the distance of its instants, ns. It must lie in this home."""
    manifest = release.verify(Releases(get_settings().home).directory(served["release"]))
    return Universe.from_json(manifest.universe), int(manifest.features["clock_ns"])


class Join:
    """Clients, stream and sender of one service, until `stop`."""

    def __init__(
        self,
        clients: Sequence[Client],
        stream: Stream,
        sender: Sender,
        *,
        tape: Tape | None = None,
        decisions: Decisions | None = None,
        state: Path | None = None,
        clock: Steady | None = None,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        self.clients = clients
        self.stream = stream
        self.sender = sender
        self.tape = tape
        self.tell = tell
        self.seconds = 0.0
        self.decisions = decisions or Decisions(None)
        self._state = state
        self._clock = clock or Steady(WallClock())
        self._backlog = clients[0].backlog
        self._stop = asyncio.Event()
        self._until = float("inf")

    def stop(self) -> None:
        """Send what was received, and a gap behind it; then end `run`: after PATIENCE_S at the latest, whatever the service does."""
        self._until = min(self._until, time.monotonic() + PATIENCE_S)
        self._stop.set()

    async def run(self, seconds: float | None = None) -> None:
        """Feed until `stop`, or for some seconds.

        Raises what client, tape and sender raise, and StoreError where the service did not acknowledge the end.
        """
        began = told = time.monotonic()
        loop = asyncio.get_running_loop()
        ending = loop.call_later(seconds, self.stop) if seconds is not None else None
        pool = ThreadPoolExecutor(1, "feed")
        running = [asyncio.create_task(self.sender.run())]
        writing: asyncio.Task | None = None
        try:
            # Before anything is received: what comes is stamped behind the gap that this tells.
            await self._resume()
            if self.tape is not None:
                writing = asyncio.create_task(self.tape.run())
                running.insert(0, writing)
            running[:0] = [asyncio.create_task(client.run()) for client in self.clients]
            while not self._stop.is_set():
                items = await self._backlog.take(timeout_s=self.stream.until_next_s(self._clock.now()))
                # Asked while nothing waits: whatever comes later was received later.
                now = self._clock.now()
                if self.sender.forgotten is not None and self.sender.forgotten == self.stream.session:
                    self.stream.restart()
                parts, wanting = await loop.run_in_executor(pool, self._work, items, now)
                for item in items:
                    if item.kind in (SNAPSHOT, BREAK) and item.source is not None:
                        self._client(item.source).settle(item.source.symbol)
                for source in wanting:
                    self._client(source).ask(source.symbol)
                await self._send(parts, running)
                self._check(running)
                if time.monotonic() - told >= 10:
                    told = time.monotonic()
                    self.tell(self._progress(told - began))
                await asyncio.sleep(min(GATHER_S, self.stream.until_next_s(self._clock.now())))
            clients = running[: len(self.clients)]
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            parts, _ = await loop.run_in_executor(pool, self._work, self._backlog.drain(), self._clock.now())
            await self._written(writing)
            await self._send([*parts, *self.stream.finish()], running[-1:])
            await self._settled(running[-1], PATIENCE_S)
        except CiftError:
            # Whatever ended this, the service shall not take the last book for today's.
            if not running[-1].done():
                last_word = asyncio.create_task(self._last_word())
                await asyncio.wait([last_word, running[-1]], timeout=LAST_WORD_S, return_when=asyncio.FIRST_COMPLETED)
                last_word.cancel()
                await asyncio.gather(last_word, return_exceptions=True)
            raise
        finally:
            if ending is not None:
                ending.cancel()
            ended = [task for task in running if task is not writing]
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
            # What was received is written, whatever ended the feed.
            with suppress(CiftError):
                await self._written(writing)
            pool.shutdown()
            for client in self.clients:
                await client.rest.close()
            self.seconds = time.monotonic() - began

    def _work(self, items: Sequence[Item], now: int) -> tuple[list[tuple[Session, dict[str, Any]]], list[Source]]:
        parts = self.stream.take(items, now)
        return parts, self.stream.books.wanting()

    async def _written(self, writing: asyncio.Task | None) -> None:
        """Wait until the tape has written what it was given. Raises what it raises."""
        if self.tape is not None and writing is not None:
            self.tape.stop()
            await writing

    async def _send(self, parts: Sequence[tuple[Session, dict[str, Any]]], running: Sequence[asyncio.Task]) -> None:
        for session, part in parts:
            if "session" in part and self._state is not None:
                write_state(self._state, session)
            sending = asyncio.create_task(self.sender.send(session, part))
            while not sending.done() and not running[-1].done() and time.monotonic() < self._until:
                await asyncio.wait([sending, running[-1]], timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done() and any(task.done() for task in running):
                    break
            late = not sending.done()
            if late:
                sending.cancel()
            self._check(running)
            if late:
                raise self._unacknowledged(PATIENCE_S)

    async def _last_word(self) -> None:
        for session, part in self.stream.finish():
            await self.sender.send(session, part)
        await self.sender.drained()

    def _unacknowledged(self, patience_s: float) -> StoreError:
        return StoreError(
            f"{self.sender.unacknowledged} messages were not acknowledged within {patience_s:.0f} s.", hint="Look at the service's log."
        )

    def _check(self, running: Sequence[asyncio.Task]) -> None:
        """Raise what ended a task that never ends, and what a snapshot's question ended with."""
        for task in running:
            if task.done():
                task.result()
        for client in self.clients:
            client.failed()

    async def _settled(self, sending: asyncio.Task, patience_s: float) -> None:
        drained = asyncio.create_task(self.sender.drained())
        await asyncio.wait([drained, sending], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        if sending.done():
            sending.result()
        if self.sender.unacknowledged:
            raise self._unacknowledged(patience_s)

    async def _resume(self) -> None:
        """Go on with the session of a feed that was stopped or killed, where the service is still in it. Raises StoreError."""
        session = read_state(self._state) if self._state is not None else None
        if session is None:
            return
        served = await ask_model(self.sender.url)
        watermark = served["watermark"]
        if served["session"] != session.day or not session.open <= watermark <= session.close or self._clock.now() > session.close:
            return
        self.tell(f"going on with the session of {session.day}, behind a gap")
        for told, part in self.stream.resume(session, watermark, self._clock.now()):
            await self.sender.send(told, part)
        # What comes is stamped behind the gap, in the recording too, also where the service's time is ahead of ours.
        self._clock.reach(self.stream.reached)

    def _client(self, source: Source) -> Client:
        return next(client for client in self.clients if client.venue.market == source.market)

    def _progress(self, seconds: float) -> str:
        messages = sum(client.counts.messages for client in self.clients)
        books, sources = self.stream.books, sum(len(client.sources) for client in self.clients)
        off = "".join(f"; {client.venue.market} not connected" for client in self.clients if not client.connected)
        return (
            f"{seconds:,.0f} s: {messages:,} messages, {self.stream.events:,} events, {books.whole} of {sources} books whole, "
            f"{books.gaps} gaps, {self.sender.acknowledged:,} messages acknowledged, {self.sender.unacknowledged} in flight"
            + off
            + "".join(f"; {canonical(*source)} is left out" for source in books.broken)
            + ("; time stands: the clock went back" if self._clock.stands else "")
            + ("" if self.sender.connected else "; the service is not connected")
            + (f"; {self.tape.captures.lines:,} lines recorded" if self.tape is not None else "")
        )

    def summary(self) -> dict[str, Any]:
        """What was fed, as JSON."""
        session, lag = self.stream.session, sorted(self.decisions.lag_ms)
        return {
            "seconds": round(self.seconds, 3),
            "session": asdict(session) if session else None,
            "events": self.stream.events,
            "applied": self.sender.applied,
            "late": self.sender.late,
            "again": self.sender.again,
            "acknowledged": self.sender.acknowledged,
            "service_connections": self.sender.connections,
            "decisions": self.decisions.count,
            "clock_steps": self._clock.steps + self.stream.steps,
            "lag_ms": {
                name: lag[min(len(lag) - 1, int(share * len(lag)))] if lag else None for name, share in (("p50", 0.5), ("p99", 0.99))
            },
            "markets": {client.venue.market: counted(client, self.stream.books) for client in self.clients},
            "recorded": self.tape.summary() if self.tape is not None else None,
        }


async def join(
    url: str,
    *,
    symbols: Sequence[str] | None,
    venue: Callable[[str], Venue],
    market: str | None = None,
    options: Options | None = None,
    in_flight: int = IN_FLIGHT,
    record: Path | None = None,
    decisions: Decisions | None = None,
    state: Path | None = None,
    clock: Clock | None = None,
    session_hours: int = SESSION_HOURS,
    tell: Callable[[str], None] = log.info,
) -> Join:
    """A feed of the service at `url`, ready to run. Asks the service what it knows, and the exchange whether it still counts the same.

    Raises StoreUnavailable where either does not answer, InputError where they do not fit.
    """
    if not 1 <= session_hours * 3600 * SECOND <= wire.MAX_SESSION_NS:
        raise InputError(f"--session-hours is {session_hours}.", hint="Expected 1 to 168.")
    options, heard = options or Options(), decisions or Decisions(None)
    http_address(url)
    universe, clock_ns = universe_of(await ask_model(url))
    places = sources_of(universe, market, symbols)
    captures = Captures(record) if record is not None else None
    # A connection that waited for the service's reader would not be read, and what is not received cannot be recorded.
    backlog = Backlog(options.limit, waits=captures is None)
    beside = Backlog(options.limit, waits=False) if captures is not None else None
    clients: list[Client] = []
    steady: Steady | None = None
    for name in dict.fromkeys(source.market for source in places):
        rest = Rest(venue(name))
        steady = steady or Steady(clock or await clock_beside(rest, options.clock))
        mine = [source.symbol for source in places if source.market == name]
        for source, listed in (await listings(rest, mine, record, options.instruments)).items():
            instrument = universe.instruments[places[source]]
            its = (instrument.price_scale, instrument.tick_units, instrument.lot_scale)
            now = (10**listed.price_places, listed.tick_units, 10**listed.lot_places)
            if its != now:
                raise InputError(
                    f"{instrument.symbol}: the release counts (price scale, tick, lot scale) {its}, the exchange lists {now} now.",
                    hint="Ingest recent data and train on it: what a tick is has changed.",
                )
        clients.append(Client(rest, mine, backlog, tape=beside, clock=steady, depth_ms=options.depth_ms, silence_s=options.silence_s))
    grids = {source: listing_of(universe.instruments[i]) for source, i in places.items()}
    books = Books(grids, {source: universe.instruments[i].levels for source, i in places.items()})
    stream = Stream(universe, places, clock_ns, books, session_hours * 3600 * SECOND)
    sender = Sender(url, universe.symbols, heard, in_flight)
    tape = Tape(clients, beside, captures, Books(grids, tell=False)) if captures is not None and beside is not None else None
    heard.clock = steady or heard.clock
    return Join(clients, stream, sender, tape=tape, decisions=heard, state=state, clock=steady, tell=tell)
