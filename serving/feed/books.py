"""One state machine a symbol, the one that ingest runs over files: lines in, rows and events out, and who needs a snapshot."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cift_models.errors import FeedError, InputError
from cift_models.events import Events
from cift_models.feeds.binance import BinanceStream, Rows
from cift_models.feeds.binance.listing import Listing, canonical
from cift_models.instruments import Instrument, stretch
from serving.feed.backlog import Item, Source
from serving.feed.venue import BREAK, DEPTH

if TYPE_CHECKING:
    import polars

log = logging.getLogger("cift.feed")


class Pushed(NamedTuple):
    """What some lines of one symbol gave: rows by day, in order."""

    source: Source
    rows: list[Rows]


class Books:
    """The books of some symbols, each fed its own lines as a capture file of its own would be.

    gaps     how often a book that was whole was lost
    resyncs  how often a book was begun from a snapshot
    broken   symbols whose stream cannot be read any more, and why: their lines are still lines
    Not for two threads at once.
    """

    def __init__(self, listings: Mapping[Source, Listing], levels: Mapping[Source, int] | int = 1) -> None:
        """levels of the book rows: a recorder needs none of them."""
        self.gaps = 0
        self.resyncs = 0
        self.damaged = 0
        self.set_apart = 0
        self.broken: dict[Source, FeedError] = {}
        self._streams = {
            source: BinanceStream(
                source.market,
                levels if isinstance(levels, int) else levels[source],
                listings={canonical(*source): listing},
                symbol=source.symbol,
                name=f"the stream of {canonical(*source)}",
            )
            for source, listing in listings.items()
        }
        self._whole: set[Source] = set()
        self._changes: set[Source] = set()

    def push(self, items: Sequence[Item]) -> list[Pushed]:
        """Read lines, in the order in which they were received. O(bytes).

        A stream that cannot be read (a price off its grid, a message of another market) is said once and not pushed again; see `broken`.
        """
        by_source: dict[Source, list[Item]] = {}
        for item in items:
            if item.source is not None and item.source in self._streams:
                by_source.setdefault(item.source, []).append(item)
        out = []
        for source, mine in by_source.items():
            if source in self.broken:
                continue
            try:
                rows = self._streams[source].push(b"".join(b"%d %s\n" % (item.recv, item.text) for item in mine))
            except FeedError as error:
                self.broken[source] = error
                self._whole.discard(source)
                log.error("%s: %s", canonical(*source), " ".join(str(error).split("\n")))
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
