"""Lines to captures on disk, by a reader that waits for nobody: what is fed may be late, what is recorded is not.

Work on lines is done on a thread, so that receive times stay true.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cift_models.feeds.binance.listing import canonical
from serving.feed.backlog import Backlog, Item, Source
from serving.feed.books import Books
from serving.feed.capture import FLUSH_S, Captures
from serving.feed.client import Client
from serving.feed.venue import BREAK, SNAPSHOT

log = logging.getLogger("cift.feed")

PAUSE_S = 0.1
"""Between two readings of the backlog: nobody waits for a recorded line, and a reading costs the same for one line as for hundreds."""
SAY_S = 10.0
"""Between two warnings that the disk is too slow."""


class Tape:
    """Writes what some clients receive, and asks for the snapshots without which a capture's books are not whole.

    backlog  the clients' own (a recorder), or a second one, `Client.tape`, beside that of a feed
    Its books tell it which snapshots are missing; they are not those of a feed, which may stand where the service was lost.
    """

    def __init__(self, clients: Sequence[Client], backlog: Backlog, captures: Captures, books: Books, *, flush_s: float = FLUSH_S) -> None:
        self.clients = clients
        self.backlog = backlog
        self.captures = captures
        self.books = books
        self.flush_s = flush_s
        self._stop = asyncio.Event()
        self._said = (0, 0, 0)
        self._said_at = float("-inf")

    def stop(self) -> None:
        """Write what was received, and end `run`."""
        self._stop.set()

    async def run(self) -> None:
        """Write what comes until `stop`. Raises StoreError where the disk takes no more, and what a snapshot's question ended with."""
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1, "tape")
        flushed = time.monotonic()
        try:
            while not self._stop.is_set():
                items = await self.backlog.take(timeout_s=PAUSE_S)
                now = time.monotonic()
                flush = now - flushed >= self.flush_s
                flushed = now if flush else flushed
                wanting = await loop.run_in_executor(pool, self._work, items, flush)
                for item in items:
                    if item.kind in (SNAPSHOT, BREAK) and item.source is not None:
                        client = self._client(item.source)
                        client.settle(item.source.symbol, tape=client.backlog is not self.backlog)
                for source in wanting:
                    client = self._client(source)
                    client.ask(source.symbol, tape=client.backlog is not self.backlog)
                for client in self.clients:
                    client.failed()
                self._say(now)
                await pause(self._stop, PAUSE_S)
            await loop.run_in_executor(pool, self._work, self.backlog.drain(), True)
            self._say(float("inf"))
        finally:
            pool.shutdown()
            self.captures.close()

    def summary(self) -> dict[str, Any]:
        """What was written and what was not, as JSON."""
        named = {"dropped": self.backlog.dropped, "dropped_trades": self.backlog.trades, "overflows": self.backlog.gaps}
        return {
            "lines": self.captures.lines,
            "bytes": self.captures.bytes,
            "gaps": self.books.gaps,
            "conflated": self.backlog.conflated,
            **{name: {canonical(*source): n for source, n in counts.items()} for name, counts in named.items()},
        }

    def _work(self, items: Sequence[Item], flush: bool) -> list[Source]:
        """Write lines and read them; returns the symbols whose snapshot is wanted."""
        # A day's file that begins with a snapshot of its own can be read without the day before.
        bare = self.captures.write(items)
        self.books.push(items)
        if flush:
            self.captures.flush()
        return list(dict.fromkeys(bare + self.books.wanting()))

    def _say(self, now: float) -> None:
        """Warn of lines that the disk was too slow for, where there are new ones."""
        lost = self.backlog.conflated, self.backlog.dropped.total(), self.backlog.trades.total()
        if lost != self._said and now - self._said_at >= SAY_S:
            log.warning(
                "%s: the disk is too slow: %s quotes, %s book changes and %s trades are not recorded; the gaps are declared",
                self.captures.folder, *(f"{n:,}" for n in lost),
            )  # fmt: skip
            self._said, self._said_at = lost, now

    def _client(self, source: Source) -> Client:
        return next(client for client in self.clients if client.venue.market == source.market)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, not longer than until `stop`."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
