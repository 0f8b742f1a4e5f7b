"""Names of streams, and the line that says that lines are missing."""

from __future__ import annotations

import pytest

from cift_models.errors import InputError
from cift_models.feeds.binance import BinanceStream
from serving.feed import venue
from serving.feed.venue import DEPTH, QUOTE, TRADE
from tests.feed_made import START, made


def halts(rows: list) -> list[tuple[bool, int]]:
    """(lost?, sequence) of every status row."""
    return [(bool(h), int(s)) for one in rows for h, s in zip(*(one.tables["status"][c] for c in ("halted", "sequence")), strict=True)]


def text(lines: list[tuple[int, bytes]]) -> bytes:
    return b"".join(b"%d %s\n" % line for line in lines)


@pytest.mark.parametrize("where", ["before any change", "between snapshot and change", "in a whole book", "in a lost book"])
def test_a_declared_gap_loses_the_book_until_the_next_snapshot(where: str):
    lines = made(seconds=4).lines
    snapshot = next(i for i, (_, line) in enumerate(lines) if line.startswith(b'{"last'))
    at = {"before any change": 0, "between snapshot and change": snapshot + 1, "in a whole book": 40, "in a lost book": snapshot - 1}[where]
    gap = lines[max(0, at - 1)][0], venue.break_line("BTCUSDT", "spot", "closed")
    stream = BinanceStream("spot", 5, symbol="BTCUSDT")
    rows = stream.push(text([*lines[:at], gap, *lines[at:]]))
    said = halts(rows)
    if where in ("before any change", "in a lost book"):
        # The first change says that the book is not whole anyway; the snapshot mends it, behind the declared gap too.
        assert [lost for lost, _ in said] == [True, False]
        assert rows[0].facts.gaps == 0
    else:
        assert [lost for lost, _ in said] == [True, False, True]
        assert rows[0].facts.gaps == 1 and said[2][1] & 0xFFFFFFFF == at
        # No row of a book follows it: what was kept before the gap mends nothing.
        assert int(rows[0].tables["book"]["sequence"][-1]) & 0xFFFFFFFF < at


@pytest.mark.parametrize(("symbol", "market"), [("BTCUSDT", "spot"), ("BTCUSDT", "usdm"), ("BTCUSD_PERP", "coinm")])
def test_every_market_reads_a_declared_gap_as_a_change_that_follows_nothing(symbol: str, market: str):
    line = venue.break_line(symbol, market, 'he said "no"')
    assert venue.is_break(line) and venue.kind_of(venue.stream_of(line) or b"") == (symbol, DEPTH)
    rows = BinanceStream(market, symbol=symbol).push(b"%d %s\n" % (START, line))
    assert halts(rows) == [(True, int(rows[0].tables["status"]["sequence"][0]))]
    assert rows[0].apart["book"]["reason"] == ["no_snapshot"] and rows[0].apart["book"]["ts_event"] == [START]


def test_only_our_own_gaps_are_taken_for_ours():
    assert not any(venue.is_break(line) for _, line in made(seconds=3).lines)


def test_streams_by_market_and_speed():
    assert venue.streams("BTCUSDT", "spot", 100) == ("btcusdt@depth@100ms", "btcusdt@bookTicker", "btcusdt@trade")
    assert venue.streams("BTCUSDT", "spot", 1000)[0] == "btcusdt@depth" == venue.streams("BTCUSDT", "usdm", 250)[0]
    assert venue.streams("BTCUSD_PERP", "coinm", 0)[0] == "btcusd_perp@depth@0ms"
    with pytest.raises(InputError, match="every 250 ms"):
        venue.streams("BTCUSDT", "spot", 250)


def test_what_a_message_is_is_read_from_its_stream():
    kinds = {venue.kind_of(venue.stream_of(line) or b"") for _, line in made(seconds=2).lines if b'"stream"' in line}
    assert kinds == {("BTCUSDT", DEPTH), ("BTCUSDT", QUOTE), ("BTCUSDT", TRADE)}
    assert venue.stream_of(b'{"result":null,"id":1}') is None
    assert venue.kind_of(b"btcusdt@depth5@100ms") is None and venue.kind_of(b"btcusdt@aggTrade") is None


@pytest.mark.parametrize("asked", ["", ",", "BTCUSDT,BTCUSDT", "BTC/USDT", "BTCUSDT.USDM"])
def test_symbols_that_are_none_are_refused(asked: str):
    with pytest.raises(InputError):
        venue.symbols(asked, "spot")


def test_symbols_and_addresses():
    assert venue.symbols(" btcusdt, ETHUSDT.SPOT", "spot") == ("BTCUSDT", "ETHUSDT")
    moved = venue.venue("usdm", "ws://127.0.0.1:9/", "http://127.0.0.1:9/")
    assert (moved.ws, moved.rest, moved.path) == ("ws://127.0.0.1:9", "http://127.0.0.1:9", "/fapi/v1")
    assert venue.venue("usdm").ws == "wss://fstream.binance.com/public"
    for wrong in ({"market": "swap"}, {"market": "spot", "ws": "http://x"}, {"market": "spot", "rest": "x:1"}):
        with pytest.raises(InputError):
            venue.venue(**wrong)
