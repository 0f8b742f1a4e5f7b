"""A causal rolling z-score of integers, exact: (x - mean) / sd over the last n values, x's own included.

z = (n x - s1) / sqrt(n s2 - s1^2) with s1 the sum and s2 the sum of squares of the window, kept as integers and so the same bits in any
chunks and without drift; the float is formed once. With sd the square root of the mean squared distance (ddof 0).

Warm-up: the window holds the values that there are, so z is defined from the first value on (0 there); `n_warm_up` of a fold says how many
of its values had less than a full window. Variance 0 gives 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError, InputError
from cift_models.features.columns.clocks import State

BLOCK = 2048
"""Values worked on at once: the intermediate columns of a block stay in L1."""


@dataclass(frozen=True, slots=True)
class RollingZ:
    """The z-score over `window` values, each at most `max_abs` in size (0: the most that the window allows). A larger one is refused, or
    where `capped` counts as max_abs with its sign, as in the features that models read (features/z_score.py).

    Raises InputError unless window * (window * max_abs^2) < 2^62: beyond it numba's integers would wrap without a word.
    """

    window: int
    max_abs: int = 0
    capped: bool = False

    def __post_init__(self) -> None:
        if self.window < 2 or self.max_abs < 0:
            raise InputError(
                f"A rolling z-score over window = {self.window} values of at most max_abs = {self.max_abs} says nothing.",
                hint="Choose a window of at least 2 and a max_abs of at least 0.",
            )
        most = math.isqrt(2**62 - 1) // self.window
        if most < 1 or self.max_abs > most:
            raise InputError(
                f"A rolling z-score over {self.window:,} values up to {self.max_abs or 1:,} is not exact. Expected n * sum(x^2) < 2^62.",
                hint=f"At most {most:,} is exact for this window: count in larger lots." if most else "Choose a shorter window.",
            )
        if not self.max_abs:
            object.__setattr__(self, "max_abs", most)

    def start(self) -> State:
        """Memory before the first value: an empty window."""
        return {"history": np.zeros(self.window, np.int64), "sums": np.zeros(3, np.int64)}

    def fold(self, state: State, x: NDArray[np.int64], what: str = "x") -> NDArray[np.float64]:
        """z float64[n] of the next n values; changes `state` in place. O(n).

        Raises DataError for a value beyond max_abs, unless capped; `what` names it. The state may not be used afterwards.
        """
        if self.capped:
            x = np.clip(x, -self.max_abs, self.max_abs)
        z = np.empty(len(x))
        at = _fold(x, state["history"], state["sums"], self.max_abs, z, np.empty(self.window + BLOCK, np.int64))
        if at >= 0:
            raise self.refuse(what, int(x[at]))
        return z

    def refuse(self, what: str, value: int) -> DataError:
        """What to raise for a value beyond max_abs."""
        return DataError(
            f"{what} is {value:,}. Expected at most {self.max_abs:,} in size, so that a z-score over {self.window:,} values is exact.",
            hint="Count in larger lots, or choose a shorter window.",
            value=value,
        )

    def n_warm_up(self, state: State, n: int) -> int:
        """How many of the last n values that `state` took had less than a full window behind them."""
        before = int(state["sums"][2]) - n
        return min(max(self.window - 1 - before, 0), n)


@kernel
def _fold(x, history, sums, max_abs, z, buffer):
    """The place of the first value beyond max_abs, or -1."""
    window = history.shape[0]
    buffer[:window] = history
    running, squares = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    for at in range(0, x.shape[0], BLOCK):
        n = min(BLOCK, x.shape[0] - at)
        buffer[window : window + n] = x[at : at + n]
        bad = roll(buffer, n, window, sums, max_abs, running, squares, z[at : at + n])
        if bad >= 0:
            return at + bad
    history[:] = buffer[:window]
    return -1


@kernel(error_model="numpy")
def roll(buffer, n, window, sums, max_abs, running, squares, z):
    """One block: the window before it lies in buffer[:window], its n values after that; the window after it is left in buffer[:window].

    sums is [sum, sum of squares, values so far]. Returns the place of the first value beyond max_abs, or -1. Three loops, so that the two
    without a running sum are ones of vectors (a square root and a division of eight values cost little more than those of one).
    """
    new, old = buffer[window : window + n], buffer[:n]
    most, least = 0, 0
    for i in range(n):
        most = max(most, new[i])
        least = min(least, new[i])
    if most > max_abs or least < -max_abs:
        for i in range(n):
            if abs(new[i]) > max_abs:
                return i
    s1, s2, count = sums[0], sums[1], sums[2]
    for i in range(n):
        a, b = np.int64(new[i]), np.int64(old[i])
        s1 += a - b
        s2 += (a - b) * (a + b)
        running[i] = s1
        squares[i] = s2
    if count >= window:
        for i in range(n):
            spread = window * squares[i] - np.int64(running[i]) * running[i]
            score = (window * np.int64(new[i]) - running[i]) / math.sqrt(np.float64(spread))
            z[i] = score if spread > 0 else 0.0
    else:
        for i in range(n):
            size = min(count + i + 1, window)
            spread = size * squares[i] - np.int64(running[i]) * running[i]
            score = (size * np.int64(new[i]) - running[i]) / math.sqrt(np.float64(spread))
            z[i] = score if spread > 0 else 0.0
    sums[0], sums[1], sums[2] = s1, s2, count + n
    for i in range(window):
        buffer[i] = buffer[n + i]
    return -1
