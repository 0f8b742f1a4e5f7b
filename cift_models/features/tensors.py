"""Rows of a session as what a model eats: windows, snapshots and event times, by index. Nothing copies the frame.

The models of this library build theirs from the same rows where they need more: arrivals of several sessions (models/hawkes/arrivals.py),
tokens on disk (models/transformer/corpus.py), lag buckets straight from events (models/gnn/rows.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import InputError
from cift_models.events import HIDDEN, TRADE, Events


@dataclass(frozen=True, slots=True)
class Windows:
    """Every run of `length` valid rows of one symbol in one session, without a copy.

    view  float64[T - length + 1, S, F, length], a view of x: read it, do not write it
    ends  int64[N, 2], (t, s) of the last row of each window, in time order, then by symbol; a window holds the rows t - length + 1 .. t,
          so it knows nothing behind t, and no row that is not valid
    """

    x: NDArray[np.float64]
    view: NDArray[np.float64]
    ends: NDArray[np.int64]
    length: int

    @classmethod
    def of(cls, x: NDArray[np.float64], valid: NDArray[np.bool_], length: int, rows: NDArray[np.bool_] | None = None) -> Self:
        """x float64[T, S, F] and valid bool[T, S] of one session; `rows` bool[T]: only windows that end there. O(T S).

        Raises InputError for a length below 1. A session shorter than a window has none.
        """
        if length < 1:
            raise InputError(f"A window holds at least one row, was {length}.", hint="Choose a length in decision instants.")
        if len(x) < length:
            return cls(x, np.empty((0, *x.shape[1:], length)), np.empty((0, 2), np.int64), length)
        run = _runs(valid)
        whole = run >= length
        if rows is not None:
            whole &= rows[:, None]
        return cls(x, np.lib.stride_tricks.sliding_window_view(x, length, axis=0), np.argwhere(whole).astype(np.int64), length)

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, which: NDArray[np.int64], columns: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """float32[batch, length, features] of the windows `which`, oldest row first; some columns or all. O(what is returned)."""
        chosen = np.arange(self.x.shape[2]) if columns is None else np.asarray(columns, np.int64)
        out = np.empty((len(which), self.length, len(chosen)), np.float32)
        _gather(self.x, self.ends[which], chosen, out)
        return out


@kernel
def _runs(valid):
    """How many rows up to each were valid without a break, int64[T, S]."""
    run = np.zeros(valid.shape, np.int64)
    for t in range(len(valid)):
        for s in range(valid.shape[1]):
            if valid[t, s]:
                run[t, s] = (run[t - 1, s] if t > 0 else 0) + 1
    return run


@kernel
def _gather(x, ends, columns, out):
    length = out.shape[1]
    for n in range(len(ends)):
        t, s = ends[n, 0], ends[n, 1]
        for k in range(length):
            for c in range(len(columns)):
                out[n, k, c] = x[t - length + 1 + k, s, columns[c]]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """One graph an instant: nodes are the symbols, an absent one is absent and not zero.

    x        float64[T, S, F], the panel's own
    present  bool[T, S]
    edges    int64[2, E], (source, target) among the S symbols, the same at every instant
    """

    x: NDArray[np.float64]
    present: NDArray[np.bool_]
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, t: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
        """(nodes float64[S, F] as a view, present bool[S], the edges between nodes that are present int64[2, E'])."""
        alive = self.present[t]
        return self.x[t], alive, self.edges[:, alive[self.edges].all(axis=0)]


@dataclass(frozen=True, slots=True)
class EventTimes:
    """Visible trades of a session in event time, for point processes.

    t_s   float64[N], seconds since the session's open: formed from integers, so that two nanoseconds apart stay apart
    mark  int8[N], 0 bought, 1 sold
    place int64[N], the event's place in the stream that they were taken from
    """

    t_s: NDArray[np.float64]
    mark: NDArray[np.int8]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, events: Events, symbol: int, open_ns: int) -> Self:
        """Signed visible trades of one symbol at or behind the open; events in order. O(n)."""
        chosen: Any = (events.symbol == symbol) & ((events.kind & (TRADE | HIDDEN)) == TRADE) & (events.side != 0) & (events.ts >= open_ns)
        place = np.nonzero(chosen)[0]
        return cls((events.ts[place] - open_ns).astype(np.float64) * 1e-9, (events.side[place] < 0).astype(np.int8), place)
