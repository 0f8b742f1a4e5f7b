"""Binance captures: what a file may be, what it may hold, and the one error for what it may not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cift_models.errors import FeedError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.binance import identify, read_binance
from cift_models.feeds.day import FeedDay
from cift_models.feeds.quality import check_day
from cift_models.instruments import SECOND
from cift_models.schema import BOOK, BOOK_STATE, QUOTES, STATUS, TRADES
from tests.binance_made import MS, T0, Recording, Venue, line, write

NAMES = {"spot": "spot_btcusdt_20240809", "usdm": "usdm_btcusdt_20240809", "coinm": "cm_btcusd_perp_20240809"}
OPS = [("diff", 0), ("diff", 0), ("snapshot", 0), ("ticker", 0), ("trade", 0), ("diff", 0), ("diff", 0), ("trade", 0), ("ticker", 0)]


def day_of(path: Path, **said: Any) -> FeedDay:
    days = list(read_binance(path, **said))
    assert len(days) == 1
    return days[0]


@pytest.mark.parametrize("market", NAMES)
def test_every_table_and_where_it_came_from(market: str, tmp_path: Path) -> None:
    made = Recording(market, 1, OPS)
    path = write(tmp_path / f"{NAMES[market]}.gz", made.text)
    shares: list[float] = []
    day = day_of(path, levels=2, fee_bps=4.0, progress=lambda what, share: shares.append(share))
    instrument = day.instrument
    assert instrument.symbol == f"{made.venue.symbol}.{market.upper()}" and instrument.calendar == "always"
    assert (instrument.levels, instrument.fee_bps, instrument.trade_side) == (2, 4.0, "sent")
    assert instrument.tick_size == {"spot": 0.01, "usdm": 0.1, "coinm": 0.1}[market]
    assert (instrument.lot_scale, instrument.unit) == {"spot": (100_000, "coins"), "usdm": (1_000, "coins"), "coinm": (1, "contracts")}[
        market
    ]
    for name, table in (
        ("book", BOOK.with_levels(2)),
        ("quotes", QUOTES),
        ("trades", TRADES),
        ("status", STATUS),
        ("book_state", BOOK_STATE),
    ):
        table.check(day.tables[name])
    assert {name: len(frame) for name, frame in day.tables.items()} | {"book_state": 0} == {
        "book": 3, "quotes": 2, "trades": 2, "status": 2, "book_state": 0,
    }  # fmt: skip
    assert day.apart["book"]["reason"].to_list() == ["no_snapshot"] * 2
    assert day.apart["book"]["line"].to_list() == [text.rstrip("\n") for text in made.lines[:2]]
    source = day.source
    assert source["file"] == path.name and source["market"] == market and source["receive_clock"] is True
    assert (source["lines"], source["depth_gaps"], source["snapshots"], source["continues"]) == (9, 0, 1, None)
    assert source.get("contract_usd") == (100 if market == "coinm" else None)
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    assert json.loads(json.dumps(source)) == source
    assert check_day(day)["book"].counts == {"no_snapshot": 2} and not check_day(day)["quotes"].counts
    # The state is the venue's whole book, in price units, and bears the id that a next file must follow.
    state = day.tables["book_state"]
    units = instrument.tick_units
    assert set(zip(state["side"], state["price"] // units, state["size"], strict=True)) == {
        (side, ticks, lots) for side, levels in made.venue.book.items() for ticks, lots in levels.items()
    }
    assert state["sequence"].unique().to_list() == [made.venue.u]
    assert identify(path) == (instrument.symbol, 20240809, T0)


def test_times_and_sequence(tmp_path: Path) -> None:
    """T, else E, else the receive time; numbered from the second of the day in which the part begins."""
    lines = {m: Recording(m, 1, OPS).lines for m in ("spot", "usdm")}
    late = {m: [text.replace("172316160000", "172316160700", 1) for text in texts] for m, texts in lines.items()}
    for market, texts in late.items():
        day = day_of(write(tmp_path / f"{NAMES[market]}.gz", "".join(texts)))
        begin = T0 + 7 * SECOND
        assert day.part == "t00007" and day.session.open == begin and day.session.close == begin + SECOND
        book, quotes, trades = (day.tables[name] for name in ("book", "quotes", "trades"))
        assert book["sequence"].to_list() == [(7 << 32) + i for i in (2, 5, 6)]
        assert quotes["sequence"].to_list() == [(7 << 32) + i for i in (3, 8)]
        assert day.tables["status"]["sequence"].to_list() == [(7 << 32) + i for i in (0, 2)]
        assert quotes["ts_recv"].to_list() == [begin + 3 * MS, begin + 8 * MS]
        # Sent at the venue's millisecond i + 1; E is 5 ms later. Spot's quotes and snapshot have no time but ours.
        assert trades["ts_event"].to_list() == [T0 + 5 * MS, T0 + 8 * MS]
        assert book["ts_event"].to_list()[1:] == [T0 + (6 + 5 * (market == "spot")) * MS, T0 + (7 + 5 * (market == "spot")) * MS]
        spot = market == "spot"
        assert book["ts_event"][0] == (begin + 2 * MS if spot else T0 + 3 * MS)
        assert quotes["ts_event"].to_list() == ([begin + 3 * MS, begin + 8 * MS] if spot else [T0 + 4 * MS, T0 + 9 * MS])


def test_the_buyer_s_order_rested_so_the_seller_took(tmp_path: Path) -> None:
    venue = Venue("usdm", 1)
    texts = [line(T0 + i, venue.trade(m=maker, p="100.10", q="0.250")) for i, maker in enumerate((True, False))]
    trades = day_of(write(tmp_path / "usdm_btcusdt_20240809.gz", "".join(texts))).tables["trades"]
    assert trades["side"].to_list() == [-1, 1] and trades["price"].to_list() == [1001, 1001] and trades["size"].to_list() == [250, 250]
    assert trades["hidden"].to_list() == [False, False]


def test_what_is_no_trade_goes_apart(tmp_path: Path) -> None:
    venue = Venue("usdm", 1)
    odd = [{"X": "INSURANCE_FUND"}, {"X": "NA", "p": "0", "q": "0"}, {"p": "0.00"}, {"q": "0.000"}]
    texts = [line(T0 + i, venue.trade(**other)) for i, other in enumerate([{}, *odd])]
    day = day_of(write(tmp_path / "usdm_btcusdt_20240809.gz", "".join(texts)))
    assert len(day.tables["trades"]) == 1 and day.apart["trades"]["reason"].to_list() == ["not_a_trade"] * 4
    assert '"X":"INSURANCE_FUND"' in day.apart["trades"]["line"][0]
    assert check_day(day)["trades"].counts == {"not_a_trade": 4}


def test_other_streams_are_counted(tmp_path: Path) -> None:
    made = Recording("usdm", 1, OPS)
    venue = made.venue
    other = [
        venue.wrap("markPrice@1s", {"e": "markPriceUpdate", "E": T0 // MS, "s": "BTCUSDT", "p": "100.1"}),
        venue.wrap("markPrice@1s", {"e": "markPriceUpdate", "E": T0 // MS, "s": "BTCUSDT", "p": "100.1"}),
        venue.wrap("depth20@100ms", json.loads(venue.diff()[0])["data"]),  # the best levels only: no change to the whole book
        '{"result":null,"id":1}',
    ]
    lines = [made.lines[0], *[line(T0, text) for text in other], *made.lines[1:]]
    day = day_of(write(tmp_path / "usdm_btcusdt_20240809.gz", "".join(lines)))
    assert day.source["unknown"] == {"btcusdt@depth20@100ms": 1, "btcusdt@markPrice@1s": 2, "result": 1}
    assert day.source["lines"] == 13 and len(day.tables["book"]) == 3


def test_the_older_recorder(tmp_path: Path) -> None:
    """Microseconds, a name without the market, and a snapshot that Python wrote with blanks."""
    for market in NAMES:
        made = Recording(market, 1, OPS)
        new = day_of(write(tmp_path / f"{NAMES[market]}.gz", made.text))
        spaced = [json.dumps(json.loads(m["text"])) if m["op"] == "snapshot" else m["text"] for m in made.messages]
        old = "".join(line(T0 + i * MS, text, unit=1_000) for i, text in enumerate(spaced))
        path = write(tmp_path / "btcusdt_20240809.dat", old)
        with pytest.raises(FeedError, match=r"market of btcusdt_20240809\.dat is not known") as caught:
            list(read_binance(path))
        assert "market=spot|usdm|coinm" in caught.value.hint
        day = day_of(path, market=market)
        for name, frame in new.tables.items():
            assert day.tables[name].equals(frame), name
        assert (day.source["receive_unit_ns"], new.source["receive_unit_ns"]) == (1_000, 1)


def test_raw_streams_without_a_wrapper(tmp_path: Path) -> None:
    for market in NAMES:
        made = Recording(market, 1, OPS)
        new = day_of(write(tmp_path / f"{NAMES[market]}.gz", made.text))
        bare = [json.dumps(json.loads(m["text"]).get("data", json.loads(m["text"])), separators=(",", ":")) for m in made.messages]
        day = day_of(write(tmp_path / f"{NAMES[market]}.txt", "".join(line(T0 + i * MS, text) for i, text in enumerate(bare))))
        for name, frame in new.tables.items():
            assert day.tables[name].equals(frame), name


def test_an_empty_side_of_the_quote(tmp_path: Path) -> None:
    venue = Venue("spot", 1)
    venue.book[1].clear()
    quotes = day_of(write(tmp_path / "spot_btcusdt_20240809.gz", line(T0, venue.ticker()))).tables["quotes"]
    assert (quotes["bid_px"][0], quotes["bid_sz"][0]) == (EMPTY_BID, 0) and quotes["ask_px"][0] == venue.top(1)[1][0][0]
    assert EMPTY_ASK not in quotes["ask_px"]


def test_a_line_that_cannot_be_read_is_set_apart_and_the_gap_shows(tmp_path: Path) -> None:
    made = Recording("spot", 1, [*OPS, ("diff", 0), ("diff", 0)])
    made.lines[5] = made.lines[5][:60] + "\n"  # a change, cut
    day = day_of(write(tmp_path / "spot_btcusdt_20240809.gz", "".join(made.lines)[:-30]))  # and the recorder was killed in the last line
    assert day.apart["book"]["reason"].to_list() == [*["no_snapshot"] * 2, "damaged", "no_snapshot", "no_snapshot", "damaged"]
    assert day.apart["book"]["line"][2] == made.lines[5].rstrip("\n")
    assert day.source["depth_gaps"] == 1 and day.tables["status"]["halted"].to_list() == [True, False, True]
    assert len(day.tables["book_state"]) == 0 and len(day.tables["book"]) == 1
    assert len(day.tables["trades"]) == 2 and len(day.tables["quotes"]) == 2


def test_a_file_of_damaged_lines_is_refused(tmp_path: Path) -> None:
    made = Recording("spot", 1, OPS)
    lines = [made.lines[0], *[made.lines[1][:80] + "\n"] * 11, *made.lines[2:]]
    with pytest.raises(FeedError, match="11 of 19 lines cannot be read; the first is line 2"):
        list(read_binance(write(tmp_path / "spot_btcusdt_20240809.gz", "".join(lines))))


def test_midnight_begins_a_day_with_the_same_book(tmp_path: Path) -> None:
    made = Recording("coinm", 1, [*OPS, ("diff", 0), ("diff", 0)])
    begin = T0 - 5 * MS
    lines = [line(begin + i * MS, m["text"]) for i, m in enumerate(made.messages)]
    first, second = read_binance(write(tmp_path / "cm_btcusd_perp_20240808.gz", "".join(lines)))
    assert (first.session.day, first.part, second.session.day, second.part) == (20240808, "t86399", 20240809, "t00000")
    assert first.session.close == second.session.open == T0
    assert second.tables["book"]["sequence"].to_list() == [0, 1, 4, 5] and len(second.tables["status"]) == 0
    last = first.tables["book_state"]["sequence"][0]
    assert second.source["continues"] == last and first.source["continues"] is None
    assert [first.source["lines"], second.source["lines"]] == [5, 6]
    # A clock that is set back over midnight stays in the day that has begun.
    lines[7] = lines[7].replace(str(T0 + 2 * MS), str(T0 - 2 * MS))
    again = list(read_binance(write(tmp_path / "cm_btcusd_perp_20240808.gz", "".join(lines))))
    assert [day.source["lines"] for day in again] == [5, 6]


def test_a_wrong_time_in_a_damaged_line_begins_no_day(tmp_path: Path) -> None:
    made = Recording("coinm", 1, OPS)
    lines = [*made.lines[:4], f"{T0 + 10**18} " + made.lines[4][20:60] + "\n", *made.lines[5:]]
    day = day_of(write(tmp_path / "cm_btcusd_perp_20240809.gz", "".join(lines)))
    assert day.apart["book"]["reason"].to_list() == ["no_snapshot", "no_snapshot", "damaged"]
    lines[4] = f"{T0 + 10**18} " + made.lines[4][20:]
    with pytest.raises(FeedError, match=r"line 5: received at 2723161600000000000 ns, sent at 1723161600005 ms"):
        list(read_binance(write(tmp_path / "cm_btcusd_perp_20240809.gz", "".join(lines))))


def exchange_info(tmp_path: Path, market: str, tick: str, step: str, symbol: str = "BTCUSDT", **more: Any) -> Path:
    """Binance's exchangeInfo of one symbol."""
    listed = {
        "spot": {"isSpotTradingAllowed": True},
        "usdm": {"contractType": "PERPETUAL"},
        "coinm": {"contractType": "PERPETUAL", "contractSize": 10},
    }
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000.00000000", "stepSize": step},
    ]
    path = tmp_path / f"exchangeInfo_{market}.json"
    path.write_text(json.dumps({"timezone": "UTC", "symbols": [{"symbol": symbol, "filters": filters, **listed[market], **more}]}))
    return path


def test_the_grid_comes_from_exchange_info(tmp_path: Path) -> None:
    made = Recording("usdm", 1, OPS)
    text = made.text.replace('"s":"BTCUSDT"', '"s":"XYZUSDT"').replace("btcusdt@", "xyzusdt@")
    path = write(tmp_path / "usdm_xyzusdt_20240809.gz", text)
    with pytest.raises(FeedError, match=r"line 1: The tick and the lot of XYZUSDT\.USDM are not known") as caught:
        list(read_binance(path))
    assert "instruments=FILE" in caught.value.hint and "BTCUSDT.USDM" in caught.value.hint
    day = day_of(path, instruments=exchange_info(tmp_path, "usdm", "0.05000000", "0.00100000", "XYZUSDT"))
    assert (day.instrument.price_scale, day.instrument.tick_units, day.instrument.tick_size) == (100, 5, 0.05)
    same = day_of(write(tmp_path / "usdm_btcusdt_20240809.gz", made.text))
    # 0.1 is two ticks of 0.05, ten price units of 0.01.
    assert day.tables["book"]["bid_px_00"].to_list() == [2 * px for px in same.tables["book"]["bid_px_00"]]
    assert day.tables["quotes"]["ask_px"].to_list() == [2 * px for px in same.tables["quotes"]["ask_px"]]
    assert day.tables["trades"]["price"].to_list() == [10 * px for px in same.tables["trades"]["price"]]
    assert day.tables["book_state"]["price"].to_list() == [10 * px for px in same.tables["book_state"]["price"]]
    whole = day_of(path, instruments=exchange_info(tmp_path, "usdm", "0.1", "0.0001", "XYZUSDT"))
    assert whole.instrument.lot_scale == 10_000 and whole.tables["trades"]["size"].to_list() == [
        10 * q for q in same.tables["trades"]["size"]
    ]


def test_contract_sizes_come_from_exchange_info(tmp_path: Path) -> None:
    path = write(tmp_path / "cm_btcusd_perp_20240809.gz", Recording("coinm", 1, OPS).text)
    day = day_of(path, instruments=exchange_info(tmp_path, "coinm", "0.1", "1", "BTCUSD_PERP"))
    assert day.source["contract_usd"] == 10 and day.instrument.unit == "contracts"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("{}", "no exchangeInfo of Binance: KeyError 'symbols'"),
        ("[", "no exchangeInfo of Binance: JSONDecodeError"),
        ('{"symbols": [{"symbol": "BTCUSDT", "filters": []}]}', "no exchangeInfo of Binance: KeyError 'PRICE_FILTER'"),
        ("spot", r"lists BTCUSDT of spot, asked was usdm"),
        ("coinm", r"lists BTCUSDT of coinm, asked was usdm"),
        ("0", "a step of '0.00'"),
        ("x", "'x' is no decimal"),
    ],
)
def test_another_exchange_info_is_refused(info: str, expected: str, tmp_path: Path) -> None:
    capture = write(tmp_path / "usdm_btcusdt_20240809.gz", Recording("usdm", 1, OPS).text)
    if info in ("spot", "coinm"):
        path = exchange_info(tmp_path, info, "0.1", "0.001")
    elif info in "0x":
        path = exchange_info(tmp_path, "usdm", {"0": "0.00", "x": "x"}[info], "0.001")
    else:
        path = tmp_path / "info.json"
        path.write_text(info)
    with pytest.raises(FeedError, match=expected):
        list(read_binance(capture, instruments=path))
    with pytest.raises(FeedError, match="No such file"):
        list(read_binance(capture, instruments=tmp_path / "absent.json"))


@pytest.mark.parametrize("market", NAMES)
@pytest.mark.parametrize("said", NAMES)
def test_the_content_says_its_market(market: str, said: str, tmp_path: Path) -> None:
    """Whatever the file is called and whatever was said: and nothing is guessed where nothing was said."""
    made = Recording(market, 1, OPS)
    for drop in ((), ("trade", "ticker"), ("diff", "snapshot", "trade")):
        text = "".join(text for text, m in zip(made.lines, made.messages, strict=True) if m["op"] not in drop)
        path = write(tmp_path / f"{NAMES[said]}.gz", text)
        if said == market:
            day_of(path)
            assert day_of(path, market=market).source["market"] == market
            continue
        for with_words in ({}, {"market": said}):
            with pytest.raises(FeedError, match=f"holds messages that .*{market}.* sends; it was said to be {said}"):
                list(read_binance(path, **with_words))
        assert day_of(path, market=market).source["market"] == market  # what is said wins over the name
    with pytest.raises(FeedError, match="the market 'margin' is not known"):
        list(read_binance(path, market="margin"))


def test_a_message_of_another_market_in_the_middle(tmp_path: Path) -> None:
    made, other = Recording("usdm", 1, OPS), Recording("coinm", 1, OPS)
    lines = [*made.lines[:6], other.lines[6], *made.lines[7:]]
    with pytest.raises(FeedError, match=r"usdm_btcusdt_20240809\.gz, line 7: a message that coinm sends; the stream was said to be usdm"):
        list(read_binance(write(tmp_path / "usdm_btcusdt_20240809.gz", "".join(lines))))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"p":"100.00"', '"p":"100.05"', r"line 5: the price 100\.05 of BTCUSDT\.USDM is no whole number of ticks of 0\.1"),
        ('"b":[["99', '"b":[["99.55","1.000"],["99', r"line 6: the price 99\.55"),
        ('"bids":[["', '"bids":[["99.55","1.000"],["', r"line 3: the price 99\.55"),
        ('"b":"99', '"b":"99.01","x":"99', r"line 4: the price 99\.01"),
        ('"b":[["99', '"b":[["214748364.7","1.000"],["99', r"line 6: the price 214748364\.7"),
        ('"b":[["99', '"b":[["99.5","99999999999999999999.000"],["99', r"line 6: the number 99999999999999999999\.000"),
    ],
)
def test_a_price_off_its_grid_names_its_line(old: str, new: str, expected: str, tmp_path: Path) -> None:
    made = Recording("usdm", 1, [*OPS[:5], ("diff", 0), *[("diff", 0)] * 20])
    head, text = "".join(made.lines[:2]), "".join(made.lines[2:])
    lines = text.splitlines(keepends=True)
    at = next(i for i, one in enumerate(lines) if old in one)
    lines[at] = lines[at].replace(old, new, 1)
    if '"b":[' in old:
        expected = expected.replace("line 6", f"line {at + 3}")
    with pytest.raises(FeedError, match=expected) as caught:
        list(read_binance(write(tmp_path / "usdm_btcusdt_20240809.gz", head + "".join(lines))))
    assert "exchangeInfo" in caught.value.hint and len(str(caught.value).splitlines()) <= 10


def test_sizes_finer_than_a_lot_count_as_the_whole_lots_in_them(tmp_path: Path) -> None:
    """Orders of before a coarser step rest in real books; what is left of a lot can be traded by no order of today."""
    made = Recording("usdm", 1, OPS)
    made.lines[2] = made.lines[2].replace('"bids":[[', '"bids":[["1.0","7.0019"],["0.9","0.0009"],[')
    day = day_of(write(tmp_path / "usdm_btcusdt_20240809.gz", made.text))
    state = day.tables["book_state"]
    assert state.filter(state["price"] < 11).rows() == [(*state.row(0)[:3], 1, 10, 7001)]
    assert day.source["finer_than_lot"] == 2
    text = made.text.replace('.000"]', '.0001"]')
    with pytest.raises(FeedError, match=r"sizes of BTCUSDT\.USDM are finer than a lot of 0\.001; the first stands in line"):
        list(read_binance(write(tmp_path / "usdm_btcusdt_20240809.gz", text + more_sizes(made))))


def more_sizes(made: Recording) -> str:
    """Changes with a dozen sizes finer than a lot."""
    data = json.loads(made.messages[6]["text"])
    data["data"] |= {"pu": made.venue.u, "U": made.venue.u + 1, "u": made.venue.u + 2, "b": [["1.0", "0.00005"]] * 12}
    return line(T0 + 20 * MS, json.dumps(data, separators=(",", ":")))


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    text = Recording("spot", 1, OPS).text
    packed = gzip.compress(text.encode())
    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "is no capture: it is empty"),
        "text": (b"hello\n", "is no capture: its first line is 'hello'"),
        "milliseconds": (b'1723161600000 {"stream":"btcusdt@trade","data":{}}\n', "is no capture: its first line is '1723161600000"),
        "impossible time": (b'0000000000000000000 {"stream":"btcusdt@trade","data":{}}\n', "is no capture"),
        "nothing of ours": (f"{T0} {{}}\n".encode() * 3, "none of its first lines is a depth"),
        "cut": (packed[: len(packed) // 2], "is cut: the gzip stream has no end"),
        "flipped": (packed[:-6] + bytes([packed[-6] ^ 255]) + packed[-5:], "is damaged: CRC check failed"),
    }
    for name, (data, expected) in cases.items():
        path = tmp_path / f"spot_btcusdt_20240809.{'gz' if name in ('cut', 'flipped') else 'txt'}"
        path.write_bytes(data)
        with pytest.raises(FeedError, match=expected) as caught:
            list(read_binance(path))
        assert caught.value.hint, name
    with pytest.raises(FeedError, match="No such file"):
        list(read_binance(tmp_path / "spot_absent_20240809.gz"))
    with pytest.raises(FeedError, match="A book of 0 levels"):
        list(read_binance(write(tmp_path / "spot_btcusdt_20240809.gz", text), levels=0))


def test_two_packed_streams_in_one_file(tmp_path: Path) -> None:
    """A recorder that is started again may append a gzip stream to its file."""
    made = Recording("spot", 1, OPS)
    one = day_of(write(tmp_path / "spot_btcusdt_20240809.gz", made.text))
    halves = "".join(made.lines[:4]).encode(), "".join(made.lines[4:]).encode()
    path = tmp_path / "spot_btcusdt_20240809.gz"
    path.write_bytes(b"".join(gzip.compress(half) for half in halves))
    two = day_of(path)
    assert all(two.tables[name].equals(frame) for name, frame in one.tables.items())
