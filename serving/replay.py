"""`python -m serving.replay`: feed recorded events to a service and hold every word it says against the batch result."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from cift_models import release
from cift_models.engine import Decisions, Pipeline, fold
from cift_models.errors import CiftError, EmptyRange, InputError, StoreUnavailable
from cift_models.events import Events, merge
from cift_models.feeds.canonical import events_of_tables
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_tables
from cift_models.instruments import Session, Universe
from cift_models.settings import get_settings
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import ParquetTicks
from serving import wire

PACKET = 500
"""Events in one message."""
IN_FLIGHT = 8
"""Messages that may wait for their acknowledgement."""


@dataclass(slots=True)
class Comparison:
    """What was streamed against what batch says. `unequal` holds up to 20 differences in words, `n_unequal` counts all."""

    release: str
    session: int
    events: int = 0
    instants: int = 0
    missing: int = 0
    in_sample: int = 0
    values: int = 0
    n_unequal: int = 0
    seconds: float = 0.0
    unequal: list[str] = field(default_factory=list)
    signals: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)

    @property
    def equal(self) -> bool:
        return self.n_unequal == 0 and self.missing == 0 and self.instants > 0

    def as_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__} | {"equal": self.equal}  # type: ignore[attr-defined]


def lobster_events(files: list[Path], universe: Universe) -> tuple[Session, Events]:
    """The merged events of LOBSTER files of one session, as ingest keeps them. Raises InputError for a symbol twice, too many or too few."""
    days = {day.instrument.symbol: day for day in (read_lobster(path) for path in files)}
    if set(days) != set(universe.symbols) or len(days) != len(files):
        raise InputError(f"The files hold {sorted(days)}, the release knows {sorted(universe.symbols)}.", hint="Give one file a symbol.")
    sessions = {day.session for day in days.values()}
    if len(sessions) > 1:
        raise InputError(f"The files are of {len(sessions)} different sessions.", hint="Give files of one day and one stretch of it.")
    parts = []
    for i, symbol in enumerate(universe.symbols):
        checked = check_tables(days[symbol].tables, days[symbol].session, receive_clock=False)
        parts.append(events_of_tables({name: table.rows for name, table in checked.items()}, i))
    return sessions.pop(), merge(parts, universe.levels)


def stored_events(symbols_and_day: list[str], universe: Universe) -> tuple[Session, Events]:
    """The merged events of a stored session: its date is the last word; symbols before it must be the universe's."""
    *symbols, day = symbols_and_day
    if symbols and tuple(symbols) != universe.symbols:
        raise InputError(f"The release knows {universe.symbols}, asked was {tuple(symbols)}.", hint="Name the release's symbols, or none.")
    ticks = ParquetTicks(get_settings().home)
    wanted = int(day.replace("-", ""))
    for session in ticks.sessions(universe.symbols, wanted, wanted):
        return session, ticks.events(universe, session)
    raise EmptyRange(f"No session is stored on {day}.", hint="`cift status` lists what is stored.")


async def stream(url: str, pipeline: Pipeline, session: Session, events: Events, batch: Decisions, into: Comparison) -> None:
    """Push everything, compare as it comes back."""
    import websockets

    row = {int(t): i for i, t in enumerate(batch.as_of)}
    window = asyncio.Semaphore(IN_FLIGHT)
    total = (len(events) + PACKET - 1) // PACKET + 2
    acknowledged = asyncio.Event()
    seen: set[int] = set()
    began = last = time.monotonic()

    try:
        socket = await websockets.connect(url, max_size=None, open_timeout=30)
    except (OSError, websockets.WebSocketException) as error:
        raise StoreUnavailable(
            f"No service answers at {url} ({error}).", hint="Start one with `cift serve --release challenger`."
        ) from error

    async def listen() -> None:
        nonlocal last
        async for raw in socket:
            said = orjson.loads(raw)
            if "error" in said:
                raise InputError(f"The service refused a message: {said['error']}", hint="Is it serving the release of this home?")
            if "ack" in said:
                window.release()
                if said["ack"] == total:
                    acknowledged.set()
                continue
            if said["session"] != session.day:
                continue
            t = row.get(said["as_of"])
            if t is None:
                into.n_unequal += 1
                into.unequal.append(f"instant {said['as_of']} is not one of the batch result's")
                continue
            seen.add(t)
            compared, bad = wire.differences(pipeline, said, batch, t)
            into.values += compared
            into.n_unequal += len(bad)
            into.unequal += [f"{said['as_of']} {text}" for text in bad][: max(0, 20 - len(into.unequal))]
            into.in_sample += said["in_sample"]
            for one in said["symbols"].values():
                into.signals[one["signal"]] += 1
                into.actions[one["action"]] += 1
            if t == len(batch.as_of) - 1:
                return

    async def say(seq: int, **part: object) -> None:
        await window.acquire()
        await socket.send(orjson.dumps({"v": wire.VERSION, "seq": seq, **part}))

    listener = asyncio.create_task(listen())
    seq = 1
    sending = asyncio.create_task(say(seq, session={"day": session.day, "open": session.open, "close": session.close}))
    await sending
    for at in range(0, len(events), PACKET):
        seq += 1
        if listener.done():
            break
        await say(seq, events=wire.write_events(events[at : at + PACKET], pipeline.universe))
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"  {at / len(events):4.0%}  {into.values:,} values compared, {into.n_unequal} unequal", file=sys.stderr, flush=True)
    if not listener.done():
        await say(total, advance=session.close + 1)
    await asyncio.wait_for(listener, 120)
    await socket.close()
    into.instants = len(seen)
    into.missing = len(batch.as_of) - len(seen)
    into.seconds = time.monotonic() - began


def speaking(url: str) -> str:
    """The release that the service at a WebSocket URL serves (GET /model)."""
    import httpx

    base = url.replace("ws://", "http://").replace("wss://", "https://").rsplit("/", 1)[0]
    try:
        return httpx.get(f"{base}/model", timeout=60).raise_for_status().json()["release"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise StoreUnavailable(
            f"No service answers at {base} ({error}).", hint="Start one with `cift serve --release challenger`."
        ) from error


def compare(url: str, source: str, items: list[str]) -> Comparison:
    """Replay and compare; the batch result is computed here, from the same release's files."""
    name = speaking(url)
    pipeline, _ = release.load(Releases(get_settings().home).directory(name))
    if source == "lobster":
        session, events = lobster_events([Path(item) for item in items], pipeline.universe)
    elif source == "stored":
        session, events = stored_events(items, pipeline.universe)
    else:
        raise InputError(f"Unknown source {source!r}.", hint="Expected lobster or stored.")
    print(f"{len(events):,} events of {', '.join(pipeline.universe.symbols)}; computing the batch result", file=sys.stderr, flush=True)
    batch = fold(pipeline, pipeline.panel(session, events))
    into = Comparison(name, session.day, len(events))
    asyncio.run(stream(url, pipeline, session, events, batch, into))
    return into


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serving.replay", description="Feed recorded events to a service; `cift replay` calls it."
    )
    parser.add_argument("source", help="lobster or stored")
    parser.add_argument("items", nargs="+", help="files; or SYMBOL... DATE of a stored session")
    parser.add_argument("--to", default="ws://127.0.0.1:3000/ticks")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        result = compare(arguments.to, arguments.source, arguments.items)
    except CiftError as error:
        sys.exit(f"cift replay: {error.message}\n      {error.hint}")
    if arguments.json:
        print(orjson.dumps(result.as_json()).decode())
    else:
        print(f"Release {result.release[:12]}, session {result.session}: {result.events:,} events in {result.seconds:.1f} s.")
        print(f"{result.instants:,} instants streamed, {result.missing:,} missing, {result.in_sample:,} in sample.")
        print(
            f"{result.values:,} predictions and signals compared: {result.values - result.n_unequal:,} equal to the bit, {result.n_unequal:,} not."
        )
        print(f"Signals: {dict(result.signals)}. Actions: {dict(result.actions)}.")
        for text in result.unequal:
            print(f"  {text}")
    sys.exit(0 if result.equal else 1)


if __name__ == "__main__":
    main()
