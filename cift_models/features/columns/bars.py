"""Open, high, low, close, volume, volume-weighted price and count of the trades of each bar, whatever clock ends it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError
from cift_models.features.columns.chunk import MAX_LOTS, Chunk, refuse_lots
from cift_models.features.columns.clocks import State

OPEN, HIGH, LOW, LAST, VOLUME, TURNOVER, TRADES, ROWS, SINCE, ALL_ROWS, ALL_BITS = range(11)
"""Places in the memory of the open bar; LAST outlives it, ALL_... are of the whole stream."""

PRICES = ("open", "high", "low", "close")
"""Columns of Bars that are prices."""

NO_HIGH, NO_LOW = -(2**31), 2**31 - 1
"""High and low of no trade."""

EXACT = 2.0**62
"""A sum that may come to more than this is refused: int64 would wrap without a word."""


@dataclass(frozen=True, slots=True)
class Bars:
    """K bars, prices in ticks and sizes in lots.

    as_of                    int64[K] ns UTC: from when the bar may be used (the clock says when that is)
    since                    int64[K] ns UTC: time of its first row
    open, high, low, close   int32[K]; of a bar without a trade all four are the last trade's price before it, 0 before the first trade
    volume, turnover         int64[K]: sum of size, sum of price times size
    n_trades, n_rows         int64[K]
    """

    as_of: NDArray[np.int64]
    since: NDArray[np.int64]
    open: NDArray[np.int32]
    high: NDArray[np.int32]
    low: NDArray[np.int32]
    close: NDArray[np.int32]
    volume: NDArray[np.int64]
    turnover: NDArray[np.int64]
    n_trades: NDArray[np.int64]
    n_rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.as_of)

    @property
    def vwap(self) -> NDArray[np.float64]:
        """Volume-weighted price in ticks: turnover / volume, of a bar without a trade its close."""
        traded = self.volume > 0
        return np.where(traded, self.turnover / np.where(traded, self.volume, 1), self.close)

    @classmethod
    def empty(cls, n: int, as_of: NDArray[np.int64] | None = None) -> Bars:
        """n bars to be filled."""
        columns: dict[str, Any] = {f.name: np.empty(n, np.int32 if f.name in PRICES else np.int64) for f in fields(cls)}
        if as_of is not None:
            columns["as_of"] = as_of
        return cls(**columns)


def start() -> State:
    """Memory before the first row: an open bar that holds nothing."""
    bar = np.zeros(11, np.int64)
    bar[HIGH], bar[LOW] = NO_HIGH, NO_LOW
    return {"bar": bar}


def fold(state: State, chunk: Chunk, ends: NDArray[np.int64], as_of: NDArray[np.int64]) -> Bars:
    """The bars that end at rows `ends` of the chunk; changes `state` in place. O(n).

    Raises DataError for a size that is negative or beyond MAX_LOTS of its type, and for a bar whose volume or turnover could pass int64.
    The state may not be used afterwards.
    """
    bars = Bars.empty(len(ends), as_of)
    bar = state["bar"]
    before = int(bar[ALL_ROWS])
    _fold(chunk.ts, chunk.price, chunk.size, ends, bar, *(getattr(bars, f.name) for f in fields(Bars)[1:]))
    if bar[ALL_BITS] < 0 or bar[ALL_BITS] > MAX_LOTS[chunk.size.dtype]:
        raise refuse_lots("size", chunk.size, before)
    _check_exact(bars, bar)
    return bars


def finish(state: State, as_of: int) -> Bars:
    """The bar that is still open, as if it ended with the last row seen; none if it holds no row. `state` stays as it is."""
    bar = state["bar"]
    bars = Bars.empty(min(int(bar[ROWS]), 1))
    if len(bars):
        places = (OPEN, HIGH, LOW, LAST) if bar[TRADES] else (LAST, LAST, LAST, LAST)
        values = (as_of, bar[SINCE], *bar[list(places)], bar[VOLUME], bar[TURNOVER], bar[TRADES], bar[ROWS])
        for column, value in zip(fields(Bars), values, strict=True):
            getattr(bars, column.name)[0] = value
    return bars


def _check_exact(bars: Bars, bar: NDArray[np.int64]) -> None:
    """Raise DataError where rows x largest size, or volume x largest price, may pass int64: checked in floats, which do not wrap."""
    rows = max(float(bars.n_rows.max(initial=0)), float(bar[ROWS]))
    volume = rows * float(bar[ALL_BITS])
    turnover = 0.0
    if bar[TRADES]:
        turnover = float(bar[VOLUME]) * max(abs(float(bar[HIGH])), abs(float(bar[LOW])))
    if len(bars):
        price = np.maximum(np.abs(bars.high.astype(np.float64)), np.abs(bars.low.astype(np.float64)))
        turnover = max(turnover, float((price * bars.volume).max()))
    if volume >= EXACT or turnover >= EXACT:
        raise DataError(
            f"A bar of {rows:,.0f} rows trades up to {volume:.3g} lots and {turnover:.3g} lots x ticks. Expected sums below 2^62.",
            hint="Take shorter bars, or count in larger lots.",
        )


@kernel
def _fold(ts, price, size, ends, bar, since, opened, high, low, close, volume, turnover, n_trades, n_rows):
    all_bits = size.dtype.type(0)
    lo = 0
    for k in range(ends.shape[0] + 1):
        hi = ends[k] if k < ends.shape[0] else ts.shape[0]
        if hi > lo:
            if bar[ROWS] == 0:
                bar[SINCE] = ts[lo]
            px, lots = price[lo:hi], size[lo:hi]
            top, bottom = np.int32(NO_HIGH), np.int32(NO_LOW)
            bits = size.dtype.type(0)
            traded, value, trades = np.int64(0), np.int64(0), np.int64(0)
            for i in range(px.shape[0]):
                p, q = px[i], lots[i]
                bits |= q
                traded += q
                value += np.int64(p) * np.int64(q)
                trades += q > 0
                top = max(top, p if q > 0 else np.int32(NO_HIGH))
                bottom = min(bottom, p if q > 0 else np.int32(NO_LOW))
            all_bits |= bits
            if trades:
                if bar[TRADES] == 0:
                    i = 0
                    while lots[i] <= 0:
                        i += 1
                    bar[OPEN] = px[i]
                i = px.shape[0] - 1
                while lots[i] <= 0:
                    i -= 1
                bar[LAST] = px[i]
                bar[HIGH], bar[LOW] = max(bar[HIGH], np.int64(top)), min(bar[LOW], np.int64(bottom))
            bar[VOLUME] += traded
            bar[TURNOVER] += value
            bar[TRADES] += trades
            bar[ROWS] += hi - lo
        if k < ends.shape[0]:
            empty = bar[TRADES] == 0
            since[k] = bar[SINCE]
            opened[k] = bar[LAST] if empty else bar[OPEN]
            high[k] = bar[LAST] if empty else bar[HIGH]
            low[k] = bar[LAST] if empty else bar[LOW]
            close[k] = bar[LAST]
            volume[k] = bar[VOLUME]
            turnover[k] = bar[TURNOVER]
            n_trades[k] = bar[TRADES]
            n_rows[k] = bar[ROWS]
            bar[HIGH], bar[LOW] = NO_HIGH, NO_LOW
            bar[VOLUME], bar[TURNOVER], bar[TRADES], bar[ROWS] = 0, 0, 0, 0
        lo = hi
    bar[ALL_ROWS] += ts.shape[0]
    bar[ALL_BITS] |= all_bits
