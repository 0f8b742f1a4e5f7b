"""Made rows: a book whose best moves in one row of twenty, one queue of one level changing in each other, a trade at the touch in each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.peers.job import SECOND, Columns

RATE_HZ = 43.0
"""Rows a second: a million in a day of 6.5 hours, twice the recorded AAPL day's rate."""

SIZES = 500
PART = 1_000_000


def rows(n: int, levels: int, seed: int = 0) -> Columns:
    """n rows as int64 ts and int32 columns; times tie in a fifth of the rows."""
    parts = list(parts_of(n, levels, seed))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def parts_of(n: int, levels: int, seed: int = 0) -> Iterator[Columns]:
    """The same rows, a million at a time; what a part holds does not depend on how many follow."""
    ts, bid = 34_200 * SECOND, 100_000
    for first in range(0, n, PART):
        rng = np.random.default_rng((seed, first))
        m = min(PART, n - first)
        gaps = (rng.exponential(1e6 / RATE_HZ / 0.8, PART).astype(np.int64) * 1000) * (rng.uniform(size=PART) < 0.8)
        bids = bid + np.cumsum(rng.choice([-1, 0, 1], PART, p=[0.025, 0.95, 0.025]))
        wide = rng.uniform(size=PART) < 0.1
        times = ts + np.cumsum(gaps)
        part = {
            "ts": times,
            "price": _int32(bids + (1 + wide) * (rng.uniform(size=PART) < 0.5)),
            "size": _int32(rng.integers(1, 100, PART)),
        }
        moved = np.concatenate([[True], np.diff(bids) != 0])
        which = rng.integers(0, 2 * levels, PART)
        for level in range(levels):
            at = f"{level:02d}"
            part[f"bid_px_{at}"], part[f"ask_px_{at}"] = _int32(bids - level), _int32(bids + 1 + wide + level)
            part[f"bid_sz_{at}"] = _held(rng, moved | (which == 2 * level))
            part[f"ask_sz_{at}"] = _held(rng, moved | (which == 2 * level + 1))
        ts, bid = int(times[-1]), int(bids[-1])
        yield {name: np.ascontiguousarray(column[:m]) for name, column in part.items()}


def _held(rng: np.random.Generator, new: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A size that stays until it is new."""
    drawn = rng.integers(1, SIZES, len(new), dtype=np.int32)
    return drawn[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]


def _int32(column: NDArray) -> NDArray[np.int32]:
    return column.astype(np.int32)
