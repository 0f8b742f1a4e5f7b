"""What a model is: fitted parameters that are frozen, and a running state that goes in and comes out.

The law above all others: the fold of `update` over a panel's steps equals `predict(panel)`, to the bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cift_models.errors import DataError
from cift_models.events import Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Universe


class Why(IntEnum):
    """Why a row is not valid; OK where it is."""

    OK = 0
    WARM_UP = 1
    GAP = 2
    HALTED = 3
    ABSENT = 4
    STALE = 5


class Config(BaseModel):
    """What a model is to be: frozen, refuses unknown fields, one subclass beside each model."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class State(dict[str, NDArray[Any]]):
    """A model's running memory: named numpy arrays, per-symbol ones with leading axis S. Plain data, so any store can hold it."""

    def copy(self) -> State:
        """An independent fork."""
        return State({name: array.copy() for name, array in self.items()})

    def to_bytes(self) -> bytes:
        """The state as npz bytes (never pickle)."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls({name: arrays[name] for name in arrays.files})


class Output(NamedTuple):
    """What a model says at one instant: values float64[S, C] (0 where not ready), ready bool[S]."""

    values: NDArray[np.float64]
    ready: NDArray[np.bool_]


class Outputs(NamedTuple):
    """What a model says over a panel: values float64[T, S, C] (0 where not ready), ready bool[T, S]."""

    values: NDArray[np.float64]
    ready: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Step:
    """One decision instant, the whole universe.

    as_of    ns UTC; every event with ts <= as_of has been applied, none after
    session  yyyymmdd; another session means start()
    x        float64[S, F], one FeatureSet; never NaN where valid
    valid    bool[S]; `why` int8[S] says why not
    events   those since the previous step of the session: previous as_of < ts <= as_of (the first step: from the session's open)
    base     outputs float64[S, C] of the models named in `needs`, at this instant
    base_ready   bool[S] of each of them
    """

    as_of: int
    session: int
    x: NDArray[np.float64]
    valid: NDArray[np.bool_]
    why: NDArray[np.int8]
    events: Events
    base: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    base_ready: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Panel:
    """One session as arrays: the steps of `Step`, leading axis T, from the session's first instant on.

    as_of int64[T], x float64[T, S, F], valid bool[T, S], why int8[T, S], base float64[T, S, C] each, base_ready bool[T, S] each;
    the events of step t are events[offsets[t] : offsets[t + 1]] (offsets int64[T + 1]).

    For fitting only, else None:
    y          float64[T, S]   the target: bps move of the mid from as_of to as_of + horizon; 0 where unknown
    rows       bool[T]         which steps may be labels; every other step is there to carry state, or as look-back
    label_end  int64[T]        ns when y is known
    base_oof   bool[T]         where base comes from fits on the past alone; a model's labels must lie inside it
    """

    universe: Universe
    features: FeatureSet
    session: int
    open: int
    close: int
    as_of: NDArray[np.int64]
    x: NDArray[np.float64]
    valid: NDArray[np.bool_]
    why: NDArray[np.int8]
    events: Events
    offsets: NDArray[np.int64]
    base: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    base_ready: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    y: NDArray[np.float64] | None = None
    rows: NDArray[np.bool_] | None = None
    label_end: NDArray[np.int64] | None = None
    base_oof: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.as_of)

    def column(self, name: str) -> NDArray[np.float64]:
        """One feature, float64[T, S] (a view)."""
        return self.x[:, :, int(self.features.index([name])[0])]

    def step(self, t: int) -> Step:
        """The t-th instant, as the live path sees it."""
        return Step(
            as_of=int(self.as_of[t]),
            session=self.session,
            x=self.x[t],
            valid=self.valid[t],
            why=self.why[t],
            events=self.events[int(self.offsets[t]) : int(self.offsets[t + 1])],
            base={name: values[t] for name, values in self.base.items()},
            base_ready={name: ready[t] for name, ready in self.base_ready.items()},
        )

    def until(self, n: int) -> Panel:
        """The first n steps and not one event more: what a fit on the past is given."""

        def cut(values: NDArray | None) -> NDArray | None:
            return None if values is None else values[:n]

        return replace(
            self,
            as_of=self.as_of[:n],
            x=self.x[:n],
            valid=self.valid[:n],
            why=self.why[:n],
            events=self.events[: int(self.offsets[n])],
            offsets=self.offsets[: n + 1],
            base={k: v[:n] for k, v in self.base.items()},
            base_ready={k: v[:n] for k, v in self.base_ready.items()},
            y=cut(self.y),
            rows=cut(self.rows),
            label_end=cut(self.label_end),
            base_oof=cut(self.base_oof),
        )


@dataclass(frozen=True, slots=True)
class FitContext:
    """Everything about a fit that is not data and not config.

    seed      of every random draw; the same seed gives the same fit
    threads   for torch and BLAS; part of a fit's key
    device    "cpu" or "cuda"
    workdir   where a long fit leaves what it needs to go on after a kill; None: it does not
    previous  folder of the previous fit of this model (to keep the order of hidden states), or None
    progress  called with (what, share of the work done in 0..1)
    """

    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    workdir: Path | None = None
    previous: Path | None = None
    progress: Callable[[str, float], None] = lambda what, share: None


@dataclass(frozen=True, slots=True)
class FitReport:
    """How a fit ended. `status` is converged, max_iter or diverged: data, not an exception.

    curves   learning curves by name, one value an epoch or an iteration
    facts    JSON values worth a line in a report (branching ratio, state names, weights, ...)
    """

    status: str
    n_rows: int
    curves: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Model(Protocol):
    """A fitted model. A class cannot exist unfitted: `fit` and `load` make it.

    `kind` is its name in REGISTRY; `needs` the kinds whose outputs it reads in `base` (the engine runs them first);
    `outputs` names the columns C: ("mean_bps",) for a forecast of the move, others are described where they are made.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    Config: ClassVar[type[Config]]
    outputs: tuple[str, ...]

    @classmethod
    def fit(cls, config: Any, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """Learn from the rows that `train` marks. `valid` (may be empty) is for early stopping alone.

        Each panel starts at its session's open and ends with the training data. Sequences are opened lazily: iterate, do not hold.
        """
        ...

    def start(self) -> State:
        """Memory at a session's open, for the whole universe."""
        ...

    def update(self, state: State, step: Step) -> tuple[State, Output]:
        """Take one step. Consumes `state` (the caller forks with copy()). O(events in the step), no I/O, no learning."""
        ...

    def predict(self, panel: Panel) -> Outputs:
        """The fold of `update` from start() over the panel, to the bit."""
        ...

    def save(self, directory: Path) -> None:
        """Write config.json and arrays (safetensors, npz, UBJSON); never pickle."""
        ...

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote; executes nothing."""
        ...


def fold(model: Model, panel: Panel) -> Outputs:
    """The slow, obvious `predict`: `update` over every step."""
    state = model.start()
    values = np.zeros((len(panel), len(panel.universe), len(model.outputs)))
    ready = np.zeros(values.shape[:2], bool)
    for t in range(len(panel)):
        state, (values[t], ready[t]) = model.update(state, panel.step(t))
    return Outputs(values, ready)


def refuse_nan(x: NDArray[np.float64], valid: NDArray[np.bool_], kind: str) -> None:
    """Raise DataError where a valid row holds a value that is not finite. x is [..., S, F], valid [..., S]."""
    bad = valid & ~np.isfinite(x).all(axis=-1)
    if bad.any():
        where = tuple(int(i[0]) for i in np.nonzero(bad))
        raise DataError(
            f"{kind}: row {where} is marked valid and holds a value that is not finite. Expected finite features wherever valid.",
            hint="Mark the row not valid, with its reason, where it is made.",
        )
