"""The engine: events -> features -> models in the order of their needs -> probabilities -> signal.

Batch is `fold` over a session, live is `push` and `advance`; both run the same kernels on the same numbers, so both say the same, to
the bit. No I/O, no clock, no asyncio: time is what the events say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, InputError
from cift_models.events import Events, check_order, merge
from cift_models.features import FeatureSet, aggressor, stream
from cift_models.instruments import CALENDARS, SECOND, Session, Universe
from cift_models.models.protocol import Model, Panel, State, Step
from cift_models.signals import Position, SignalRule, signals

if TYPE_CHECKING:
    from cift_models.models.head import Head


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything fitted that turns events into a signal: what a release holds, once loaded.

    models    by kind, each after those it needs
    heads     by kind, for the models whose outputs hold a mean_bps and no probabilities of their own
    decides   the kind whose mean_bps the signal follows
    """

    universe: Universe
    features: FeatureSet
    models: dict[str, Model]
    heads: dict[str, Head]
    rule: SignalRule
    decides: str
    _half_spread: int = field(init=False, repr=False)
    _fee_bps: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for kind, model in self.models.items():
            missing = [need for need in model.needs if need not in seen]
            if missing:
                raise InputError(f"{kind} needs {missing[0]}, which does not come before it.", hint=f"The order was {list(self.models)}.")
            seen.add(kind)
        if self.decides not in seen:
            raise InputError(
                f"The signal follows {self.decides!r}, which is not among the models.", hint=f"The models are {list(self.models)}."
            )
        # Once, and not at every instant, where it was 3.6 of the 5.2 us that a cost took.
        object.__setattr__(self, "_half_spread", int(self.features.index(["half_spread_bps"])[0]))
        object.__setattr__(self, "_fee_bps", np.array([i.fee_bps for i in self.universe.instruments]))

    def panel(self, session: Session, events: Events) -> Panel:
        """Features of a whole session, as a panel without labels; sides that the feed does not send are inferred."""
        events = aggressor.signed(self.universe, events)
        as_of, offsets, x, valid, why = stream.build(self.universe, self.features, session, events)
        return Panel(self.universe, self.features, session.day, session.open, session.close, as_of, x, valid, why, events, offsets)

    def cost_bps(self, x: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Half-spread and fee of one crossing, [T, S] of x[T, S, F]; 0 where not valid (nothing is decided there)."""
        return np.where(valid, x[:, :, self._half_spread] + self._fee_bps, 0.0)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was said at T instants (live: T = 1). Leading axis T throughout.

    as_of int64[T]; valid bool[T, S], why int8[T, S]; values float64[T, S, C] and ready bool[T, S] by kind (0 where not ready);
    p float64[T, S, 3] by kind: probability of down, flat, up over the next second (0 where not ready; absent for kinds without a forecast);
    cost_bps float64[T, S]; signal int8[T, S]: +1 Buy, 0 Hold, -1 Sell.
    """

    session: int
    as_of: NDArray[np.int64]
    valid: NDArray[np.bool_]
    why: NDArray[np.int8]
    values: dict[str, NDArray[np.float64]]
    ready: dict[str, NDArray[np.bool_]]
    p: dict[str, NDArray[np.float64]]
    cost_bps: NDArray[np.float64]
    signal: NDArray[np.int8]

    def mean_bps(self, pipeline: Pipeline, kind: str) -> NDArray[np.float64] | None:
        """Forecast of a kind, [T, S]; None where the kind has none."""
        outputs = pipeline.models[kind].outputs
        return self.values[kind][:, :, outputs.index("mean_bps")] if "mean_bps" in outputs else None


def fold(pipeline: Pipeline, panel: Panel) -> Decisions:
    """Decide every instant of a session: the batch result. `panel.base` is ignored; the pipeline's own models fill it."""
    base: dict[str, NDArray] = {}
    base_ready: dict[str, NDArray] = {}
    for kind, model in pipeline.models.items():
        needed = replace(panel, base={k: base[k] for k in model.needs}, base_ready={k: base_ready[k] for k in model.needs})
        base[kind], base_ready[kind] = model.predict(needed)
    p = {
        kind: _probabilities(pipeline, kind, base[kind], base_ready[kind], panel.x)
        for kind in pipeline.models
        if _forecasts(pipeline, kind)
    }
    cost_bps = pipeline.cost_bps(panel.x, panel.valid)
    mean = base[pipeline.decides][:, :, pipeline.models[pipeline.decides].outputs.index("mean_bps")]
    signal = signals(pipeline.rule, mean, cost_bps, base_ready[pipeline.decides])
    return Decisions(panel.session, panel.as_of, panel.valid, panel.why, base, base_ready, p, cost_bps, signal)


def _forecasts(pipeline: Pipeline, kind: str) -> bool:
    return kind in pipeline.heads or "p_up" in pipeline.models[kind].outputs


def _probabilities(pipeline: Pipeline, kind: str, values: NDArray, ready: NDArray, x: NDArray) -> NDArray[np.float64]:
    """p[T, S, 3] of a kind: its own where it gives them, else its head's."""
    outputs = pipeline.models[kind].outputs
    if "p_up" in outputs:
        own = values[:, :, [outputs.index(name) for name in ("p_down", "p_flat", "p_up")]]
        return np.where(ready[:, :, None], own, 0.0)
    return pipeline.heads[kind].predict(values[:, :, outputs.index("mean_bps")], x, ready)


@dataclass(slots=True)
class Engine:
    """The live side of a pipeline: one session at a time, events in, decisions out.

    An instant is decided when the watermark (greatest time seen, or told by `advance`) exceeds it, so that every event of that very
    nanosecond has been applied. An event that does not come after the one before it in (ts, symbol, sequence), or whose time lies before
    the watermark, is late: counted in `late`, and not applied. A caller that keeps a journal keeps the applied ones alone.
    """

    pipeline: Pipeline
    session: Session | None = None
    watermark: int = 0
    late: int = 0
    decided: int = 0
    _next: int = 0
    _pending: list[Events] = field(default_factory=list)
    _last_key: tuple[int, int, int] = (0, 0, 0)
    _aggressor: dict[str, NDArray] = field(default_factory=dict)
    _features: stream.FeatureState | None = None
    _states: dict[str, State] = field(default_factory=dict)
    _position: Position | None = None

    def begin(self, session: Session) -> None:
        """Start a session: all memory is new, nothing is carried over from another."""
        pipeline = self.pipeline
        self.session = session
        self.watermark = 0
        self.decided = 0
        self._next = session.open + pipeline.features.clock_ns
        self._pending = []
        self._last_key = (0, -1, -1)
        self._aggressor = aggressor.start(pipeline.universe)
        self._features = stream.start(pipeline.universe, pipeline.features, session)
        self._states = {kind: model.start() for kind, model in pipeline.models.items()}
        self._position = pipeline.rule.start(len(pipeline.universe))

    def push(self, events: Events) -> list[Decisions]:
        """Take events in order; returns the instants that they decide. Raises DataError where they are out of order among themselves.

        Without a `begin`, the session is the regular one of the first event's date in the universe's calendar. Events after the close of
        the day's own session only move time on. O(events + instants).
        """
        if len(events) == 0:
            return []
        check_order(events)
        if self.session is None or int(events.ts[0]) > self.session.close:
            session = regular_session(self.pipeline.universe, int(events.ts[0]))
            if self.session is not None and session.day == self.session.day:
                return self.advance(int(events.ts[-1]))
            self.begin(session)
        events = self._drop_late(events)
        if len(events) == 0:
            return []
        self._pending.append(aggressor.sign(self._aggressor, events))
        last = len(events) - 1
        self._last_key = (int(events.ts[last]), int(events.symbol[last]), int(events.sequence[last]))
        return self.advance(int(events.ts[last]))

    def applied(self, events: Events) -> Events:
        """Those of `events` that a `push` now would apply: what a journal keeps."""
        return events[self._on_time(events)]

    def _on_time(self, events: Events) -> NDArray[np.bool_]:
        ts, symbol, sequence = self._last_key
        after = (events.ts > ts) | (
            (events.ts == ts) & ((events.symbol > symbol) | ((events.symbol == symbol) & (events.sequence > sequence)))
        )
        return after & (events.ts >= self.watermark)

    def _drop_late(self, events: Events) -> Events:
        on_time = self._on_time(events)
        if on_time.all():
            return events
        self.late += int((~on_time).sum())
        return events[on_time]

    def advance(self, t: int) -> list[Decisions]:
        """Say that time has reached t (a heartbeat): every instant before t is decided."""
        if self.session is None:
            raise DataError("Time was advanced before a session began.", hint="Send a session or events first.")
        self.watermark = max(self.watermark, t)
        out: list[Decisions] = []
        if self._next >= self.watermark or self._next > self.session.close:
            return out
        pending = _join(self._pending, self.pipeline.features.levels)
        at = 0
        while self._next < self.watermark and self._next <= self.session.close:
            end = int(np.searchsorted(pending.ts, self._next, "right"))
            out.append(self._decide(self._next, pending[at:end]))
            at = end
            self._next += self.pipeline.features.clock_ns
        self._pending = [pending[at:]] if at < len(pending) else []
        return out

    def finish(self) -> list[Decisions]:
        """Decide what is left of the session, up to its close."""
        return [] if self.session is None else self.advance(self.session.close + 1)

    def _decide(self, as_of: int, events: Events) -> Decisions:
        pipeline = self.pipeline
        assert self.session is not None and self._position is not None and self._features is not None
        at = np.array([as_of], np.int64)
        offsets = np.array([0, len(events)], np.int64)
        x, valid, why = stream.fold(self._features, pipeline.universe, pipeline.features, events, offsets, at)
        base: dict[str, NDArray] = {}
        base_ready: dict[str, NDArray] = {}
        for kind, model in pipeline.models.items():
            step = Step(
                as_of, self.session.day, x[0], valid[0], why[0], events,
                {k: base[k] for k in model.needs}, {k: base_ready[k] for k in model.needs},
            )  # fmt: skip
            self._states[kind], (base[kind], base_ready[kind]) = model.update(self._states[kind], step)
        values = {kind: v[None] for kind, v in base.items()}
        ready = {kind: r[None] for kind, r in base_ready.items()}
        p = {kind: _probabilities(pipeline, kind, values[kind], ready[kind], x) for kind in pipeline.models if _forecasts(pipeline, kind)}
        cost_bps = pipeline.cost_bps(x, valid)
        mean = values[pipeline.decides][:, :, pipeline.models[pipeline.decides].outputs.index("mean_bps")]
        self._position, signal = pipeline.rule.decide(self._position, mean[0], cost_bps[0], ready[pipeline.decides][0])
        self.decided += 1
        return Decisions(self.session.day, at, valid, why, values, ready, p, cost_bps, signal[None])


def _join(parts: Sequence[Events], levels: int) -> Events:
    """Consecutive parts as one: each was in order, and none reached back before the one before it."""
    if len(parts) == 1 and parts[0].levels == levels:
        return parts[0]
    if not parts or any(part.levels != levels for part in parts):
        return merge(parts, levels)
    return Events(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Events)))


def regular_session(universe: Universe, ts: int) -> Session:
    """The regular session of the date on which `ts` falls, in the calendar of the universe's first instrument."""
    calendar = CALENDARS[universe.instruments[0].calendar]
    day = datetime.fromtimestamp(ts // SECOND, UTC).astimezone(ZoneInfo(calendar.zone)).date()
    return calendar.session(day)
