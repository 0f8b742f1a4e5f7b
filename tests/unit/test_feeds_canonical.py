"""Tables to events: rows of one message are one event, and time is when it could be used."""

from __future__ import annotations

import polars as pl
import pytest

from cift_models.errors import DataError
from cift_models.events import BOOK, GAP, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.feeds.canonical import events_of_tables, tables_of_events
from cift_models.schema import BOOK as BOOK_TABLE
from cift_models.schema import STATUS, TRADES


def rows(table, *values: tuple) -> pl.DataFrame:
    return pl.DataFrame(values, schema=table.polars_schema(), orient="row")


BOOK_ROWS = ((10, 100, 1, 5, 7, 6, 8), (20, 130, 4, 5, 7, 6, 9), (30, 120, 5, 5, 7, 6, 10))
TABLES = {
    "book": rows(BOOK_TABLE.with_levels(1), *BOOK_ROWS),
    "trades": rows(TRADES, (15, 110, 2, 1, 60_000, 3, False), (20, 130, 4, -1, 50_000, 2, True)),
    "status": rows(STATUS, (16, 111, 3, True, True), (30, 120, 5, False, False)),
}


def test_rows_of_one_message_are_one_event() -> None:
    events = events_of_tables(TABLES, symbol=2)
    assert events.sequence.tolist() == [1, 2, 3, 4, 5]
    assert events.kind.tolist() == [BOOK, TRADE, HALT | GAP, BOOK | TRADE | HIDDEN, BOOK | RESUME]
    assert events.side.tolist() == [0, 1, 0, -1, 0] and events.trade_sz.tolist() == [0, 3, 0, 2, 0]
    assert events.ask_sz[:, 0].tolist() == [8, 0, 0, 9, 10] and set(events.symbol.tolist()) == {2}


def test_time_is_the_running_maximum_of_the_receive_time() -> None:
    assert events_of_tables(TABLES).ts.tolist() == [100, 110, 111, 130, 130]


def test_an_absent_table_says_nothing() -> None:
    assert events_of_tables({"trades": TABLES["trades"]}).kind.tolist() == [TRADE, TRADE | HIDDEN]
    assert len(events_of_tables({})) == 0


def test_tables_that_contradict_are_refused() -> None:
    with pytest.raises(DataError, match=r"received at 13[01] ns, in another table at 13[01] ns"):
        events_of_tables({**TABLES, "trades": TABLES["trades"].with_columns(ts_recv=pl.lit(131))})
    with pytest.raises(DataError, match="row 1 has sequence 1 after 4"):
        events_of_tables({"book": TABLES["book"][[1, 0]]})
    with pytest.raises(DataError, match="row 1 has sequence 1 after 1"):
        events_of_tables({"book": TABLES["book"][[0, 0]]})


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ("say nothing", [BOOK, 0]),
        ("HIDDEN without TRADE", [BOOK | HIDDEN, BOOK]),
        ("HALT and RESUME", [HALT | RESUME, BOOK]),
        ("GAP without HALT", [RESUME | GAP, BOOK]),
        ("unknown", [BOOK, 65]),
    ],
)
def test_kinds_that_no_table_holds_are_refused(what: str, kinds: list[int]) -> None:
    events = Events.empty(2, 1)
    events.sequence[:] = [0, 1]
    events.kind[:] = kinds
    with pytest.raises(DataError, match=what):
        tables_of_events(events)


def test_what_means_nothing_is_not_kept() -> None:
    events = Events.empty(1, 1)
    events.kind[:] = TRADE
    events.trade_sz[:] = 3
    events.bid_px[:] = 77
    again = events_of_tables(tables_of_events(events) | {"book": BOOK_TABLE.with_levels(1).empty()})
    assert again.bid_px.tolist() == Events.empty(1, 1).bid_px.tolist() and again.trade_sz.tolist() == [3]
