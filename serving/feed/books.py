"""One state machine a symbol, the one that ingest runs over files: lines in, rows and events out, and who needs a snapshot."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cift_models.errors import FeedError, InputError
from cift_models.events import Events
from cift_models.feeds.binance import BinanceStream, Rows
from cift_models.feeds.binance.listing import Listing, canonical
from cift_models.instruments import SECOND, Instrument, stretch
from serving.feed.backlog import Item, Source
from serving.feed.venue import BREAK, DEPTH

if TYPE_CHECKING:
    import polars

log = logging.getLogger("cift.feed")


AGAIN_NS = 10 * SECOND
"""How long a symbol that could not be read is left out the first time; each next time twice as long."""
LONGEST_NS = 600 * SECOND
"""At most; and a symbol that was read for so long is forgiven. A price off its grid comes alone, or the listing has changed for good:
then a snapshot, which costs 50 of 6,000 a minute, is not asked for again and again."""


class Pushed(NamedTuple):
    """What some lines of one symbol gave: rows by day, in order; and since when nothing is known of it (receive time; 0: all was read)."""

    source: Source
    rows: list[Rows]
    lost: int = 0


class Books:
    """The books of some symbols, each fed its own lines as a capture file of its own would be.

    gaps         how often a book that was whole was lost
    resyncs      how often a book was begun from a snapshot
    broken       symbols that are left out now, and why: something in their stream could not be read
    quarantined  how often each was
    unread       lines of each that were therefore not read
    Not for two threads at once.

    A symbol that cannot be read (a price off its grid, a message of another market) ends alone. It is read again, from nothing, once a
    pause has passed (AGAIN_NS, then longer): a snapshot holds a thousand prices a side, so a grid that is not the symbol's any more is
    found out before its book is whole. Batch is stricter: ingest refuses the file, for a person is there who can pass the grid of the time.
    """

    def __init__(self, listings: Mapping[Source, Listing], levels: Mapping[Source, int] | int = 1, tell: bool = True) -> None:
        """levels of the book rows: a recorder needs none of them. tell: whether a symbol that is left out is said (others say it too)."""
        self.gaps = 0
        self.resyncs = 0
        self.damaged = 0
        self.set_apart = 0
        self.broken: dict[Source, FeedError] = {}
        self.quarantined: Counter[Source] = Counter()
        self.unread: Counter[Source] = Counter()
        self._listings, self._levels, self._tell = listings, levels, tell
        self._streams = {source: self._stream(source) for source in listings}
        self._until: dict[Source, int] = {}
        self._pause: dict[Source, int] = {}
        self._whole: set[Source] = set()
        self._changes: set[Source] = set()

    def push(self, items: Sequence[Item]) -> list[Pushed]:
        """Read lines, in the order in which they were received. O(bytes).

        Where one cannot be read, all lines of its symbol in this call give no row: what stood before it is not whole any more either.
        """
        by_source: dict[Source, list[Item]] = {}
        for item in items:
            if item.source is not None and item.source in self._streams:
                by_source.setdefault(item.source, []).append(item)
        out = []
        for source, mine in by_source.items():
            if source in self.broken:
                mine = self._after_pause(source, mine)
                if not mine:
                    continue
            try:
                rows = self._streams[source].push(b"".join(b"%d %s\n" % (item.recv, item.text) for item in mine))
            except FeedError as error:
                self._leave_out(source, mine, error)
                out.append(Pushed(source, [], mine[0].recv))
                continue
            for item in mine:
                if item.kind == DEPTH:
                    self._changes.add(source)
                elif item.kind == BREAK:
                    self._changes.discard(source)
            for one in rows:
                self._note(source, one)
            out.append(Pushed(source, rows))
        return out

    def wanting(self) -> list[Source]:
        """Symbols that need a snapshot: their book is not whole, and changes that it can be mended with have begun to come."""
        return [source for source in self._changes if source not in self._whole and source not in self.broken]

    @property
    def whole(self) -> int:
        """How many books are whole."""
        return len(self._whole)

    def _stream(self, source: Source) -> BinanceStream:
        name = canonical(*source)
        levels = self._levels if isinstance(self._levels, int) else self._levels[source]
        listings = {name: self._listings[source]}
        return BinanceStream(source.market, levels, listings=listings, symbol=source.symbol, name=f"the stream of {name}")

    def _leave_out(self, source: Source, mine: Sequence[Item], error: FeedError) -> None:
        """Quarantine a symbol, from its next line on."""
        last = mine[-1].recv
        # `_until` is when it was read again the last time: there is none the first time.
        forgiven = last - self._until.get(source, last) >= LONGEST_NS
        pause = AGAIN_NS if forgiven or source not in self._pause else min(2 * self._pause[source], LONGEST_NS)
        self._pause[source], self._until[source] = pause, last + pause
        self.broken[source] = error
        self.quarantined[source] += 1
        self.unread[source] += len(mine)
        self.gaps += source in self._whole
        self._whole.discard(source)
        self._changes.discard(source)
        if self._tell:
            words = "%s is left out for %.0f s, the others go on: %s Where its listing has changed, ingest and train anew."
            log.error(words, canonical(*source), pause / SECOND, error.message)

    def _after_pause(self, source: Source, mine: list[Item]) -> list[Item]:
        """The lines of a symbol that is left out with which it is read again; counts the others."""
        first = next((i for i, item in enumerate(mine) if item.recv >= self._until[source]), len(mine))
        self.unread[source] += first
        if first < len(mine):
            del self.broken[source]
            self._streams[source] = self._stream(source)
            if self._tell:
                log.warning("%s is read again; a snapshot must mend its book", canonical(*source))
        return mine[first:]

    def _note(self, source: Source, rows: Rows) -> None:
        self.gaps += rows.facts.gaps
        self.resyncs += rows.facts.snapshots
        self.damaged += rows.facts.damaged
        self.set_apart += sum(len(lines["line"]) for lines in rows.apart.values())
        if "status" in rows.tables and len(halted := rows.tables["status"]["halted"]):
            (self._whole.discard if halted[-1] else self._whole.add)(source)


def events_of(rows: Rows, place: int) -> Events:
    """The events of rows, as a store gives them back after ingest: bad rows set apart by quality, `ts` the running maximum of ts_recv.

    Sequences rise within a part, so judging a push alone marks what judging the whole day marks.
    """
    import polars as pl

    from cift_models.feeds.canonical import EVENT_TABLES, events_of_tables
    from cift_models.feeds.quality import check_tables

    tables: dict[str, polars.DataFrame] = {
        name: pl.DataFrame(rows.tables[name])
        for name in EVENT_TABLES
        # Most pushes hold a quote and nothing else, and a frame of 83 columns is made as slowly empty as full.
        if name in rows.tables and len(rows.tables[name]["sequence"])
    }
    if not tables:
        return Events.empty(0, rows.instrument.levels)
    checked = check_tables(tables, stretch(rows.first, rows.last), receive_clock=True)
    return events_of_tables({name: table.rows for name, table in checked.items()}, place)


def listing_of(instrument: Instrument) -> Listing:
    """The grid that an instrument of a release counts in. Raises InputError for one that no exchange of decimals has."""
    places, lots = (int(np.round(np.log10(scale))) for scale in (instrument.price_scale, instrument.lot_scale))
    if (10**places, 10**lots) != (instrument.price_scale, instrument.lot_scale):
        raise InputError(
            f"{instrument.symbol} counts prices in 1/{instrument.price_scale} and sizes in 1/{instrument.lot_scale}.",
            hint="Expected powers of ten, as instruments from `cift ingest binance` have.",
        )
    return Listing(instrument.symbol, places, instrument.tick_units, lots, 1 if instrument.unit == "contracts" else 0)
