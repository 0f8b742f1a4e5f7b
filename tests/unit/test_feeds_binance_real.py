"""The recorded Binance files: every trap that shared/data/README.md names, on the real bytes."""

from __future__ import annotations

import gzip
import os
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from cift_models.events import BOOK, GAP, HALT, RESUME
from cift_models.feeds.binance import identify, read_binance, stream
from cift_models.feeds.day import FeedDay
from cift_models.feeds.quality import check_day
from cift_models.instruments import SECOND
from cift_models.stores.ticks import ParquetTicks
from tests.binance_made import everything, run
from tests.unit.test_feeds_binance_stream import refuse_all

pytestmark = pytest.mark.real_data
MIDNIGHT = 1_723_161_600 * SECOND
"""2024-08-09 00:00 UTC, ns."""

FILES = {
    # lines, book rows, changes before the snapshot, quotes, trades, tables' book levels at the end, quotes with an id that a change has
    "cm_btcusd_perp_20240808": (48_270, 26_823, 25, 19_136, 2_286, 2_233, 1_124),
    "cm_btcusd_perp_20240809": (50_116, 17_948, 0, 29_219, 2_949, 3_243, 761),
    "cm_ethusd_perp_20240808": (40_454, 22_886, 24, 15_812, 1_732, 1_972, 1_345),
    "cm_ethusd_perp_20240809": (37_860, 16_246, 0, 19_751, 1_863, 2_538, 933),
    "spot_btcusdt_20240808": (41_249, 3_449, 3, 28_040, 9_757, 3_405, 564),
    "spot_btcusdt_20240809": (58_325, 3_044, 0, 45_134, 10_147, 4_933, 507),
    "spot_ethusdt_20240808": (33_618, 3_433, 2, 24_077, 6_106, 2_353, 577),
    "spot_ethusdt_20240809": (46_126, 3_036, 0, 34_681, 8_409, 3_409, 479),
    "usdm_btcusdt_20240808": (93_954, 6_546, 6, 66_089, 21_313, 9_596, 629),
    "usdm_ethusdt_20240808": (74_655, 6_580, 7, 53_992, 14_076, 6_194, 551),
}
SYMBOLS = {
    "cm_btcusd_perp": "BTCUSD_PERP.COINM",
    "cm_ethusd_perp": "ETHUSD_PERP.COINM",
    "spot_btcusdt": "BTCUSDT.SPOT",
    "spot_ethusdt": "ETHUSDT.SPOT",
    "usdm_btcusdt": "BTCUSDT.USDM",
    "usdm_ethusdt": "ETHUSDT.USDM",
}
BOTH_DAYS = ("cm_btcusd_perp", "cm_ethusd_perp", "spot_btcusdt", "spot_ethusdt")


def file_of(name: str) -> Path:
    """A recorded file; skips the test where there is none."""
    root = os.environ.get("CIFT_TEST_DATA")
    if not root:
        pytest.skip("CIFT_TEST_DATA is not set: no recorded market data")
    path = Path(root) / "binance_20240808" / f"{name}.gz"
    if not path.is_file():
        pytest.skip(f"{path} is missing: no recorded Binance day")
    return path


@pytest.fixture(scope="module", params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    """Each file in turn, all tests of one before the next: what orjson makes of a file takes 150 MB."""
    return request.param


@cache
def day_of(name: str) -> FeedDay:
    """The day of a file; the second day of a symbol goes on from the first."""
    before = None if name.endswith("08") else lambda symbol, ns: day_of(f"{name[:-2]}08").tables["book_state"]
    (day,) = read_binance(file_of(name), before=before)
    return day


@lru_cache(2)
def lines_of(name: str) -> list[bytes]:
    return gzip.decompress(file_of(name).read_bytes()).splitlines(keepends=True)


@lru_cache(2)
def said_of(name: str) -> list[dict]:
    """What every line says, by orjson alone."""
    said = [orjson.loads(text[20:]) for text in lines_of(name)]
    return [message.get("data", message) for message in said]


def test_every_message_has_its_place(name: str) -> None:
    """No gap, nothing crossed, no line unknown or lost: rows and lines set apart are all lines of the file."""
    day = day_of(name)
    lines, book, early, quotes, trades, levels, _ = FILES[name]
    stem = name.rsplit("_", 1)[0]
    assert day.instrument.symbol == SYMBOLS[stem] == identify(file_of(name)).symbol
    assert {k: len(v) for k, v in day.tables.items()} == {
        "book": book, "quotes": quotes, "trades": trades, "status": 2 if early else 0, "book_state": levels,
    }  # fmt: skip
    assert book + early + quotes + trades == lines == day.source["lines"]
    assert (day.source["depth_gaps"], day.source["unknown"], day.source["snapshots"]) == (0, {}, int(name.endswith("08")))
    checked = check_day(day)
    assert {table: c.counts for table, c in checked.items() if c.counts} == ({"book": {"no_snapshot": early}} if early else {})
    bid, ask = (day.tables["book"][c].to_numpy() for c in ("bid_px_00", "ask_px_00"))
    assert (bid < ask).all()
    if not name.endswith("08"):
        assert day.session.open == day_of(f"{name[:-2]}08").session.close == MIDNIGHT and day.part == "t00000"
    places = np.concatenate([day.tables[t]["sequence"].to_numpy() for t in ("book", "quotes", "trades")])
    begins = int(day.part[1:]) << 32
    assert len(np.unique(places)) == len(places) and places.min() >= begins and places.max() < begins + lines


def test_524_627_messages() -> None:
    assert sum(lines for lines, *_ in FILES.values()) == 524_627


def test_the_snapshot_comes_after_the_first_changes(name: str) -> None:
    """They are kept for it: the first row of the book is at the snapshot, and what the first changes did to it is in that row."""
    day, said = day_of(name), said_of(name)
    if name.endswith("09"):
        assert not any("lastUpdateId" in message for message in said)
        return
    at = next(i for i, message in enumerate(said) if "lastUpdateId" in message)
    book, status = day.tables["book"], day.tables["status"]
    assert book["sequence"][0] & 0xFFFFFFFF == at and status["halted"].to_list() == [True, False]
    assert status["sequence"][1] == book["sequence"][0] and (day.apart["book"]["sequence"] & 0xFFFFFFFF).to_list() == [
        i for i, message in enumerate(said[:at]) if message.get("e") == "depthUpdate"
    ]
    snapshot = said[at]
    best = {side: dict(map(tuple, snapshot[side])) for side in ("bids", "asks")}
    kept = [m for m in said[:at] if m.get("e") == "depthUpdate" and m["u"] > snapshot["lastUpdateId"]]
    for message in kept:
        for side, changes in (("bids", message["b"]), ("asks", message["a"])):
            for price, size in changes:
                best[side][price] = size
    bids = [float(p) for p, q in best["bids"].items() if float(q)]
    asks = [float(p) for p, q in best["asks"].items() if float(q)]
    tick = day.instrument.tick_size
    row = [round(x / tick) for x in (*sorted(bids, reverse=True)[:20], *sorted(asks)[:20])]
    assert row == [book[f"{side}_px_{level:02d}"][0] for side in ("bid", "ask") for level in range(20)]


def test_every_book_is_that_of_a_dict(name: str) -> None:
    """Prices and sizes as text in a dict a side, at 40 places of the file: all 20 levels."""
    day, said = day_of(name), said_of(name)
    sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    if not name.endswith("08"):
        sides = text_book(f"{name[:-2]}08")
    book = day.tables["book"]
    numbers = (book["sequence"] & 0xFFFFFFFF).to_list()
    checks = set(numbers[:: max(1, len(numbers) // 40)])
    row = dict(zip(numbers, range(len(numbers)), strict=True))
    grid = day.instrument
    seen = 0
    for i, message in enumerate(said):
        apply(sides, message, said, i)
        if i not in checks:
            continue
        seen += 1
        for side, what, sign in (("b", "bid", -1), ("a", "ask", 1)):
            best = sorted(((sign * float(p), p, q) for p, q in sides[side].items()))[:20]
            assert [book[f"{what}_px_{level:02d}"][row[i]] for level in range(20)] == [round(sign * p / grid.tick_size) for p, _, _ in best]
            assert [book[f"{what}_sz_{level:02d}"][row[i]] for level in range(20)] == [round(float(q) * grid.lot_scale) for *_, q in best]
    assert seen >= 40


def text_book(name: str) -> dict[str, dict[str, str]]:
    """The book that a file leaves, as text."""
    sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    for i, message in enumerate(said_of(name)):
        apply(sides, message, said_of(name), i)
    return sides


def apply(sides: dict[str, dict[str, str]], message: dict, said: list[dict], i: int) -> None:
    """Change a text book; a snapshot makes it, with the changes before it (message i) that it lacks."""
    if "lastUpdateId" in message:
        sides["b"], sides["a"] = (dict(map(tuple, message[side])) for side in ("bids", "asks"))
        for earlier in said[:i]:
            if earlier.get("e") == "depthUpdate" and earlier["u"] > message["lastUpdateId"]:
                apply(sides, earlier, said, 0)
    elif message.get("e") == "depthUpdate":
        for side in ("b", "a"):
            for price, size in message[side]:
                if float(size):
                    sides[side][price] = size
                else:
                    sides[side].pop(price, None)


def test_the_book_s_best_is_the_quote_with_its_id(name: str) -> None:
    """A best bid and ask with the id that a change ends with is the book after that change: every time (2 % of quotes have such an id)."""
    day, said = day_of(name), said_of(name)
    ids = np.array([message.get("u", 0) for message in said])
    tables = day.tables["book"], day.tables["quotes"]
    book, quote = (
        frame.select("bid_px" + tail, "bid_sz" + tail, "ask_px" + tail, "ask_sz" + tail)
        .rename(lambda column: column[:6])
        .with_columns(id=pl.Series(ids[(frame["sequence"] & 0xFFFFFFFF).to_numpy()]))
        for frame, tail in zip(tables, ("_00", ""), strict=True)
    )
    # The snapshot's row has no id in the file: it stands where the last kept change left it.
    both = quote.join(book.filter(pl.col("id") > 0).unique("id", keep="last"), on="id")
    assert len(both) == FILES[name][-1]
    assert (both.select("bid_px", "bid_sz", "ask_px", "ask_sz").rows()) == both.select(pl.col("^.*_right$")).rows()


@pytest.mark.parametrize("stem", BOTH_DAYS)
def test_the_next_day_goes_on(stem: str) -> None:
    first, second, alone = day_of(f"{stem}_20240808"), day_of(f"{stem}_20240809"), next(iter(read_binance(file_of(f"{stem}_20240809"))))
    assert second.source["continues"] == first.tables["book_state"]["sequence"][0]
    assert len(second.tables["status"]) == 0 and not second.apart
    # Alone, its changes have no book to change; trades and quotes are the same.
    changes = len(second.tables["book"])
    assert alone.source["continues"] is None and len(alone.tables["book"]) == 0 and len(alone.tables["book_state"]) == 0
    assert check_day(alone)["book"].counts == {"no_snapshot": changes} and alone.tables["status"]["gap"].to_list() == [True]
    for table in ("trades", "quotes"):
        assert alone.tables[table].equals(second.tables[table])
    # A book that ends elsewhere is not used.
    state = first.tables["book_state"].with_columns(pl.col("sequence") - 1)
    (other,) = read_binance(file_of(f"{stem}_20240809"), before=lambda symbol, ns: state)
    assert len(other.tables["book"]) == 0 and len(other.apart["book"]) == changes


def test_who_took(name: str) -> None:
    """`m` true: the buyer's order rested, so the seller took. COIN-M sends in order: the quote before a trade has the price that it hit."""
    day, said = day_of(name), said_of(name)
    trades, quotes = day.tables["trades"], day.tables["quotes"]
    side = trades["side"].to_numpy()
    assert side.tolist() == [-1 if m["m"] else 1 for m in said if m.get("e") == "trade"]
    if not name.startswith("cm"):
        return
    at = np.searchsorted(quotes["sequence"].to_numpy(), trades["sequence"].to_numpy()) - 1
    known = at >= 0
    price = (trades["price"] // day.instrument.tick_units).to_numpy()
    hit_ask, hit_bid = price >= quotes["ask_px"].to_numpy()[at], price <= quotes["bid_px"].to_numpy()[at]
    assert np.where(side == 1, hit_ask, hit_bid)[known].mean() > 0.998
    assert np.where(side == -1, hit_ask, hit_bid)[known].mean() == 0


def test_tick_rule_against_the_true_aggressor() -> None:
    trades = day_of("spot_btcusdt_20240808").tables["trades"]
    move = np.sign(np.diff(trades["price"].to_numpy(), prepend=trades["price"][0]))
    told = np.flatnonzero(move)
    rule = move[told[np.searchsorted(told, np.arange(told[0], len(move)), side="right") - 1]]
    assert (rule == trades["side"].to_numpy()[told[0] :]).mean() == pytest.approx(0.969, abs=5e-4)


def test_coinm_sizes_are_contracts(name: str) -> None:
    day, said = day_of(name), said_of(name)
    usd = {"cm_btcusd_perp": 100, "cm_ethusd_perp": 10}.get(name.rsplit("_", 1)[0])
    assert day.source.get("contract_usd") == usd and day.instrument.unit == ("contracts" if usd else "coins")
    if usd:
        assert day.instrument.lot_scale == 1
        assert day.tables["trades"]["size"].to_list() == [int(m["q"]) for m in said if m.get("e") == "trade"]


def test_prices_and_sizes_are_exact(name: str) -> None:
    day, said = day_of(name), said_of(name)
    grid, trades = day.instrument, day.tables["trades"]
    for column, key, scale in (("price", "p", grid.price_scale), ("size", "q", grid.lot_scale)):
        texts = [m[key] for m in said if m.get("e") == "trade"]
        places = len(str(scale)) - 1
        exact = [int(whole + (fraction + "0" * places)[:places]) for whole, _, fraction in (t.partition(".") for t in texts)]
        assert trades[column].to_list() == exact


def test_sizes_finer_than_a_lot_lie_far_from_the_best(name: str) -> None:
    """Spot's lots were finer once: ten levels are of orders from then, at least 19 % above the market. No other market has any."""
    day, places = day_of(name), len(str(day_of(name).instrument.lot_scale)) - 1
    best = day.tables["book"]["ask_px_00"].max() * day.instrument.tick_size
    changes = [pair for m in said_of(name) if m.get("e") == "depthUpdate" for pair in (*m["b"], *m["a"])]
    finer = [float(price) for price, size in changes if size.partition(".")[2][places:].strip("0")]
    expected = {"spot_btcusdt_20240808": 3, "spot_btcusdt_20240809": 4, "spot_ethusdt_20240808": 2, "spot_ethusdt_20240809": 1}
    assert len(finer) == day.source["finer_than_lot"] == expected.get(name, 0)
    assert all(price > 1.19 * best for price in finer)


def test_clocks(name: str) -> None:
    """The receive clock runs 1.27 s behind the exchange's on every line; it is reported, and both clocks are kept."""
    day, said = day_of(name), said_of(name)
    spot = name.startswith("spot")
    quotes, trades, book = (day.tables[t] for t in ("quotes", "trades", "book"))
    clock = day.source["clock"]["recv_minus_event_ns"]
    assert -1.28 * SECOND < clock["min"] < clock["median"] < -1.25 * SECOND and clock["median"] < clock["max"] < -1.05 * SECOND
    assert (quotes["ts_event"] == quotes["ts_recv"]).all() == spot  # spot's best bid and ask says no time
    assert trades["ts_event"].to_list() == [m["T"] * 1_000_000 for m in said if m.get("e") == "trade"]
    changes = [said[i & 0xFFFFFFFF] for i in book["sequence"].to_list()]
    assert book["ts_event"].to_list()[1:] == [m["E" if spot else "T"] * 1_000_000 for m in changes[1:]]
    assert trades["ts_recv"].to_list() == [int(text[:19]) for text, m in zip(lines_of(name), said, strict=True) if m.get("e") == "trade"]


@pytest.mark.parametrize("name", ["spot_ethusdt_20240808", "usdm_ethusdt_20240808", "cm_btcusd_perp_20240808"])
def test_pushes_cut_anywhere_and_the_slow_reader(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 6,000 lines: in one push, cut at 60 places, and read slowly."""
    market = {"spot": "spot", "usdm": "usdm", "cm": "coinm"}[name.split("_")[0]]
    data = b"".join(lines_of(name)[:6_000])
    symbol = SYMBOLS[name.rsplit("_", 1)[0]].split(".")[0]
    whole = everything(run(data, market, symbol=symbol))
    cuts = np.random.default_rng(1).integers(0, len(data), 60).tolist()
    assert everything(run(data, market, cuts, symbol=symbol)) == whole
    monkeypatch.setattr(stream, "scan", refuse_all)
    assert everything(run(data, market, symbol=symbol)) == whole


@pytest.mark.parametrize("name", ["spot_btcusdt_20240808", "usdm_btcusdt_20240808"])
def test_a_file_cut_in_two_is_the_same_file(name: str, tmp_path: Path) -> None:
    """Cut at a line, the second half goes on from the book that the first left."""
    whole, lines = day_of(name), lines_of(name)
    cut = 17_001
    halves = []
    state: list[pl.DataFrame] = []
    for part in (lines[:cut], lines[cut:]):
        path = tmp_path / f"{name}_{len(halves)}.gz"
        path = path.with_name(f"{name}.gz")
        path.write_bytes(gzip.compress(b"".join(part), 1))
        halves += read_binance(path, before=lambda symbol, ns: state[-1] if state else None)
        state.append(halves[-1].tables["book_state"])
    assert [half.part for half in halves] == sorted({half.part for half in halves}) and halves[1].source["continues"]
    for table in ("book", "quotes", "trades", "status"):
        joined = pl.concat([half.tables[table] for half in halves]).drop("sequence")
        assert joined.equals(whole.tables[table].drop("sequence")), table
    assert halves[1].tables["book_state"].equals(whole.tables["book_state"])


@pytest.mark.parametrize("order", [("08", "09"), ("09", "08", "09")])
def test_both_days_are_one_session_of_the_store(order: tuple[str, ...], tmp_path: Path) -> None:
    """In any order of calls: the second day, read alone, is replaced when it is read again behind the first."""
    ticks = ParquetTicks(tmp_path)

    def before(symbol: str, ns: int) -> pl.DataFrame | None:
        if symbol not in ticks.instruments():
            return None
        refs = [ref for ref in ticks.partitions("book_state", [symbol]) if (ticks.facts(ref)["last"] or ns) < ns]
        return ticks.read(refs[-1]) if refs else None

    for end in order:
        for day in read_binance(file_of(f"spot_btcusdt_202408{end}"), before=before):
            ticks.write_day(day, check_day(day))
    (session,) = ticks.sessions(["BTCUSDT.SPOT"])
    first, second = day_of("spot_btcusdt_20240808"), day_of("spot_btcusdt_20240809")
    assert (session.open, session.close) == (first.session.open, second.session.close)
    events = ticks.events(ticks.universe(["BTCUSDT.SPOT"]), session)
    rows = [len(day.tables[t]) for day in (first, second) for t in ("book", "trades")]
    assert len(events) == sum(rows) + 1  # the gap before the first book; its end is in the event of the book
    assert np.flatnonzero(events.kind & HALT).tolist() == [0] and events.kind[0] == HALT | GAP
    assert np.count_nonzero(events.kind & RESUME) == 1 and np.count_nonzero(events.kind & BOOK) == rows[0] + rows[2]
    assert (np.diff(events.ts) >= 0).all()
