"""Lines to the service's messages: canonical events, and the time, in the order in which the service wants them.

Lines go through the machine that ingest runs over files, rows through its checks and its conversion; so what the service is told is what
a store would give back of the same lines. Events of all symbols leave in the order (ts, symbol, sequence): one that time has not yet passed
is held, because another symbol's of the same nanosecond may belong before it. Time is the greatest receive time, or, when nothing comes,
the clock's: quiet markets are decided too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cift_models.errors import InputError
from cift_models.events import GAP, HALT, Events, merge
from cift_models.feeds.binance.listing import MARKETS, canonical
from cift_models.instruments import SECOND, Session, Universe, stretch
from serving import wire
from serving.feed.backlog import Item, Source
from serving.feed.books import Books, events_of

log = logging.getLogger("cift.feed")

PACKET = 500
"""Events in one message to the service."""
BEAT_S = 0.1
"""How long nothing may come before the clock is asked for the time."""
_BEHIND = 2**61
"""A sequence behind every other of its nanosecond."""


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
