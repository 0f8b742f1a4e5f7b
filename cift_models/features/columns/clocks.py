"""When a bar ends: after a stretch of time, after so many trades, or once so much has traded.

One interface. `clock.ends(state, chunk)` gives, for the bars that end within a chunk, the row after the last of each and the instant at
which the bar is known; rows after the last end belong to the bar that stays open. Every row belongs to exactly one bar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError, InputError
from cift_models.features.columns.chunk import Chunk, check_lots
from cift_models.instruments import SECOND

State = dict[str, NDArray]
"""Memory carried over chunks: plain arrays by name."""

NEVER = -(2**63)
"""A time before every other: no row was seen yet."""

STRIDE = 16
"""Rows that the search for a bar's end passes at once."""


class Clock(Protocol):
    """What ends a bar."""

    def start(self) -> State:
        """Memory before the first row."""
        ...

    def ends(self, state: State, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ends int64[K], as_of int64[K]) of the bars that end within the chunk: bar k holds rows ends[k - 1] .. ends[k] - 1 of it (the
        first also what earlier chunks left open) and may be used from as_of[k] on. Changes `state` in place.

        Raises DataError where time goes back, within the chunk or against the one before it, and (VolumeClock) for a size below 0.
        """
        ...

    def open_as_of(self, state: State) -> int:
        """The instant from which the bar that is still open could be used if it ended with the last row seen; ns UTC."""
        ...


@dataclass(frozen=True, slots=True)
class TimeClock:
    """Bars of `width_ns`: the bar that ends at instant t = anchor_ns + k width_ns holds the rows with t - width_ns < ts <= t.

    So a bar says what a feature row at decision instant t may know. It is there only if it holds a row: a stretch without rows has no
    bar, and the first row after it ends the bar before. known (as_of) at t.
    """

    width_ns: int = SECOND
    anchor_ns: int = 0

    def __post_init__(self) -> None:
        _check_positive("width_ns", self.width_ns)

    def start(self) -> State:
        return {"clock": np.array([NEVER, NEVER, 0], np.int64)}

    def ends(self, state: State, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        _check_order(state["clock"], chunk)
        span = int(chunk.ts[-1]) - max(int(chunk.ts[0]), int(state["clock"][0])) if len(chunk) else 0
        return _cut(_time_ends, chunk, max(span, 0) // self.width_ns + 2, self.width_ns, self.anchor_ns, state["clock"])

    def open_as_of(self, state: State) -> int:
        return int(state["clock"][0])


@dataclass(frozen=True, slots=True)
class TickClock:
    """Bars of `trades` trades: a bar ends with the row of its last trade and is known then."""

    trades: int

    def __post_init__(self) -> None:
        _check_positive("trades", self.trades)

    def start(self) -> State:
        return {"clock": np.array([0, NEVER, 0], np.int64)}

    def ends(self, state: State, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        _check_order(state["clock"], chunk)
        return _cut(_tick_ends, chunk, len(chunk) // self.trades + 1, self.trades, state["clock"])

    def open_as_of(self, state: State) -> int:
        return int(state["clock"][1])


@dataclass(frozen=True, slots=True)
class VolumeClock:
    """Bars of at least `lots` traded lots: a bar ends with the row that brings its volume to `lots` or more and is known then.

    A trade is never split over two bars, so a bar may hold more than `lots`; the next one begins at 0.
    """

    lots: int

    def __post_init__(self) -> None:
        _check_positive("lots", self.lots)

    def start(self) -> State:
        return {"clock": np.array([0, NEVER, 0], np.int64)}

    def ends(self, state: State, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        _check_order(state["clock"], chunk)
        check_lots("size", chunk.size)  # the room below is enough for sizes of at least 0 alone
        return _cut(_volume_ends, chunk, int(chunk.size.sum()) // self.lots + 1, self.lots, state["clock"])

    def open_as_of(self, state: State) -> int:
        return int(state["clock"][1])


UNITS_NS = {"ms": SECOND // 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
"""What a stretch of time may be said in."""


def duration_ns(text: str) -> int:
    """`250ms`, `1s`, `5m`, `1h` in ns. Raises InputError for anything else."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h)", text)
    if not found or not int(found[1]):
        raise InputError(f"{text!r} is no stretch of time.", hint="Expected a number and ms, s, m or h: 250ms, 1s, 5m.")
    return int(found[1]) * UNITS_NS[found[2]]


def clock_of(text: str, lot_scale: int, anchor_ns: int) -> Clock:
    """The clock that a person says: `1s` (any stretch of time, from anchor_ns on), `500trades`, or `1000volume` in the instrument's unit
    (lot_scale lots each). Raises InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(trades|volume)", text)
    if not found:
        try:
            return TimeClock(duration_ns(text), anchor_ns)
        except InputError:
            raise InputError(f"{text!r} ends no bar.", hint="Expected 250ms, 1s, 5m, 1h; 500trades; or 1000volume.") from None
    many, what = Fraction(found[1]), found[2]
    if many.denominator > 1 and what == "trades":
        raise InputError(f"{text!r} is no whole number of trades.", hint="Expected 500trades.")
    return TickClock(int(many)) if what == "trades" else VolumeClock(int(many * lot_scale))


def _check_positive(name: str, value: int) -> None:
    if not 0 < value < 2**62:
        raise InputError(f"{name} is {value}. Expected 1 to 2^62 - 1.", hint="A bar must hold something.")


def _check_order(memory: NDArray[np.int64], chunk: Chunk) -> None:
    """Raise DataError at the first row that goes back in time; remember the last one. `memory` is [the clock's own, last ts, rows]."""
    ts = chunk.ts
    if not len(ts):
        return
    if ts[0] < memory[1] or _falls(ts):
        row = 0 if ts[0] < memory[1] else int(np.argmax(ts[1:] < ts[:-1])) + 1
        before = memory[1] if row == 0 else ts[row - 1]
        raise DataError(
            f"Row {memory[2] + row:,} goes back in time ({ts[row]} after {before}). Expected times that never fall within a symbol.",
            hint="Sort the source by time and sequence, and give chunks in their order.",
            row=int(memory[2]) + row,
        )
    memory[1] = ts[-1]
    memory[2] += len(ts)


def _cut(search, chunk: Chunk, room: int, *args) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ends and instants of the bars that there are, at most `room`. (Buffers as long as the chunk would cost more than the search.)"""
    ends, as_of = np.empty((2, min(room, len(chunk))), np.int64)
    k = search(chunk.ts, chunk.size, ends, as_of, *args)
    return ends[:k].copy(), as_of[:k].copy()


@kernel
def _falls(ts):
    """Whether a time is before the one before it. A sum without a branch: the loop is one of vectors."""
    now, before = ts[1:], ts[:-1]
    falls = 0
    for i in range(now.shape[0]):
        falls |= now[i] < before[i]
    return falls != 0


@kernel
def _time_ends(ts, size, ends, as_of, width_ns, anchor_ns, memory):
    """memory[0] is the instant at which the open bar ends."""
    n = ts.shape[0]
    until = memory[0]
    k = 0
    i = 0
    while i < n:
        # Whole strides at once, then the place within one by counting: a bar costs one unpredictable branch, whatever its rows.
        while i + STRIDE <= n and ts[i + STRIDE - 1] <= until:
            i += STRIDE
        inside = 0
        if i + STRIDE <= n:
            stride = ts[i : i + STRIDE]
            for j in range(STRIDE):
                inside += stride[j] <= until
        else:
            while i + inside < n and ts[i + inside] <= until:
                inside += 1
        i += inside
        if i == n:
            break
        if until != NEVER:
            ends[k] = i
            as_of[k] = until
            k += 1
        until = anchor_ns + ((ts[i] - anchor_ns - 1) // width_ns + 1) * width_ns
    memory[0] = until
    return k


@kernel
def _tick_ends(ts, size, ends, as_of, trades, memory):
    """memory[0] counts the trades of the open bar."""
    seen = memory[0]
    k = 0
    for i in range(ts.shape[0]):
        seen += size[i] > 0
        if seen == trades:
            ends[k] = i + 1
            as_of[k] = ts[i]
            k += 1
            seen = 0
    memory[0] = seen
    return k


@kernel
def _volume_ends(ts, size, ends, as_of, lots, memory):
    """memory[0] is the volume of the open bar."""
    traded = memory[0]
    k = 0
    for i in range(ts.shape[0]):
        traded += size[i]
        if traded >= lots:
            ends[k] = i + 1
            as_of[k] = ts[i]
            k += 1
            traded = 0
    memory[0] = traded
    return k
