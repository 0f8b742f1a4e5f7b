"""LEAN: every trap of the format, on rows made by hand and on the recorded days."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cift_models.errors import EmptyRange, FeedError, InputError
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, TRADE
from cift_models.features import FeatureSet, stream
from cift_models.feeds.day import FeedDay, Identity
from cift_models.feeds.lean import QUOTE_SEQUENCE, identify, read_lean
from cift_models.feeds.quality import check_day
from cift_models.instruments import SECOND, Universe, to_ns
from cift_models.schema import BOOK as BOOK_TABLE
from cift_models.schema import TRADES as TRADES_TABLE
from cift_models.stores.ticks import ParquetTicks
from tests import lean_made
from tests.lean_made import made, recorded

MS = 1_000_000
MIDNIGHT = to_ns(datetime(2013, 10, 7, 4, tzinfo=UTC))
"""2013-10-07 00:00 in New York (UTC-4), ns."""


def one(path: Path, **options) -> FeedDay:
    (day,) = read_lean(path, **options)
    return day


@pytest.fixture
def quotes(tmp_path: Path) -> FeedDay:
    return one(made(tmp_path, "quote"))


@pytest.fixture
def trades(tmp_path: Path) -> FeedDay:
    return one(made(tmp_path, "trade"))


def test_both_sides_are_carried_and_a_message_is_one_row(quotes: FeedDay) -> None:
    book = quotes.tables["book"]
    assert list(book.schema.items()) == list(BOOK_TABLE.with_levels(1).polars_schema().items())
    got = [((ts - MIDNIGHT) // MS, sequence - QUOTE_SEQUENCE, *sides) for ts, _, sequence, *sides in book.rows()]
    assert got == [
        (34_199_990, 0, EMPTY_BID, 0, 5002, 300),
        (34_199_995, 2, 5000, 200, 5002, 300),
        (34_200_000, 4, 5000, 100, 5001, 300),
        (34_200_007, 6, 5001, 100, 5002, 400),
        (34_200_007, 7, 5001, 700, 5002, 400),
        (34_200_008, 8, 5001, 700, 5002, 500),
        (34_200_500, 10, 5001, 700, 5003, 200),  # the suspicious bid before it is not carried
    ]
    assert book["ts_recv"].equals(book["ts_event"].rename("ts_recv")) and quotes.source["receive_clock"] is False


def test_rows_that_say_nothing_usable_are_set_apart_with_their_reason(quotes: FeedDay, trades: FeedDay) -> None:
    apart = quotes.apart["book"]
    assert apart.select(pl.exclude("ts_event", "ts_recv")).rows() == [
        (QUOTE_SEQUENCE + 9, 4990, 100, EMPTY_ASK, 0, "suspicious"),
        (QUOTE_SEQUENCE + 11, EMPTY_BID, 0, EMPTY_ASK, 0, "no_side"),
        (QUOTE_SEQUENCE + 12, EMPTY_BID, 0, EMPTY_ASK, 0, "non_positive"),
    ]
    assert trades.apart["trades"].select("sequence", "reason").rows() == [
        (4, "sale_condition"),
        (5, "suspicious"),
        (6, "sale_condition"),
    ]
    assert list(trades.apart["trades"].drop("reason").schema.items()) == list(TRADES_TABLE.polars_schema().items())
    for day in (quotes, trades):
        name = next(iter(day.tables))
        checked = check_day(day)[name]
        assert len(checked.rows) + len(checked.quarantined) == len(day.tables[name]) + len(day.apart[name])
        assert checked.counts["off_session"] == {"book": 2, "trades": 1}[name]


def test_a_trade_has_no_side_yet(trades: FeedDay) -> None:
    table = trades.tables["trades"]
    assert list(table.schema.items()) == list(TRADES_TABLE.polars_schema().items())
    assert table.drop("ts_recv").rows() == [
        (MIDNIGHT + 34_199_000 * MS, 0, 0, 499_900, 100, False),
        (MIDNIGHT + 34_200_000 * MS, 1, 0, 500_200, 100, False),
        (MIDNIGHT + 34_200_007 * MS, 2, 0, 500_000, 200, False),
        (MIDNIGHT + 34_200_007 * MS, 3, 0, 500_100, 50, False),
        (MIDNIGHT + 57_600_000 * MS, 7, 0, 500_000, 900, False),
    ]


def test_either_file_gives_the_same_instrument_and_session(quotes: FeedDay, trades: FeedDay) -> None:
    assert quotes.instrument == trades.instrument and quotes.session == trades.session
    assert (quotes.instrument.symbol, quotes.instrument.trade_side, quotes.instrument.levels) == ("ABC", "inferred", 1)
    assert quotes.instrument.tick_size == 0.01 and quotes.instrument.calendar == "us_equity"
    assert (quotes.part, trades.part) == ("quote", "trade")
    assert (quotes.session.open, quotes.session.close) == (MIDNIGHT + 34_200_000 * MS, MIDNIGHT + 57_600_000 * MS)


def test_hours_fee_and_tick_are_what_the_caller_says(tmp_path: Path) -> None:
    day = one(made(tmp_path, "quote"), hours="extended", fee_bps=0.3, tick_units=1)
    assert (day.instrument.calendar, day.instrument.fee_bps, day.instrument.tick_size) == ("us_equity_extended", 0.3, 0.0001)
    assert day.tables["book"]["bid_px_00"].to_list()[1] == 500_000
    assert (day.session.open, day.session.close) == (MIDNIGHT + 4 * 3600 * SECOND, MIDNIGHT + 20 * 3600 * SECOND)
    assert "off_session" not in check_day(day)["book"].counts
    with pytest.raises(InputError, match="Unknown hours 'night'"):
        read_lean(made(tmp_path, "quote"), hours="night")


def test_a_sub_penny_quote_asks_for_a_finer_tick(tmp_path: Path) -> None:
    path = made(tmp_path, "quote", lean_made.QUOTES.replace("500100,100,0,0,N", "500150,100,0,0,N"))
    with pytest.raises(FeedError, match=r"row 6: bid_px 500150 is no whole number of ticks of 100") as caught:
        one(path)
    assert "tick_units=1" in caught.value.hint
    assert one(path, tick_units=1).tables["book"]["bid_px_00"].max() == 500_150
    # A trade may lie between ticks, as the middle of a one-cent spread does.
    assert one(made(tmp_path, "trade", "34200000,500150,100,D,1,0")).tables["trades"]["price"].to_list() == [500_150]


@pytest.mark.parametrize(("day", "offset"), [("20130308", 5), ("20130311", 4), ("20131101", 4), ("20131104", 5)])
def test_summer_time_begins_and_ends(day: str, offset: int, tmp_path: Path) -> None:
    """Friday and Monday around both changes of the clock: 09:30 is 14:30 or 13:30 UTC."""
    path = made(tmp_path, "trade", "34200000,500200,100,N,1,0", f"{day}_abc_Trade_Tick.csv", f"{day}_trade.zip")
    got = one(path)
    at = datetime.strptime(day, "%Y%m%d").replace(hour=9 + offset, minute=30, tzinfo=UTC)
    assert got.tables["trades"]["ts_event"].to_list() == [to_ns(at)] and got.session.open == to_ns(at)


def test_on_the_night_of_the_change_the_wall_clock_counts(tmp_path: Path) -> None:
    path = made(tmp_path, "trade", "34200000,500200,100,N,1,0", "20130310_abc_Trade_Tick.csv", "20130310_trade.zip")
    assert one(path).tables["trades"]["ts_event"].to_list() == [to_ns(datetime(2013, 3, 10, 13, 30, tzinfo=UTC))]


def test_fractions_of_a_millisecond_are_exact(tmp_path: Path) -> None:
    text = "34200000,500200,100,N,1,0\n34200000.367,500200,100,N,1,0\n34200000.367001,500200,100,N,1,0\n"
    ns = one(made(tmp_path, "trade", text)).tables["trades"]["ts_event"] - MIDNIGHT
    assert ns.to_list() == [34_200_000_000_000, 34_200_000_367_000, 34_200_000_367_001]


Q, T = lean_made.QUOTES, lean_made.TRADES
DAMAGE = {
    "a trade file named quote": ("quote", T, r"row 1 has 6 columns, as trade files have; a quote file has 8"),
    "a quote file named trade": ("trade", Q, r"row 1 has 8 columns, as quote files have; a trade file has 6"),
    "bars": ("trade", "34200000,500200,500300,500100,500200,900\n", r"row 1, column 4 \(exchange\): '500100', expected a letter"),
    "header": ("trade", "time,price,size,exchange,condition,suspicious\n" + T, r"row 1, column 1 \(time\): 'time', expected ms"),
    "NaN": ("trade", T.replace("500200", "NaN", 1), r"row 2, column 2 \(price\): 'NaN', expected an integer"),
    "infinite": ("quote", Q.replace("500000,200", "1e999,200"), r"row 2, column 2 \(bid_px\): '1e999'"),
    "decimal price": ("trade", T.replace("500200", "50.02", 1), r"row 2, column 2 \(price\): '50.02', expected an integer"),
    "too large": ("trade", T.replace("500200", "9" * 30, 1), r"row 2, column 2 \(price\): '9999"),
    "empty cell": ("quote", Q.replace("34200000,500000,100", "34200000,500000,"), r"row 4, column 3 \(bid_sz\): ''"),
    "cut within a row": ("trade", T[:-4], r"row 8 has 5 columns"),
    "cut after a comma": ("trade", T[:-1], r"row 8, column 6 \(suspicious\): ''"),
    "ragged": ("trade", T.replace("900,N,80,0", "900,N,80,0,0"), r"row 8 has 7 columns"),
    "blank line": ("trade", T.replace("34200300", "\n34200300"), r"row 5 has 1 columns"),
    "time of another day": ("trade", T.replace("57600000", "86400000"), r"row 8, column 1 \(time\): '86400000', expected ms"),
    "negative time": ("trade", T.replace("34199000", "-1"), r"row 1, column 1 \(time\): '-1'"),
    "condition is no hex": ("trade", T.replace("20004a00", "2000xa00"), r"row 5, column 5 \(condition\): '2000xa00', expected up to 8 hex"),
    "flag is no flag": ("quote", Q.replace("N,1,1", "N,1,2"), r"row 10, column 8 \(suspicious\): '2', expected 0 or 1"),
    "exchange is no letter": ("quote", Q.replace("N,1,1", "NYSE,1,1"), r"row 10, column 6 \(exchange\): 'NYSE'"),
    "empty": ("quote", "", "it is empty"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_short_feed_error(what: str, tmp_path: Path) -> None:
    kind, text, expected = DAMAGE[what]
    with pytest.raises(FeedError, match=expected) as caught:
        one(made(tmp_path, kind, text))
    assert len(str(caught.value).splitlines()) <= 10 and caught.value.hint


def test_line_ends_matter_not(tmp_path: Path) -> None:
    plain = one(made(tmp_path, "trade"))
    for text in (T + "\n", T.replace("\n", "\r\n"), T.replace("\n", "\r\n") + "\r\n"):
        assert one(made(tmp_path, "trade", text)).tables["trades"].equals(plain.tables["trades"])


def test_names_that_contradict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="another day or kind"):
        read_lean(made(tmp_path, "quote", member="20131008_abc_Quote_Tick.csv"))
    with pytest.raises(FeedError, match="another day or kind"):
        read_lean(made(tmp_path, "quote", member="20131007_abc_Trade_Tick.csv"))
    with pytest.raises(FeedError, match=r"not LEAN: it holds prices\.csv"):
        read_lean(made(tmp_path, "quote", member="prices.csv"))
    with pytest.raises(FeedError, match="not LEAN"):
        read_lean(made(tmp_path, "quote", zip_name="quotes.zip"))
    with pytest.raises(FeedError, match="20131399 is no date"):
        read_lean(made(tmp_path, "quote", member="20131399_abc_Quote_Tick.csv", zip_name="20131399_quote.zip"))
    path = made(tmp_path, "quote")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("20131007_xyz_Quote_Tick.csv", Q)
    with pytest.raises(FeedError, match="not LEAN"):
        read_lean(path)
    for name, data in {"20131007_quote.zip": b"hello", "20131008_quote.zip": path.read_bytes()[:200]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FeedError, match="damaged or not a zip"):
            read_lean(tmp_path / name)
    with pytest.raises(FeedError, match="No such file"):
        read_lean(tmp_path / "20131009_quote.zip")


def test_whose_file_it_is_stands_in_its_names(tmp_path: Path) -> None:
    assert identify(made(tmp_path, "trade")) == Identity("ABC", 20131007, MIDNIGHT + 34_200_000 * MS)


def stored(home: Path, *days: FeedDay) -> ParquetTicks:
    ticks = ParquetTicks(home)
    for day in days:
        ticks.write_day(day, check_day(day))
    return ticks


def test_quotes_and_trades_may_come_in_any_order(quotes: FeedDay, trades: FeedDay, tmp_path: Path) -> None:
    streams = []
    for i, order in enumerate(itertools.permutations((quotes, trades))):
        ticks = stored(tmp_path / str(i), *order, order[0])
        universe = ticks.universe(["ABC"])
        (session,) = ticks.sessions(["ABC"])
        streams.append(ticks.events(universe, session))
    first, second = streams
    assert trades.tables["trades"]["sequence"].max() < quotes.tables["book"]["sequence"].min()
    assert all(getattr(first, n).tobytes() == getattr(second, n).tobytes() for n in ("ts", "sequence", "kind", "side", "bid_px", "ask_px"))
    # At one ms the trades come first: 50.02 at 09:30:00.000 meets no quote of that ms, the two at .007 meet that of .000 (50.00 x 50.01).
    assert first.kind.tolist() == [TRADE, BOOK, TRADE, TRADE, BOOK, BOOK, BOOK, BOOK, TRADE]
    assert first.side[first.kind == TRADE].tolist() == [0, -1, 1, -1]


def test_a_file_alone_is_a_session(quotes: FeedDay, trades: FeedDay, tmp_path: Path) -> None:
    for i, (day, kind) in enumerate(((quotes, BOOK), (trades, TRADE))):
        ticks = stored(tmp_path / str(i), day)
        events = ticks.events(ticks.universe(["ABC"]), ticks.sessions(["ABC"])[0])
        assert set(events.kind.tolist()) == {kind}
    with pytest.raises(EmptyRange):
        ticks.sessions(["ABC"], 20131008)


def rows_of(path: Path) -> list[list[str]]:
    with zipfile.ZipFile(path) as archive:
        return list(csv.reader(io.StringIO(archive.read(archive.namelist()[0]).decode())))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("symbol", "day", "messages", "in_session", "crossed", "locked", "suspicious"),
    [
        ("ibm", "20131007", 54_534, 53_957, 42, 0.0059, 1),
        ("ibm", "20131008", 62_875, 62_081, 40, 0.0081, 1),
        ("ibm", "20131009", 67_746, 66_891, 57, 0.0045, 0),
        ("bac", "20131007", 238_428, 236_126, 0, 0.0180, 0),
    ],
)
def test_recorded_quotes(symbol: str, day: str, messages: int, in_session: int, crossed: int, locked: float, suspicious: int) -> None:
    path = recorded(symbol, f"{day}_quote")
    got = one(path)
    # Straight from the definition: a row sets a side, the pair that a message is gives one row.
    bid, ask, expected, pairs = (EMPTY_BID, 0), (EMPTY_ASK, 0), [], 0
    rows = [row for row in rows_of(path) if row[7] == "0"]
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ms, bid_px, bid_sz, ask_px, ask_sz = map(int, row[:5])
        assert (bid_px > 0) != (ask_px > 0), "a row sets exactly one side"
        if bid_px:
            bid = (bid_px // 100, bid_sz)
        else:
            ask = (ask_px // 100, ask_sz)
        if bid_px and following and following[0] == row[0] and following[3] != "0":
            pairs += 1
            continue
        expected.append((ms, *bid, *ask))
    book = got.tables["book"]
    ms = (book["ts_event"] - to_ns(datetime(2013, 10, int(day[-2:]), 4, tzinfo=UTC))) // MS
    assert list(zip(ms.to_list(), *(book[c].to_list() for c in book.columns[3:]), strict=True)) == expected
    assert len(book) == messages and pairs >= messages - 2, "the rows come in pairs"
    assert len(got.apart.get("book", [])) == suspicious and got.source["rows"] == messages + pairs + suspicious
    checked = check_day(got)["book"]
    assert len(checked.rows) == in_session and checked.counts.get("crossed", 0) == crossed
    assert (checked.rows["bid_px_00"] == checked.rows["ask_px_00"]).mean() == pytest.approx(locked, abs=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize(("symbol", "rows", "odd", "in_session"), [("bac", 88_172, 135, 86_309), ("spy", 250_601, 339, 241_180)])
def test_recorded_trades(symbol: str, rows: int, odd: int, in_session: int) -> None:
    path = recorded(symbol, "20131007_trade")
    day = one(path)
    raw = rows_of(path)
    assert len(raw) == rows == day.source["rows"]
    trades, apart = day.tables["trades"], day.apart["trades"]
    assert (len(apart), set(apart["reason"])) == (odd, {"sale_condition"}) and len(trades) == rows - odd
    both = pl.concat([trades, apart.drop("reason")]).sort("sequence")
    assert both["price"].to_list() == [int(r[1]) for r in raw] and both["size"].to_list() == [int(r[2]) for r in raw]
    assert set(both["side"]) == {0} and both["ts_event"].is_sorted()
    assert ((both["ts_event"] - MIDNIGHT) // MS).to_list() == [int(r[0]) for r in raw]
    # 4800 is hexadecimal text, out of sequence and late; as a decimal number it would be the bits of something else.
    late = [i for i, r in enumerate(raw) if r[4] == "4800"]
    assert len(late) > 30 and set(late) <= set(apart["sequence"])
    assert len(check_day(day)["trades"].rows) == in_session


@pytest.mark.real_data
def test_the_largest_recorded_quote_file() -> None:
    day = one(recorded("aig", "20131007_quote"))
    book = day.tables["book"]
    assert (day.source["rows"], len(book)) == (1_079_935, 539_968)
    assert book["bid_px_00"][0] == EMPTY_BID and (book["bid_px_00"].tail(-1) != EMPTY_BID).all()
    checked = check_day(day)["book"]
    assert checked.counts == {"off_session": 285, "crossed": 95}
    # Rows cross in up to .08 % and lock in up to 4.4 % of the messages, in .3 % of the time (docs/data.md).
    assert (checked.rows["bid_px_00"] == checked.rows["ask_px_00"]).mean() == pytest.approx(0.0257, abs=1e-4)


@pytest.mark.real_data
def test_odd_conditions_are_no_prices_of_the_market() -> None:
    """In regular hours 44 % of the trades set apart lie outside the quote before them, 1.6 % of the others (nine days of symbols)."""
    outside = {"good": [0, 0], "odd": [0, 0]}
    for symbol in ("aig", "bac", "ibm"):
        quotes, trades = (one(recorded(symbol, f"20131008_{kind}")) for kind in ("quote", "trade"))
        book = check_day(quotes)["book"].rows
        for what, frame in (("good", trades.tables["trades"]), ("odd", trades.apart["trades"])):
            frame = frame.filter(frame["ts_event"].is_between(trades.session.open + SECOND, trades.session.close))
            last = np.searchsorted(book["ts_event"].to_numpy(), frame["ts_event"].to_numpy(), "left") - 1
            price = frame["price"].to_numpy()
            bid, ask = (book[c].to_numpy()[last].astype(np.int64) * 100 for c in ("bid_px_00", "ask_px_00"))
            outside[what][0] += int(((price < bid) | (price > ask)).sum())
            outside[what][1] += len(price)
    assert outside["odd"][0] / outside["odd"][1] > 0.4 and outside["good"][0] / outside["good"][1] < 0.025
    assert outside["odd"][1] / outside["good"][1] < 0.004


@pytest.mark.real_data
def test_a_symbol_without_quotes_has_trades_and_no_valid_row(tmp_path: Path) -> None:
    spy = one(recorded("spy", "20131007_trade"))
    ticks = stored(tmp_path, spy)
    universe, (session,) = ticks.universe(["SPY"]), ticks.sessions(["SPY"])
    events = ticks.events(Universe(universe.instruments), session)
    assert set(events.kind.tolist()) == {TRADE} and (events.side != 0).mean() > 0.9999
    as_of, _, x, valid, _ = stream.build(universe, FeatureSet(levels=1), session, events)
    assert len(as_of) == 23_400 and not valid.any()
