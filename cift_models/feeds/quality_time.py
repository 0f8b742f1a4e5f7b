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
    """Time less the gaps in it: what lies between two instants and counts."""

    def __init__(self, gaps: Iterable[Gap], recorded: Stretches) -> None:
        closed = joined((g.start, g.end) for g in [*gaps, *holes(recorded)])
        self._start = np.array([a for a, _ in closed], np.int64)
        self._length = np.array([b - a for a, b in closed], np.int64)
        self._before = np.concatenate([[0], np.cumsum(self._length)])
        self._recorded = recorded

    def at(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        """ns that count before each instant, from a common origin."""
        if not len(self._start):
            return t
        k = np.searchsorted(self._start, t, side="right") - 1
        inside = np.minimum(t - self._start[k], self._length[k])
        return t - np.where(k < 0, 0, self._before[k] + inside)

    def ends(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Until when each row is the last word: the next row, or the end of its stretch."""
        ends = np.array([end for _, end in self._recorded], np.int64)
        own = ends[np.minimum(np.searchsorted(ends, at), len(ends) - 1)]
        return np.minimum(np.append(at[1:], ends[-1])[: len(at)], own)

    def stood(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """ns that count for which each row was the last word."""
        return np.maximum(self.at(self.ends(at)) - self.at(at), 0)

    def total(self) -> int:
        """ns that count, of the whole day."""
        low, high = self.at(np.array([self._recorded[0][0], self._recorded[-1][1]], np.int64))
        return int(high - low)


class Bins:
    """Equal stretches of a day, from its open to its close; the last may be shorter.

    edges        int64[n + 1], ns
    recorded_ns  int64[n], how much of each some file covers
    """

    def __init__(self, recorded: Stretches, width_s: int = 0) -> None:
        start, close = recorded[0][0], recorded[-1][1]
        self.width_s = width_s or next((w for w in BINS_S if (close - start) <= w * SECOND * MOST_BINS), BINS_S[-1])
        n = max(1, -(-(close - start) // (self.width_s * SECOND)))
        self.edges = np.minimum(start + np.arange(n + 1, dtype=np.int64) * self.width_s * SECOND, close)
        self.recorded_ns = np.diff(OpenTime([], recorded).at(self.edges))

    def cuts(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of each bin begin, and behind them all; a row at the very close belongs to the last bin."""
        found = np.searchsorted(at, self.edges)
        found[-1] = np.searchsorted(at, self.edges[-1], side="right")
        return found

    def rates(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows a minute in the bins of which at least half is recorded: less says little."""
        enough = self.recorded_ns * 2 >= self.width_s * SECOND
        return np.diff(self.cuts(at))[enough] * (60.0 * SECOND) / self.recorded_ns[enough]

    def means(self, clock: OpenTime, at: NDArray[np.int64], values: NDArray, use: NDArray[np.bool_]) -> list[float | None]:
        """Mean in each bin, over the time that counts, of a value that stands until the next row; None where no used value stood."""
        if not len(at):
            return [None] * len(self.recorded_ns)
        stood = np.where(use, clock.stood(at), 0)
        # The integral over time is piecewise linear: its difference between two edges is the bin's. In float64: one stub quote of
        # 2e7 ticks that stands for an hour leaves int64.
        worth = np.where(use, values, 0).astype(np.float64)
        area, time = (np.concatenate([[0], np.cumsum(x)]) for x in (worth * stood, stood))
        k = np.searchsorted(at, self.edges, side="right") - 1
        here = np.maximum(k, 0)
        inside = clock.at(np.minimum(self.edges, clock.ends(at)[here])) - clock.at(at[here])
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
    """How many of each kind, how long together (without halts: `missing_s`), and the longest of them in the order of time."""
    longest = sorted(gaps, key=lambda g: (g.start - g.end, g.start))[:GAPS]
    missing = joined((g.start, g.end) for g in gaps if g.kind != "halt")
    return {
        "kinds": dict(sorted(Counter(g.kind for g in gaps).items())),
        "missing_s": seconds(sum(end - start for start, end in missing)),
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
