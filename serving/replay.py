"""`python -m serving.replay`: feed recorded events to a service and hold every word it says against the batch result."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from cift_models import release
from cift_models.engine import Pipeline, fold
from cift_models.errors import CiftError, EmptyRange, InputError, StoreUnavailable
from cift_models.events import Events
from cift_models.feeds.lean import HOURS
from cift_models.feeds.quality import check_day
from cift_models.feeds.read import FEEDS, chains, identify, options, read
from cift_models.instruments import Session, Universe
from cift_models.settings import get_settings
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import ParquetTicks, open_ticks
from serving import wire
from serving.compare import Batch, Comparison

if TYPE_CHECKING:
    import polars
    from websockets.asyncio.client import ClientConnection

PACKET = 500
"""Events in one message."""
IN_FLIGHT = 8
"""Messages that may wait for their acknowledgement."""
SILENCE_S = 120.0
"""Without a word for so long the service is taken for dead."""
TELL_S = 5.0
"""Seconds between two lines of progress."""


def recorded_events(feed: str, files: list[Path], universe: Universe, said: Mapping[str, Any] | None = None) -> tuple[Session, Events]:
    """The merged events of one session's files, as ingest keeps them: through a tick store of their own that goes afterwards.

    said  what the files do not say and the release does not remember (market, instruments), as `cift ingest` takes it

    Raises InputError for files of other symbols or of several sessions, SchemaMismatch for instruments that the release does not know so.
    """
    with tempfile.TemporaryDirectory(prefix="cift-replay-") as folder:
        ticks = ParquetTicks(Path(folder))

        def before(symbol: str, ns: int) -> polars.DataFrame | None:
            ref = ticks.book_before(symbol, ns)
            return ticks.read(ref) if ref else None

        for chain in chains(feed, files, said or {}):
            for file in chain:
                for day in read(feed, file, _said(feed, file, universe, said or {}), before):
                    ticks.write_day(day, check_day(day))
        stored = ticks.instruments()
        if set(stored) != set(universe.symbols):
            raise InputError(
                f"The {len(files)} files hold {', '.join(stored)}; the release knows {', '.join(universe.symbols)}.",
                hint="Give the files of every symbol of the release, and no others.",
            )
        sessions = ticks.sessions(universe.symbols)
        if len(sessions) != 1:
            raise InputError(f"The files are of {len(sessions)} different sessions.", hint="Give files of one session.")
        (session,) = sessions
        return session, ticks.events(universe, session)


def _said(feed: str, file: Path, universe: Universe, said: Mapping[str, Any]) -> dict[str, Any]:
    """What `cift ingest` was told of a file's symbol, as far as the release remembers it: its files are to be the same instrument."""
    symbol = identify(feed, file, said).symbol
    if symbol not in universe.symbols:
        return dict(said)
    instrument = universe.instruments[universe.index(symbol)]
    hours = {calendar: name for name, calendar in HOURS.items()}.get(instrument.calendar)
    told = {"fee_bps": instrument.fee_bps, "tick_units": instrument.tick_units, "levels": instrument.levels, "hours": hours}
    return {name: value for name, value in told.items() if name in options(feed)} | dict(said)


def stored_events(items: list[str], universe: Universe) -> tuple[Session, Events]:
    """The merged events of a stored session: its date is the last word, symbols before it must be the universe's."""
    *symbols, day = items
    if symbols and tuple(symbols) != universe.symbols:
        raise InputError(
            f"The release knows {', '.join(universe.symbols)}; asked was {', '.join(symbols)}.", hint="Name its symbols, or none."
        )
    if not (digits := day.replace("-", "")).isdigit() or len(digits) != 8:
        raise InputError(f"{day!r} is not a date.", hint="Expected SYMBOL... DATE with a date like 2012-06-21.")
    ticks = open_ticks(get_settings())
    for session in ticks.sessions(universe.symbols, int(digits), int(digits)):
        return session, ticks.events(universe, session)
    raise EmptyRange(f"No session is stored on {day}.", hint="`cift status` lists what is stored.")


def read_source(source: str, items: list[str], universe: Universe, said: Mapping[str, Any] | None = None) -> tuple[Session, Events]:
    """The session that `source` (a feed, or `stored`) and its items name."""
    if source == "stored":
        return stored_events(items, universe)
    if source not in FEEDS:
        raise InputError(f"Unknown source {source!r}.", hint=f"Expected stored, {', '.join(FEEDS)}.")
    return recorded_events(source, [Path(item) for item in items], universe, said)


@dataclass(slots=True)
class Feed:
    """One session pushed over one WebSocket, compared as it comes back."""

    socket: ClientConnection
    universe: Universe
    session: Session
    events: Events
    into: Comparison
    packet: int = PACKET
    in_flight: int = IN_FLIGHT

    def messages(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Each message with the time to which it moves the watermark."""
        session = self.session
        yield {"session": {"day": session.day, "open": session.open, "close": session.close, "fresh": True}}, session.open
        for at in range(0, len(self.events), self.packet):
            part = self.events[at : at + self.packet]
            yield {"events": wire.write_events(part, self.universe)}, int(part.ts[-1])
        yield {"advance": session.close + 1}, session.close + 1

    async def run(self) -> None:
        """Push everything; returns when the last message is acknowledged. Raises InputError or StoreUnavailable where the service does."""
        import websockets

        began = time.monotonic()
        try:
            async with asyncio.timeout(None) as patience:
                await self._exchange(patience)
        except TimeoutError:
            raise StoreUnavailable(
                f"The service said nothing for {SILENCE_S:.0f} s, after {self.into.instants:,} instants.", hint="Look at its log."
            ) from None
        except websockets.ConnectionClosed as error:
            raise StoreUnavailable(
                f"The service went away after {self.into.instants:,} instants ({error}).",
                hint="Look at its log; start it and replay again.",
            ) from None
        self.into.seconds = time.monotonic() - began

    async def _exchange(self, patience: asyncio.Timeout) -> None:
        waiting = self.messages()
        sent_at: dict[int, float] = {}
        reaches: list[tuple[int, int]] = []
        seq = unacknowledged = 0
        told = time.monotonic()
        while True:
            while unacknowledged < self.in_flight and (following := next(waiting, None)) is not None:
                part, watermark = following
                seq += 1
                raw = orjson.dumps({"v": wire.VERSION, "seq": seq, **part})
                sent_at[seq] = time.perf_counter()
                reaches.append((watermark, seq))
                await self.socket.send(raw)
                unacknowledged += 1
            if unacknowledged == 0:
                return
            patience.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
            raw = await self.socket.recv()
            arrived = time.perf_counter()
            said = orjson.loads(raw)
            if "error" in said:
                raise InputError(f"The service refused a message: {said['error']}", hint="Does it serve a release of this home?")
            if "ack" in said:
                unacknowledged -= 1
                self.into.late += said["late"]
                reaches = [(watermark, n) for watermark, n in reaches if n > said["ack"]]
                continue
            decider = next((n for watermark, n in reaches if watermark > said["as_of"]), None)
            if decider is not None:
                self.into.latency_ms.append(1e3 * (arrived - sent_at[decider]))
            self.into.add(said)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                share = (said["as_of"] - self.session.open) / (self.session.close - self.session.open)
                text = f"  {share:4.0%}  {self.into.values:,} values compared, {self.into.n_unequal:,} not equal"
                print(text, file=sys.stderr, flush=True)


def ask_model(url: str) -> dict[str, Any]:
    """What the service at a WebSocket URL says of itself (GET /model). Raises StoreUnavailable where nothing answers."""
    import httpx

    base = url.replace("ws://", "http://").replace("wss://", "https://").rsplit("/", 1)[0]
    try:
        said = httpx.get(f"{base}/model", timeout=60).raise_for_status().json()
        return {"release": said["release"], **said}
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError) as error:
        raise StoreUnavailable(
            f"No service answers at {base} ({error}).", hint="Start one with `cift serve --release challenger`."
        ) from None


def load_pipeline(name: str) -> tuple[Pipeline, int]:
    """A release of this home by its name, and when what it learned ends."""
    pipeline, manifest = release.load(Releases(get_settings().home).directory(name))
    return pipeline, manifest.max_train_t1


async def connected(url: str, pipeline: Pipeline, session: Session, events: Events, into: Comparison, packet: int, in_flight: int) -> None:
    """Open the socket and feed the session through it."""
    import websockets

    try:
        socket = await websockets.connect(url, max_size=None, max_queue=None, open_timeout=30, compression=None)
    except (OSError, TimeoutError, websockets.WebSocketException) as error:
        raise StoreUnavailable(
            f"No WebSocket answers at {url} ({error}).", hint="The service's is ws://HOST:PORT/ticks; start one with `cift serve`."
        ) from None
    async with socket:
        await Feed(socket, pipeline.universe, session, events, into, packet, in_flight).run()


def compare(
    url: str, source: str, items: list[str], packet: int = PACKET, in_flight: int = IN_FLIGHT, said: Mapping[str, Any] | None = None
) -> Comparison:
    """Replay and compare. Batch results are computed here, from the files of whichever release speaks: a swap on the way is compared."""
    name = ask_model(url)["release"]
    pipeline, _ = load_pipeline(name)
    session, events = read_source(source, items, pipeline.universe, said)
    print(f"{len(events):,} events of {', '.join(pipeline.universe.symbols)}; computing the batch result", file=sys.stderr, flush=True)

    @cache
    def batch(release_name: str) -> Batch:
        speaking, max_train_t1 = load_pipeline(release_name)
        return Batch(speaking, fold(speaking, speaking.panel(session, events)), max_train_t1)

    into = Comparison(batch, session.day, len(events))
    into.expect(np.asarray(batch(name).decisions.as_of).tolist())
    asyncio.run(connected(url, pipeline, session, events, into, packet, in_flight))
    return into


def main() -> None:
    """Exit code 0 where everything came and was equal to the bit, 1 where not or where the service failed, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.replay", description="Feed recorded events to a service; `cift replay` calls it."
    )
    parser.add_argument("source", help="stored, lobster, binance, lean or canonical")
    parser.add_argument("items", nargs="+", help="files; or SYMBOL... DATE of a stored session")
    parser.add_argument("--to", default="ws://127.0.0.1:3000/ticks")
    parser.add_argument("--packet", type=int, default=PACKET, help="events in one message")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="messages that may wait for their acknowledgement")
    parser.add_argument("--market", help="spot, usdm or coinm, where a Binance file's name does not say it")
    parser.add_argument("--instruments", help="exchangeInfo JSON of Binance symbols that are not built in")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        if not 1 <= arguments.packet <= wire.MAX_EVENTS or arguments.in_flight < 1:
            raise InputError(f"--packet must be 1 to {wire.MAX_EVENTS:,} and --in-flight at least 1.", hint="Leave them out.")
        said = {name: value for name in ("market", "instruments") if (value := getattr(arguments, name)) is not None}
        result = compare(arguments.to, arguments.source, arguments.items, arguments.packet, arguments.in_flight, said)
    except CiftError as error:
        print(f"cift replay: {error.message}\n      {error.hint}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("cift replay: stopped.", file=sys.stderr)
        sys.exit(130)
    print(orjson.dumps(result.as_json()).decode() if arguments.json else result.as_text())
    sys.exit(0 if result.equal else 1)


if __name__ == "__main__":
    main()
