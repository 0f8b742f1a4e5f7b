"""The recorder: one market's streams to capture files, with the snapshots that make their books whole."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cift_models.feeds.binance.listing import Listing, canonical, find, read_exchange_info
from cift_models.files import write_atomic
from serving.feed.backlog import LIMIT, Backlog, Source
from serving.feed.books import Books
from serving.feed.capture import FLUSH_S, Captures
from serving.feed.client import SILENCE_S, Client, Clock, clock_beside
from serving.feed.rest import Rest
from serving.feed.tape import PAUSE_S, Tape, pause
from serving.feed.venue import Venue

log = logging.getLogger("cift.feed")


@dataclass(frozen=True, slots=True)
class Options:
    """How a client connects and how much may wait; `instruments` is an exchangeInfo on disk instead of the exchange's own; `clock` is here,
    or exchange for a recording that is replayed (client.clock_beside)."""

    depth_ms: int = 100
    silence_s: float = SILENCE_S
    limit: int = LIMIT
    instruments: Path | None = None
    clock: str = "here"


async def listings(rest: Rest, symbols: Sequence[str], folder: Path | None, instruments: Path | None) -> dict[Source, Listing]:
    """What a tick and a lot of each symbol are, from a file or as the exchange says now; what it says is kept in `folder`, if one is given.

    Raises InputError for a symbol that the market has not.
    """
    market = rest.venue.market
    if instruments is None:
        body = await rest.exchange_info(symbols)
        if folder is None:
            import tempfile

            with tempfile.TemporaryDirectory() as room:
                return _read(_kept(Path(room), market, body), market, symbols)
        instruments = _kept(folder, market, body)
    return _read(instruments, market, symbols)


def _kept(folder: Path, market: str, body: bytes) -> Path:
    path = folder / f"{market}_exchangeinfo.json"
    write_atomic(path, body)
    return path


def _read(path: Path, market: str, symbols: Sequence[str]) -> dict[Source, Listing]:
    known = read_exchange_info(path, market)
    return {Source(symbol, market): find(known, symbol, market) for symbol in symbols}


class Recorder:
    """Writes what a client receives."""

    def __init__(
        self, client: Client, captures: Captures, books: Books, *, flush_s: float = FLUSH_S, tell: Callable[[str], None] = log.info
    ) -> None:
        self.client = client
        self.captures = captures
        self.books = books
        self.tape = Tape([client], client.backlog, captures, books, flush_s=flush_s)
        self.tell = tell
        self.seconds = 0.0
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Write what was received, and end `run`."""
        self._stop.set()

    async def run(self, seconds: float | None = None) -> None:
        """Record until `stop`, or for some seconds. Raises what the client raises, and StoreError where the disk takes no more."""
        began = told = time.monotonic()
        connection, writing = asyncio.create_task(self.client.run()), asyncio.create_task(self.tape.run())
        try:
            while not self._stop.is_set() and not connection.done() and not writing.done():
                now = time.monotonic()
                if seconds is not None and now - began >= seconds:
                    break
                if now - told >= 10:
                    told = now
                    self.tell(self._progress(now - began))
                await pause(self._stop, PAUSE_S)
            connection.cancel()
            await asyncio.wait([connection])
            self.tape.stop()
            await writing
            if not connection.cancelled():
                await connection
        finally:
            for task in (connection, writing):
                task.cancel()
            await asyncio.gather(connection, writing, return_exceptions=True)
            await self.client.rest.close()
            self.seconds = time.monotonic() - began

    def _progress(self, seconds: float) -> str:
        counts, backlog = self.client.counts, self.client.backlog
        return (
            f"{seconds:,.0f} s: {counts.messages:,} messages, {self.captures.lines:,} lines in {self.captures.bytes / 1e6:,.1f} MB, "
            f"{self.books.whole} of {len(self.client.sources)} books whole, {self.books.gaps} gaps, "
            f"{counts.connects - 1 if counts.connects else 0} reconnections, {backlog.size / 1e6:.1f} MB waiting"
            + ("" if self.client.connected else "; not connected")
        )

    def summary(self) -> dict[str, Any]:
        """What was recorded, as JSON."""
        return {
            "market": self.client.venue.market,
            "symbols": [source.symbol for source in self.client.sources],
            "seconds": round(self.seconds, 3),
            "lines": self.captures.lines,
            "bytes": self.captures.bytes,
            **counted(self.client, self.books),
        }


def counted(client: Client, books: Books) -> dict[str, Any]:
    """What a client and its books have met, as JSON."""
    counts, backlog = client.counts, client.backlog
    return {
        "messages": counts.messages,
        "snapshots": counts.snapshots,
        "connects": counts.connects,
        "breaks": dict(counts.breaks),
        "gaps": books.gaps,
        "resyncs": books.resyncs,
        "damaged": books.damaged,
        "conflated": backlog.conflated,
        "dropped": {canonical(*source): n for source, n in backlog.dropped.items()},
        "dropped_trades": {canonical(*source): n for source, n in backlog.trades.items()},
        "overflows": {canonical(*source): n for source, n in backlog.gaps.items()},
        "waited": backlog.waited,
        "broken": {canonical(*source): error.message for source, error in books.broken.items() if source.market == client.venue.market},
        "quarantined": {canonical(*source): n for source, n in books.quarantined.items() if source.market == client.venue.market},
        "unread": {canonical(*source): n for source, n in books.unread.items() if source.market == client.venue.market},
    }


async def recorder(
    venue: Venue, symbols: Sequence[str], folder: Path, options: Options, *, clock: Clock | None = None, flush_s: float = FLUSH_S,
    tell: Callable[[str], None] = log.info,
) -> Recorder:  # fmt: skip
    """A recorder of some symbols of a market, ready to run. Asks the exchange what they are. Raises InputError, StoreUnavailable."""
    captures = Captures(folder)
    rest = Rest(venue)
    clock = clock or await clock_beside(rest, options.clock)
    known: Mapping[Source, Listing] = await listings(rest, symbols, folder, options.instruments)
    client = Client(rest, symbols, Backlog(options.limit), clock=clock, depth_ms=options.depth_ms, silence_s=options.silence_s)
    return Recorder(client, captures, Books(known), flush_s=flush_s, tell=tell)
