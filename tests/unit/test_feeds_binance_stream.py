"""The state machine: the same bits however it is pushed, and from the compiled reader as from the slow one."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import FeedError
from cift_models.feeds.binance import BinanceStream, stream
from cift_models.feeds.binance.scan import OTHER
from tests.binance_made import LEVELS, MS, T0, Recording, Venue, apart, columns, everything, line, run

MARKETS = ("spot", "usdm", "coinm")
OPS = ("diff", "diff", "diff", "diff", "lost", "snapshot", "ticker", "trade")


def script(seed: int, n: int) -> list[tuple[str, int]]:
    """What a venue does, and how late its snapshots come."""
    dice = random.Random(seed)
    return [("diff", 0), ("snapshot", 0), *((dice.choice(OPS), dice.randint(-2, 4)) for _ in range(n))]


def rough(market: str, seed: int, n: int = 40) -> list[bytes]:
    """Lines of a recording with all that may be in one: other streams, lines that cannot be read, trades that are none, midnight."""
    made = Recording(market, seed, script(seed, n))
    dice = random.Random(seed + 1)
    lines = [text.encode() for text in made.lines]
    odd = [
        made.venue.wrap("markPrice@1s", {"e": "markPriceUpdate", "p": "1.5"}),
        made.venue.wrap("depth5@100ms", {"e": "depthUpdate", "s": made.venue.symbol, "b": [], "a": []}),
        '{"result":null,"id":1}',
        made.venue.ticker()[:-20],
        made.venue.trade(p="0", q="0"),
    ]
    if market != "spot":
        odd.append(made.venue.trade(X="INSURANCE_FUND"))
    for _ in range(6):
        at = dice.randrange(1, len(lines))
        lines.insert(at, lines[at - 1].split(b" ", 1)[0] + b" " + dice.choice(odd).encode() + b"\n")
    # The last third is of the next day.
    day = 86_400 * 10**9
    for i in range(len(lines) * 2 // 3, len(lines)):
        ns, _, rest = lines[i].partition(b" ")
        lines[i] = (
            str(int(ns) + day).encode() + b" " + rest.replace(b'"E":17231616', b'"E":17232480').replace(b'"T":17231616', b'"T":17232480')
        )
    return lines


@pytest.mark.parametrize("market", MARKETS)
def test_cuts_change_no_bit(market: str) -> None:
    """Cut anywhere, lines too; with a copy that goes on from every cut; and line by line."""
    dice = random.Random(7)
    for seed in range(12):
        lines = rough(market, seed)
        data = b"".join(lines)
        symbol = Venue(market, 0).symbol
        whole = everything(run(data, market, symbol=symbol))
        assert len(whole) == 2  # two days
        assert everything(run(data, market, list(range(len(data))) if seed == 0 else [], symbol=symbol)) == whole
        edges = np.cumsum([len(text) for text in lines]).tolist()
        assert everything(run(data, market, edges, symbol=symbol)) == whole
        for _ in range(8):
            cuts = [dice.randrange(len(data)) for _ in range(dice.randint(1, 5))]
            assert everything(run(data, market, cuts, symbol=symbol)) == whole
        cut = dice.randrange(len(data))
        first = BinanceStream(market, LEVELS, symbol=symbol)
        before = first.push(data[:cut])
        fork = first.copy()
        fork.push(data[cut : cut + 500])
        fork.finish()
        assert everything(before + first.push(data[cut:]) + first.finish()) == whole


@pytest.mark.parametrize("market", MARKETS)
def test_the_compiled_reader_says_what_the_slow_one_says(market: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On recordings with all that may be in one, and on the same with bytes changed, lost and added at random."""
    dice = random.Random(market)
    slow = 0
    for seed in range(150):
        lines = rough(market, seed, n=12)
        for _ in range(dice.randint(0, 3) if seed else 0):
            at = dice.randrange(1, len(lines))
            text = bytearray(lines[at][:-1])
            place = dice.randrange(len(text))
            what = dice.choice((b"0", b"9", b"-", b".", b'"', b"}", b"]", b" ", b"x", b",", b"\\", b"\xff", b"e", b"T", b"a", b"null"))
            text[place : place + dice.choice((0, 1, 1))] = what
            lines[at] = bytes(text) + b"\n"
        data = b"".join(lines)
        fast = outcome(data, market)
        with monkeypatch.context() as patch:
            patch.setattr(stream, "scan", refuse_all)
            assert outcome(data, market) == fast
        slow += isinstance(fast, str)
    assert slow < 100  # most damage is set apart, some (a price between ticks) ends the recording


USUAL = {
    "depth": '{"stream":"btcusdt@depth@0ms","data":{"e":"depthUpdate","E":1723161600005,"T":1723161600001,"s":"BTCUSDT",'
    '"U":11,"u":12,"pu":10,'
    '"b":[["99.5","1.000"]],"a":[]}}',
    "ticker": '{"e":"bookTicker","u":12,"s":"BTCUSDT","b":"99.5","B":"1.000","a":"99.6","A":"2.000","T":1723161600001,"E":1723161600005}',
    "trade": '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161600005,"T":1723161600001,"s":"BTCUSDT","t":1,"p":"99.5","q":"1.000",'
    '"X":"MARKET","m":true}}',
}
ODD = [
    # which, what of it, what instead, what it then is: its own table, damaged, unknown, no trade, an error
    ("depth", '"u":12', '"u":012', "damaged"),
    ("depth", '"u":12', '"u":-12', "damaged"),
    ("depth", '"u":12', '"u":12.0', "damaged"),
    ("depth", '"u":12', '"u":1e3', "damaged"),
    ("depth", '"u":12', '"u":"12"', "damaged"),
    ("depth", '"u":12', '"u":9', "damaged"),
    ("depth", '"u":12', '"u":1000000000000000000', "damaged"),
    ("depth", '"u":12', '"u":11,"u":12', "depth"),
    ("depth", '"u":12', '"u":12,"u":9', "damaged"),
    ("depth", '"pu":10,', '"pu":10,"b":[["1.0","1.000"]],', "depth"),
    ("depth", '"a":[]', '"a":[],"b":[]', "depth"),
    ("depth", '"a":[]', '"a":[],"b":5', "damaged"),
    ("depth", '"a":[]', '"a":null', "damaged"),
    ("depth", '"a":[]', '"a":[[]]', "damaged"),
    ("depth", '"a":[]', '"a":[["99.6"]]', "damaged"),
    ("depth", '"a":[]', '"a":[["99.6","1.000","2"]]', "damaged"),
    ("depth", '"a":[]', '"a":[["99.6","1.000"],]', "damaged"),
    ("depth", '"a":[]', '"a":[["99.6",1.000]]', "damaged"),
    ("depth", '"a":[]', '"a":[["99.","1.000"]]', "damaged"),
    ("depth", '"a":[]', '"a":[[".6","1.000"]]', "damaged"),
    ("depth", '"a":[]', '"a":[["-99.6","1.000"]]', "damaged"),
    ("depth", '"a":[]', '"a":[["9٩.6","1.000"]]', "damaged"),
    ("depth", '"a":[]', '"a":[["0099.60000","1"]]', "depth"),
    ("depth", '"a":[]', '"a":[["99.65","1.000"]]', "error"),
    ("depth", ',"a":[]', "", "damaged"),
    ("depth", ',"a":[]', ',"a":[],"x":{"y":1}', "depth"),
    ("depth", ',"a":[]', ',"a":[],"x":"\\u0041","y":null', "depth"),
    ("depth", '"e":"depthUpdate",', "", "unknown"),
    ("depth", '"e":"depthUpdate"', '"e":"trade"', "damaged"),
    ("depth", "depth@0ms", "depth", "depth"),
    ("depth", "depth@0ms", "depth20@0ms", "unknown"),
    ("depth", "depth@0ms", "depth0ms", "unknown"),
    ("depth", "depth@0ms", "trade", "damaged"),
    ("depth", "btcusdt@depth", "@depth", "unknown"),
    ("depth", ',"pu":10', ',"pu": 10', "depth"),
    ("depth", "}}", "}} ", "depth"),
    ("depth", "}}", "}}}", "damaged"),
    ("depth", "}}", "}", "damaged"),
    ("depth", "}}", ',"z":1}}', "depth"),
    ("depth", "}}", "}}x", "damaged"),
    ("depth", '"s":"BTCUSDT"', '"s":"btcusdt"', "damaged"),
    ("depth", '"s":"BTCUSDT"', '"s":5', "damaged"),
    ("depth", '"s":"BTCUSDT",', "", "damaged"),
    ("depth", '"s":"BTCUSDT"', '"s":"BTCUSDT","s":"XXUSDT"', "error"),
    ("ticker", '"b":"99.5"', '"b":99.5', "damaged"),
    ("ticker", '"b":"99.5"', '"b":"99.5","b":"99.4"', "ticker"),
    ("ticker", '"b":"99.5"', '"b":"99.55"', "error"),
    ("ticker", '"b":"99.5"', '"b":"214748364.7"', "error"),
    ("ticker", '"T":1723161600001,', "", "error"),
    ("ticker", ',"E":1723161600005', ',"E":1', "ticker"),
    ("ticker", '"e":"bookTicker"', '"e":"aggTrade"', "unknown"),
    ("trade", '"m":true', '"m":1', "damaged"),
    ("trade", '"m":true', '"m":"true"', "damaged"),
    ("trade", '"m":true', '"m":true,"m":false', "trade"),
    ("trade", '"m":true', '"m":tru', "damaged"),
    ("trade", '"q":"1.000"', '"q":"0"', "no trade"),
    ("trade", '"q":"1.000"', '"q":"0.0001"', "trade"),
    ("trade", '"t":1,', '"t":1,"b":88,"a":50,', "trade"),
    ("trade", '"t":1,', '"t":1,"b":"88",', "trade"),
    ("trade", '"X":"MARKET"', '"X":"INSURANCE_FUND"', "no trade"),
    ("trade", '"p":"99.5"', '"p":99.5', "damaged"),
    ("trade", '"T":1723161600001,', "", "damaged"),
]


@pytest.mark.parametrize(("which", "old", "new", "expected"), ODD)
def test_what_each_odd_line_is(which: str, old: str, new: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both readers, on lines that JSON or Binance would not write, or might one day."""
    assert old in USUAL[which]
    text = "".join(line(T0 + i, said) for i, said in enumerate((USUAL["trade"], USUAL[which].replace(old, new, 1), USUAL["ticker"])))
    fast = outcome(text.encode(), "usdm")
    with monkeypatch.context() as patch:
        patch.setattr(stream, "scan", refuse_all)
        assert outcome(text.encode(), "usdm") == fast
    if isinstance(fast, str):
        assert expected == "error" and "line 2" in fast
        return
    ((_, said),) = fast
    reasons = said["apart", "book", "reason"] + said["apart", "trades", "reason"]
    tables = len(said["table", "trades", "side"]) - 1, len(said["table", "quotes", "bid_px"]) - 1
    found = {("no_snapshot",): "depth", ("damaged",): "damaged", ("not_a_trade",): "no trade"}.get(tuple(reasons), "")
    assert expected == (found or {(1, 0): "trade", (0, 1): "ticker", (0, 0): "unknown"}[tables])
    assert sum(n for name, n in said["facts"].items() if "@" in name or name in ("E", "aggTrade")) == (expected == "unknown")


def outcome(data: bytes, market: str) -> Any:
    try:
        return everything(run(data, market, symbol=Venue(market, 0).symbol))
    except FeedError as error:
        return str(error)


def refuse_all(buf, at, line, market, names, name_to, grid, unit, recv_from, recv_to, day_end, messages, n, px, sz, m):
    """`scan` that leaves every line to the slow reader, but still stops where it must."""
    if at == len(buf):
        return stream.WHOLE, at, line, n, m
    if n == len(messages):
        return 1, at, line, n, m
    digits, _, rest = bytes(buf[at : at + 25]).partition(b" ")
    is_time = digits.isdigit() and len(digits) < 20 and rest.startswith(b"{") and digits[:1] != b"0"
    is_time = is_time and recv_from <= int(digits) < recv_to
    return stream.DAY if is_time and int(digits) * unit >= day_end else OTHER, at, line, n, m


def test_two_symbols_in_one_stream() -> None:
    """Each has a book, a part and lines of its own; a snapshot says whose it is."""
    one, two = Venue("coinm", 1), Venue("coinm", 2)
    two.symbol, two.scale = "ETHUSD_PERP", 100
    texts = []
    for i in range(40):
        for venue in (one, two):
            texts.append(venue.snapshot() if i == 3 else venue.diff()[0] if i % 3 else venue.trade())
    lines = [line(T0 + i * MS, text) for i, text in enumerate(texts)]
    both = everything(run("".join(lines), "coinm"))
    assert [key[0].symbol for key, _ in both] == ["BTCUSD_PERP.COINM", "ETHUSD_PERP.COINM"]
    for k, (_, said) in enumerate(both):
        _, alone = everything(run("".join(lines[k::2]), "coinm"))[0]
        for kind in alone:
            if kind[:2] in (("table", "book"), ("table", "trades")) and kind[2] != "sequence":
                assert said[kind] == alone[kind], kind
        assert len(said["table", "book", "bid_px_00"]) > 20
    with pytest.raises(FeedError, match=r"line 7: a snapshot that does not say whose it is, after messages of BTCUSD_PERP, ETHUSD_PERP"):
        run("".join(lines).replace('"symbol":"BTCUSD_PERP",', ""), "coinm")


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(MARKETS), st.integers(0, 99), st.data())
def test_a_stored_book_goes_on(market: str, seed: int, data) -> None:
    """Cut a recording into two files anywhere: the second goes on from the book that the first left, to the same rows.

    A stored book is the levels and the last id. What else a stream knows is not stored, and then the second file waits for a snapshot: a
    book that is lost or just mended, a snapshot that came ahead of the changes or that none has followed yet.
    """
    made = Recording(market, seed, script(seed, 30))
    cut = data.draw(st.integers(1, len(made.lines) - 1))
    symbol = made.venue.symbol
    whole = run(made.text, market, symbol=symbol)
    stream = BinanceStream(market, LEVELS, symbol=symbol)
    first = stream.push("".join(made.lines[:cut]).encode())
    sync = stream._known[0].sync
    first += stream.finish()
    state = pl.DataFrame(first[-1].book_state)
    asked = []

    def before(name: str, ns: int) -> pl.DataFrame:
        asked.append((name, ns))
        return state

    second = run("".join(made.lines[cut:]), market, symbol=symbol, before=before)
    assert asked == [(f"{symbol}.{market.upper()}", T0 + cut * MS)]
    for table in ("trades", "quotes"):
        assert joined(first, second, table) == unnumbered(columns(whole, table))
    ahead = sync.spare is not None and sync.spare.until[0] > sync.last
    assert (len(state) > 0) == (sync.book is not None and not sync.lost)
    if len(state) and not sync.loose and not ahead:
        assert joined(first, second, "book") == unnumbered(columns(whole, "book"))
        assert joined(first, second, "status") == unnumbered(columns(whole, "status"))
        if columns(second, "book")["bid_px_00"]:
            assert as_lists(second[-1].book_state) == as_lists(whole[-1].book_state)
        changes = [i for i, m in enumerate(made.messages) if i >= cut and m["op"] == "diff"]
        if changes and T0 + changes[0] * MS in columns(second, "book")["ts_recv"]:
            assert second[-1].continues == state["sequence"][0]


def as_lists(table) -> dict[str, list]:
    return {name: values.tolist() for name, values in table.items()}


def joined(first, second, table: str) -> dict[str, list]:
    a, b = unnumbered(columns(first, table)), unnumbered(columns(second, table))
    return {name: a[name] + b[name] for name in a}


def unnumbered(table: dict[str, list]) -> dict[str, list]:
    """A part numbers its lines from its own beginning."""
    return {name: values for name, values in table.items() if name != "sequence"}


def test_a_stored_book_that_does_not_chain_is_not_used() -> None:
    made = Recording(
        "spot", 3, [("diff", 0), ("snapshot", 0), ("diff", 0), ("diff", 0), ("lost", 0), ("diff", 0), ("diff", 0), ("trade", 0)]
    )
    state = pl.DataFrame(run("".join(made.lines[:4]), "spot", symbol="BTCUSDT")[-1].book_state)
    parts = run("".join(made.lines[4:]), "spot", symbol="BTCUSDT", before=lambda symbol, ns: state)
    assert columns(parts, "book")["ts_recv"] == [] and parts[-1].continues is None
    assert [reason for reason, _ in apart(parts, "book")] == ["no_snapshot"] * 2
    assert columns(parts, "status")["halted"] == [True] and len(columns(parts, "trades")["price"]) == 1
    assert sum(rows.facts.gaps for rows in parts) == 0  # nothing was lost in this recording
    later = state.with_columns(pl.col("sequence") + 10_000)
    parts = run("".join(made.lines[4:]), "spot", symbol="BTCUSDT", before=lambda symbol, ns: later)
    assert columns(parts, "book")["ts_recv"] == [] and columns(parts, "status")["halted"] == [True]
    assert parts[-1].book_state is not None and len(parts[-1].book_state["price"]) == 0


def test_a_stored_book_goes_on_across_a_pause_and_says_so() -> None:
    """The store puts a gap behind a part where nothing was recorded for a while: then the next one must say that its book is whole."""
    made = Recording("usdm", 3, [("diff", 0), ("snapshot", 0), ("diff", 0), ("diff", 0), ("diff", 0)])
    state = pl.DataFrame(run("".join(made.lines[:4]), "usdm", symbol="BTCUSDT")[-1].book_state)
    late = [text.replace("17231616000", "17231616050", 1) for text in made.lines[4:]]
    parts = run("".join(late), "usdm", symbol="BTCUSDT", before=lambda symbol, ns: state)
    assert len(columns(parts, "book")["ts_recv"]) == 1 and columns(parts, "status")["halted"] == [False]


def test_a_stored_book_goes_on_with_a_change_that_overlaps_it() -> None:
    """A new recording may begin within what the stored book holds: its change says what rests, not what was added."""
    made = Recording("spot", 3, [("diff", 0), ("snapshot", 0), *[("diff", 0)] * 4])
    state = pl.DataFrame(run("".join(made.lines[:4]), "spot", symbol="BTCUSDT")[-1].book_state)
    first = json.loads(made.messages[4]["text"])
    overlap = made.lines[4].replace(f'"U":{first["data"]["U"]}', f'"U":{first["data"]["U"] - 1}')
    parts = run(overlap + made.lines[5], "spot", symbol="BTCUSDT", before=lambda symbol, ns: state)
    whole = run(made.text, "spot", symbol="BTCUSDT")
    assert columns(parts, "book")["bid_sz_00"] == columns(whole, "book")["bid_sz_00"][-2:] and parts[-1].continues


def test_a_snapshot_mends_what_was_lost_after_it_came() -> None:
    """A new file begins with a snapshot, and its changes do not follow the stored book: the snapshot holds what lies between."""
    made = Recording("usdm", 3, [("diff", 0), ("snapshot", 0), ("diff", 0), ("lost", 0), ("snapshot", 0), *[("diff", 0)] * 3])
    state = pl.DataFrame(run("".join(made.lines[:3]), "usdm", symbol="BTCUSDT")[-1].book_state)
    parts = run("".join(made.lines[3:]), "usdm", symbol="BTCUSDT", before=lambda symbol, ns: state)
    assert columns(parts, "status")["halted"] == [True, False] and columns(parts, "status")["ts_recv"] == [T0 + 4 * MS, T0 + 5 * MS]
    assert columns(parts, "book")["ts_recv"] == [T0 + 5 * MS, T0 + 6 * MS]
    assert [reason for reason, _ in apart(parts, "book")] == ["spare_snapshot", "no_snapshot"]
    assert parts[-1].continues is None and sum(rows.facts.snapshots for rows in parts) == 1


def test_changes_kept_for_a_snapshot_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that never gets a snapshot holds the last changes only, and still begins when one comes."""
    from cift_models.feeds.binance import sync

    monkeypatch.setattr(sync, "KEPT", 10)
    venue = Venue("spot", 5)
    follower = BinanceStream("spot", LEVELS, symbol="BTCUSDT")
    snapshot = text = ""
    for i in range(100):
        if i == 97:
            snapshot = venue.snapshot()
        text += line(T0 + i * MS, venue.diff()[0])
        follower.push(text[text.rindex("\n", 0, -1) + 1 :].encode() if i else text.encode())
    at_once = BinanceStream("spot", LEVELS, symbol="BTCUSDT")
    at_once.push(text.encode())
    assert at_once._known[0].sync.n_kept == 10
    kept = follower._known[0].sync
    assert kept.n_kept == sum(len(k.until) for k in kept.kept) == 10
    parts = follower.push(line(T0 + 100 * MS, snapshot).encode())
    assert columns(parts, "book")["bid_px_00"] == [venue.top(1)[0][0][0]]


def test_a_snapshot_older_than_what_was_kept_is_not_used() -> None:
    made = Recording("usdm", 1, [("diff", 0), ("snapshot", 9), ("lost", 0), *[("diff", 0)] * 3, ("snapshot", 0), ("diff", 0)])
    order = [m["op"] for m in made.messages]
    parts = run(made.text, "usdm", symbol="BTCUSDT")
    assert order == ["diff", "diff", "diff", "diff", "snapshot", "diff", "snapshot"]
    assert len(columns(parts, "book")["ts_recv"]) == 2
    assert [reason for reason, _ in apart(parts, "book")] == ["no_snapshot"] * 4 + ["spare_snapshot"]
    made.lines[4], made.lines[6] = made.lines[6], made.lines[4]
    parts = run(made.text, "usdm", symbol="BTCUSDT")
    assert [reason for reason, _ in apart(parts, "book")] == [*["no_snapshot"] * 4, "unchained_snapshot", "no_snapshot"]


def test_futures_ids_that_leap_do_not_refuse_a_snapshot() -> None:
    """Binance asks for U <= lastUpdateId <= u; between two changes of a symbol the others' ids lie, and a snapshot may be of there."""
    said = {"e": "depthUpdate", "E": T0 // MS, "T": T0 // MS, "s": "BTCUSDT", "b": [["99.0", "1.000"]], "a": []}
    texts = [
        json.dumps(said | {"U": 110, "u": 120, "pu": 90}),
        json.dumps({"lastUpdateId": 105, "E": T0 // MS, "T": T0 // MS, "bids": [["98.0", "2.000"]], "asks": []}),
        json.dumps(said | {"U": 130, "u": 140, "pu": 120}),
    ]
    parts = run("".join(line(T0 + i, text) for i, text in enumerate(texts)), "usdm", symbol="BTCUSDT")
    assert columns(parts, "book")["bid_px_00"] == [990, 990] and columns(parts, "book")["bid_px_01"] == [980, 980]
    texts[0] = json.dumps(said | {"U": 110, "u": 120, "pu": 106})
    parts = run("".join(line(T0 + i, text) for i, text in enumerate(texts)), "usdm", symbol="BTCUSDT")
    assert columns(parts, "book")["bid_px_00"] == []
