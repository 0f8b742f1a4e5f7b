"""Market orders as a marked point process: when each buy and each sell arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.events import HIDDEN, TRADE, Events
from cift_models.models.hawkes.kernel import first_of_clusters

SIDES = 2
"""Dimensions of the process: 0 buys, 1 sells."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Arrivals of one symbol over some sessions, in (session, time, side) order.

    t_ns        int64[N]       ns since the open of its session
    side        int8[N]        0 buy, 1 sell
    offsets     int64[n + 1]   arrivals of session q are [offsets[q], offsets[q + 1])
    window_ns   int64[n]       what was observed of each session, from its open on
    session_ns  int64[n]       open to close
    """

    t_ns: NDArray[np.int64]
    side: NDArray[np.int8]
    offsets: NDArray[np.int64]
    window_ns: NDArray[np.int64]
    session_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_ns)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Buys and sells, int64[2]."""
        return np.bincount(self.side, minlength=SIDES)

    @property
    def windows_s(self) -> NDArray[np.float64]:
        return self.window_ns.astype(np.float64) * 1e-9

    @property
    def sessions_s(self) -> NDArray[np.float64]:
        return self.session_ns.astype(np.float64) * 1e-9

    def session_of_each(self) -> NDArray[np.int64]:
        """Session number of each arrival, int64[N]."""
        return np.repeat(np.arange(len(self.window_ns)), np.diff(self.offsets))

    def gaps_s(self) -> NDArray[np.float64]:
        """Seconds since the previous arrival of the session (either side), taken in int64 ns; -1 at a session's first arrival."""
        gaps = np.diff(self.t_ns, prepend=0).astype(np.float64) * 1e-9
        gaps[self.offsets[:-1][np.diff(self.offsets) > 0]] = -1.0
        return gaps

    def to_end_s(self) -> NDArray[np.float64]:
        """Seconds from each arrival to the end of what was observed of its session, float64[N]."""
        return (np.repeat(self.window_ns, np.diff(self.offsets)) - self.t_ns).astype(np.float64) * 1e-9

    def merged(self, within_ns: int) -> Arrivals:
        """Arrivals of one side within `within_ns` of the first of their cluster count as that first one. O(N)."""
        keep = first_of_clusters(self.t_ns, self.side, self.session_of_each(), within_ns)
        kept = np.concatenate([[0], np.cumsum(keep)])
        return Arrivals(self.t_ns[keep], self.side[keep], kept[self.offsets], self.window_ns, self.session_ns)


def session_arrivals(events: Events, symbol: int, open_ns: int, window_ns: int, session_ns: int) -> Arrivals:
    """Visible trades of one symbol in one session; those that share a time and a side are one arrival (one order that met several).

    `events` in (ts, symbol, sequence) order. Left out: hidden executions, trades of unknown side, events outside [0, window_ns]. O(n).
    """
    chosen = (events.symbol == symbol) & ((events.kind & (TRADE | HIDDEN)) == TRADE) & (events.side != 0)
    t = events.ts[chosen] - open_ns
    side = (events.side[chosen] < 0).astype(np.int8)
    inside = (t >= 0) & (t <= window_ns)
    return one_session(t[inside], side[inside], window_ns, session_ns)


def one_session(t_ns: NDArray[np.int64], side: NDArray[np.int8], window_ns: int, session_ns: int) -> Arrivals:
    """Arrivals of one session in any order; repeats of (time, side) are dropped."""
    pairs = np.unique(np.asarray(t_ns, np.int64) * SIDES + side)
    t, s = pairs // SIDES, (pairs % SIDES).astype(np.int8)
    return Arrivals(t, s, np.array([0, len(t)]), np.array([window_ns], np.int64), np.array([session_ns], np.int64))


def join(parts: Sequence[Arrivals]) -> Arrivals:
    """Sessions after one another."""
    lengths = np.concatenate([np.diff(p.offsets) for p in parts])
    return Arrivals(
        np.concatenate([p.t_ns for p in parts]),
        np.concatenate([p.side for p in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([p.window_ns for p in parts]),
        np.concatenate([p.session_ns for p in parts]),
    )
