"""Messages applied to a book of L levels, against a dict of prices that forgets nothing."""

from __future__ import annotations

import numpy as np
import pytest

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.replay import disagreements


def slow_book(seed: int, n: int, levels: int) -> dict[str, np.ndarray]:
    """Random messages and the top levels after each, from a dict."""
    rng = np.random.default_rng(seed)
    sides: dict[int, dict[int, int]] = {1: {}, -1: {}}
    rows: dict[str, list] = {k: [] for k in ("action", "direction", "price", "size", "bid_px", "bid_sz", "ask_px", "ask_sz")}
    for _ in range(n):
        direction = int(rng.choice([1, -1]))
        book = sides[direction]
        visible = sorted(book, reverse=direction == 1)[:levels]
        if not visible or rng.uniform() < 0.55:
            action, size = 1, int(rng.integers(1, 50))
            price = int(rng.integers(80, 100)) if direction == 1 else int(rng.integers(101, 120))
            if len(visible) == levels and direction * price < direction * visible[-1]:
                continue  # out of the requested range: the file has no message for it
            book[price] = book.get(price, 0) + size
        else:
            price = int(rng.choice(visible))
            action = int(rng.choice([2, 3, 4]))
            size = book[price] if action == 3 else int(rng.integers(1, book[price] + 1))
            book[price] -= size
            if not book[price]:
                del book[price]
        for name, value in (("action", action), ("direction", direction), ("price", price), ("size", size)):
            rows[name].append(value)
        for name, side, empty in (("bid", 1, EMPTY_BID), ("ask", -1, EMPTY_ASK)):
            best = sorted(sides[side], reverse=side == 1)[:levels]
            rows[f"{name}_px"].append(best + [empty] * (levels - len(best)))
            rows[f"{name}_sz"].append([sides[side][p] for p in best] + [0] * (levels - len(best)))
    return {k: np.array(v, np.int32 if k.endswith("px") else np.int64) for k, v in rows.items()}


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_messages_explain_the_book(levels: int) -> None:
    rows = slow_book(levels, 3_000, levels)
    assert disagreements(**rows) == (0, -1)


def test_one_wrong_size_is_seen_where_it_lies() -> None:
    rows = slow_book(7, 500, 3)
    rows["bid_sz"][200, 0] += 1
    count, first = disagreements(**rows)
    assert (count, first) == (2, 200)


def test_a_row_left_out_is_seen() -> None:
    rows = slow_book(8, 500, 3)
    book = {k: np.delete(v, 100, 0) if k.startswith(("bid", "ask")) else v[:-1] for k, v in rows.items()}
    count, first = disagreements(**book)
    assert first in (100, 101) and count > 100
