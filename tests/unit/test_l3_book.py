"""A book of orders from a complete stream, against a dict of orders; and what it makes of LOBSTER's files, which are not complete."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import DataError, SchemaMismatch
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.l3_book import L3Book, book_of_orders
from cift_models.feeds.lobster import read_lobster
from cift_models.instruments import Instrument
from cift_models.schema import BOOK, ORDERS
from tests.lobster_slice import lobster_zip

Message = tuple[int, int, int, int, int]
"""action, order id, side, ticks, lots."""


def slow_book(messages: list[Message], levels: int) -> tuple[list[list[list[tuple[int, int]]]], Counter]:
    """(price, size) of the best levels of bids and asks after each message, from a dict of orders; and what was refused."""
    orders: dict[int, list[int]] = {}
    rows, refused = [], Counter()
    for action, which, side, ticks, lots in messages:
        if action <= 4:
            reason = None
            if ticks <= 0 or (lots <= 0 and action != 3):
                reason = "non_positive"
            elif action == 1 and which in orders:
                reason = "repeated_order"
            elif action != 1 and which not in orders:
                reason = "unknown_order"
            elif action != 1 and orders[which][:2] != [side, ticks]:
                reason = "other_order"
            elif action in (2, 4) and lots > orders[which][2]:
                reason = "too_large"
            if reason:
                refused[reason] += 1
            elif action == 1:
                orders[which] = [side, ticks, lots]
            else:
                orders[which][2] -= orders[which][2] if action == 3 else lots
                if not orders[which][2]:
                    del orders[which]
        both = []
        for of in (1, -1):
            sizes: Counter = Counter()
            for side, ticks, lots in orders.values():
                if side == of:
                    sizes[ticks] += lots
            both.append(sorted(sizes.items(), reverse=of == 1)[:levels])
        rows.append(both)
    return rows, refused


def fast_book(messages: list[Message], levels: int, book: L3Book | None = None, cuts: tuple[int, ...] = ()):
    """The same from the engine, in pieces."""
    book = book or L3Book.empty(16)
    columns = [np.array(c, t) for c, t in zip(zip(*messages, strict=True), (np.int8, np.int64, np.int8, np.int64, np.int64), strict=True)]
    edges = [0, *sorted(min(c, len(messages)) for c in cuts), len(messages)]
    parts = [book.apply(*(c[a:b] for c in columns), levels) for a, b in zip(edges, edges[1:], strict=False)]
    px, sz = (np.concatenate([part[i] for part in parts], axis=2) for i in range(2))
    empty = (EMPTY_BID, EMPTY_ASK)
    rows = []
    for i in range(px.shape[2]):
        both = []
        for side in range(2):
            assert all(sz[side, k, i] == 0 for k in range(levels) if px[side, k, i] == empty[side])
            both.append([(int(px[side, k, i]), int(sz[side, k, i])) for k in range(levels) if px[side, k, i] != empty[side]])
        rows.append(both)
    return rows, Counter(book.counts()), px, sz


def stream(seed: int, n: int, ids: int = 12, prices: int = 8, faults: float = 0.15) -> list[Message]:
    """Orders that come and go at a few prices near each other, with messages that cannot be among them."""
    rng = np.random.default_rng(seed)
    live: dict[int, list[int]] = {}
    out: list[Message] = []
    fresh = int(rng.integers(-50, 50))
    for _ in range(n):
        if rng.uniform() < faults:
            out.append(
                (int(rng.integers(1, 8)), int(rng.integers(fresh - ids, fresh + 1)), int(rng.choice([1, -1])),
                 int(rng.integers(-1, 2 * prices)), int(rng.integers(-1, 9)))
            )  # fmt: skip
            if live and rng.uniform() < 0.2:
                which = int(rng.choice(list(live)))
                side, ticks, lots = live[which]
                out[-1] = (int(rng.choice([2, 4])), which, side, ticks, lots + 1)
            # What of it can be applied changes what may follow.
            action, which, side, ticks, lots = out[-1]
            good = ticks > 0 and (lots > 0 or action == 3)
            if action == 1 and good and which not in live:
                live[which] = [side, ticks, lots]
            elif action in (2, 3, 4) and good and which in live and live[which][:2] == [side, ticks]:
                taken = live[which][2] if action == 3 else lots
                if taken <= live[which][2]:
                    live[which][2] -= taken
        elif not live or rng.uniform() < 0.5:
            fresh += int(rng.choice([1, 1, 1, 4096]))  # ids that fall into one slot of a small table
            side = int(rng.choice([1, -1]))
            live[fresh] = [side, int(rng.integers(1, prices)) + (prices if side < 0 else 0), int(rng.integers(1, 9))]
            out.append((1, fresh, *live[fresh]))
        else:
            which = int(rng.choice(list(live)))
            side, ticks, lots = live[which]
            action = int(rng.choice([2, 3, 4]))
            taken = lots if action == 3 else int(rng.integers(1, lots + 1))
            live[which][2] -= taken
            out.append((action, which, side, ticks, taken))
        live = {k: v for k, v in live.items() if v[2]}
    return out


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 6), cuts=st.lists(st.integers(0, 120), max_size=5))
def test_every_row_is_that_of_a_dict_of_orders(seed: int, levels: int, cuts: list[int]) -> None:
    messages = stream(seed, 120)
    rows, refused, _, _ = fast_book(messages, levels, cuts=tuple(cuts))
    slow_rows, slow_refused = slow_book(messages, levels)
    assert rows == slow_rows and refused == slow_refused


def test_an_order_on_no_side_is_refused_and_takes_no_place() -> None:
    rows, refused, _, _ = fast_book([(1, 7, 0, 5, 3), (1, 8, 1, 4, 2), (1, 7, 1, 5, 3)], 2)
    assert rows == [[[], []], [[(4, 2)], []], [[(5, 3), (4, 2)], []]] and refused == {"non_positive": 1}


def test_a_stream_of_every_fault_counts_each() -> None:
    messages = stream(1, 3_000, faults=0.4)
    rows, refused, _, _ = fast_book(messages, 3)
    slow_rows, slow_refused = slow_book(messages, 3)
    assert rows == slow_rows and refused == slow_refused
    assert set(refused) == {"unknown_order", "repeated_order", "other_order", "too_large", "non_positive"} and min(refused.values()) > 10


def test_thousands_of_orders_and_prices_grow_the_tables() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    ids = rng.permutation(np.arange(n, dtype=np.int64) * 4096 - 7)
    ticks = np.where(np.arange(n) % 2 == 0, rng.integers(1, 30_000, n), rng.integers(40_000, 90_000, n))
    side = np.where(np.arange(n) % 2 == 0, 1, -1)
    adds = list(zip([1] * n, ids.tolist(), side.tolist(), ticks.tolist(), rng.integers(1, 9, n).tolist(), strict=True))
    gone = [(3, *adds[i][1:]) for i in rng.permutation(n)[: n - 3].tolist()]
    book = L3Book.empty()
    _, refused, px, sz = fast_book(adds + gone, 2, book)
    assert not refused and book.resting == 3 and int((book.side != 0).sum()) == 3
    left: dict[int, Counter] = {1: Counter(), -1: Counter()}
    deleted = {g[1] for g in gone}
    for _, which, s, t, lots in adds:
        if which not in deleted:
            left[s][t] += lots
    for row, s in enumerate((1, -1)):
        best = sorted(left[s].items(), reverse=s == 1)[:2]
        assert [(int(px[row, k, -1]), int(sz[row, k, -1])) for k in range(len(best))] == best
    # The best of each side while all rest, straight from the arrays.
    assert px[0, 0, n - 1] == ticks[side == 1].max() and px[1, 0, n - 1] == ticks[side == -1].min()
    assert sz[0, 0, n - 1] == sum(a[4] for a in adds if a[2] == 1 and a[3] == px[0, 0, n - 1])


def test_a_copy_forks() -> None:
    messages = stream(2, 200)
    book = L3Book.empty()
    fast_book(messages[:100], 2, book)
    fork = book.copy()
    there, _, _, _ = fast_book(messages[100:], 2, book)
    again, _, _, _ = fast_book(messages[100:], 2, fork)
    assert there == again and fork.resting == book.resting


STOCK = Instrument("TEST", 10_000, 100, 1, "shares", 0.0, "us_equity", 2)


def test_orders_to_book() -> None:
    rows = [
        (5, 5, 0, 1, 7, 1, 1_000_000, 30),
        (6, 6, 1, 1, 8, -1, 1_000_200, 40),
        (7, 7, 2, 5, 0, 1, 1_000_150, 10),  # hidden: between ticks, and the visible book stays
        (8, 8, 3, 7, 0, -1, -1, 0),  # a halt
        (9, 9, 4, 4, 7, 1, 1_000_000, 10),
        (9, 9, 5, 3, 9, 1, 1_000_000, 10),  # rests nowhere
    ]
    orders = pl.DataFrame(rows, schema=ORDERS.polars_schema(), orient="row")
    frame, book = book_of_orders(orders, STOCK)
    BOOK.with_levels(2).check(frame)
    none = (EMPTY_BID, 0, EMPTY_ASK, 0)
    assert [r[3:] for r in frame.rows()] == [
        (10_000, 30, EMPTY_ASK, 0, *none),
        (10_000, 30, 10_002, 40, *none),
        (10_000, 30, 10_002, 40, *none),
        (10_000, 30, 10_002, 40, *none),
        (10_000, 20, 10_002, 40, *none),
        (10_000, 20, 10_002, 40, *none),
    ]
    assert frame["sequence"].to_list() == [0, 1, 2, 3, 4, 5] and book.counts() == {"unknown_order": 1} and book.resting == 2
    more, book = book_of_orders(orders[4:5], STOCK, book)
    assert more.row(0)[3:5] == (10_000, 10)
    with pytest.raises(DataError, match="message 0 adds an order at 1000050"):
        book_of_orders(orders.with_columns(price=pl.lit(1_000_050)), STOCK)
    with pytest.raises(SchemaMismatch, match="no price, size"):
        book_of_orders(orders.drop("price", "size"), STOCK)


@pytest.mark.real_data
@pytest.mark.parametrize(("symbol", "wrong", "unknown"), [("AAPL", 0.99998, 14_980), ("AMZN", 0.99984, 8_491), ("GOOG", 0.99901, 4_951)])
def test_a_rebuild_of_lobster_from_messages_alone_is_wrong(symbol: str, wrong: float, unknown: int) -> None:
    """A file of N levels leaves out the orders outside N and those before the open. Hence BOOK is the file's own, held row by row."""
    day = read_lobster(lobster_zip(symbol))
    book = day.tables["book"]
    assert day.source["book_disagreements"] == 0, "message i applied to file row i - 1 gives file row i, in every row"
    rebuilt, l3 = book_of_orders(day.tables["orders"], day.instrument)
    same = np.logical_and.reduce([(rebuilt[c] == book[c]).to_numpy() for c in book.columns[3:]])
    assert 1 - same.mean() == pytest.approx(wrong, abs=5e-6)
    assert l3.counts() == {"unknown_order": unknown}
