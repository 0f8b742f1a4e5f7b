"""Rows kept apart: each reason alone, the order of reasons, what is not an error, and that nothing disappears."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import DataError, SchemaMismatch
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.day import FeedDay
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import REASONS, Checked, check, check_day
from cift_models.instruments import Instrument, Session
from cift_models.schema import BOOK, BOOK_STATE, ORDERS, QUOTES, TRADES
from cift_models.stores.ticks import ParquetTicks
from tests.lobster_slice import lobster_zip

SESSION = Session(20231114, 1_000, 2_000)
BOOK_2 = BOOK.with_levels(2).polars_schema()


def book(*rows: tuple[int, ...]) -> pl.DataFrame:
    """Rows (ts, sequence, bid, bid size, ask, ask size) of one level."""
    return pl.DataFrame([(r[0], *r) for r in rows], schema=BOOK.with_levels(1).polars_schema(), orient="row")


def trades(*rows: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=TRADES.polars_schema(), orient="row")


def day_of(tables: dict[str, pl.DataFrame], receive_clock: bool = False, levels: int = 1, **apart: pl.DataFrame) -> FeedDay:
    instrument = Instrument("T", 100, 1, 1, "shares", 0.0, "us_equity", levels)
    return FeedDay(instrument, SESSION, tables, {"feed": "test", "receive_clock": receive_clock}, apart=apart)


def test_good_rows_pass_untouched() -> None:
    frame = book(
        (1_000, 0, 10, 1, 11, 1), (1_500, 1, 10, 1, 10, 5), (1_500, 2, EMPTY_BID, 0, EMPTY_ASK, 0), (2_000, 3, 10, 1, EMPTY_ASK, 0)
    )
    checked = check(frame, SESSION, receive_clock=False)
    assert checked.rows.equals(frame) and not checked.counts and len(checked.quarantined) == 0
    assert checked.quarantined.columns == [*frame.columns, "reason"]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("duplicate", (1_500, 0, 10, 1, 11, 1)),
        ("off_session", (999, 1, 10, 1, 11, 1)),
        ("off_session", (2_001, 1, 10, 1, 11, 1)),
        ("out_of_order", (1_400, 1, 10, 1, 11, 1)),
        ("out_of_order", (1_600, 0, 10, 1, 11, 1)),
        ("out_of_order", (1_500, 0, 10, 1, 11, 2)),
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


def test_a_message_sent_again_is_a_duplicate_whenever_it_reaches_us() -> None:
    first, again = (1_500, 1_510, 7, 1, 100, 5, False), (1_500, 1_900, 7, 1, 100, 5, False)
    later = (1_600, 1_610, 8, 1, 100, 5, False)
    checked = check(trades(first, later, again, again), SESSION, receive_clock=True)
    assert checked.counts == {"duplicate": 2} and checked.rows.rows() == [first, later]
    # Another size under the same sequence is another message, and the sequence may not repeat.
    assert check(trades(first, later, (*again[:5], 6, False)), SESSION, receive_clock=True).counts == {"out_of_order": 1}


def test_a_bad_row_that_is_sent_again_is_counted_once() -> None:
    crossed = (1_500, 0, 12, 1, 11, 1)
    assert check(book(crossed, crossed, crossed), SESSION, False).counts == {"duplicate": 2, "crossed": 1}


def test_one_wild_time_does_not_condemn_what_follows() -> None:
    checked = check(book((1_500, 0, 10, 1, 11, 1), (9_999, 1, 10, 1, 11, 1), (1_501, 2, 10, 1, 11, 1)), SESSION, receive_clock=False)
    assert checked.counts == {"off_session": 1} and checked.rows["sequence"].to_list() == [0, 2]


def test_late_is_no_error_with_a_receive_clock() -> None:
    frame = book((1_500, 0, 10, 1, 11, 1), (1_400, 1, 10, 1, 11, 1))
    assert check(frame, SESSION, receive_clock=True).counts == {}


def test_a_receive_clock_behind_the_exchange_is_no_error_of_a_row() -> None:
    rows = trades((1_500, 1_200, 1, 1, 100, 5, False), (1_600, 1_210, 2, 1, 100, 5, False), (2_400, 1_990, 3, 1, 100, 5, False))
    assert check_day(day_of({"trades": rows}, receive_clock=True))["trades"].counts == {}
    assert check_day(day_of({"trades": rows}, receive_clock=False))["trades"].counts == {"off_session": 1}


def test_levels_out_of_order() -> None:
    frame = pl.DataFrame([(1_500, 1_500, 0, 10, 1, 11, 1, 10, 1, 12, 1)], schema=BOOK_2, orient="row")
    assert check(frame, SESSION, False).counts == {"crossed": 1}


def test_trades() -> None:
    rows = [(1_500, 1_500, 0, 1, 100, 5, False), (1_500, 1_500, 1, 1, 100, 0, False), (1_500, 1_500, 2, 1, -1, 5, True)]
    checked = check(trades(*rows), SESSION, False)
    assert checked.counts == {"non_positive": 2} and checked.rows["sequence"].to_list() == [0]


def test_a_status_among_orders_has_no_price_and_an_order_must() -> None:
    rows = [(1_500, 1_500, 0, 7, 0, -1, -1, 0), (1_500, 1_500, 1, 1, 5, 1, 100, 5), (1_500, 1_500, 2, 3, 5, 1, 100, 0)]
    frame = pl.DataFrame(rows, schema=ORDERS.polars_schema(), orient="row")
    assert check(frame, SESSION, False).counts == {"non_positive": 1}


def test_quotes_are_looked_at_as_a_book_is() -> None:
    rows = [(1_500, 1_500, 0, 10, 1, 10, 1), (1_500, 1_500, 1, 11, 1, 10, 1), (1_500, 1_500, 2, 10, 0, 11, 1)]
    frame = pl.DataFrame(rows, schema=QUOTES.polars_schema(), orient="row")
    assert check(frame, SESSION, False).counts == {"non_positive": 1, "crossed": 1}  # locked is kept


def test_a_state_of_the_book_shares_one_sequence() -> None:
    rows = [(1_500, 1_500, 9, 1, 10, 5), (1_500, 1_500, 9, 1, 9, 5), (1_500, 1_500, 9, -1, 11, 5), (1_500, 1_500, 9, -1, 12, 0)]
    state = pl.DataFrame(rows, schema=BOOK_STATE.polars_schema(), orient="row")
    checked = check_day(day_of({"book_state": state}))["book_state"]
    assert checked.counts == {"non_positive": 1} and checked.rows.rows() == rows[:3]


# What a feed sets apart itself.


def marked(frame: pl.DataFrame, *reason: str | None) -> pl.DataFrame:
    return frame.with_columns(reason=pl.Series(list(reason), dtype=pl.String))


def test_what_the_feed_set_apart_joins_the_quarantine() -> None:
    good, bad, odd = (1_500, 1, 10, 1, 11, 1), (1_600, 2, 12, 1, 11, 1), (1_400, 0, 10, 1, 99, 1)
    checked = check_day(day_of({"book": book(good, bad)}, book=marked(book(odd, bad), "suspicious", "crossed")))
    assert list(checked) == ["book"] and checked["book"].rows.equals(book(good))
    assert checked["book"].counts == {"crossed": 2, "suspicious": 1}
    assert [(r[2], r[-1]) for r in checked["book"].quarantined.rows()] == [(2, "crossed"), (0, "suspicious"), (2, "crossed")]


def test_a_table_that_is_only_set_apart_reaches_the_store(tmp_path: Path) -> None:
    """Changes to a book that was never sent whole have no book rows: they are kept as the feed gave them."""
    changes = marked(pl.DataFrame({"ts_event": [1_500, 1_501], "ts_recv": [1_500, 1_501], "price": [10, 11]}), "no_snapshot", "no_snapshot")
    day = day_of({"trades": trades((1_500, 1_500, 0, 1, 100, 5, False))}, levels=3, book=changes)
    checked = check_day(day)
    assert checked["book"].counts == {"no_snapshot": 2} and checked["book"].quarantined.equals(changes)
    assert checked["book"].rows.schema == BOOK.with_levels(3).polars_schema() and len(checked["book"].rows) == 0
    ticks = ParquetTicks(tmp_path)
    refs = {ref.table: ref for ref in ticks.write_day(day, checked)}
    assert ticks.facts(refs["book"])["quarantined"] == {"no_snapshot": 2}
    kept = ticks.quarantined(refs["book"])
    assert kept is not None and kept.equals(changes)


def test_columns_of_its_own_are_kept_beside_the_tables() -> None:
    apart = marked(pl.DataFrame({"sequence": [7], "condition": ["20004a00"]}), "suspicious")
    bad = (1_600, 1_600, 2, 1, 100, 0, False)
    found = check_day(day_of({"trades": trades(bad)}, trades=apart))["trades"].quarantined
    assert found["condition"].to_list() == [None, "20004a00"] and found["sequence"].to_list() == [2, 7] and found.columns[-1] == "reason"


def test_nothing_set_apart_is_no_table() -> None:
    assert check_day(day_of({}, book=marked(book()))) == {}


@pytest.mark.parametrize(
    ("name", "apart", "error", "match"),
    [
        ("trades", pl.DataFrame({"sequence": [7]}), DataError, "T 20231114: the feed set rows of trades apart without saying why"),
        ("trades", marked(pl.DataFrame({"sequence": [7, 8]}), "odd", None), DataError, "without saying why"),
        ("trades", marked(pl.DataFrame({"sequence": [7]}), ""), DataError, "without saying why"),
        ("trades", pl.DataFrame({"sequence": [7], "reason": [3]}), DataError, "without saying why"),
        ("trades", marked(pl.DataFrame({"price": [7.5]}), "odd"), SchemaMismatch, r"price Float64 \(expected Int64\)"),
        ("depth", marked(pl.DataFrame({"sequence": [7]}), "odd"), SchemaMismatch, "Unknown table 'depth'"),
    ],
)
def test_a_feed_that_sets_rows_apart_wrongly_is_told(name: str, apart: pl.DataFrame, error: type[DataError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        check_day(day_of({}, **{name: apart}))
    assert caught.value.hint


# Nothing disappears.

times = st.integers(996, 1_012)
"""Around a session of 1,000 to 1,010."""
sequences = st.integers(0, 5)
bids = st.sampled_from([EMPTY_BID, -1, 0, 9, 10, 11])
asks = st.sampled_from([EMPTY_ASK, 0, 9, 10, 11])
sizes = st.sampled_from([-1, 0, 1, 1, 1])
book_rows = st.tuples(times, times, sequences, bids, sizes, asks, sizes, bids, sizes, asks, sizes)
trade_rows = st.tuples(times, times, sequences, st.sampled_from([-1, 0, 1]), st.integers(-1, 2), st.integers(0, 2), st.booleans())
BRIEF = Session(20231114, 1_000, 1_010)


def why(table: str, rows: list[tuple[Any, ...]], receive_clock: bool) -> list[str | None]:
    """The slow and obvious way: row after row, against what a reader has seen so far."""
    out: list[str | None] = []
    seen: list[tuple[Any, ...]] = []
    greatest_sequence = greatest_time = -1
    for row in rows:
        event, recv, sequence, *said = row
        found: list[str] = []
        if (event, sequence, *said) in seen:
            found.append("duplicate")
        seen.append((event, sequence, *said))
        when = [recv] if receive_clock else [recv, event]
        if any(not BRIEF.open <= t <= BRIEF.close for t in when):
            found.append("off_session")
        if not found:
            if sequence <= greatest_sequence:
                found.append("out_of_order")
            else:
                greatest_sequence = sequence
                if not receive_clock and event < greatest_time:
                    found.append("out_of_order")
                else:
                    greatest_time = max(greatest_time, event)
        if table == "trades":
            if said[1] <= 0 or said[2] <= 0:
                found.append("non_positive")
        else:
            levels = [(said[k], said[k + 1], said[k + 2], said[k + 3]) for k in range(0, len(said), 4)]
            for bid, bid_size, ask, ask_size in levels:
                for price, size, nothing in ((bid, bid_size, EMPTY_BID), (ask, ask_size, EMPTY_ASK)):
                    if (size != 0) if price == nothing else (price <= 0 or size <= 0):
                        found.append("non_positive")
            if (
                levels[0][0] > levels[0][2]
                or not _falls([x[0] for x in levels], EMPTY_BID)
                or not _falls([-x[2] for x in levels], -EMPTY_ASK)
            ):
                found.append("crossed")
        out.append(next((reason for reason in REASONS if reason in found), None))
    return out


def _falls(prices: list[int], nothing: int) -> bool:
    return all(b == nothing or b < a for a, b in zip(prices, prices[1:], strict=False))


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(["book", "trades"]), st.booleans(), st.booleans())
def test_nothing_disappears(data: st.DataObject, table: str, receive_clock: bool, mostly_sound: bool) -> None:
    """Rows and quarantine are the rows that came in, each once, in order, each for the reason that the oracle gives, counted right."""
    rows = data.draw(st.lists(book_rows if table == "book" else trade_rows, max_size=14))
    if mostly_sound:  # few random rows are in order: sort, then send some again
        rows.sort(key=lambda r: (r[2], r[0]))
        rows += data.draw(st.lists(st.sampled_from(rows), max_size=4)) if rows else []
    if not receive_clock and data.draw(st.booleans()):
        rows = [(r[0], r[0], *r[2:]) for r in rows]
    schema = BOOK_2 if table == "book" else TRADES.polars_schema()
    apart_rows = data.draw(st.lists(st.tuples(book_rows if table == "book" else trade_rows, st.sampled_from(["no_snapshot", "crossed"]))))
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    apart = pl.DataFrame([(*row, reason) for row, reason in apart_rows], schema={**schema, "reason": pl.String}, orient="row")
    day = replace(day_of({table: frame}, receive_clock, levels=2, **{table: apart}), session=BRIEF)

    checked: Checked = check_day(day)[table]
    reasons = why(table, rows, receive_clock)
    assert checked.rows.schema == frame.schema
    assert checked.rows.rows() == [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    assert checked.quarantined.rows() == [
        *((*row, reason) for row, reason in zip(rows, reasons, strict=True) if reason is not None),
        *((*row, reason) for row, reason in apart_rows),
    ]
    assert checked.counts == Counter([r for r in reasons if r is not None] + [reason for _, reason in apart_rows])


@pytest.mark.real_data
def test_a_recorded_day_sent_twice(tmp_path: Path) -> None:
    """A real day in which every third message comes again, at once or at the end: the day as it was, and the rest in quarantine."""
    day = read_lobster(lobster_zip("AAPL"))
    tables = {}
    for name, frame in day.tables.items():
        at_once = pl.concat([frame.with_row_index(), frame[::3].with_row_index().with_columns(pl.col("index") * 3)]).sort(
            "index", maintain_order=True
        )
        tables[name] = pl.concat([at_once.drop("index").cast(dict(frame.schema)), frame[1::3]])
    began = time.perf_counter()
    checked = check_day(replace(day, tables=tables))
    took = time.perf_counter() - began
    for name, frame in day.tables.items():
        assert checked[name].rows.equals(frame)
        assert checked[name].counts == ({"duplicate": len(tables[name]) - len(frame)} if len(frame) else {})
    assert took < 2.0  # .12 s on an idle machine
    began = time.perf_counter()
    assert not any(one.counts for one in check_day(day).values())
    assert time.perf_counter() - began < 0.2  # 4 ms on an idle machine
