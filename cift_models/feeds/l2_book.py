"""A book of price levels kept from changes: every level that was ever told of, and the best ones after each change.

A change says the whole amount that now rests at a price (0: none), not a difference; so it may be applied twice, and what one message
says of a price replaces what any earlier one did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.events import EMPTY_ASK, EMPTY_BID

BID, ASK = 0, 1
"""Rows of a book's arrays."""


@dataclass(slots=True)
class L2Book:
    """Both sides of a book, whole.

    key   int32[2, room]  ticks of a bid, minus ticks of an ask: rising, so the best of either side is the last
    size  int64[2, room]  lots; 0 in a slot that nothing rests at any more, which the next price beside it takes over
    used  int64[2]        slots in use; the last of them holds an order

    Half of all changes empty a level or open one. Moving what lies beyond them took half the time that a book costs; a slot that is left
    empty makes the next move a few places long (docs/results.md).
    """

    key: NDArray[np.int32]
    size: NDArray[np.int64]
    used: NDArray[np.int64]

    @classmethod
    def empty(cls, room: int = 4096) -> Self:
        """A book without orders."""
        return cls(np.zeros((2, room), np.int32), np.zeros((2, room), np.int64), np.zeros(2, np.int64))

    @classmethod
    def of(cls, side: NDArray, ticks: NDArray, lots: NDArray) -> Self:
        """The book of levels in any order; `side` is +1 for bids and -1 for asks, a price stands once a side, lots are above 0."""
        book = cls.empty(2 * len(side) + 64)
        for row, which in ((BID, 1), (ASK, -1)):
            keys = ticks[side == which] * which
            order = np.argsort(keys)
            book.used[row] = len(order)
            book.key[row, : len(order)] = keys[order]
            book.size[row, : len(order)] = lots[side == which][order]
        return book

    def copy(self) -> L2Book:
        return L2Book(self.key.copy(), self.size.copy(), self.used.copy())

    def levels(self) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int64]]:
        """(side, ticks, lots) of every level: bids from the best, then asks from the best. `of` makes the same book of them."""
        rows = [np.flatnonzero(self.size[row, : self.used[row]])[::-1] for row in (BID, ASK)]
        side = np.repeat(np.array([1, -1], np.int8), [len(at) for at in rows])
        ticks = np.concatenate([self.key[row, at].astype(np.int64) for row, at in enumerate(rows)]) * side.astype(np.int64)
        return side, ticks, np.concatenate([self.size[row, at] for row, at in enumerate(rows)])

    def reserve(self, more: int) -> None:
        """Make room for so many further levels of either side: empty slots go, and what is short of twice the room is added."""
        side, ticks, lots = self.levels()
        tidy = L2Book.of(side, ticks, lots)
        room = max(self.key.shape[1], 2 * (int(tidy.used.max()) + more))
        self.key, self.size, self.used = np.zeros((2, room), np.int32), np.zeros((2, room), np.int64), tidy.used
        self.key[:, : tidy.used.max()], self.size[:, : tidy.used.max()] = tidy.key[:, : tidy.used.max()], tidy.size[:, : tidy.used.max()]


@kernel
def find(key: NDArray[np.int32], used: int, k: int, near: int) -> int:
    """First slot of a side whose key is k or more (`used`: none is), looked for outwards from a slot. O(log distance).

    The changes of a message come in the order of their prices, so the slot of one is a good place to look for the next.
    """
    low, high = min(near, used), used  # every slot below low has a lesser key, every slot from high on has not
    step = 1
    if low < used and key[low] < k:
        low += 1
        while low + step <= used and key[low + step - 1] < k:
            low += step
            step <<= 1
        high = min(low + step - 1, used)
    else:
        high = low
        while high >= step and key[high - step] >= k:
            high -= step
            step <<= 1
        low = max(high - step + 1, 0)
    while low < high:
        middle = (low + high) >> 1
        if key[middle] < k:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def set_level(key: NDArray[np.int32], size: NDArray[np.int64], used: int, k: int, lots: int, near: int) -> tuple[int, int]:
    """Set what rests at key k of one side (0: nothing). Returns (slots in use then, slot to look near next); usually moves few slots."""
    at = find(key, used, k, near)
    if at < used and key[at] == k:
        size[at] = lots
        while used and not size[used - 1]:
            used -= 1
        return used, at
    if not lots:
        return used, at  # told of again, or never told of: both are usual
    if at and not size[at - 1]:
        key[at - 1], size[at - 1] = k, lots
        return used, at
    gap = at
    while gap < used and size[gap]:
        gap += 1
    for i in range(gap, at, -1):
        key[i], size[i] = key[i - 1], size[i - 1]
    key[at], size[at] = k, lots
    return max(used, gap + 1), at


@kernel
def write_best(
    key: NDArray[np.int32], size: NDArray[np.int64], bids: int, asks: int, px: NDArray[np.int32], sz: NDArray[np.int64], row: int
) -> None:
    """Write the best L levels of both sides of a book that uses so many slots to column `row` of px, sz [2, L, m]. O(L + empty slots)."""
    levels = px.shape[1]
    for side in range(2):
        sign, place = 1 - 2 * side, (asks if side else bids) - 1
        level = 0
        while level < levels and place >= 0:
            if size[side, place]:
                px[side, level, row] = sign * key[side, place]
                sz[side, level, row] = size[side, place]
                level += 1
            place -= 1
        for none in range(level, levels):
            px[side, none, row] = EMPTY_ASK if side else EMPTY_BID
            sz[side, none, row] = 0


@kernel
def fold(
    key: NDArray[np.int32],
    size: NDArray[np.int64],
    used: NDArray[np.int64],
    last: int,
    after: NDArray[np.int64],
    until: NDArray[np.int64],
    first: NDArray[np.int64],
    middle: NDArray[np.int64],
    end: NDArray[np.int64],
    ticks: NDArray[np.int64],
    lots: NDArray[np.int64],
    start: int,
    stop: int,
    row: int,
    px: NDArray[np.int32],
    sz: NDArray[np.int64],
) -> int:
    """Apply messages start, start + 1, ... before stop, each if it follows the one before; returns the number of the one not applied.

    key, size, used      the book (L2Book), changed in place
    last                 id of the last change that the book holds; message i follows if after[i] is that, and leaves until[i]
    first, middle, end   message i says ticks and lots of bids [first:middle] and of asks [middle:end]
    px int32[2, L, m], sz int64[2, L, m]  the best L levels after each message go to columns row, row + 1, ...; ticks, EMPTY_BID, EMPTY_ASK
    Stops before a message that does not follow, or for which the book has no room (L2Book.reserve). O(changes log levels + rows L).
    """
    room = key.shape[1]
    bid_key, bid_size, ask_key, ask_size = key[0], size[0], key[1], size[1]
    bids, asks = used[0], used[1]
    near_bid, near_ask = bids, asks
    i = start
    while i < stop and after[i] == last and max(bids, asks) + end[i] - first[i] <= room:
        last = until[i]
        for c in range(first[i], middle[i]):
            bids, near_bid = set_level(bid_key, bid_size, bids, ticks[c], lots[c], near_bid)
        for c in range(middle[i], end[i]):
            asks, near_ask = set_level(ask_key, ask_size, asks, -ticks[c], lots[c], near_ask)
        write_best(key, size, bids, asks, px, sz, row)
        row += 1
        i += 1
    used[0], used[1] = bids, asks
    return i
