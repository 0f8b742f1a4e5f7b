"""How much traded at each price in each stretch of time: a table of the bins that hold something, integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError, InputError
from cift_models.features.columns.chunk import Chunk
from cift_models.features.columns.clocks import State, TimeClock
from cift_models.instruments import SECOND

FIRST_BINS = 1024
"""Bins that a stretch has room for at first; it doubles where prices go further."""

MOST_BINS = 2**21
"""Bins between the lowest and the highest trade of one stretch beyond which a price is taken for an error: 16 MB of memory."""

LOWEST, HIGHEST, BASE, ROWS, BITS = range(5)
"""Places in the memory: lowest and highest occupied bin of the open stretch (none: lowest above highest), price bin of the first slot, rows
of the open stretch, and all bits that any size so far has."""


DONE, MORE_ROWS, MORE_BINS, NOT_EXACT = range(4)
"""Why the kernel came back."""


@dataclass(frozen=True, slots=True)
class Profile:
    """R bins, by rising as_of and then rising price.

    as_of    int64[R] ns UTC: end of the stretch, from when the bin may be used
    price    int32[R] ticks: lowest price of the bin
    volume   int64[R] lots traded at price .. price + bin_ticks - 1 within the stretch, above 0
    """

    as_of: NDArray[np.int64]
    price: NDArray[np.int32]
    volume: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.as_of)


@dataclass(frozen=True, slots=True)
class VolumeProfile:
    """Stretches of `width_ns` as TimeClock cuts them (a stretch without a row is not there), bins of `bin_ticks` ticks."""

    width_ns: int = 60 * SECOND
    bin_ticks: int = 1
    anchor_ns: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bin_ticks < 2**31:
            raise InputError(f"bin_ticks is {self.bin_ticks}. Expected 1 to 2^31 - 1.", hint="A price bin is at least one tick wide.")
        TimeClock(self.width_ns, self.anchor_ns)

    def start(self) -> State:
        """Memory before the first row."""
        clock = TimeClock(self.width_ns, self.anchor_ns).start()
        return clock | {"bins": np.zeros(FIRST_BINS, np.int64), "span": np.array([1, 0, 0, 0, 0], np.int64)}

    def fold(self, state: State, chunk: Chunk) -> Profile:
        """The bins of the stretches that end within the chunk; changes `state` in place, and replaces its bins where they are too few.

        O(n + bins between the lowest and the highest trade of each stretch). Raises DataError where time goes back, where the trades of a
        stretch lie more than MOST_BINS apart, and where its volume could pass int64. The state may not be used afterwards.
        """
        ends, instants = TimeClock(self.width_ns, self.anchor_ns).ends(state, chunk)
        table: list[NDArray[Any]] = [np.empty(FIRST_BINS, kind) for kind in (np.int64, np.int32, np.int64)]
        at, rows, k, found = 0, 0, 0, MORE_ROWS
        while found != DONE:
            found, k, at, rows, low, high = _fold(
                chunk.price, chunk.size, ends, instants, state["bins"], state["span"], self.bin_ticks, *table, k, at, rows
            )
            if found == MORE_ROWS:
                table = [np.concatenate([column, np.empty(len(column) + high, column.dtype)]) for column in table]
            elif found == MORE_BINS:
                state["bins"], state["span"] = _widen(state["bins"], state["span"], int(low), int(high))
            elif found == NOT_EXACT:
                raise DataError(
                    f"A stretch of the profile has {low:,} rows, of up to {high:,} lots. Expected rows x lots below 2^62.",
                    hint="Take shorter stretches, or count in larger lots.",
                )
        as_of, price, volume = (column[:rows].copy() for column in table)
        return Profile(as_of, price, volume)

    def finish(self, state: State) -> Profile:
        """The bins of the stretch that is still open; `state` stays as it is."""
        low, high, base = (int(v) for v in state["span"][:3])
        if low > high:
            return Profile(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))
        inside = state["bins"][low - base : high - base + 1]
        held = np.flatnonzero(inside)
        as_of = np.full(len(held), state["clock"][0], np.int64)
        return Profile(as_of, ((low + held) * self.bin_ticks).astype(np.int32), inside[held])


def _widen(bins: NDArray[np.int64], span: NDArray[np.int64], low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Room for bins low .. high beside those occupied."""
    if span[LOWEST] <= span[HIGHEST]:
        low, high = min(low, int(span[LOWEST])), max(high, int(span[HIGHEST]))
    need = high - low + 1
    if need > MOST_BINS:
        raise DataError(
            f"Trades of one stretch lie {need:,} price bins apart. Expected at most {MOST_BINS:,}.",
            hint="Look for a wrong price in the feed, or take wider bins.",
        )
    size = len(bins)
    while size < 2 * need and size < MOST_BINS:
        size *= 2
    base = low - (size - need) // 2
    wide = np.zeros(size, np.int64)
    if span[LOWEST] <= span[HIGHEST]:
        held = slice(int(span[LOWEST] - span[BASE]), int(span[HIGHEST] - span[BASE]) + 1)
        at = int(span[LOWEST]) - base
        wide[at : at + held.stop - held.start] = bins[held]
    return wide, np.array([span[LOWEST], span[HIGHEST], base, span[ROWS], span[BITS]], np.int64)


@kernel
def _fold(price, size, ends, instants, bins, span, bin_ticks, as_of, out_price, out_volume, k, at, rows):
    """Go on at row `at` in stretch k with `rows` written. Returns (why, k, at, rows, a, b): of MORE_BINS a .. b are the bins that lack
    room, of MORE_ROWS b is how many rows a stretch may need, of NOT_EXACT a is its rows and b its largest size."""
    n = price.shape[0]
    while True:
        hi = ends[k] if k < ends.shape[0] else n
        if hi > at:
            px, lots = price[at:hi], size[at:hi]
            top, bottom = np.int32(-(2**31)), np.int32(2**31 - 1)
            bits = lots.dtype.type(0)
            for i in range(px.shape[0]):
                bits |= lots[i]
                top = max(top, px[i] if lots[i] > 0 else np.int32(-(2**31)))
                bottom = min(bottom, px[i] if lots[i] > 0 else np.int32(2**31 - 1))
            if bottom <= top:
                low, high = np.int64(bottom) // bin_ticks, np.int64(top) // bin_ticks
                if low < span[BASE] or high >= span[BASE] + bins.shape[0]:
                    return MORE_BINS, k, at, rows, low, high
                _add(px, lots, bins, span[BASE], bin_ticks, low - span[BASE])
                occupied = span[LOWEST] <= span[HIGHEST]
                span[LOWEST] = min(span[LOWEST], low) if occupied else low
                span[HIGHEST] = max(span[HIGHEST], high) if occupied else high
            span[BITS] |= bits
            span[ROWS] += hi - at
            if span[BITS] >= 2**62 // span[ROWS]:
                return NOT_EXACT, k, at, rows, span[ROWS], span[BITS]
            at = hi
        if k == ends.shape[0]:
            return DONE, k, at, rows, np.int64(0), np.int64(0)
        width = span[HIGHEST] - span[LOWEST] + 1
        if rows + width > as_of.shape[0]:
            return MORE_ROWS, k, at, rows, np.int64(0), width
        for b in range(span[LOWEST] - span[BASE], span[HIGHEST] - span[BASE] + 1):
            if bins[b] > 0:
                as_of[rows] = instants[k]
                out_price[rows] = (span[BASE] + b) * bin_ticks
                out_volume[rows] = bins[b]
                rows += 1
                bins[b] = 0
        span[LOWEST], span[HIGHEST], span[ROWS] = 1, 0, 0
        k += 1


@kernel
def _add(px, lots, bins, base, bin_ticks, spare):
    """Add each trade to its bin. A row that is no trade adds its 0 to an occupied bin, so that there is no branch."""
    if bin_ticks == 1:
        for i in range(px.shape[0]):
            b = np.int64(px[i]) - base if lots[i] > 0 else spare
            bins[np.uint64(b)] += lots[i]
    else:
        for i in range(px.shape[0]):
            b = np.int64(px[i]) // bin_ticks - base if lots[i] > 0 else spare
            bins[np.uint64(b)] += lots[i]
