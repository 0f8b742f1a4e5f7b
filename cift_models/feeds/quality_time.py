"""The time of a day's rows: where nothing was recorded or traded, how long a row stood, and the day cut into equal bins.

Rows are placed by the time from which they could be used, the running maximum of `ts_recv`; all instants are ns UTC, ascending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.instruments import SECOND

if TYPE_CHECKING:
    import polars

SILENCE_S = 60.0
"""A stretch without a row of any table counts as a silence when it is longer than this."""
SILENCES = 10
"""How many stretches without a row are listed, the longest ones, whether they count as silences or not."""
GAPS = 100
"""How many gaps are listed, the longest ones; all are counted."""
BINS_S = (1, 5, 15, 60)
"""Widths of the timeline's bins: the first with which the day has at most MOST_BINS of them, a minute where it has more."""
MOST_BINS = 400

Stretches = Sequence[tuple[int, int]]
"""(start, end) of what was recorded, ascending, apart from each other."""


class Gap(NamedTuple):
    """A stretch that says nothing, and why: `feed` (messages are missing), `hole` (no file covers it), `halt` (the venue stopped)."""

    kind: str
    start: int
    end: int


class OpenTime:
    """Time less the gaps in it: what lies between two instants and was recorded while the venue traded."""

    def __init__(self, gaps: Sequence[Gap]) -> None:
        closed = joined((g.start, g.end) for g in gaps if g.end > g.start)
        self._start = np.array([a for a, _ in closed], np.int64)
        self._length = np.array([b - a for a, b in closed], np.int64)
        self._before = np.concatenate([[0], np.cumsum(self._length)])

    def at(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        """ns of open time before each instant, from a common origin."""
        if not len(self._start):
            return t
        k = np.searchsorted(self._start, t, side="right") - 1
        inside = np.minimum(t - self._start[k], self._length[k])
        return t - np.where(k < 0, 0, self._before[k] + inside)

    def stood(self, at: NDArray[np.int64], recorded: Stretches) -> NDArray[np.int64]:
        """ns of open time for which each row was the last word: until the next one, or the end of its stretch."""
        return np.maximum(self.at(ends_of(at, recorded)) - self.at(at), 0)


class Bins:
    """Equal stretches of a day, from its open to its close; the last may be shorter.

    edges    int64[n + 1], ns
    open_ns  int64[n], how much of each was recorded while the venue traded
    """

    def __init__(self, recorded: Stretches, clock: OpenTime, width_s: int = 0) -> None:
        start, close = recorded[0][0], recorded[-1][1]
        self.width_s = width_s or next((w for w in BINS_S if (close - start) <= w * SECOND * MOST_BINS), BINS_S[-1])
        n = max(1, -(-(close - start) // (self.width_s * SECOND)))
        self.edges = np.minimum(start + np.arange(n + 1, dtype=np.int64) * self.width_s * SECOND, close)
        self.open_ns = np.diff(clock.at(self.edges))
        self._clock = clock
        self._recorded = recorded

    def cuts(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of each bin begin, and behind them all; a row at the very close belongs to the last bin."""
        found = np.searchsorted(at, self.edges)
        found[-1] = np.searchsorted(at, self.edges[-1], side="right")
        return found

    def rates(self, at: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Rows a minute of open time, and which bins were open for at least half: a rate over less says little."""
        return np.diff(self.cuts(at)) * (60.0 * SECOND) / np.maximum(self.open_ns, 1), self.open_ns * 2 >= self.width_s * SECOND

    def means(self, at: NDArray[np.int64], values: NDArray, use: NDArray[np.bool_]) -> list[float | None]:
        """Mean over the open time of each bin of a value that stands until the next row; None where no used value stood."""
        if not len(at):
            return [None] * len(self.open_ns)
        stood = np.where(use, self._clock.stood(at, self._recorded), 0)
        # The integral over open time is piecewise linear: its difference between two edges is the bin's. In float64: one stub quote of
        # 2e7 ticks that stands for an hour leaves int64.
        worth = np.where(use, values, 0).astype(np.float64)
        area, time = (np.concatenate([[0], np.cumsum(x)]) for x in (worth * stood, stood))
        k = np.searchsorted(at, self.edges, side="right") - 1
        here = np.maximum(k, 0)
        inside = self._clock.at(np.minimum(self.edges, ends_of(at, self._recorded)[here])) - self._clock.at(at[here])
        inside = np.where((k >= 0) & use[here], np.maximum(inside, 0), 0)
        total, took = np.diff(area[here] + worth[here] * inside), np.diff(time[here] + inside)
        return [float(a / t) if t > 0 else None for a, t in zip(total, took, strict=True)]

    def quantiles(
        self, at: NDArray[np.int64], values: NDArray, use: NDArray[np.bool_], shares: Sequence[float]
    ) -> list[list[float | None]]:
        """Quantiles of the used rows of each bin: a list a share; None where a bin has none."""
        out: list[list[float | None]] = [[] for _ in shares]
        cuts = self.cuts(at)
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            rows = values[begin:end][use[begin:end]]
            found = np.quantile(rows, shares, method="inverted_cdf") if len(rows) else [None] * len(shares)
            for line, value in zip(out, found, strict=True):
                line.append(None if value is None else float(value))
        return out


def ends_of(at: NDArray[np.int64], recorded: Stretches) -> NDArray[np.int64]:
    """Until when each row is the last word: the next row, or the end of its stretch."""
    if not len(at):
        return at
    ends = np.array([end for _, end in recorded], np.int64)
    own = ends[np.minimum(np.searchsorted(ends, at), len(ends) - 1)]
    return np.minimum(np.append(at[1:], ends[-1]), own)


def joined(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches that touch or overlap are one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(stretches):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def holes(recorded: Stretches) -> list[Gap]:
    """What lies between the stretches."""
    return [Gap("hole", end, start) for (_, end), (start, _) in zip(recorded, recorded[1:], strict=False)]


def stops(status: polars.DataFrame, close: int) -> list[Gap]:
    """From each stop of a feed or a venue (rows of STATUS) to the next row that says it goes on, or the end of the recording."""
    out: list[Gap] = []
    since: dict[str, int] = {}
    for at, halted, gap in status.select("ts_recv", "halted", "gap").iter_rows():
        if halted:
            since.setdefault("feed" if gap else "halt", at)
            continue
        out += [Gap(kind, start, max(start, at)) for kind, start in since.items()]
        since = {}
    return out + [Gap(kind, start, max(start, close)) for kind, start in since.items()]


def gap_facts(gaps: Sequence[Gap]) -> dict[str, Any]:
    """How many of each kind, how long together, and the longest of them in the order of time."""
    longest = sorted(gaps, key=lambda g: (g.start - g.end, g.start))[:GAPS]
    return {
        "kinds": dict(sorted(Counter(g.kind for g in gaps).items())),
        "seconds": seconds(sum(end - start for start, end in joined((g.start, g.end) for g in gaps))),
        "longest": [
            {"kind": g.kind, "from": g.start, "to": g.end, "seconds": seconds(g.end - g.start)}
            for g in sorted(longest, key=lambda g: (g.start, g.end))
        ],
    }


def silences(times: Sequence[NDArray[np.int64]], recorded: Stretches, clock: OpenTime) -> dict[str, Any]:
    """How many silences there are, and the longest stretches without a row of any table; what a gap explains is not silence."""
    edges = np.array([t for stretch in recorded for t in stretch], np.int64)
    every = np.sort(np.concatenate([*times, edges]), kind="stable")
    length = np.diff(clock.at(every))
    longest = np.argsort(-length, kind="stable")[:SILENCES]
    return {
        "over_s": SILENCE_S,
        "count": int((length > SILENCE_S * SECOND).sum()),
        "longest_s": seconds(int(length.max())),
        "longest": [{"from": int(every[i]), "to": int(every[i + 1]), "seconds": seconds(int(length[i]))} for i in longest],
    }


def seconds(ns: int) -> float:
    """Nanoseconds in seconds, to the microsecond."""
    return round(ns / SECOND, 6)
