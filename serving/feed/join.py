"""The live feed of a service: an exchange's streams to canonical events, to the service's wire, in time.

Lines go through the machine that ingest runs over files, rows through its checks and its conversion; so what the service is told is what
a store would give back of the same lines. Events of all symbols leave in the order (ts, symbol, sequence): one that time has not yet passed
is held, because another symbol's of the same nanosecond may belong before it. Time is the greatest receive time, or, when nothing comes,
the clock's: quiet markets are decided too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from cift_models import release
from cift_models.errors import CiftError, InputError, StoreError
from cift_models.events import GAP, HALT, Events, merge
from cift_models.feeds.binance.listing import MARKETS, canonical
from cift_models.files import write_atomic
from cift_models.instruments import SECOND, Session, Universe, stretch
from cift_models.settings import get_settings
from cift_models.stores.releases import Releases
from serving import wire
from serving.feed.backlog import Backlog, Item, Source
from serving.feed.books import Books, events_of, listing_of
from serving.feed.capture import Captures
from serving.feed.client import Client, Clock, Steady, WallClock, clock_beside
from serving.feed.record import Options, counted, listings
from serving.feed.rest import Rest
from serving.feed.sender import IN_FLIGHT, Sender, ask_model, http_address
from serving.feed.tape import Tape
from serving.feed.venue import BREAK, SNAPSHOT, Venue

log = logging.getLogger("cift.feed")

PACKET = 500
"""Events in one message to the service."""
BEAT_S = 0.1
"""How long nothing may come before the clock is asked for the time."""
GATHER_S = 0.01
"""Pause between two readings of the backlog, shorter where an instant is near: a reading costs about as much for one line as for a hundred
(2 to 3 ms)."""
LAST_WORD_S = 5.0
"""How long a feed that ends in an error tries to say that it does."""
PATIENCE_S = 30.0
"""How long a feed that is asked to end waits for a service that does not acknowledge."""
LAGS = 100_000
"""Decisions whose lag is kept: a day and four hours of seconds, under a megabyte."""
SESSION_HOURS = 24
"""A session that the feed begins lasts so long. A venue that never closes has none of its own, and the wire wants a close."""


def universe_of(served: Mapping[str, Any]) -> tuple[Universe, int]:
    """The instruments of the release that a service speaks for, and the distance of its instants, ns. It must lie in this home."""
    manifest = release.verify(Releases(get_settings().home).directory(served["release"]))
    return Universe.from_json(manifest.universe), int(manifest.features["clock_ns"])


def sources_of(universe: Universe, market: str | None, symbols: Sequence[str] | None) -> dict[Source, int]:
    """What to listen to, and the place of each in the universe: all of it, or some symbols of a market. Raises InputError."""
    places: dict[Source, int] = {}
    for i, name in enumerate(universe.symbols):
        symbol, _, suffix = name.rpartition(".")
        if suffix.lower() in MARKETS:
            places[Source(symbol, suffix.lower())] = i
    if symbols is not None:
        wanted = [Source(symbol, market or "spot") for symbol in symbols]
        for source in wanted:
            if source not in places:
                raise InputError(
                    f"The service knows no {canonical(*source)}.", hint=f"Its release was trained for {', '.join(universe.symbols)}."
                )
        places = {source: places[source] for source in wanted}
    if not places:
        raise InputError(
            f"The service's release knows {', '.join(universe.symbols)}: no symbol of Binance.",
            hint="Train one on data from `cift ingest binance`: its symbols are called BTCUSDT.SPOT, BTCUSDT.USDM, BTCUSD_PERP.COINM.",
        )
    return places


_BEHIND = 2**61
"""A sequence behind every other of its nanosecond."""


class Stream:
    """Lines to the service's messages: pure, apart from its memory; one thread at a time.

    Each call of `take` gives parts of the wire (session, events, advance), each with the session that it belongs to.

    session   that runs; None before the first line
    reached   time that all symbols have reached, ns
    steps     lines that were stamped with a time before `reached`

    Lines whose times never go back give the events that ingest and a store give of the same lines, to the bit. Where a line is stamped
    before one that came earlier, batch says that it could be used from the running maximum of its *own symbol's* times on: it has one
    symbol's file before it, and merges the files by time when all is known. Live cannot: up to the greatest time of *all* symbols events
    have left and instants are decided, and an event behind them is late there for ever. So such a line gets that greatest time, the
    earliest at which it could still be used. No event is lost or doubled, none is late, each is counted in `steps` and the first is said;
    its `ts` is batch's or later; events of lines behind the greatest time before the step are batch's again. What a model remembers of
    the times between differs as long as it remembers. A feed stamps its lines with a clock that never goes back (client.Steady), and
    records them so: then nothing of this arises.
    """

    def __init__(self, universe: Universe, places: Mapping[Source, int], clock_ns: int, books: Books, session_ns: int) -> None:
        self.universe = universe
        self.books = books
        self.session: Session | None = None
        self.reached = 0
        self.events = 0
        self.steps = 0
        self._places = places
        self._clock_ns = clock_ns
        self._session_ns = session_ns
        self._held: list[Events] = []
        self._told = 0

    def resume(self, session: Session, watermark: int, now: int) -> list[tuple[Session, dict[str, Any]]]:
        """Go on with a session that the service is in, behind a gap: nobody knows what came since.

        The gap is told twice, right behind what the service had and now: it may still be reading what the feed before this one sent.
        """
        self.session, self._told = session, watermark
        self.reached = max(now, watermark + 1) + 1
        times = sorted({watermark + 1, self.reached - 1})
        gaps = merge([self._gaps(ts, self._places.values()) for ts in times], self.universe.levels)
        return [(session, _session(session)), (session, {"events": wire.write_events(gaps, self.universe)})]

    def take(self, items: Sequence[Item], now: int) -> list[tuple[Session, dict[str, Any]]]:
        """Messages that lines give, received in this order, with time as far as `now` where there are none. O(bytes)."""
        for run in _steady(items, self.reached):
            if run[0].recv < self.reached:
                if not self.steps:
                    log.warning(
                        "the receive clock went back by %.6f s: time stands until it catches up", (self.reached - run[0].recv) / SECOND
                    )
                self.steps += 1
            for source, rows, lost in self.books.push(run):
                if lost:
                    # Behind its earlier events, and behind an earlier gap of its own where time has stood still since.
                    sequence = _BEHIND + self.books.quarantined[source]
                    self._held.append(self._gaps(max(lost, self.reached), [self._places[source]], sequence))
                for one in rows:
                    events = events_of(one, self._places[source])
                    if len(events):
                        # A time that lies before one that was told would be late: it could be used no earlier than that.
                        self._held.append(replace(events, ts=np.maximum(events.ts, self.reached)))
            self.reached = max(self.reached, run[-1].recv)
        if not items:
            self.reached = max(self.reached, now)
        return self._leave(self.reached)

    def restart(self) -> None:
        """Begin a new session with what comes next: the service has forgotten the one that runs."""
        self.session = None

    def finish(self) -> list[tuple[Session, dict[str, Any]]]:
        """What is held, and a gap of every symbol behind it: from here on nobody knows."""
        out = self._leave(self.reached + 1)
        if self.session is not None and self.reached < self.session.close:
            gaps = self._gaps(self.reached + 1, self._places.values())
            out.append((self.session, {"events": wire.write_events(gaps, self.universe)}))
        return out

    def _leave(self, before: int) -> list[tuple[Session, dict[str, Any]]]:
        """Messages of what is held with ts < before, and of the time, where that decides an instant."""
        out: list[tuple[Session, dict[str, Any]]] = []
        events = merge(self._held, self.universe.levels) if self._held else Events.empty(0, self.universe.levels)
        cut = int(np.searchsorted(events.ts, before))
        self._held = [events[cut:]] if cut < len(events) else []
        at = 0
        while at < cut:
            if self.session is None or int(events.ts[at]) > self.session.close:
                if self.session is not None:
                    out.append((self.session, {"advance": self.session.close + 1}))
                out.append(self._begin(int(events.ts[at])))
            assert self.session is not None
            end = min(cut, at + PACKET, int(np.searchsorted(events.ts, self.session.close, "right")))
            out.append((self.session, {"events": wire.write_events(events[at:end], self.universe)}))
            self._told = int(events.ts[end - 1])
            at = end
        self.events += cut
        if self.session is not None and self._decides(self.reached):
            self._told = self.reached
            out.append((self.session, {"advance": self.reached}))
        return out

    def _begin(self, ts: int) -> tuple[Session, dict[str, Any]]:
        begun = stretch(ts, ts)
        self.session = Session(begun.day, begun.open, begun.open + self._session_ns)
        self._told = self.session.open
        # A recording that is replayed again has the same session: the service shall not take its second run for the end of its first.
        return self.session, _session(self.session, fresh=True)

    def _decides(self, t: int) -> bool:
        """Whether an instant lies between the time that was told last and t: told at t, it is decided."""
        assert self.session is not None
        opened = self.session.open
        return t > self._told and (t - 1 - opened) // self._clock_ns > (self._told - 1 - opened) // self._clock_ns

    def until_next_s(self, now: int) -> float:
        """Seconds until the clock passes the next instant, at most BEAT_S."""
        if self.session is None:
            return BEAT_S
        left = self._clock_ns - (now - self.session.open) % self._clock_ns
        return min(BEAT_S, left / 1e9 + 1e-4)

    def _gaps(self, ts: int, places: Collection[int], sequence: int = _BEHIND) -> Events:
        """A gap of some symbols."""
        gaps = Events.empty(len(places), self.universe.levels)
        gaps.symbol[:] = sorted(places)
        gaps.ts[:], gaps.sequence[:], gaps.kind[:] = ts, sequence, HALT | GAP
        return gaps


def _session(session: Session, **more: bool) -> dict[str, Any]:
    return {"session": {"day": session.day, "open": session.open, "close": session.close, **more}}


def _steady(items: Sequence[Item], floor: int) -> list[list[Item]]:
    """Lines in runs: a run begins where the clock steps behind the greatest time before, and where it has caught up with that again."""
    runs: list[list[Item]] = []
    behind = False
    for item in items:
        if not runs or (item.recv < floor) or behind:
            runs.append([])
        behind = item.recv < floor
        floor = max(floor, item.recv)
        runs[-1].append(item)
    return runs


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
                _write_state(self._state, session)
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
        session = _read_state(self._state) if self._state is not None else None
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


def _read_state(path: Path) -> Session | None:
    """The session that a feed of this home began last; None where none did. Raises StoreError for a file that no feed wrote."""
    try:
        said = orjson.loads(path.read_bytes())
        if not isinstance(said, dict) or said.keys() != {"day", "open", "close"}:
            raise ValueError("expected day, open and close")
        return wire.read_session(said["day"], said["open"], said["close"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, InputError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message if isinstance(error, InputError) else str(error)
        raise StoreError(
            f"{path} does not say which session runs: {str(why).rstrip('.')}.",
            hint="Remove it: the feed then begins a new session, and the service forgets the one that runs.",
        ) from error


def _write_state(path: Path, session: Session) -> None:
    try:
        write_atomic(path, orjson.dumps(asdict(session)))
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}; the session is not written down.", hint="Make room, and start the feed again."
        ) from error


class Decisions:
    """What the service says: counted, timed against its instant, written down where a file is given.

    count    decisions, all of them
    actions  actions by name, over all symbols
    lag_ms   how long behind its instant each was heard, of the newest LAGS
    """

    def __init__(self, path: Path | None) -> None:
        self.count = 0
        self.actions: Counter[str] = Counter()
        self.lag_ms: deque[float] = deque(maxlen=LAGS)
        self.clock: Clock = WallClock()
        self._file: IO[bytes] | None = None
        if path is not None:
            try:
                self._file = open(path, "ab")  # noqa: SIM115 (closed by `close`)
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}.", hint="Expected a file that can be written: --decisions FILE.") from error

    def __call__(self, said: dict[str, Any]) -> None:
        self.count += 1
        self.lag_ms.append((self.clock.now() - said["as_of"]) / 1e6)
        self.actions.update(one["action"] for one in said["symbols"].values())
        if self._file is not None:
            try:
                self._file.write(orjson.dumps(said) + b"\n")
                self._file.flush()
            except OSError as error:
                # An OSError would pass for a connection that broke. What could not be written is tried again by closing: not a second time.
                with suppress(OSError):
                    self.close()
                raise StoreError(
                    f"{self._file.name}: {error.strerror}; a decision is not written.", hint="Make room: --decisions."
                ) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


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
