"""A book of single orders kept from a complete stream of order messages: every order that rests, and the best levels after each message.

Complete means from an empty book on, with every order of every price. A file that leaves some out (LOBSTER of N levels tells of no order
outside the best N, nor of those that rested before the open) cannot be rebuilt so: on the recorded days 99 % of the rows come out wrong,
which is why their BOOK is the file's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError, SchemaMismatch
from cift_models.events import EMPTY_ASK
from cift_models.feeds.l2_book import L2Book, find, set_level, write_best
from cift_models.schema import BOOK

if TYPE_CHECKING:
    import polars

    from cift_models.instruments import Instrument

ADD, CANCEL, DELETE, EXECUTE = 1, 2, 3, 4
"""Actions of ORDERS that change the visible book; hidden executions, crosses and status messages (5, 6, 7) do not."""
REFUSED = ("unknown_order", "repeated_order", "other_order", "too_large", "non_positive")
"""Why a message is not applied:

    unknown_order   it takes from an order that does not rest
    repeated_order  it adds an order that rests already
    other_order     it takes from an order that rests at another price or on the other side
    too_large       it takes more than rests
    non_positive    it adds or takes nothing, or less; or at a price, or on a side, that is none
"""
UNKNOWN, REPEATED, OTHER, TOO_LARGE, NON_POSITIVE = range(len(REFUSED))
FIRST_ROOM = 1 << 12
"""Slots for orders at first; they double when half are taken."""


@dataclass(slots=True)
class L3Book:
    """Every order that rests.

    order_id int64[room], ticks int32[room], lots int64[room], side int8[room]  a hash table of orders: +1 bid, -1 ask, 0 an empty slot
    resting  how many orders rest
    levels   what they come to by price
    refused  int64[5]: messages that were not applied, by REFUSED
    """

    order_id: NDArray[np.int64]
    ticks: NDArray[np.int32]
    lots: NDArray[np.int64]
    side: NDArray[np.int8]
    resting: int = 0
    levels: L2Book = field(default_factory=L2Book.empty)
    refused: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(REFUSED), np.int64))

    @classmethod
    def empty(cls, room: int = FIRST_ROOM) -> Self:
        """A book without orders; `room` is a power of two."""
        return cls(np.zeros(room, np.int64), np.zeros(room, np.int32), np.zeros(room, np.int64), np.zeros(room, np.int8))

    def copy(self) -> L3Book:
        return L3Book(
            self.order_id.copy(),
            self.ticks.copy(),
            self.lots.copy(),
            self.side.copy(),
            self.resting,
            self.levels.copy(),
            self.refused.copy(),
        )

    def apply(
        self,
        action: NDArray[np.int8],
        order_id: NDArray[np.int64],
        side: NDArray[np.int8],
        ticks: NDArray[np.int64],
        lots: NDArray[np.int64],
        levels: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Apply n messages; the best `levels` levels after each, px int32[2, levels, n] (ticks) and sz int64[2, levels, n], bids first.

        action, order_id, side (of the resting order), lots as in ORDERS, ticks its price in ticks. A message that cannot be is not applied
        and counted in `refused`. A delete takes what is left, whatever size it says. Any split over several calls gives the same bits.
        O(log(prices) + levels) a message: 2 M messages a second and more on one core.
        """
        n = len(action)
        px, sz = np.empty((2, levels, n), np.int32), np.empty((2, levels, n), np.int64)
        at = 0
        while True:
            at, self.resting = _fold(
                self.order_id, self.ticks, self.lots, self.side, self.resting, self.levels.key, self.levels.size, self.levels.used,
                self.refused, action, order_id, side, ticks, lots, at, px, sz,
            )  # fmt: skip
            if at == n:
                return px, sz
            self._make_room()

    def counts(self) -> dict[str, int]:
        """Messages that were not applied, by reason, zeros left out."""
        return {name: int(n) for name, n in zip(REFUSED, self.refused, strict=True) if n}

    def _make_room(self) -> None:
        """What the next message may need: a slot for an order, and one for a level."""
        self.levels.reserve(1)
        if 2 * (self.resting + 1) > len(self.side):
            old, wide = self, L3Book.empty(2 * len(self.side))
            _rehash(old.order_id, old.ticks, old.lots, old.side, wide.order_id, wide.ticks, wide.lots, wide.side)
            self.order_id, self.ticks, self.lots, self.side = wide.order_id, wide.ticks, wide.lots, wide.side


def book_of_orders(orders: polars.DataFrame, instrument: Instrument, book: L3Book | None = None) -> tuple[polars.DataFrame, L3Book]:
    """BOOK after each message of ORDERS, `instrument.levels` deep, and the book at the end.

    orders  one symbol's messages in sequence order, complete from the state of `book` on (none: no order rests); `book` is changed

    Raises SchemaMismatch for other columns than ORDERS has, DataError for an order that is added between two ticks.
    """
    import polars as pl

    missing = [c for c in ("ts_event", "ts_recv", "sequence", "action", "order_id", "side", "price", "size") if c not in orders.columns]
    if missing:
        raise SchemaMismatch(f"The messages have no {', '.join(missing)}.", hint="Expected the columns of ORDERS.")
    action, price = orders["action"].to_numpy(), orders["price"].to_numpy()
    ticks, rest = np.divmod(price, instrument.tick_units)
    between = (action == ADD) & (rest != 0)
    if between.any():
        row = int(np.argmax(between))
        raise DataError(
            f"{instrument.symbol}: message {row:,} adds an order at {price[row]}, which is no whole number of ticks "
            f"of {instrument.tick_units}.",
            hint="Is tick_units the instrument's?",
            row=row,
        )
    book = L3Book.empty() if book is None else book
    px, sz = book.apply(
        action, orders["order_id"].to_numpy(), orders["side"].to_numpy(), ticks, orders["size"].to_numpy(), instrument.levels
    )
    columns = {}
    for level in range(instrument.levels):
        for row, name in enumerate(("bid", "ask")):
            columns[f"{name}_px_{level:02d}"] = px[row, level]
            columns[f"{name}_sz_{level:02d}"] = sz[row, level]
    table = BOOK.with_levels(instrument.levels)
    times = {c: orders[c] for c in ("ts_event", "ts_recv", "sequence")}
    return pl.DataFrame(times | columns, schema=table.polars_schema()), book


@kernel(inline="always")
def _slot(order_id, side, mask, shift, which):
    """Where an order lies, or the empty slot where it would."""
    # Fibonacci hashing: venues number their orders one after the other, and a product spreads them over the table.
    at = np.int64((np.uint64(which) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(shift))
    while side[at] != 0 and order_id[at] != which:
        at = (at + 1) & mask
    return at


@kernel
def _shift(room):
    """How far a product is shifted so that a table of `room` slots is indexed by its highest bits."""
    bits = 0
    while (1 << bits) < room:
        bits += 1
    return 64 - bits


@kernel
def _remove(order_id, ticks, lots, side, mask, shift, at):
    """Empty a slot, and move up what would no longer be found behind it."""
    hole = at
    at = (at + 1) & mask
    while side[at] != 0:
        home = np.int64((np.uint64(order_id[at]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(shift))
        if ((at - home) & mask) >= ((at - hole) & mask):
            order_id[hole], ticks[hole], lots[hole], side[hole] = order_id[at], ticks[at], lots[at], side[at]
            hole = at
        at = (at + 1) & mask
    side[hole] = 0


@kernel
def _rehash(order_id, ticks, lots, side, new_order_id, new_ticks, new_lots, new_side):
    mask, shift = len(new_side) - 1, _shift(len(new_side))
    for i in range(len(side)):
        if side[i] != 0:
            at = _slot(new_order_id, new_side, mask, shift, order_id[i])
            new_order_id[at], new_ticks[at], new_lots[at], new_side[at] = order_id[i], ticks[i], lots[i], side[i]


@kernel
def _change(key, size, used, row, k, by):
    """Add lots to what rests at a key of one side."""
    at = find(key[row], used[row], k, used[row])
    now = size[row, at] if at < used[row] and key[row, at] == k else 0
    used[row], _ = set_level(key[row], size[row], used[row], k, now + by, at)


@kernel
def _fold(
    order_id, ticks, lots, side, resting, key, size, used, refused, ev_action, ev_order_id, ev_side, ev_ticks, ev_lots, first, px, sz,
):  # fmt: skip
    """Messages first.. until one that the tables have no room for (returned, not applied) or the end; and how many orders rest."""
    room, mask, shift = key.shape[1], len(side) - 1, _shift(len(side))
    for i in range(first, len(ev_action)):
        action, which = ev_action[i], ev_order_id[i]
        if 2 * (resting + 1) > len(side) or max(used[0], used[1]) >= room:
            return i, resting
        if action <= EXECUTE:
            at = _slot(order_id, side, mask, shift, which)
            rests = side[at] != 0
            if (ev_lots[i] <= 0 and action != DELETE) or ev_ticks[i] <= 0 or ev_ticks[i] >= EMPTY_ASK or ev_side[i] == 0:
                refused[NON_POSITIVE] += 1
            elif action == ADD:
                if rests:
                    refused[REPEATED] += 1
                else:
                    order_id[at], ticks[at], lots[at], side[at] = which, ev_ticks[i], ev_lots[i], ev_side[i]
                    resting += 1
                    _change(key, size, used, 0 if ev_side[i] > 0 else 1, ev_side[i] * ev_ticks[i], ev_lots[i])
            elif not rests:
                refused[UNKNOWN] += 1
            elif ticks[at] != ev_ticks[i] or side[at] != ev_side[i]:
                refused[OTHER] += 1
            elif action != DELETE and ev_lots[i] > lots[at]:
                refused[TOO_LARGE] += 1
            else:
                gone = lots[at] if action == DELETE else ev_lots[i]
                _change(key, size, used, 0 if side[at] > 0 else 1, np.int64(side[at]) * ticks[at], -gone)
                lots[at] -= gone
                if lots[at] == 0:
                    _remove(order_id, ticks, lots, side, mask, shift, at)
                    resting -= 1
        write_best(key, size, used[0], used[1], px, sz, i)
    return len(ev_action), resting
