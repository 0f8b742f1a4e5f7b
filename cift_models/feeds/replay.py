"""One order message applied to a book of L levels: the check that a message file and a book file belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.events import EMPTY_ASK, EMPTY_BID


@kernel
def apply(better: int, price: int, change: int, px: NDArray[np.int32], sz: NDArray[np.int64], empty: int) -> int:
    """Change the size at a price of one side in place; returns how many of its L levels are known afterwards.

    better  +1 for bids (greater is better), -1 for asks; px int32[L], sz int64[L], best first; O(L).
    A level that runs empty goes, the ones behind it move up, and the last is then unknown: L levels do not say what lay behind.
    -1: there is nothing to take from at this price.
    """
    n = len(px)
    at = 0
    while at < n and px[at] != empty and better * px[at] > better * price:
        at += 1
    if at < n and px[at] == price:
        sz[at] += change
        if sz[at] > 0:
            return n
        if sz[at] < 0:
            return -1
        full = px[n - 1] != empty
        for k in range(at, n - 1):
            px[k], sz[k] = px[k + 1], sz[k + 1]
        px[n - 1], sz[n - 1] = empty, 0
        return n - 1 if full else n
    if change < 0:
        return -1
    if at < n:
        for k in range(n - 1, at, -1):
            px[k], sz[k] = px[k - 1], sz[k - 1]
        px[at], sz[at] = price, change
    return n


@kernel
def disagreements(
    action: NDArray[np.int64],
    direction: NDArray[np.int64],
    price: NDArray[np.int64],
    size: NDArray[np.int64],
    bid_px: NDArray[np.int32],
    bid_sz: NDArray[np.int64],
    ask_px: NDArray[np.int32],
    ask_sz: NDArray[np.int64],
) -> tuple[int, int]:
    """How many rows i of a book [n, L] are not row i - 1 with message i applied, on the levels that are known; and the first (-1: none).

    action is LOBSTER's type, direction the resting order's side, price in ticks, size in lots. Row 0 has nothing before it. O(n L).
    """
    n, levels = bid_px.shape
    px = np.empty(levels, np.int32)
    sz = np.empty(levels, np.int64)
    count, first = 0, -1
    for i in range(1, n):
        wrong = False
        for better in (1, -1):
            old_px, old_sz = (bid_px, bid_sz) if better == 1 else (ask_px, ask_sz)
            for k in range(levels):
                px[k], sz[k] = old_px[i - 1, k], old_sz[i - 1, k]
            known = levels
            if direction[i] == better and action[i] <= 4:
                change = size[i] if action[i] == 1 else -size[i]
                known = apply(better, price[i], change, px, sz, EMPTY_BID if better == 1 else EMPTY_ASK)
            wrong = wrong or known < 0
            for k in range(known):
                wrong = wrong or px[k] != old_px[i, k] or sz[k] != old_sz[i, k]
        if wrong:
            count += 1
            if first < 0:
                first = i
    return count, first
