"""Rows kept apart: each reason alone, the order of reasons, and what is not an error."""

from __future__ import annotations

import polars as pl
import pytest

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.quality import check
from cift_models.instruments import Session
from cift_models.schema import BOOK, TRADES

SESSION = Session(20231114, 1_000, 2_000)


def book(*rows: tuple[int, ...]) -> pl.DataFrame:
    """Rows (ts, sequence, bid, bid size, ask, ask size) of one level."""
    return pl.DataFrame([(r[0], *r) for r in rows], schema=BOOK.with_levels(1).polars_schema(), orient="row")


def test_good_rows_pass_untouched() -> None:
    frame = book(
        (1_000, 0, 10, 1, 11, 1), (1_500, 1, 10, 1, 10, 5), (1_500, 2, EMPTY_BID, 0, EMPTY_ASK, 0), (2_000, 3, 10, 1, EMPTY_ASK, 0)
    )
    checked = check(frame, SESSION, receive_clock=False)
    assert checked.rows.equals(frame) and not checked.counts and len(checked.quarantined) == 0


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("off_session", (999, 1, 10, 1, 11, 1)),
        ("off_session", (2_001, 1, 10, 1, 11, 1)),
        ("out_of_order", (1_400, 1, 10, 1, 11, 1)),
        ("out_of_order", (1_600, 0, 10, 1, 11, 1)),
        ("non_positive", (1_600, 1, 0, 1, 11, 1)),
        ("non_positive", (1_600, 1, 10, -1, 11, 1)),
        ("non_positive", (1_600, 1, 10, 0, 11, 1)),
        ("non_positive", (1_600, 1, EMPTY_BID, 3, 11, 1)),
        ("crossed", (1_600, 1, 12, 1, 11, 1)),
    ],
)
def test_each_reason(reason: str, row: tuple[int, ...]) -> None:
    good = (1_500, 0, 10, 1, 11, 1)
    checked = check(book(good, row), SESSION, receive_clock=False)
    assert checked.counts == {reason: 1}
    assert checked.rows.equals(book(good))
    assert checked.quarantined.rows() == [(row[0], *row, reason)]


def test_one_wild_time_does_not_condemn_what_follows() -> None:
    checked = check(book((1_500, 0, 10, 1, 11, 1), (9_999, 1, 10, 1, 11, 1), (1_501, 2, 10, 1, 11, 1)), SESSION, receive_clock=False)
    assert checked.counts == {"off_session": 1} and checked.rows["sequence"].to_list() == [0, 2]


def test_late_is_no_error_with_a_receive_clock() -> None:
    frame = book((1_500, 0, 10, 1, 11, 1), (1_400, 1, 10, 1, 11, 1))
    assert check(frame, SESSION, receive_clock=True).counts == {}


def test_levels_out_of_order() -> None:
    frame = pl.DataFrame([(1_500, 1_500, 0, 10, 1, 11, 1, 10, 1, 12, 1)], schema=BOOK.with_levels(2).polars_schema(), orient="row")
    assert check(frame, SESSION, False).counts == {"crossed": 1}


def test_trades() -> None:
    rows = [(1_500, 1_500, 0, 1, 100, 5, False), (1_500, 1_500, 1, 1, 100, 0, False), (1_500, 1_500, 2, 1, -1, 5, True)]
    checked = check(pl.DataFrame(rows, schema=TRADES.polars_schema(), orient="row"), SESSION, False)
    assert checked.counts == {"non_positive": 2} and checked.rows["sequence"].to_list() == [0]
