"""The live state: one engine, its journal, and the change from one release to the next without a changed bit.

Synchronous and without sockets: `stream` carries messages to it, `mirror` carries states away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cift_models import release
from cift_models.engine import Decisions, Engine, Pipeline, fold, regular_session
from cift_models.errors import DataError, InputError
from cift_models.events import Events
from cift_models.instruments import Session
from serving.journal import Journal
from serving.wire import VERSION, Message, Standing, decision


@dataclass(frozen=True, slots=True)
class Speaker:
    """A loaded release and what it may do."""

    pipeline: Pipeline
    standing: Standing

    @classmethod
    def load(cls, directory: Path, held: bool) -> Speaker:
        """Verify and load a release. Raises ReleaseError on any damage."""
        pipeline, manifest = release.load(directory)
        return cls(pipeline, Standing(directory.resolve().name, held, manifest.max_train_t1))


class Live:
    """Takes messages, says acknowledgements and decisions. Not thread-safe, but for `catch_up`, which works on a new engine alone."""

    def __init__(self, speaker: Speaker, journal: Journal) -> None:
        """Stand where the journal ends: a restart goes on as if nothing had happened."""
        self.journal = journal
        self.latest: dict[str, dict[str, Any]] = {}
        self.instants = 0
        self.speaker = speaker
        self.engine = Engine(speaker.pipeline)
        self._replay(self.engine, 0)

    def take(self, message: Message) -> list[bytes]:
        """Apply one message; returns the acknowledgement and the decisions, encoded. What is acknowledged stands in the journal."""
        late = self.engine.late
        applied = 0
        if message.session is not None:
            decided = self._begin(message.session)
        elif message.events is not None:
            decided, applied = self._push(message.events)
        else:
            assert message.advance is not None
            if self.engine.session is None:
                raise DataError("Time was advanced before a session began.", hint="Send a session or events first.")
            self.journal.append(message.advance)
            decided = self.engine.advance(message.advance)
        ack = {"v": VERSION, "ack": message.seq, "applied": applied, "late": self.engine.late - late}
        return [orjson.dumps(ack), *(self._say(one) for one in decided)]

    def _begin(self, session: Session) -> list[Decisions]:
        """Start a session, unless it is the one that runs (a client that reconnects says so again)."""
        if self.engine.session == session:
            return []
        left = self.engine.finish()
        self.journal.clear()
        self.journal.append(session)
        self.engine.begin(session)
        return left

    def _push(self, events: Events) -> tuple[list[Decisions], int]:
        if len(events) == 0:
            return [], 0
        left: list[Decisions] = []
        if self.engine.session is None or int(events.ts[0]) > self.engine.session.close:
            left = self._begin(regular_session(self.speaker.pipeline.universe, int(events.ts[0])))
        applied = self.engine.applied(events)
        if len(applied):
            self.journal.append(applied)
        return left + self.engine.push(events), len(applied)

    def _say(self, decided: Decisions) -> bytes:
        said = decision(self.speaker.pipeline, decided, self.speaker.standing)
        self.instants += 1
        for symbol, row in said["symbols"].items():
            self.latest[symbol] = {"as_of": said["as_of"], "session": said["session"], "release": said["release"], "held": said["held"],
                                   "in_sample": said["in_sample"], "symbol": symbol, **row}  # fmt: skip
        return orjson.dumps(said)

    def catch_up(self, speaker: Speaker, start: int = 0, engine: Engine | None = None) -> tuple[Engine, int]:
        """Fold the journal from byte `start` into a new engine of another release; returns it and the byte where it stands.

        May run in a thread while messages are taken: it reads whole records only, and `swap` folds what came meanwhile.
        """
        if speaker.pipeline.universe != self.speaker.pipeline.universe:
            raise InputError(
                f"The new release knows {speaker.pipeline.universe.symbols}, the running one {self.speaker.pipeline.universe.symbols}.",
                hint="Restart the service to serve another universe.",
            )
        engine = engine or Engine(speaker.pipeline)
        return engine, self._replay(engine, start)

    def swap(self, speaker: Speaker, engine: Engine, at: int) -> None:
        """Let the new engine take over, between two instants: first it folds what the journal gained since `at`."""
        self._replay(engine, at)
        if engine.session != self.engine.session or engine.watermark != self.engine.watermark:
            raise DataError("The new engine does not stand where the old one stands.", hint="The old release goes on; look at the journal.")
        engine.late = self.engine.late
        self.engine, self.speaker = engine, speaker

    def _replay(self, engine: Engine, start: int) -> int:
        at = start
        for at, entry in self.journal.entries(start):
            if isinstance(entry, Session):
                engine.begin(entry)
            elif isinstance(entry, Events):
                engine.push(entry)
            else:
                engine.advance(entry)
        return at


def predict(speaker: Speaker, session: Session, events: Events, until: int, instants: int) -> list[dict[str, Any]]:
    """The last `instants` decisions before `until` of a session of given events, from start(): touches no live state.

    A lone request: O(instants since the open), not the live path.
    """
    if not session.open < until <= session.close:
        raise InputError(f"until = {until} lies outside the session ({session.open}, {session.close}].", hint="Send a time within it.")
    panel = speaker.pipeline.panel(session, events)
    panel = panel.until(max(1, int((panel.as_of <= until).sum())))
    decided = fold(speaker.pipeline, panel)
    out = []
    for t in range(max(0, len(panel) - instants), len(panel)):
        one = Decisions(
            decided.session, decided.as_of[t : t + 1], decided.valid[t : t + 1], decided.why[t : t + 1],
            {k: v[t : t + 1] for k, v in decided.values.items()}, {k: v[t : t + 1] for k, v in decided.ready.items()},
            {k: v[t : t + 1] for k, v in decided.p.items()}, decided.cost_bps[t : t + 1], decided.signal[t : t + 1],
        )  # fmt: skip
        out.append(decision(speaker.pipeline, one, speaker.standing))
    return out
