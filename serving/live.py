"""The live state: one engine, its journal, and the change from one release to the next without a changed bit.

Synchronous and without sockets: `stream` carries messages to it, `mirror` carries rows away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cift_models import release
from cift_models.engine import Decisions, Engine, Pipeline, fold, regular_session
from cift_models.errors import DataError, InputError
from cift_models.events import Events
from cift_models.features import aggressor, stream
from cift_models.instruments import Session
from cift_models.models.protocol import Panel
from serving.journal import START, Journal
from serving.wire import VERSION, Message, Standing, decision

STRIDE = 5
"""Instants decided in one go. Whatever else waits (a probe, another socket, a swap) waits for these, some 5 ms; a request over HTTP takes
about ten turns of the loop (with 25 instants GET /model was answered only after a message of 285)."""

HELD = 900
"""Decisions that can be said again to a client that comes back: a quarter of an hour of seconds, some 2 kB each."""

MAX_INSTANTS = 86_400
"""Instants of one lone request."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A loaded release and what it may do."""

    pipeline: Pipeline
    standing: Standing

    @classmethod
    def load(cls, directory: Path, held: bool, sequence: int = 0) -> Speaker:
        """Verify and load a release. Raises ReleaseError on any damage."""
        pipeline, manifest = release.load(directory)
        return cls(pipeline, Standing(directory.resolve().name, held, manifest.max_train_t1, sequence))


class Live:
    """Takes messages, says decisions and acknowledgements. Used from one thread; a CatchUp may run in another."""

    def __init__(self, speaker: Speaker, journal: Journal) -> None:
        """Stand where the journal ends: a restart goes on as if nothing had happened."""
        self.journal = journal
        self.speaker = speaker
        self.late = 0
        self.events = 0
        self.instants = 0
        self.broken: str | None = None
        self.latest: dict[str, dict[str, Any]] = {}
        self.said: deque[tuple[int, bytes]] = deque(maxlen=HELD)
        self.engine = Engine(speaker.pipeline)
        decided: deque[Decisions] = deque(maxlen=HELD)
        for _, some in _fold(journal, self.engine, START):
            decided += some
        for one in decided:
            self._say(one)

    def take(self, message: Message) -> Iterator[list[bytes]]:
        """Apply one message, a stride at a time; each step gives what it decided, encoded, and the last one the acknowledgement.

        What is acknowledged stands in the journal. Every step leaves engine and journal at one place, so a swap may come between two.
        Raises DataError, before anything has changed, for time that is told before a session began, and for every message after a model
        failed in the middle of an instant: bits are promised or nothing is said.
        """
        if self.broken is not None:
            raise DataError(f"The live state is broken since a model failed: {self.broken}", hint="Mend or replace the release, restart.")
        applied = late = 0
        if message.session is not None:
            yield from self._begin(message.session, message.fresh)
            if message.after is not None:
                yield [raw for as_of, raw in self.said if as_of > message.after]
        elif message.advance is not None:
            if self.engine.session is None:
                raise DataError("Time was told before a session began.", hint="Send a session or events first.")
            yield from self._advance(message.advance)
        else:
            assert message.events is not None
            for part in self._by_session(message.events):
                if isinstance(part, Session):
                    yield from self._begin(part)
                    continue
                on_time = self.engine.applied(part)
                applied += len(on_time)
                yield from self._push(on_time)
            late = len(message.events) - applied
            self.events += applied
            self.late += late
        ack = {"v": VERSION, "ack": message.seq, "applied": applied, "late": late, "watermark": self.engine.watermark}
        yield [orjson.dumps(ack)]

    def _begin(self, session: Session, fresh: bool = False) -> Iterator[list[bytes]]:
        """Start a session, unless it is the one that runs (a client that comes back names it). The one before is decided to its end."""
        if self.engine.session == session and not fresh:
            return
        if self.engine.session is not None and self.engine.session != session:
            yield from self._advance(self.engine.session.close + 1)
        self.journal.begin(session)
        self.engine.begin(session)
        self.said.clear()

    def _by_session(self, events: Events) -> Iterator[Events | Session]:
        """Cut events at the ends of sessions: what belongs to the one that runs, and the sessions that begin.

        Left out are events between sessions: after the close of the regular session of their date, or of one that is over.
        """
        at = 0
        while at < len(events):
            ts, now = int(events.ts[at]), self.engine.session
            if now is not None and ts <= now.close:
                end = int(np.searchsorted(events.ts, now.close, "right"))
                yield events[at:end]
                at = end
                continue
            following = regular_session(self.speaker.pipeline.universe, ts)
            if ts > following.close or (now is not None and following.open <= now.close):
                at += 1
            else:
                yield following

    def _push(self, events: Events) -> Iterator[list[bytes]]:
        """Apply events of the session that runs, none of them late. A gap in time is walked through in strides too."""
        at = 0
        while at < len(events):
            limit = self._limit()
            end = at + int(np.searchsorted(events.ts[at:], limit, "right"))
            if end == at:
                yield self._step(limit)
                continue
            piece = events[at:end]
            self.journal.append(piece)
            yield self._decide(lambda piece=piece: self.engine.push(piece))
            at = end

    def _advance(self, t: int) -> Iterator[list[bytes]]:
        assert self.engine.session is not None
        t = min(t, self.engine.session.close + 1)
        while self.engine.watermark < t:
            yield self._step(min(t, self._limit()))

    def _limit(self) -> int:
        """The time that may be reached in one step."""
        assert self.engine.session is not None
        return max(self.engine.watermark, self.engine.session.open) + STRIDE * self.speaker.pipeline.features.clock_ns

    def _step(self, t: int) -> list[bytes]:
        self.journal.append(t)
        return self._decide(lambda: self.engine.advance(t))

    def _decide(self, step: Callable[[], list[Decisions]]) -> list[bytes]:
        try:
            return [self._say(one) for one in step()]
        except Exception as error:
            self.broken = str(error)
            raise

    def _say(self, decided: Decisions) -> bytes:
        said = decision(self.speaker.pipeline, decided, self.speaker.standing)
        raw = orjson.dumps(said)
        self.instants += 1
        self.said.append((said["as_of"], raw))
        common = {name: said[name] for name in ("as_of", "session", "release", "held", "in_sample")}
        for symbol, row in said["symbols"].items():
            self.latest[symbol] = {**common, "symbol": symbol, **row}
        return raw

    def swap(self, new: CatchUp) -> bool:
        """Let a new engine take over, between two instants: it folds what the journal gained, then speaks.

        False where it cannot, because a session began since: catch up anew. Raises DataError if it does not stand where the old one does.
        """
        if new.generation != self.journal.generation:
            return False
        new.go()
        if new.engine.session != self.engine.session or new.engine.watermark != self.engine.watermark:
            raise DataError(
                f"The new engine stands at {new.engine.watermark}, the old one at {self.engine.watermark}.",
                hint="The old release goes on; look at the journal.",
            )
        self.engine, self.speaker = new.engine, new.speaker
        return True


class CatchUp:
    """An engine of another release on its way to where the live one stands. `go` may run in a thread beside `Live.take`."""

    def __init__(self, live: Live, speaker: Speaker) -> None:
        """Raises InputError for a release of another universe."""
        if speaker.pipeline.universe != live.speaker.pipeline.universe:
            raise InputError(
                f"The new release knows {', '.join(speaker.pipeline.universe.symbols)}, or their scales, otherwise than the running one.",
                hint="Restart the service to serve another universe.",
            )
        self.speaker = speaker
        self.engine = Engine(speaker.pipeline)
        self.journal = live.journal
        self.generation = live.journal.generation
        self.at = START

    @property
    def behind(self) -> int:
        """Bytes of the journal that are not folded yet."""
        return self.journal.end - self.at

    def go(self) -> None:
        """Fold the whole records that are there now."""
        for at, _ in _fold(self.journal, self.engine, self.at):
            self.at = at


def _fold(journal: Journal, engine: Engine, start: int) -> Iterator[tuple[int, list[Decisions]]]:
    """Fold the journal from byte `start` into an engine: after each entry, the byte behind it and what it decided."""
    for at, entry in journal.entries(start):
        decided: list[Decisions] = []
        if isinstance(entry, Session):
            engine.begin(entry)
        elif isinstance(entry, Events):
            decided = engine.push(entry)
        else:
            decided = engine.advance(entry)
        yield at, decided


def predict(speaker: Speaker, session: Session, events: Events, until: int, instants: int) -> list[dict[str, Any]]:
    """The last `instants` decisions up to `until` of a session of given events, from its open: touches no live state.

    A lone request, not the live path: O(events + instants since the open), one fold of the batch kind.
    """
    pipeline = speaker.pipeline
    clock_ns = pipeline.features.clock_ns
    if not session.open + clock_ns <= until <= session.close:
        raise InputError(
            f"until = {until} lies outside the session's instants, {session.open + clock_ns} to {session.close}.",
            hint="Send a time within them.",
        )
    if until - session.open > MAX_INSTANTS * clock_ns:
        raise InputError(f"More than {MAX_INSTANTS:,} instants lie before until.", hint="Send a session of a day or less.")
    events = aggressor.signed(pipeline.universe, events[: int(np.searchsorted(events.ts, until, "right"))])
    as_of = np.array(list(islice(session.instants(clock_ns), (until - session.open) // clock_ns)), np.int64)
    offsets = stream.step_offsets(events, as_of)
    memory = stream.start(pipeline.universe, pipeline.features, session)
    x, valid, why = stream.fold(memory, pipeline.universe, pipeline.features, events, offsets, as_of)
    panel = Panel(pipeline.universe, pipeline.features, session.day, session.open, session.close, as_of, x, valid, why, events, offsets)
    decided = fold(pipeline, panel)
    return [decision(pipeline, _row(decided, t), speaker.standing) for t in range(max(0, len(panel) - instants), len(panel))]


def _row(batch: Decisions, t: int) -> Decisions:
    """One instant of a batch result, as the engine says it live."""
    one = slice(t, t + 1)
    return replace(
        batch,
        as_of=batch.as_of[one],
        valid=batch.valid[one],
        why=batch.why[one],
        values={kind: v[one] for kind, v in batch.values.items()},
        ready={kind: r[one] for kind, r in batch.ready.items()},
        p={kind: v[one] for kind, v in batch.p.items()},
        cost_bps=batch.cost_bps[one],
        signal=batch.signal[one],
    )
