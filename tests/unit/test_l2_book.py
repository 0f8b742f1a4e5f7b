"""The book kept from changes against a dict, and what stops it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.l2_book import L2Book, fold

LEVELS = 3
changes = st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(1, 60), st.sampled_from((0, 0, 1, 7))), max_size=12)
"""(side, ticks, lots): few prices, so that levels go and come back; half of the changes empty one."""


def columns(messages: list[list[tuple[int, int, int]]]) -> tuple[np.ndarray, ...]:
    """after, until, first, middle, end, ticks, lots of messages whose ids are 0, 1, 2, ..."""
    first, middle, end, ticks, lots = [], [], [], [], []
    for message in messages:
        first.append(len(ticks))
        for which in (1, -1):
            for side, price, size in message:
                if side == which:
                    ticks.append(price)
                    lots.append(size)
            (middle if which == 1 else end).append(len(ticks))
    n = np.arange(len(messages), dtype=np.int64)
    return (n, n + 1, *(np.array(x, np.int64) for x in (first, middle, end, ticks, lots)))


def tops(oracle: dict[int, dict[int, int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Prices and sizes of the best levels, from {side: {ticks: lots}}."""
    bids = sorted(oracle[1].items(), reverse=True)[:LEVELS]
    asks = sorted(oracle[-1].items())[:LEVELS]
    bids += [(EMPTY_BID, 0)] * (LEVELS - len(bids))
    asks += [(EMPTY_ASK, 0)] * (LEVELS - len(asks))
    return [p for p, _ in bids], [q for _, q in bids], [p for p, _ in asks], [q for _, q in asks]


@settings(max_examples=300, deadline=None)
@given(st.lists(changes, max_size=40))
def test_every_row_is_the_dict_s(messages) -> None:
    book, oracle = L2Book.empty(16), {1: {}, -1: {}}
    told = columns(messages)
    px, sz = np.empty((2, LEVELS, len(messages)), np.int32), np.empty((2, LEVELS, len(messages)), np.int64)
    done = 0
    while done < len(messages):
        at = fold(book.key, book.size, book.used, done, *told, done, len(messages), done, px, sz)
        if at == done:
            book.reserve(len(messages[done]))
        done = at
    for i, message in enumerate(messages):
        # Bids are told before asks; within a side a later word replaces an earlier one.
        for side, price, size in message:
            oracle[side][price] = size
            if not size:
                del oracle[side][price]
        assert (px[0, :, i].tolist(), sz[0, :, i].tolist(), px[1, :, i].tolist(), sz[1, :, i].tolist()) == tops(oracle)
    assert all(book.size[row, used - 1] for row, used in enumerate(book.used) if used)  # rows begin at an order
    side, ticks, lots = book.levels()
    assert list(zip(side.tolist(), ticks.tolist(), lots.tolist(), strict=True)) == [
        *((1, p, q) for p, q in sorted(oracle[1].items(), reverse=True)),
        *((-1, p, q) for p, q in sorted(oracle[-1].items())),
    ]
    again = L2Book.of(side, ticks, lots)
    assert all((a == b).all() for a, b in zip(again.levels(), book.levels(), strict=True))


def test_a_message_that_does_not_follow_changes_nothing() -> None:
    after, until, *rest = columns([[(1, 10, 5)], [(1, 11, 5)], [(1, 12, 5)]])
    after[1] = 77
    book = L2Book.empty(16)
    px, sz = np.zeros((2, LEVELS, 3), np.int32), np.zeros((2, LEVELS, 3), np.int64)
    assert fold(book.key, book.size, book.used, 0, after, until, *rest, 0, 3, 0, px, sz) == 1
    assert [x.tolist() for x in book.levels()] == [[1], [10], [5]] and px[0, 0].tolist() == [10, 0, 0]


def test_room_is_asked_for_before_a_message_is_applied() -> None:
    told = columns([[(-1, 10 + i, 5) for i in range(9)]])
    book = L2Book.empty(8)
    px, sz = np.zeros((2, LEVELS, 1), np.int32), np.zeros((2, LEVELS, 1), np.int64)
    assert fold(book.key, book.size, book.used, 0, *told, 0, 1, 0, px, sz) == 0 and len(book.levels()[0]) == 0
    book.reserve(9)
    assert fold(book.key, book.size, book.used, 0, *told, 0, 1, 0, px, sz) == 1
    assert px[1, :, 0].tolist() == [10, 11, 12] and len(book.levels()[0]) == 9


def test_slots_that_ran_empty_do_not_make_a_book_grow() -> None:
    """A price that wanders leaves no trace: after 30,000 levels that came and went the arrays have room for a few hundred."""
    messages = [[(1, 1_000 + i, 5), (1, 900 + i, 0)] for i in range(30_000)]
    told = columns(messages)
    book = L2Book.empty(64)
    px, sz = np.empty((2, LEVELS, len(messages)), np.int32), np.empty((2, LEVELS, len(messages)), np.int64)
    done = 0
    while done < len(messages):
        at = fold(book.key, book.size, book.used, done, *told, done, len(messages), done, px, sz)
        if at == done:
            book.reserve(2)
        done = at
    assert len(book.levels()[0]) == 100 and book.key.shape[1] < 1_000
    assert px[0, 0, -1] == 30_999


def test_a_copy_goes_its_own_way() -> None:
    book = L2Book.of(np.array([1, -1]), np.array([10, 12]), np.array([3, 4]))
    fork = book.copy()
    told = columns([[(1, 11, 9)]])
    fold(fork.key, fork.size, fork.used, 0, *told, 0, 1, 0, np.empty((2, 1, 1), np.int32), np.empty((2, 1, 1), np.int64))
    assert [x.tolist() for x in book.levels()] == [[1, -1], [10, 12], [3, 4]]
    assert [x.tolist() for x in fork.levels()] == [[1, 1, -1], [11, 10, 12], [9, 3, 4]]
