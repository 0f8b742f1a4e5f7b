"""LOBSTER: every trap of the format, on rows made by hand and on the recorded day."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import FeedError
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, HALT, HIDDEN, RESUME, TRADE
from cift_models.feeds.canonical import events_of_tables
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_tables
from tests import lobster_made as made
from tests.lobster_slice import lobster_zip, slice_lobster

MIDNIGHT = 1_340_251_200_000_000_000
"""2012-06-21 00:00 in New York (UTC-4), ns."""


@pytest.fixture
def day(tmp_path: Path):
    return read_lobster(made.lobster_made(tmp_path / "made.zip"))


def test_name_gives_symbol_session_levels(day) -> None:
    assert day.instrument.symbol == "TEST" and day.instrument.levels == 2 and day.instrument.tick_size == 0.01
    assert (day.session.day, day.session.open, day.session.close) == (20120621, MIDNIGHT + 34_200 * 10**9, MIDNIGHT + 57_600 * 10**9)


def test_times_are_exact_to_the_nanosecond(day) -> None:
    ns = (day.tables["orders"]["ts_event"] - MIDNIGHT).to_list()
    assert ns[:6] == [
        34_200_000_000_000,
        34_200_500_000_000,
        34_200_500_000_001,
        34_200_600_000_000,
        34_200_600_000_000,
        34_200_632_812_672,
    ]
    assert ns[-1] == 34_208_000_000_000  # 34207.9999999999 rounds up over the second
    assert day.tables["orders"]["ts_recv"].to_list() == day.tables["orders"]["ts_event"].to_list()


def test_aggressor_is_opposite_to_the_resting_order(day) -> None:
    trades = day.tables["trades"]
    assert trades["sequence"].to_list() == [4, 5, 6, 12]
    assert trades["side"].to_list() == [1, -1, 1, 0]  # took from a sell order: a buy; from a buy order: a sell; a cross has no aggressor
    assert trades["hidden"].to_list() == [False, False, True, True]
    assert trades["price"].to_list() == [1_000_200, 1_000_100, 1_000_150, 1_000_200]  # hidden: between ticks
    assert day.tables["orders"]["side"].to_list()[:4] == [1, -1, 1, -1]


def test_empty_levels(day) -> None:
    book = day.tables["book"]
    assert book.row(0)[3:] == (10_000, 100, EMPTY_ASK, 0, EMPTY_BID, 0, EMPTY_ASK, 0)
    assert book.row(3)[3:] == (10_001, 50, 10_002, 70, 10_000, 100, 10_003, 200)


def test_halt_quoting_trading(day) -> None:
    events = events_of_tables(day.tables)
    assert events.kind[9:12].tolist() == [BOOK | HALT, BOOK, BOOK | RESUME]
    assert events.kind[4] == BOOK | TRADE and events.kind[6] == BOOK | TRADE | HIDDEN
    assert day.source["book_disagreements"] == 0


def test_one_event_for_a_message(day) -> None:
    events = events_of_tables(day.tables, symbol=3)
    assert len(events) == 13 and set(events.symbol.tolist()) == {3}
    assert events.trade_sz.tolist() == [0, 0, 0, 0, 30, 20, 10, 0, 0, 0, 0, 0, 500]


M, B = made.MESSAGES, made.BOOK
DAMAGE = {
    "text in a number": (M.replace(",100,1000000,1", ",NaN,1000000,1", 1), B, r"row 1, column 4 \(size\): 'NaN'"),
    "fraction in a size": (M.replace(",100,1000000,1", ",1.5,1000000,1", 1), B, "'1.5', expected an integer"),
    "header": ("time,type,id,size,price,direction\n" + M, B, "row 1, column 2"),
    "columns too few": (M.replace("34200.5,1,12,200", "34200.5,1,12"), B, "row 2 has 5 columns, expected 6"),
    "columns too many": (M, "\n".join(row + ",1" for row in B.splitlines()) + "\n", "row 1 has 9 columns, expected 8"),
    "empty cell": (M.replace("34202,2,12", "34202,2,"), B, "row 8, column 3"),
    "blank line": (M.replace("34202", "\n34202"), B, "row 8 has 1 columns"),
    "cut within the book": (M, B[:-1], "no line end"),
    "cut within the messages": (M[:-1], B, "no line end"),
    "cut after a comma": (M[:-3], B, "row 13, column 6"),
    "rows missing": (M, "".join(B.splitlines(keepends=True)[:-1]), "13 messages and 12 book rows"),
    "time is NaN": (M.replace("34203,", "nan,"), B, "row 9: time is 'nan'"),
    "time is infinite": (M.replace("34203,", "1e999,"), B, "row 9: time is '1e999'"),
    "time with a sign": (M.replace("34203,", "-34203,"), B, "row 9: time is"),
    "unknown type": (M.replace("34202,2,", "34202,9,"), B, "row 8: type is 9"),
    "unknown direction": (M.replace("1000000,1\n", "1000000,0\n"), B, "row 1: direction is 0"),
    "price between ticks": (M, B.replace("1000300,200", "1000350,200"), "no whole number of ticks"),
    "empty": ("", "", "it is empty"),
    "book a row late": (M, B.splitlines(keepends=True)[0] + "".join(B.splitlines(keepends=True)[:-1]), "first is row 2"),
    "book of other sizes": (M, B.replace("1000300,150,1000000,100", "1000300,151,1000000,100"), "not the row before"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_short_feed_error(what: str, tmp_path: Path) -> None:
    messages, book, expected = DAMAGE[what]
    with pytest.raises(FeedError, match=expected) as caught:
        read_lobster(made.lobster_made(tmp_path / "made.zip", messages, book))
    assert len(str(caught.value).splitlines()) <= 10 and caught.value.hint


def test_what_is_not_a_lobster_zip_is_refused(tmp_path: Path) -> None:
    good = made.lobster_made(tmp_path / "good.zip").read_bytes()
    cases = {
        "cut.zip": (good[: len(good) // 2], "damaged or not a zip"),
        "flipped.zip": (good[:80] + bytes([good[80] ^ 255]) + good[81:], "damaged or not a zip"),
        "text.zip": (b"hello\n", "damaged or not a zip"),
        "empty.zip": (b"", "damaged or not a zip"),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FeedError, match=expected):
            read_lobster(tmp_path / name)
    with pytest.raises(FeedError, match="No such file"):
        read_lobster(tmp_path / "absent.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("prices.csv", "1,2\n")
    with pytest.raises(FeedError, match=r"not LOBSTER: it holds prices\.csv"):
        read_lobster(tmp_path / "other.zip")


@pytest.mark.parametrize("stem", ["TEST_2012-06-21_57600000_34200000", "TEST_2012-06-21_0_99999999", "TEST_2012-02-31_34200000_57600000"])
def test_a_session_that_cannot_be_is_refused(stem: str, tmp_path: Path) -> None:
    with pytest.raises(FeedError):
        read_lobster(made.lobster_made(tmp_path / "made.zip", stem=stem))


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    path = made.lobster_made(tmp_path / "two.zip", OTHER_2012__csv="")
    read_lobster(path)  # another member is no matter
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("MORE_2012-06-21_34200000_57600000_message_2.csv", made.MESSAGES)
    with pytest.raises(FeedError, match="is not LOBSTER"):
        read_lobster(path)


def test_wrong_symbol_is_refused(tmp_path: Path) -> None:
    path = made.lobster_made(tmp_path / "made.zip")
    assert read_lobster(path, symbol="TEST").instrument.symbol == "TEST"
    with pytest.raises(FeedError, match="holds TEST, asked was AAPL"):
        read_lobster(path, symbol="AAPL")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("symbol", "levels", "rows", "mid_changes", "volume", "executions", "instants", "tied"),
    [
        ("AAPL", 1, 118_497, 64_350, 2_850_140, 34_990, 24_861, 0.480),
        ("AMZN", 5, 155_935, 27_557, 810_755, 11_419, 8_183, 0.464),
        ("GOOG", 5, 112_673, 24_084, 706_125, 11_678, 7_983, 0.504),
    ],
)
def test_recorded_day(
    symbol: str, levels: int, rows: int, mid_changes: int, volume: int, executions: int, instants: int, tied: float
) -> None:
    day = read_lobster(lobster_zip(symbol), symbol)
    book, trades = day.tables["book"], day.tables["trades"]
    assert (len(book), day.instrument.levels) == (rows, levels)
    mid = book["bid_px_00"].to_numpy().astype(np.int64) + book["ask_px_00"].to_numpy()
    assert np.count_nonzero(np.diff(mid)) == mid_changes
    assert trades["size"].sum() == volume and len(trades) == executions and trades["ts_event"].n_unique() == instants
    _, count = np.unique(trades["ts_event"].to_numpy(), return_counts=True)
    assert count[count > 1].sum() / len(trades) == pytest.approx(tied, abs=5e-4)  # executions that share their time with another
    assert day.source["book_disagreements"] == 0
    assert all(not checked.counts for checked in check_tables(day.tables, day.session, receive_clock=False).values())
    # 1-3 % of hidden executions lie between ticks; a reader that stores ticks would round them.
    hidden = trades.filter(trades["hidden"])["price"]
    assert (hidden % 100 != 0).any() and (trades.filter(~trades["hidden"])["price"] % 100 == 0).all()


@pytest.mark.real_data
def test_recorded_times_that_passed_through_a_float() -> None:
    day = read_lobster(lobster_zip("AMZN"))
    assert int(day.tables["orders"]["ts_event"][67_822]) - MIDNIGHT == 43_002_632_812_672


@pytest.mark.real_data
def test_slice_is_the_same_rows_in_a_shorter_session(tmp_path: Path) -> None:
    whole = read_lobster(lobster_zip("GOOG"))
    part = read_lobster(slice_lobster(lobster_zip("GOOG"), tmp_path / "slice.zip", 36_000_000, 36_600_000))
    assert (part.session.close - part.session.open, part.session.open) == (600 * 10**9, MIDNIGHT + 36_000 * 10**9)
    for name, frame in part.tables.items():
        same = whole.tables[name].filter(whole.tables[name]["ts_event"].is_between(part.session.open, part.session.close, closed="left"))
        assert frame.drop("sequence").equals(same.drop("sequence"))
    assert len(part.tables["book"]) > 1_000
