"""Canonical files: what is written is what is read, to the bit; what cannot be meant is refused with file, row and column."""

from __future__ import annotations

import gzip
import itertools
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import FeedError, InputError
from cift_models.events import BOOK as BOOK_BIT
from cift_models.events import EMPTY_ASK, EMPTY_BID, HALT, HIDDEN, RESUME, TRADE
from cift_models.features import FeatureSet, stream
from cift_models.feeds import cells
from cift_models.feeds import read as door
from cift_models.feeds.canonical import events_of_tables, tables_of_events
from cift_models.feeds.canonical_files import identify, one_each, read_canonical, recording, write_canonical
from cift_models.feeds.cells import BadCell
from cift_models.feeds.day import FeedDay, Identity
from cift_models.feeds.instruments_file import read_instruments, write_instrument
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_day
from cift_models.instruments import CALENDARS, SECOND, Instrument, stretch
from cift_models.models.protocol import Why
from cift_models.schema import BOOK, ORDERS, QUOTES, STATUS, TRADES, Table
from cift_models.stores.ticks import ParquetTicks
from tests.lobster_slice import lobster_zip

SESSION = CALENDARS["us_equity"].session(date(2024, 8, 8))
STOCK = Instrument("ABC", 10_000, 100, 1, "shares", 0.3, "us_equity", 2)
COIN = Instrument("BTCUSD_PERP.COINM", 10, 1, 100_000, "coins", 0.0, "always", 2)


def one(path: Path, **options) -> FeedDay:
    (day,) = read_canonical(path, **options)
    return day


@st.composite
def tables(draw: st.DrawFn, instrument: Instrument, open_ns: int, close_ns: int, receive_clock: bool) -> dict[str, pl.DataFrame]:
    """Every table of a session, with empty levels, halts, statuses and prices between ticks."""
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    big = draw(st.sampled_from([10**3, 10**9, 10**15, 2**62]))

    def times(n: int) -> dict[str, np.ndarray]:
        ts = np.sort(rng.integers(open_ns, close_ns + 1, n))
        return {
            "ts_event": ts,
            "ts_recv": ts + (rng.integers(0, 50, n) if receive_clock else 0),
            "sequence": np.sort(rng.choice(10**6, n, False)),
        }

    def frame(table: Table, **columns: np.ndarray) -> pl.DataFrame:
        every = times(len(next(iter(columns.values())))) | columns
        return pl.DataFrame({c: every[c] for c in table.names}).cast({**table.polars_schema()})

    def px(n: int, empty: int, shares: float) -> np.ndarray:
        return np.where(rng.uniform(size=n) < shares, empty, rng.integers(-50, 2**31 - 10, n))

    n = draw(st.integers(1, 30))
    units = rng.integers(-(10**6), 10**12, n)
    sizes = rng.integers(0, big, n)
    levels = {}
    for level, (side, empty) in itertools.product(range(instrument.levels), (("bid", EMPTY_BID), ("ask", EMPTY_ASK))):
        levels[f"{side}_px_{level:02d}"] = px(n, empty, 0.3)
        levels[f"{side}_sz_{level:02d}"] = np.where(levels[f"{side}_px_{level:02d}"] == empty, 0, rng.integers(0, big, n))
    action = rng.integers(1, 8, n)
    return {
        "book": frame(BOOK.with_levels(instrument.levels), **levels),
        "trades": frame(TRADES, side=rng.integers(-1, 2, n), price=units, size=sizes, hidden=rng.uniform(size=n) < 0.5),
        "quotes": frame(QUOTES, **{k: v for s in ("bid", "ask") for k, v in ((f"{s}_px", px(n, 7, 0)), (f"{s}_sz", sizes))}),
        "status": frame(STATUS, halted=rng.uniform(size=n) < 0.5, gap=rng.uniform(size=n) < 0.5),
        "orders": frame(
            ORDERS, action=action, order_id=rng.integers(-(2**63), 2**63 - 1, n), side=rng.integers(-1, 2, n),
            price=np.where(action == 7, rng.integers(-1, 2, n), units), size=sizes,
        ),
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["csv", "csv.gz", "parquet"]), receive_clock=st.booleans(), coin=st.booleans())
def test_what_is_written_is_read_back_to_the_bit(data: st.DataObject, kind: str, receive_clock: bool, coin: bool, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("files")
    instrument = COIN if coin else STOCK
    made = data.draw(tables(instrument, SESSION.open, SESSION.close - 50, receive_clock))
    clock = "ts_recv" if receive_clock else "ts_event"
    session = SESSION
    if coin:
        session = stretch(min(f[clock].min() for f in made.values()), max(f[clock].max() for f in made.values()))
    day = FeedDay(instrument, session, made, {"feed": "made", "receive_clock": receive_clock}, data.draw(st.sampled_from(["", "1", "b-2"])))
    paths = write_canonical(folder, day, kind)
    assert len(paths) == 5
    for path in paths:
        got = one(path)
        assert (got.instrument, got.session, got.part) == (day.instrument, day.session, day.part)
        assert got.source["receive_clock"] is receive_clock and got.source["sequence"] == "sent"
        assert set(got.tables) == set(made)
        for name, frame in made.items():
            assert got.tables[name].equals(frame) and got.tables[name].schema == frame.schema, name


TRADES_CSV = """\
ts_event,side,price,size,hidden
2024-08-08T13:30:00.000000001Z,1,10.01,100,false
2024-08-08T09:30:00.5-04:00,-1,10.0050,7,true
1723123801000000000,0,10,1,FALSE
"""
BOOK_CSV = """\
ts_event,bid_px_00,bid_sz_00,ask_px_00,ask_sz_00
1723123800000000001,10.00,300,10.01,200
1723123800500000000,,,10.01,200
1723123801000000000,10.00,300,,0
"""
INSTRUMENTS_CSV = """\
symbol,tick_size,lot_size,unit,fee_bps,calendar,levels,price_scale
ABC,0.01,1,shares,0.3,us_equity,1,10000
"""
NAMES = {"trades": "trades_ABC_20240808.csv", "book": "book_ABC_20240808.csv"}


def write(folder: Path, **texts: str) -> Path:
    """Files by table (and `instruments`); returns the trades'."""
    for name, text in ({"trades": TRADES_CSV, "book": BOOK_CSV, "instruments": INSTRUMENTS_CSV} | texts).items():
        if text:
            (folder / (NAMES.get(name) or f"{name}.csv")).write_text(text)
    return folder / NAMES["trades"]


def test_a_file_by_hand(tmp_path: Path) -> None:
    day = one(write(tmp_path))
    assert day.instrument == replace(STOCK, levels=1) and day.session == SESSION and day.part == ""
    at = SESSION.open
    assert day.tables["trades"].rows() == [
        (at + 1, at + 1, 0, 1, 100_100, 100, False),
        (at + SECOND // 2, at + SECOND // 2, 2, -1, 100_050, 7, True),
        (at + SECOND, at + SECOND, 4, 0, 100_000, 1, False),
    ]
    assert [row[3:] for row in day.tables["book"].rows()] == [
        (1000, 300, 1001, 200),
        (EMPTY_BID, 0, 1001, 200),
        (1000, 300, EMPTY_ASK, 0),
    ]
    assert day.source["receive_clock"] is False and day.source["sequence"] == "rows" and set(day.source["files"]) == set(NAMES.values())
    events = events_of_tables(day.tables)
    assert events.kind.tolist() == [TRADE, BOOK_BIT, TRADE | HIDDEN, BOOK_BIT, TRADE, BOOK_BIT]
    assert (events.ts - at).tolist() == [1, 1, SECOND // 2, SECOND // 2, SECOND, SECOND]
    assert one(tmp_path / NAMES["book"]).source == day.source, "whichever file is named, the recording is read"


def test_order_and_parts_without_a_sequence(tmp_path: Path) -> None:
    """At one instant: trades, book, status; and a part before the next one, though they meet in one instant."""
    (tmp_path / "instruments.csv").write_text(INSTRUMENTS_CSV)
    meet = SESSION.open + 10 * SECOND
    for part, times in ((1, (SESSION.open, meet)), (2, (meet, meet + SECOND))):
        rows = {"trades": "side,price,size", "book": "bid_px_00,bid_sz_00,ask_px_00,ask_sz_00", "status": "halted"}
        cells_ = {"trades": f"1,10,{part}", "book": f"10,{part},11,1", "status": "true" if part == 2 else "false"}
        for name, columns in rows.items():
            lines = [f"ts_event,{columns}", *(f"{t},{cells_[name]}" for t in times)]
            (tmp_path / f"{name}_ABC_20240808_{part}.csv").write_text("\n".join(lines))
    ticks = ParquetTicks(tmp_path / "home")
    for part in (2, 1):
        day = one(tmp_path / f"trades_ABC_20240808_{part}.csv")
        ticks.write_day(day, check_day(day))
    events = ticks.events(ticks.universe(["ABC"]), SESSION)
    assert events.ts.tolist() == [SESSION.open] * 3 + [meet] * 6 + [meet + SECOND] * 3
    assert events.kind.tolist() == 2 * [TRADE, BOOK_BIT, RESUME] + 2 * [TRADE, BOOK_BIT, HALT]
    assert events.trade_sz[events.kind == TRADE].tolist() == [1, 1, 2, 2] and events.sequence.tolist() == sorted(set(events.sequence))
    for part in ("late", "0", "256"):
        bad = tmp_path / f"trades_ABC_20240808_{part}.csv"
        bad.write_text(TRADES_CSV)
        with pytest.raises(FeedError, match=f"part '{part}' of a recording without a column sequence"):
            one(bad)


@pytest.mark.parametrize("said", [False, True])
def test_a_hole_between_parts_ends_at_the_next_book(said: bool, tmp_path: Path) -> None:
    """A venue that never closes: from the hole on no row is valid, until the book is told of again or the feed says that it is whole."""
    (tmp_path / "instruments.csv").write_text("symbol,tick_size,lot_size,unit,fee_bps,calendar,levels\nC,1,1,coins,0,always,1\n")
    begin = SESSION.open
    for part, first in ((1, 0), (2, 100)):
        lines = "".join(f"{begin + (first + k) * SECOND},10,1,11,1\n" for k in range(50))
        (tmp_path / f"book_C_20240808_{part}.csv").write_text("ts_event,bid_px_00,bid_sz_00,ask_px_00,ask_sz_00\n" + lines)
        if said:
            (tmp_path / f"status_C_20240808_{part}.csv").write_text(f"ts_event,halted\n{begin + (first + 20) * SECOND},false\n")
    ticks = ParquetTicks(tmp_path / "home")
    for part in (1, 2):
        day = one(tmp_path / f"book_C_20240808_{part}.csv")
        ticks.write_day(day, check_day(day))
    universe, (session,) = ticks.universe(["C"]), ticks.sessions(["C"])
    events = ticks.events(universe, session)
    as_of, _, _, _, why = stream.build(universe, FeatureSet(levels=1, warm_up_ns=0), session, events)
    gap = (as_of - begin) // SECOND
    assert gap[why[:, 0] == Why.GAP].tolist() == list(range(49, 120 if said else 100))


def test_rows_without_a_sequence_are_in_the_order_in_which_they_could_be_used(tmp_path: Path) -> None:
    """Received out of order and many at once: a row waits for those before it in its file, and files take turns by time."""
    (tmp_path / "instruments.csv").write_text(INSTRUMENTS_CSV)
    rng = np.random.default_rng(0)
    expected = []
    for turn, (name, columns, cells_) in enumerate((("trades", "side,price,size", "1,10,1"), ("status", "halted", "true"))):
        recv = SESSION.open + rng.integers(0, 20, 150) * SECOND
        lines = [f"ts_event,ts_recv,{columns}", *(f"{SESSION.open},{t},{cells_}" for t in recv.tolist())]
        (tmp_path / f"{name}_ABC_20240808.csv").write_text("\n".join(lines))
        expected += [(max(recv[: i + 1].tolist()), turn, i) for i in range(150)]
    day = one(tmp_path / "trades_ABC_20240808.csv")
    for turn, name in enumerate(("trades", "status")):
        assert day.tables[name]["sequence"].to_list() == [i for i, row in enumerate(sorted(expected)) if row[1] == turn]


def test_one_rule_for_numbers_in_any_type(tmp_path: Path) -> None:
    text = one(write(tmp_path)).tables["trades"]
    columns = pl.read_csv(tmp_path / NAMES["trades"], infer_schema=False)
    (tmp_path / NAMES["trades"]).unlink()
    path = tmp_path / NAMES["trades"].replace("csv", "parquet")
    typed = columns.with_columns(pl.col("hidden").str.to_lowercase() == "true", pl.col("side").cast(pl.Int8), ts_event=text["ts_event"])
    whole = typed.with_columns(price=pl.lit(10), size=pl.lit(3))
    for price, size in ((pl.Float64, pl.Int32), (pl.Decimal(20, 4), pl.Float64), (pl.String, pl.Decimal(10, 0))):
        typed.with_columns(pl.col("price").cast(price), pl.col("size").cast(size)).write_parquet(path)
        assert one(path).tables["trades"].equals(text)
    whole.write_parquet(path)
    assert one(path).tables["trades"]["price"].to_list() == [100_000] * 3, "an integer is a price too, and never a scaled one"
    typed.with_columns(ts_event=text["ts_event"].cast(pl.Datetime("ns", "UTC")), price=pl.col("price").cast(pl.Float64)).write_parquet(path)
    assert one(path).tables["trades"]["ts_event"].equals(text["ts_event"])


T, B = TRADES_CSV, BOOK_CSV
BAD = {
    "price between price units": (
        {"trades": T.replace("10.0050", "10.00505")},
        r"trades_ABC_20240808\.csv, row 2 \(line 3\), column price: '10\.00505'. Expected a decimal number that is a whole number of p",
    ),
    "quote between ticks": (
        {"book": B.replace("10.00,300,10.01", "10.005,300,10.01")},
        r"row 1 \(line 2\), column bid_px_00: '10\.005'. Expected a whole number of ticks of 0\.01",
    ),
    "part of a share": ({"trades": T.replace(",7,", ",7.5,")}, r"row 2 \(line 3\), column size: '7\.5'"),
    "NaN": ({"trades": T.replace("10.01", "NaN")}, r"row 1 \(line 2\), column price: 'NaN'. Expected a decimal number"),
    "infinite": ({"trades": T.replace("10.01", "inf")}, r"column price: 'inf'"),
    "too large": ({"trades": T.replace("10.01", "1e999")}, r"column price: '1e999'"),
    "thousands": ({"trades": T.replace("10.01", '"1,010.01"')}, r"column price: '1,010\.01'"),
    "spaces": ({"trades": T.replace("10.01", " 10.01")}, r"column price: ' 10\.01'"),
    "empty cell": ({"trades": T.replace("10.01", "")}, r"row 1 \(line 2\), column price: an empty cell. Expected a value"),
    "side in words": ({"trades": T.replace(",-1,", ",sell,")}, r"row 2 \(line 3\), column side: 'sell'. Expected a whole number"),
    "side out of range": ({"trades": T.replace(",-1,", ",2,")}, r"column side: '2'. Expected one of -1, 0, 1"),
    "flag": ({"trades": T.replace("FALSE", "0")}, r"row 3 \(line 4\), column hidden: '0'. Expected true or false"),
    "microseconds": (
        {"trades": T.replace("1723123801000000000", "1723123801000000")},
        r"row 3 \(line 4\), column ts_event: '1723123801000000'.*look like microseconds",
    ),
    "no offset": ({"trades": T.replace("00.5-04:00", "00.5")}, r"row 2 \(line 3\), column ts_event: '2024-08-08T09:30:00\.5'"),
    "no date": ({"trades": T.replace("2024-08-08T09", "2024-02-31T09")}, r"row 2 \(line 3\), column ts_event: '2024-02-31"),
    "level without size": (
        {"book": B.replace("10.00,300,10.01", "10.00,,10.01")},
        r"row 1 \(line 2\), column bid_sz_00: an empty cell. Expected a price and a size, or neither",
    ),
    "level without price": ({"book": B.replace(",,0", ",,5")}, r"row 3 \(line 4\), column ask_px_00: an empty cell. Expected a price and"),
    "unknown column": ({"trades": T.replace("price", "px")}, r"columns missing are price; not known are px"),
    "semicolons": ({"trades": T.replace(",", ";")}, r"columns missing are ts_event"),
    "too many levels": (
        {"book": "\n".join(line + ",1" if i else line + ",bid_px_01" for i, line in enumerate(B.splitlines()))},
        r"columns not known are bid_px_01 \(ABC has 1 levels in the instruments file\)",
    ),
    "ragged": ({"trades": T.replace(",7,true", ",7,true,8")}, "damaged, or no csv"),
    "a clock in one file alone": (
        {"book": B.replace("ts_event", "ts_recv,ts_event").replace("\n1", "\n1723123801000000000,1")},
        r"book_ABC_20240808\.csv has ts_recv, trades_ABC_20240808\.csv has not",
    ),
    "no rows": ({"trades": "ts_event,side,price,size\n", "book": ""}, "hold no rows"),
    "another day": (
        {"trades": "ts_event,side,price,size\n2024-08-09T13:30:00Z,1,10,1\n", "book": ""},
        r"begin at 2024-08-09 13:30:00 UTC, which is not in a session of us_equity on 20240808",
    ),
    "empty file": ({"trades": " "}, "damaged, or no csv|columns missing"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_cell_is_named(what: str, tmp_path: Path) -> None:
    texts, expected = BAD[what]
    with pytest.raises(FeedError, match=expected) as caught:
        one(write(tmp_path, **texts))
    assert len(str(caught.value).splitlines()) <= 10 and caught.value.hint


def test_a_bad_cell_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, trades="")
    path = tmp_path / "trades_ABC_20240808.parquet"
    good = pl.DataFrame({"ts_event": [SESSION.open] * 3, "side": [1, 0, 1], "price": [0.1, 0.2, 0.1 + 0.2], "size": [1, 2, 3]})
    good.write_parquet(path)
    with pytest.raises(FeedError, match=r"trades_ABC_20240808\.parquet, row 3, column price: '0\.30000000000000004'"):
        one(path)
    good.with_columns(price=pl.col("price").cast(pl.Float32)).write_parquet(path)
    with pytest.raises(FeedError, match="a column of type Float32 holds none"):
        one(path)
    good.with_columns(ts_event=pl.col("ts_event").cast(pl.Datetime("ns"))).write_parquet(path)
    with pytest.raises(FeedError, match="these times have no zone"):
        one(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FeedError, match="damaged, or no parquet"):
        one(path)


def test_a_damaged_gzip_and_names_that_are_none(tmp_path: Path) -> None:
    write(tmp_path, trades="")
    path = tmp_path / "trades_ABC_20240808.csv.gz"
    path.write_bytes(gzip.compress(TRADES_CSV.encode())[:-20])
    with pytest.raises(FeedError, match="damaged, or no gz"):
        one(path)
    path.write_bytes(gzip.compress(TRADES_CSV.encode()))
    assert len(one(path).tables["trades"]) == 3
    (tmp_path / NAMES["trades"]).write_text(TRADES_CSV)
    with pytest.raises(FeedError, match="both hold the trades of ABC on 20240808"):
        one(path)
    for name in ("trades.csv", "bars_ABC_20240808.csv", "trades_ABC_20240808.txt", "trades__20240808.csv"):
        with pytest.raises(FeedError, match="is not the name of a canonical file"):
            read_canonical(tmp_path / name)
    with pytest.raises(FeedError, match="20241399 is no date"):
        read_canonical(tmp_path / "trades_ABC_20241399.csv")
    with pytest.raises(FeedError, match="is missing"):
        read_canonical(tmp_path / "trades_XYZ_20240808.csv")
    with pytest.raises(FeedError, match="No such file"):
        read_canonical(tmp_path / "nowhere" / "trades_XYZ_20240808.csv")


def test_names_say_whose_recording_it_is(tmp_path: Path) -> None:
    for name in (
        "book_BTCUSD_PERP.COINM_20240808_1.csv",
        "trades_BTCUSD_PERP.COINM_20240808_1.csv.gz",
        "trades_BTCUSD_PERP.COINM_20240808.csv",
    ):
        (tmp_path / name).write_text("")
    found = recording(tmp_path / "book_BTCUSD_PERP.COINM_20240808_1.csv")
    assert (found.symbol, found.day, found.part, list(found.files)) == ("BTCUSD_PERP.COINM", 20240808, "1", ["trades", "book"])
    assert identify(found.files["book"]) == Identity("BTCUSD_PERP.COINM", 20240808, 1_723_075_200 * SECOND)
    assert [p.name for p in one_each(sorted(tmp_path.iterdir()))] == [
        "book_BTCUSD_PERP.COINM_20240808_1.csv",
        "trades_BTCUSD_PERP.COINM_20240808.csv",
    ]


def test_the_door_reads_a_recording_once_and_knows_all_its_files(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "trades_ABC_20240808_2.csv").write_text(TRADES_CSV)
    found = door.recordings("canonical", sorted(tmp_path.iterdir()))
    assert [path.name for path in found] == [NAMES["book"], "trades_ABC_20240808_2.csv"]
    assert door.chains("canonical", sorted(tmp_path.iterdir()), {}) == [[path] for path in found]
    assert [f.name for f in door.files_of("canonical", found[0])] == [NAMES["book"], NAMES["trades"], "instruments.csv"]
    assert door.identify("canonical", found[0], {"instruments": None}) == identify(found[0])
    (day,) = door.read("canonical", found[0], {"instruments": str(tmp_path / "instruments.csv")}, before=lambda symbol, ns: None)
    assert set(day.tables) == {"trades", "book"}


def test_what_a_symbol_is_must_be_written_down(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"instruments\.csv is missing: nothing says what ABC is") as caught:
        one(write(tmp_path, instruments=""))
    lines = caught.value.hint.splitlines()
    assert lines[1] == "symbol,tick_size,lot_size,unit,fee_bps,calendar,levels"
    (tmp_path / "instruments.csv").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(FeedError, match=r"price units of 1/100 \(finer ones: price_scale"):
        one(tmp_path / NAMES["trades"])
    with pytest.raises(FeedError, match="has no ABC; it has XYZ") as caught:
        one(write(tmp_path, instruments=INSTRUMENTS_CSV.replace("ABC", "XYZ")))
    assert caught.value.hint.splitlines()[-1] == "ABC,0.01,1,shares,0,us_equity,1"
    elsewhere = tmp_path / "more.json"
    row = '"symbol": "ABC", "tick_size": 0.01, "lot_size": 1, "unit": "shares", "fee_bps": 0.3, "calendar": "us_equity", "levels": 1'
    elsewhere.write_text(f'[{{{row}, "price_scale": 10000}}]')
    assert one(tmp_path / NAMES["trades"], instruments=elsewhere).instrument == replace(STOCK, levels=1)


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("tick_size", "0", "a price step above 0"),
        ("tick_size", "cent", "a number"),
        ("tick_size", "NaN", "a number"),
        ("lot_size", "0.02", r"1, 0\.1, 0\.01"),
        ("lot_size", "100", r"1, 0\.1, 0\.01"),
        ("fee_bps", "inf", "a number"),
        ("calendar", "nyse", "one of us_equity, us_equity_extended, always"),
        ("levels", "0", "1 to 1000"),
        ("levels", "1.5", "1 to 1000"),
        ("price_scale", "12", "1, 10, 100"),
        ("price_scale", "10", "of which a tick of 0.01 is a whole number"),
        ("trade_side", "guessed", "sent or inferred"),
        ("unit", "", r"columns unit \(missing\)"),
        ("colour", "red", "columns colour"),
    ],
)
def test_an_instrument_that_cannot_be_is_refused(column: str, cell: str, expected: str, tmp_path: Path) -> None:
    row = {
        "symbol": "ABC",
        "tick_size": "0.01",
        "lot_size": "1",
        "unit": "shares",
        "fee_bps": "0",
        "calendar": "us_equity",
        "levels": "1",
    } | {column: cell}
    path = tmp_path / "instruments.csv"
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    with pytest.raises(FeedError, match=f"row 1.*{expected}"):
        read_instruments(path)
    good = {k: v for k, v in row.items() if k != column} | (
        {}
        if column in ("colour", "trade_side", "price_scale")
        else {column: {"tick_size": "0.05", "unit": "x"}.get(column, "1" if column != "calendar" else "always")}
    )
    path.write_text(f"{','.join(good)}\n{','.join(good.values())}\n")
    assert read_instruments(path)["ABC"].symbol == "ABC"
    path.write_text(path.read_text() + ",".join(good.values()) + "\n")
    with pytest.raises(FeedError, match="row 2: ABC stands there twice"):
        read_instruments(path)


@settings(max_examples=50, deadline=None)
@given(scale=st.integers(0, 12), lot=st.integers(0, 9), ticks=st.integers(1, 999), fee=st.floats(-10, 10), levels=st.integers(1, 40))
def test_instruments_are_written_and_read_back(scale: int, lot: int, ticks: int, fee: float, levels: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("instruments")
    made = Instrument("A_B.C", 10**scale, ticks, 10**lot, "coins", fee, "always", levels, "inferred")
    path = write_instrument(folder, replace(made, fee_bps=0.0))
    write_instrument(folder, STOCK)
    write_instrument(folder, made)
    assert read_instruments(path) == {"A_B.C": made, "ABC": STOCK}
    with pytest.raises(InputError, match="price_scale is 32"):
        write_instrument(folder, replace(made, price_scale=32))


def test_a_session_that_no_calendar_has_cannot_be_written(tmp_path: Path) -> None:
    day = one(write(tmp_path))
    with pytest.raises(InputError, match="is not that of us_equity"):
        write_canonical(tmp_path, replace(day, session=replace(SESSION, close=SESSION.close - 1)))
    with pytest.raises(InputError, match="Unknown kind of file 'xlsx'"):
        write_canonical(tmp_path, day, "xlsx")
    with pytest.raises(InputError, match="cannot be a file's name"):
        write_canonical(tmp_path, replace(day, part="a b"))


@settings(max_examples=300, deadline=None)
@given(
    value=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**10), max_value=10**10, places=9),
    scale=st.sampled_from([1, 100, 10**6, 10**9]),
)
def test_a_number_is_converted_exactly_or_refused(value: Decimal, scale: int) -> None:
    for column in (pl.Series([f"{value:f}"]), pl.Series([str(value)]), pl.Series([value], dtype=pl.Decimal(38, 9))):
        try:
            got = int(cells.scaled(column, scale, "units").values[0])
        except BadCell:
            got = None
        exact = value * scale
        assert got == (int(exact) if exact == exact.to_integral_value() and abs(exact) < 2**63 else None)
    try:
        near = int(cells.scaled(pl.Series([float(value)]), scale, "units").values[0])
    except BadCell:
        near = None
    shortest = Decimal(repr(float(value))) * scale
    assert near in (None, int(shortest)) and (near is not None or shortest != shortest.to_integral_value() or abs(shortest) >= 10**15)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_a_recorded_day_goes_through_files_unchanged(kind: str, tmp_path: Path) -> None:
    day = read_lobster(lobster_zip("GOOG"))
    stored = ParquetTicks(tmp_path / "home")
    refs = stored.write_day(day, check_day(day))
    session = FeedDay(day.instrument, day.session, {ref.table: stored.read(ref) for ref in refs}, day.source)
    path, *_ = write_canonical(tmp_path / "files", session, kind)
    again = ParquetTicks(tmp_path / "again")
    got = one(path)
    again.write_day(got, check_day(got))
    universe = stored.universe(["GOOG"])
    assert again.universe(["GOOG"]) == universe
    first, second = (ticks.events(universe, day.session) for ticks in (stored, again))
    for name in ("ts", "sequence", "kind", "side", "trade_px", "trade_sz", "bid_px", "bid_sz", "ask_px", "ask_sz"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    assert len(first) == 112_673 and tables_of_events(first)["trades"].height == 11_678
