"""What was received and not yet read: bounded, in order, and it says what it could not keep.

When there is no room, what costs least goes first:
1. best bid and ask: of each symbol only the newest stays, at its own place (`conflated` counts the others);
2. changes to a book: those of the symbol that has most are dropped together, and a declared gap stands where the first of them was: the
   book is not whole until a snapshot mends it (`dropped`, `gaps`);
3. trades are never dropped: the connection waits, is not read, and fills up to the exchange, which may close it. That is a gap as any.
   What came after a line that waits waits behind it, over all connections: lines are read in the order in which they were received.

A backlog beside another may not wait: its connection has a second reader, who would wait with it. There everything that waits is dropped
in the end, trades too, as a declared gap of every symbol that something waited of.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.feed.venue import BREAK, DEPTH, QUOTE, SNAPSHOT, TRADE, break_line

OVERHEAD = 400
"""Bytes that an item takes beside its text (measured: 370 with its place in the dictionary and in the lists)."""
LIMIT = 64 << 20
"""Bytes that may wait by default: some 200,000 messages, a minute of the busiest symbol; what a reader holds comes on top."""


class Source(NamedTuple):
    """Whose a line is: the symbol as sent, and its market."""

    symbol: str
    market: str


class Item(NamedTuple):
    """One line: when it was received (ns), what it is (venue), whose (None: nobody's), and its text."""

    recv: int
    kind: int
    source: Source | None
    text: bytes


@dataclass(slots=True)
class Backlog:
    """Lines on their way from connections to one reader, within `limit` bytes. One event loop's; `offer` and `take` are not for threads.

    waits      whether a connection waits for room (False: `offer` takes everything)
    conflated  best bids and asks that a newer one replaced
    dropped    changes to a book (and snapshots) that were not kept, by symbol
    trades     trades that were not kept, by symbol; none where a connection waits
    gaps       declared gaps that stand for them, by symbol
    waited     how often a connection had to wait for room
    """

    limit: int = LIMIT
    waits: bool = True
    conflated: int = 0
    dropped: Counter[Source] = field(default_factory=Counter)
    trades: Counter[Source] = field(default_factory=Counter)
    gaps: Counter[Source] = field(default_factory=Counter)
    waited: int = 0
    size: int = 0
    _items: dict[int, Item] = field(default_factory=dict)
    _next: int = 0
    _quotes: dict[Source, list[int]] = field(default_factory=dict)
    _depth: dict[Source, list[int]] = field(default_factory=dict)
    _breaks: dict[Source, int] = field(default_factory=dict)
    _depth_size: Counter[Source] = field(default_factory=Counter)
    _filled: asyncio.Event = field(default_factory=asyncio.Event)
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _queued: int = 0

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: Item) -> None:
        """Add an item, or wait until the reader has made room for it and for whoever waited before."""
        if self.offer(item):
            return
        self._queued += 1
        try:
            async with self._turn:
                while not self._add(item):
                    self.waited += 1
                    self._drained.clear()
                    await self._drained.wait()
        finally:
            self._queued -= 1

    def offer(self, item: Item) -> bool:
        """Add an item, making room as the module says; False where only waiting helps. O(1), and O(what it drops)."""
        return not self._queued and self._add(item)

    def _add(self, item: Item) -> bool:
        size = len(item.text) + OVERHEAD
        if item.kind == BREAK and item.source in self._breaks and item.source not in self._depth:
            return True  # the gap that waits already is not over
        if self.size + size > self.limit and self._items and not self._make_room(item, size):
            if self.waits:
                return False
            self._lose_all()
        at = self._next
        self._next += 1
        self._items[at] = item
        self.size += size
        if item.source is not None:
            if item.kind == QUOTE:
                self._quotes.setdefault(item.source, []).append(at)
            elif item.kind in (DEPTH, SNAPSHOT):
                self._depth.setdefault(item.source, []).append(at)
                self._depth_size[item.source] += size
            elif item.kind == BREAK:
                self._breaks.setdefault(item.source, at)
        self._filled.set()
        return True

    async def take(self, timeout_s: float | None = None) -> list[Item]:
        """`drain`, once something waits; nothing where nothing came within timeout_s."""
        if not self._items:
            self._filled.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
            except TimeoutError:
                pass  # something may have come since: nothing waits when this returns nothing
        return self.drain()

    def drain(self) -> list[Item]:
        """Everything that waits, oldest first."""
        items = list(self._items.values())
        self._items, self._quotes, self._depth, self._breaks, self.size = {}, {}, {}, {}, 0
        self._depth_size.clear()
        self._drained.set()
        return items

    def _make_room(self, item: Item, size: int) -> bool:
        for places in self._quotes.values():
            self._conflate(places, max(0, len(places) - 1))
        mine = self._quotes.get(item.source) if item.kind == QUOTE and item.source is not None else None
        if mine and self.size + size > self.limit:
            freed = len(self._items[mine[0]].text) + OVERHEAD
            if self.size - freed + size <= self.limit:
                self._conflate(mine, 1)
        while self.size + size > self.limit and self._depth_size:
            self._lose(max(self._depth_size, key=self._depth_size.__getitem__))
        return self.size + size <= self.limit or not self._items

    def _conflate(self, places: list[int], n: int) -> None:
        """Remove the oldest n quotes of a symbol."""
        self._remove(places[:n])
        del places[:n]
        self.conflated += n

    def _lose(self, source: Source) -> None:
        """Drop what waits of a symbol's book, and declare the gap where the first of it was, unless one is declared before that."""
        places = self._depth.pop(source)
        del self._depth_size[source]
        self.dropped[source] += len(places)
        if self._breaks.get(source, places[0]) < places[0]:
            self._remove(places)
            return
        first = self._items[places[0]]
        self._remove(places[1:])
        gap = Item(first.recv, BREAK, source, break_line(*source, "overflow"))
        self._items[places[0]] = gap
        self._breaks[source] = places[0]
        self.size += len(gap.text) - len(first.text)
        self.gaps[source] += 1

    def _lose_all(self) -> None:
        """Drop everything that waits (quotes and changes gave way before); a gap of each symbol is declared where its first line was."""
        waited = self.drain()
        firsts: dict[Source, Item] = {}
        for item in waited:
            if item.source is None:
                continue
            first = firsts.setdefault(item.source, item)
            if item.kind == BREAK and item is not first and item.text == break_line(*item.source, "overflow"):
                self.gaps[item.source] -= 1  # it is part of the one that begins before it
            elif item.kind == TRADE:
                self.trades[item.source] += 1
            elif item.kind == QUOTE:
                self.conflated += 1
        for source, first in firsts.items():
            if first.kind != BREAK:
                self.gaps[source] += 1
                first = Item(first.recv, BREAK, source, break_line(*source, "overflow"))
            self._breaks[source] = self._next
            self._items[self._next] = first
            self._next += 1
            self.size += len(first.text) + OVERHEAD

    def _remove(self, places: list[int]) -> None:
        for at in places:
            self.size -= len(self._items.pop(at).text) + OVERHEAD
