"""The quality report: what it says is what a slow loop says, whatever the parts; the picture; and `cift quality`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cift_models.errors import EmptyRange, NotStored, SchemaMismatch, UnknownSymbol
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.binance import read_binance
from cift_models.feeds.day import FeedDay
from cift_models.feeds.lean import read_lean
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_day
from cift_models.feeds.quality_plot import LEFT, RIGHT, WIDTH, draw
from cift_models.feeds.quality_report import StoredTable, _Table, report
from cift_models.feeds.quality_summary import Summary, clock_in_words, counted, summarise, summarise_report
from cift_models.feeds.quality_time import Bins, Gap, OpenTime, gap_facts, joined, silences, stops
from cift_models.instruments import SECOND, Instrument, Session, stretch
from cift_models.refs import PartitionRef
from cift_models.schema import BOOK, BOOK_STATE, QUOTES, STATUS, TRADES
from cift_models.stores.ticks import ParquetTicks
from tasks.quality import examine, report_path, stored_days
from tests.lobster_slice import lobster_zip
from tests.processes import ROOT, cift

COIN = Instrument("COIN", 100, 10, 1_000, "coins", 0.0, "always", 1)
MIDNIGHT = 1_723_075_200 * SECOND
"""2024-08-08 00:00 UTC, ns."""
BOOK_1 = BOOK.with_levels(1).polars_schema()


def frame(rows: list[tuple[Any, ...]], schema: Any) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def at(seconds: float) -> int:
    return MIDNIGHT + round(seconds * SECOND)


def stored(day: FeedDay) -> list[StoredTable]:
    """What a store gives of a day, without a store."""
    out = []
    for name, one in check_day(day).items():
        facts = {
            "instrument": day.instrument.as_json(), "session": asdict(day.session), "quarantined": one.counts, "source": day.source,
            "part": day.part,
        }  # fmt: skip
        ref = PartitionRef(key=f"lake/{name}/{day.part or 'whole'}", sha256="0" * 64, table=name, rows=len(one.rows), schema_hash="0" * 64)
        out.append(StoredTable(ref, facts, one.rows, one.quarantined if len(one.quarantined) else None))
    return out


def report_of(*days: FeedDay) -> dict[str, Any]:
    return report(days[0].instrument.symbol, days[0].session.day, [table for day in days for table in stored(day)])


# Time.

instants = st.integers(0, 60)


def closed_ns(gaps: list[Gap], start: int, end: int) -> int:
    """How many of the ns in [start, end) lie in a gap, counted."""
    return sum(any(g.start <= t < g.end for g in gaps) for t in range(start, end))


gaps_of_time = st.lists(st.tuples(instants, instants).map(lambda t: Gap("feed", min(t), max(t))), max_size=4)


@settings(max_examples=150, deadline=None)
@given(gaps_of_time, instants, instants)
def test_open_time_is_time_less_the_gaps(gaps: list[Gap], a: int, b: int) -> None:
    a, b = min(a, b), max(a, b)
    recorded = [(0, 25), (40, 60)]
    missing = [*gaps, Gap("hole", 25, 40)]
    clock = OpenTime(gaps, recorded)
    low, high = clock.at(np.array([a, b], np.int64))
    assert high - low == b - a - closed_ns(missing, a, b) and clock.total() == 60 - closed_ns(missing, 0, 60)


@settings(max_examples=150, deadline=None)
@given(
    gaps_of_time,
    st.lists(st.tuples(instants, st.integers(0, 9), st.booleans()), max_size=8).map(sorted),
    st.lists(st.tuples(instants, instants).filter(lambda t: t[0] != t[1]).map(lambda t: (min(t), max(t))), min_size=1, max_size=3),
)
def test_a_value_stands_until_the_next_row(gaps: list[Gap], rows: list[tuple[int, int, bool]], stretches: list[tuple[int, int]]) -> None:
    """Means by bin, and how long each row stood, against every nanosecond: bins of 20 (their width is a second, so the clock is slow)."""
    slow = SECOND // 20
    recorded = joined(stretches)
    rows = [row for row in rows if any(a <= row[0] <= b for a, b in recorded)]
    scaled = [(a * slow, b * slow) for a, b in recorded]
    clock = OpenTime([Gap(g.kind, g.start * slow, g.end * slow) for g in gaps], scaled)
    when = np.array([t * slow for t, _, _ in rows], np.int64)
    values, use = np.array([v for _, v, _ in rows], np.int64), np.array([u for _, _, u in rows], bool)
    bins = Bins(scaled, 1)
    stood: list[int] = [0] * len(rows)
    sums: dict[int, list[int]] = {}
    for t in range(recorded[0][0], recorded[-1][1]):
        inside = next((s for s in recorded if s[0] <= t < s[1]), None)
        last = max((i for i, row in enumerate(rows) if row[0] <= t), default=None)
        if inside is None or any(g.start <= t < g.end for g in gaps) or last is None or rows[last][0] < inside[0]:
            continue
        stood[last] += slow
        if rows[last][2]:
            sums.setdefault((t - recorded[0][0]) // 20, []).append(rows[last][1])
    assert clock.stood(when).tolist() == stood
    means = bins.means(clock, when, values, use)
    assert [m if m is None else pytest.approx(m) for m in means] == [
        sum(sums[k]) / len(sums[k]) if k in sums else None for k in range(len(means))
    ]
    assert int(bins.recorded_ns.sum()) == slow * sum(end - begin for begin, end in recorded)


@settings(max_examples=100, deadline=None)
@given(st.lists(instants, max_size=12).map(sorted), st.integers(1, 60))
def test_every_row_lies_in_one_bin(times: list[int], close: int) -> None:
    """Bins are closed on the left; the last takes a row at the very close, for the session does."""
    times = [t for t in times if t <= close]
    bins = Bins([(0, close * SECOND)], 7)
    counts = np.diff(bins.cuts(np.array(times, np.int64) * SECOND))
    last = -(-close // 7) - 1
    assert counts.tolist() == [sum(min(t // 7, last) == k for t in times) for k in range(last + 1)]
    found = bins.quantiles(np.array(times, np.int64) * SECOND, np.array(times), np.ones(len(times), bool), (0.0, 1.0))
    for k in range(last + 1):
        mine = [t for t in times if min(t // 7, last) == k]
        assert (found[0][k], found[1][k]) == ((min(mine), max(mine)) if mine else (None, None))


def test_bins_are_a_minute_for_a_day_and_seconds_for_minutes() -> None:
    def width(seconds: int) -> int:
        return Bins([(0, seconds * SECOND)]).width_s

    assert [width(s) for s in (300, 400, 401, 2_000, 2_001, 6_000, 23_400, 86_400)] == [1, 1, 5, 5, 15, 15, 60, 60]


def test_stops_go_on_at_the_next_word_or_end_with_the_recording() -> None:
    rows = [(1, True, True), (2, True, True), (4, False, False), (5, True, False), (7, True, True), (9, False, False), (11, True, True)]
    status = frame([(t, t, i, halted, gap) for i, (t, halted, gap) in enumerate(rows)], STATUS.polars_schema())
    assert stops(status, 20) == [Gap("feed", 1, 4), Gap("halt", 5, 9), Gap("feed", 7, 9), Gap("feed", 11, 20)]
    facts = gap_facts([Gap("feed", 0, 3 * SECOND), Gap("halt", 2 * SECOND, 5 * SECOND)])
    assert facts["kinds"] == {"feed": 1, "halt": 1} and (facts["seconds"], facts["missing_s"]) == (5.0, 3.0)  # what both cover counts once


def test_silences_are_what_no_gap_explains() -> None:
    whole = [(0, 400 * SECOND)]
    times = [np.array([10, 200, 300], np.int64) * SECOND, np.array([90, 310], np.int64) * SECOND]
    facts = silences(times, whole, OpenTime([Gap("halt", 95 * SECOND, 165 * SECOND)], whole))
    # 10..90 is 80 s, 90..200 has 70 s of halt, 200..300 is 100 s, 310..400 ends with the session: 90 s.
    assert facts["count"] == 3 and facts["longest_s"] == 100.0
    assert [(s["from"] // SECOND, s["to"] // SECOND, s["seconds"]) for s in facts["longest"][:4]] == [
        (200, 300, 100.0), (310, 400, 90.0), (10, 90, 80.0), (90, 200, 40.0),
    ]  # fmt: skip


# A day made by hand: two files with a hole between them, a gap in the first, a clock that runs behind.


def coin_day() -> tuple[FeedDay, FeedDay]:
    late = -1.25

    def book(s: float, sequence: int, bid: int, ask: int, *, sent: float | None = None) -> tuple[int, ...]:
        return (
            at(s - late if sent is None else sent),
            at(s),
            sequence,
            bid,
            5 if bid != EMPTY_BID else 0,
            ask,
            5 if ask != EMPTY_ASK else 0,
        )

    first = [
        book(0, 1, 100, 104), book(10, 2, 101, 103), book(20, 3, 102, 102), book(20, 3, 102, 102), book(40, 5, EMPTY_BID, 104),
        book(50, 6, 105, 104), book(50, 7, 100, 110, sent=50),
    ]  # fmt: skip
    trades = [
        (at(11.25), at(10), 102, 1, 1_030, 2_000, False), (at(11.25), at(10), 103, -1, 1_010, 500, True),
        (at(16.25), at(15), 104, 0, 1_020, 500, False), (at(15), at(16), 105, 1, 1_020, 0, False),
    ]  # fmt: skip
    status = [(at(31.25), at(30), 4, True, True), (at(36.25), at(35), 5, False, False)]
    apart = frame([(at(1.25), at(0), 100, 104)], {"ts_event": pl.Int64, "ts_recv": pl.Int64, "price": pl.Int64, "size": pl.Int64})
    source = {"feed": "test", "file": "a.gz", "sha256": "ab" * 32, "receive_clock": True}
    one = FeedDay(
        COIN, Session(20240808, at(0), at(60)),
        {
            "book": frame(first, BOOK_1),
            "trades": frame(trades, TRADES.polars_schema()),
            "status": frame(status, STATUS.polars_schema()),
            "quotes": frame([(at(1), at(1), 1, 100, 1, 101, 1)], QUOTES.polars_schema()),
            "book_state": frame([(at(40), at(50), 7, 1, 1_000, 5)], BOOK_STATE.polars_schema()),
        },
        source, "a", {"book": apart.with_columns(reason=pl.lit("no_snapshot"))},
    )  # fmt: skip
    second = [book(100, 1 << 40, 100, 102), book(115, (1 << 40) + 1, 100, 101)]
    two = FeedDay(COIN, Session(20240808, at(100), at(120)), {"book": frame(second, BOOK_1)}, {**source, "file": "b.gz"}, "b")
    return one, two


def test_a_day_by_hand() -> None:
    facts = report_of(*coin_day())
    assert (facts["symbol"], facts["day"], facts["rows"]) == ("COIN", 20240808, 7 + 3 + 2 + 1 + 1)
    hours = facts["hours"]
    assert (hours["open"], hours["close"], hours["stretches"]) == (at(0), at(120), [[at(0), at(60)], [at(100), at(120)]])
    assert (hours["recorded_s"], hours["open_s"]) == (80.0, 75.0)  # 5 s lie in the gap
    assert [(g["kind"], g["from"], g["to"], g["seconds"]) for g in facts["gaps"]["longest"]] == [
        ("feed", at(30), at(35), 5.0), ("hole", at(60), at(100), 40.0),
    ]  # fmt: skip

    book = facts["tables"]["book"]
    assert (book["rows"], book["parts"], book["first"], book["last"]) == (7, 2, at(0), at(115))
    assert book["quarantined"] == {"crossed": 1, "duplicate": 1, "no_snapshot": 1}
    # By exchange time: 1.25, 11.25, 21.25, 41.25, then 50 is none of them; in the second part no two are the same.
    assert book["ties"] == 0.0 and book["late"] == 0.0
    assert facts["tables"]["trades"]["ties"] == pytest.approx(2 / 3, abs=1e-6)
    # Of the second minute 20 s are recorded: too little for a rate.
    assert book["per_minute"] == {"mean": pytest.approx(7 / 80 * 60, abs=1e-6), "median": 5.0, "max": 5.0}
    state = facts["tables"]["book_state"]
    assert (state["rows"], state["per_minute"], state["ties"], state["late"]) == (1, None, None, None)
    assert [(q["table"], q["reason"], q["rows"], q["first"], q["last"]) for q in facts["quarantine"]] == [
        ("book", "crossed", 1, at(51.25), at(51.25)), ("book", "duplicate", 1, at(21.25), at(21.25)),
        ("book", "no_snapshot", 1, at(1.25), at(1.25)), ("trades", "non_positive", 1, at(15), at(15)),
    ]  # fmt: skip

    spread = facts["spread"]["book"]
    # Ticks 4 for 10 s, 2 for 10 s, locked for 15 s (20..40 less the gap), one side for 10 s, 10 for 10 s; 2 for 15 s, 1 for 5 s.
    assert (spread["rows"], spread["one_sided"], spread["locked"], spread["crossed"], spread["tick_size"]) == (6, 1, 1, 1, 0.1)
    assert spread["ticks"] == {"median": 2.0, "p95": 10.0, "max": 10.0, "mean": pytest.approx((40 + 20 + 100 + 30 + 5) / 65, abs=1e-6)}
    assert spread["bps"]["max"] == pytest.approx(1e4 * 10 / 105, abs=1e-6)
    assert spread["one_sided_time"] == pytest.approx(10 / 75, abs=1e-6)

    assert facts["trades"] == {
        "rows": 3, "volume": 3.0, "unit": "coins", "buy": {"rows": 1, "volume": 2.0}, "sell": {"rows": 1, "volume": 0.5},
        "unknown": {"rows": 1, "volume": 0.5}, "hidden": {"rows": 1, "volume": 0.5},
        "vwap": pytest.approx((10.3 * 2 + 10.1 * 0.5 + 10.2 * 0.5) / 3, abs=1e-6), "low": 10.1, "high": 10.3,
    }  # fmt: skip

    # The book row at 50 s and the quote carry one time twice: they say nothing of the clock.
    clock = facts["clock"]
    assert {name: (one["rows"], one["without_exchange_time"]) for name, one in clock["tables"].items()} == {
        "book": (6, 1), "quotes": (0, 1), "status": (2, 0), "trades": (3, 0),
    }  # fmt: skip
    assert clock["all"] == {"rows": 11, "min_ms": -1_250.0, "median_ms": -1_250.0, "p99_ms": -1_250.0, "max_ms": -1_250.0, "behind": 1.0}

    timeline = facts["timeline"]
    assert (timeline["start"], timeline["bin_s"], len(timeline["recorded_s"])) == (at(0), 1, 120)
    assert [i for i, s in enumerate(timeline["recorded_s"]) if s == 0.0] == [*range(60, 100)]
    assert {i: n for i, n in enumerate(timeline["rows"]["book"]) if n} == {0: 1, 10: 1, 20: 1, 40: 1, 50: 1, 100: 1, 115: 1}
    assert set(timeline["rows"]) == {"book", "quotes", "trades"}
    mean = timeline["spread_ticks"]["mean"]
    assert mean[5] == 4.0 and mean[15] == 2.0 and mean[25] == 0.0 and mean[32] is None and mean[45] is None and mean[55] == 10.0
    assert mean[59] == 10.0 and mean[60] is None and mean[99] is None and mean[119] == 1.0
    assert timeline["delay_ms"]["median"][10] == -1_250.0 and timeline["delay_ms"]["median"][11] is None

    assert [(s["part"], s["file"], sorted(s["tables"])) for s in facts["sources"]] == [
        ("a", "a.gz", ["book", "book_state", "quotes", "status", "trades"]), ("b", "b.gz", ["book"]),
    ]  # fmt: skip
    assert orjson.loads(orjson.dumps(facts)) == facts
    text = " ".join(facts["notes"])
    for said in (
        "book: 1 crossed, 1 duplicate, 1 no_snapshot; trades: 1 non_positive", "1 gap of the feed, 1 hole between files: 45.0 s",
        "The receive clock runs 1.25 s behind the exchange's: kept, never repaired.", "1 row of book locked (bid = ask): kept",
        "1 row of book with one side only, 13.33% of the time",
    ):  # fmt: skip
        assert said in text


def test_the_line_of_an_ingest_and_of_a_day() -> None:
    one, two = coin_day()
    line = summarise(one, check_day(one))
    assert line == Summary(
        "COIN",
        20240808,
        12,
        {"book": {"crossed": 1, "duplicate": 1, "no_snapshot": 1}, "trades": {"non_positive": 1}},
        1,
        5.0,
        0,
        1,
        -1_250.0,
        1.0,
    )
    assert str(line) == (
        "12 rows, 4 in quarantine (book: 1 crossed, 1 duplicate, 1 no_snapshot; trades: 1 non_positive); 1 gap (5.0 s); 1 locked; "
        "receive clock 1.25 s behind the exchange's"
    )
    whole = summarise_report(report_of(one, two))
    assert whole == line._replace(rows=14, gaps=2, gap_s=45.0)
    halt = frame([(at(1), at(1), 0, True, False)], STATUS.polars_schema())
    quiet = FeedDay(COIN, one.session, {"status": halt}, {"feed": "test", "receive_clock": False})
    assert str(summarise(quiet, check_day(quiet))) == "1 row, none in quarantine; no gap; 1 halt; no receive clock"
    assert summarise_report(report_of(quiet)) == summarise(quiet, check_day(quiet))
    assert clock_in_words(23.456, 0.0) == "received 23.5 ms after it was sent"
    assert clock_in_words(23.456, 0.01) == "received 23.5 ms after it was sent, 1.00% before"
    assert counted(2_000, "gap of the feed") == "2,000 gaps of the feed"


def test_a_day_of_which_nothing_may_be_used() -> None:
    one, _ = coin_day()
    bad = one.tables["book"].with_columns(bid_px_00=pl.lit(0, pl.Int32))
    facts = report_of(replace(one, tables={"book": bad}, apart={}))
    assert facts["rows"] == 0 and facts["tables"]["book"]["first"] is None and facts["spread"]["book"]["ticks"]["median"] is None
    assert facts["clock"] is None and facts["trades"] is None and facts["timeline"]["spread_ticks"] is None
    assert "No row of book may be used." in facts["notes"] and facts["silences"]["count"] == 0 and facts["silences"]["longest_s"] == 60.0
    assert "no spread: no book and no quotes" in draw(facts) and "no row has both times" in draw(facts)


def test_a_late_row_and_a_clock_that_is_sometimes_early() -> None:
    rows = [
        (at(1), at(1.02), 1, 1, 10, 5, False),
        (at(3), at(3.05), 2, 1, 10, 5, False),
        (at(2), at(3.06), 3, 1, 10, 5, False),
        (at(5), at(4.99), 4, 1, 10, 5, False),
    ]
    day = FeedDay(
        COIN, Session(20240808, at(0), at(60)), {"trades": frame(rows, TRADES.polars_schema())}, {"feed": "t", "receive_clock": True}
    )
    facts = report_of(day)
    assert facts["tables"]["trades"]["late"] == 0.25 and facts["clock"]["all"]["behind"] == 0.25
    assert any("25.000% of rows were received before they were sent, by up to 10 ms: kept." in note for note in facts["notes"])
    # A row is placed where it could be used: the running maximum of ts_recv.
    back = [(at(1), at(9), 1, 1, 10, 5, False), (at(2), at(4), 2, 1, 10, 5, False)]
    facts = report_of(replace(day, tables={"trades": frame(back, TRADES.polars_schema())}))
    assert (facts["tables"]["trades"]["first"], facts["tables"]["trades"]["last"]) == (at(9), at(9))


def trades_day(rows: list[tuple[Any, ...]], part: str = "", close: float = 60, receive_clock: bool = True) -> FeedDay:
    source = {"feed": "test", "receive_clock": receive_clock}
    tables = {"trades": frame([(*row, 1, 10, 5, False) for row in rows], TRADES.polars_schema())}
    return FeedDay(COIN, Session(20240808, at(0), at(close)), tables, source, part)


def test_files_that_touch_leave_no_hole() -> None:
    later = replace(trades_day([(at(61), at(61), 9)], "b"), session=Session(20240808, at(60), at(120)))
    facts = report_of(trades_day([(at(1), at(1), 1)], "a"), later)
    assert facts["gaps"]["kinds"] == {} and facts["hours"]["stretches"] == [[at(0), at(120)]]
    assert facts["silences"]["longest_s"] == 60.0  # over the seam, 1 to 61 s, and none of more


def test_rows_that_share_a_time_need_not_be_neighbours() -> None:
    facts = report_of(trades_day([(at(5), at(5.1), 1), (at(3), at(5.2), 2), (at(5), at(5.3), 3), (at(4), at(5.4), 4)]))
    assert facts["tables"]["trades"]["ties"] == 0.5 and facts["tables"]["trades"]["late"] == 0.5


def test_quarantine_is_counted_over_parts() -> None:
    """Each part has a good row and one whose sequence goes back; the share is of all four."""
    parts = [
        trades_day([(at(t), at(t), 10 * t + 2), (at(t + 1), at(t + 1), 10 * t + 1)], part) for t, part in ((30, "a"), (5, "b"), (20, "c"))
    ]
    facts = report_of(*parts)
    assert facts["tables"]["trades"]["out_of_order"] == 0.5 and facts["tables"]["trades"]["quarantined"] == {"out_of_order": 3}
    (found,) = facts["quarantine"]
    assert (found["rows"], found["first"], found["last"]) == (3, at(6), at(31))
    assert (facts["tables"]["trades"]["first"], facts["tables"]["trades"]["last"]) == (at(5), at(30))


def test_quotes_stand_where_the_book_is_not_known() -> None:
    """A recording that begins without a snapshot: no book all day, but every quote and trade."""
    quotes = frame([(at(0), at(0), 1, 100, 1, 103, 1), (at(30), at(30), 2, 100, 1, 101, 1)], QUOTES.polars_schema())
    status = frame([(at(0), at(0), 1, True, True)], STATUS.polars_schema())
    day = trades_day([(at(30), at(30), 7)])
    facts = report_of(replace(day, tables={**day.tables, "quotes": quotes, "status": status, "book": frame([], BOOK_1)}))
    assert facts["gaps"]["missing_s"] == 60.0 and (facts["hours"]["recorded_s"], facts["hours"]["open_s"]) == (60.0, 0.0)
    assert facts["spread"]["quotes"]["ticks"]["mean"] == 2.0 and facts["tables"]["quotes"]["per_minute"]["mean"] == 2.0
    assert facts["timeline"]["spread_ticks"]["table"] == "quotes" and facts["timeline"]["spread_ticks"]["mean"][::59] == [3.0, 1.0]
    assert facts["timeline"]["rows"]["trades"][30] == 1 and facts["timeline"]["recorded_s"] == [1.0] * 60


def test_parts_that_count_differently_are_refused() -> None:
    one, two = coin_day()
    with pytest.raises(SchemaMismatch, match=r"lake/book/b has tick_units 5 \(elsewhere 10\)"):
        report_of(one, replace(two, instrument=replace(COIN, tick_units=5)))


def test_a_notional_beyond_int64_is_exact() -> None:
    shiba = Instrument("C", 10**8, 1, 10**8, "coins", 0.0, "always", 1)
    rows = [(at(s), at(s), s, 1, 6 * 10**12, 10**13, False) for s in range(10)]
    day = FeedDay(
        shiba, Session(20240808, at(0), at(60)), {"trades": frame(rows, TRADES.polars_schema())}, {"feed": "t", "receive_clock": False}
    )
    assert report_of(day)["trades"]["vwap"] == 60_000.0


def test_of_a_frame_nothing_is_kept() -> None:
    one, _ = coin_day()
    for table in stored(one):
        kept = _Table(table.ref.table)
        kept.add(table)
        assert kept.pieces and all(array.flags.owndata for array in kept.pieces[0].values())


# Recorded days.


@pytest.fixture(scope="module")
def aapl() -> FeedDay:
    return read_lobster(lobster_zip("AAPL"))


@pytest.mark.real_data
def test_a_recorded_day_against_loops(aapl: FeedDay) -> None:
    facts = report_of(aapl)
    book, trades = aapl.tables["book"], aapl.tables["trades"]
    assert facts["rows"] == sum(map(len, aapl.tables.values())) and facts["quarantine"] == []
    assert facts["trades"]["volume"] == 2_850_140 and facts["tables"]["trades"]["ties"] == pytest.approx(0.480, abs=5e-4)
    assert facts["clock"] is None and facts["timeline"]["bin_s"] == 60 and len(facts["timeline"]["recorded_s"]) == 390
    assert sum(facts["timeline"]["rows"]["book"]) == len(book) == 118_497 and sum(facts["timeline"]["rows"]["trades"]) == len(trades)
    ts, bid, ask = (book[c].to_list() for c in ("ts_recv", "bid_px_00", "ask_px_00"))
    ts.append(aapl.session.close)
    area, minute = 0, {}
    for i, spread in enumerate(a - b for a, b in zip(ask, bid, strict=True)):
        area += spread * (ts[i + 1] - ts[i])
        minute.setdefault((ts[i] - aapl.session.open) // (60 * SECOND), []).append(spread)
    assert facts["spread"]["book"]["ticks"]["mean"] == pytest.approx(area / (ts[-1] - ts[0]), abs=1e-6)
    p95 = facts["timeline"]["spread_ticks"]["p95"]
    assert p95 == [sorted(minute[k])[int(np.ceil(0.95 * len(minute[k]))) - 1] for k in range(390)]
    longest = max(b - a for a, b in zip([aapl.session.open, *ts], ts, strict=False))
    assert facts["silences"]["longest_s"] == pytest.approx(longest / SECOND, abs=1e-6) and facts["silences"]["count"] == 0


@pytest.mark.real_data
def test_a_day_in_files_is_the_day(aapl: FeedDay) -> None:
    """Cut where no two rows share a time, given in any order: nothing but the parts is different."""
    times = np.sort(aapl.tables["book"]["ts_event"].to_numpy())
    cuts = [int(times[i]) for i in (20_000, 70_001, 70_002) if times[i] != times[i - 1]]
    assert len(cuts) > 1
    parts = []
    for k, (low, high) in enumerate(zip([0, *cuts], [*cuts, 2**62], strict=True)):
        tables = {name: table.filter(pl.col("ts_event").is_between(low, high, closed="left")) for name, table in aapl.tables.items()}
        parts.append(replace(aapl, tables=tables, part=f"p{k}"))
    whole, cut = report_of(aapl), report_of(*parts[::-1])
    assert all(table.pop("parts") == len(parts) for table in cut["tables"].values())
    for table in whole["tables"].values():
        table.pop("parts")
    for facts in (whole, cut):
        facts.pop("sources")
        facts.pop("partitions")
    assert cut == whole


@pytest.mark.real_data
def test_recorded_equity_ticks_in_two_files() -> None:
    """AIG, quotes and trades apart: crossed in up to .08 % of rows, locked in .2 to 2.8 %."""
    folder = lobster_zip("AAPL").parent.parent / "lean_equity_201310" / "aig"
    days = [day for kind in ("quote", "trade") for day in read_lean(folder / f"20131007_{kind}.zip")]
    facts = report_of(*days)
    book = facts["tables"]["book"]
    assert 0 < book["quarantined"]["crossed"] <= 0.0008 * book["rows"]
    assert 0.002 * book["rows"] <= facts["spread"]["book"]["locked"] <= 0.028 * book["rows"]
    assert facts["tables"]["trades"]["quarantined"]["sale_condition"] > 0 and facts["hours"]["open_s"] == 23_400.0
    assert {s["part"]: s["tables"] for s in facts["sources"]} == {"quote": ["book"], "trade": ["trades"]}
    assert facts["trades"]["unknown"]["rows"] == facts["trades"]["rows"] > 0


@pytest.mark.real_data
def test_a_recorded_capture_whose_clock_runs_behind() -> None:
    """Binance's spot: best bid and ask have no exchange time; the second file alone never knows its book."""
    folder = lobster_zip("AAPL").parent.parent / "binance_20240808"
    first, second = (report_of(*read_binance(folder / f"spot_btcusdt_2024080{day}.gz")) for day in (8, 9))
    for facts in (first, second):
        assert -1_280 < facts["clock"]["all"]["median_ms"] < -1_260 and facts["clock"]["all"]["behind"] == 1.0
        assert facts["clock"]["tables"]["quotes"] == {"without_exchange_time": facts["tables"]["quotes"]["rows"], "rows": 0}
        assert any(note == "The receive clock runs 1.27 s behind the exchange's: kept, never repaired." for note in facts["notes"])
        assert facts["quarantine"] and {q["reason"] for q in facts["quarantine"]} == {"no_snapshot"}
        assert facts["spread"]["quotes"]["ticks"]["median"] == 1.0 and facts["tables"]["quotes"]["per_minute"]["mean"] > 1_000
        assert facts["gaps"]["kinds"] == {"feed": 1}
    assert first["gaps"]["missing_s"] < 1 and first["timeline"]["spread_ticks"]["table"] == "book"
    assert second["tables"]["book"]["rows"] == 0 and second["gaps"]["missing_s"] > 300 and "No row of book may be used." in second["notes"]
    assert second["timeline"]["spread_ticks"]["table"] == "quotes"


# The picture.


def test_the_picture_shows_what_the_report_says() -> None:
    facts = report_of(*coin_day())
    svg = draw(facts)
    tree = ElementTree.fromstring(svg)
    texts = ["".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    for said in ("COIN 2024-08-08", "book", "trades", "quotes", "gap of the feed", "no file", "delay of receipt, ms", "time in UTC"):
        assert any(said in text for text in texts), said
    assert any("spread, ticks of 0.1" in text for text in texts) and any("over 1 s" in text for text in texts)
    # One polygon a panel and gap, in the gap's colour, and one in the legend.
    assert svg.count("stroke: #c0392b") == 4 and svg.count("stroke: #7f8c8d") == 4 and "silence" not in texts
    # 120 s over the width between the margins: 30 to 35 s, 60 to 100 s.
    spans = {"#c0392b": (30, 35), "#7f8c8d": (60, 100)}
    for path in tree.iter("{http://www.w3.org/2000/svg}path"):
        for colour, between in spans.items():
            if f"stroke: {colour}" in path.get("style", "") and path.get("clip-path"):
                numbers = [float(word) for word in path.attrib["d"].split() if word not in ("M", "L", "z")]
                edges = [LEFT * 72 + (WIDTH - LEFT - RIGHT) * 72 * s / 120 for s in between]
                assert sorted(set(numbers[::2])) == pytest.approx(edges, abs=1e-4)
    assert "<metadata>" not in svg and "<dc:date>" not in svg


def test_the_picture_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    facts = report_of(*coin_day())
    (tmp_path / "report.json").write_bytes(orjson.dumps(facts))
    code = (
        "import orjson, pathlib, sys\nfrom cift_models.feeds.quality_plot import draw\n"
        "sys.stdout.write(draw(orjson.loads(pathlib.Path(sys.argv[1]).read_bytes())))"
    )
    bare = {"PYTHONHASHSEED": "7", "PATH": "", "MPLCONFIGDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "report.json")]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    assert done.stdout == draw(facts)
    assert len({draw(facts) for _ in range(5)}) == 1


@pytest.mark.real_data
def test_the_picture_of_a_feed_with_one_time_says_so(aapl: FeedDay) -> None:
    svg = draw(report_of(aapl))
    assert "no delay of the receive clock: the feed has one time only" in svg and "ts_recv - ts_event" not in svg
    assert all(f">{hour}:00</text>" in svg for hour in (10, 11, 12, 13, 14, 15, 16))


# What lies on disk, and the command.


class Counting(ParquetTicks):
    """A store that says how often rows were read."""

    reads = 0

    def read(self, ref: PartitionRef) -> pl.DataFrame:
        self.reads += 1
        return super().read(ref)


@pytest.fixture
def ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Two days of COIN, one of ZED."""
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "home"))
    ticks = Counting(tmp_path / "home")
    one, two = coin_day()
    for day in (one, two):
        ticks.write_day(day, check_day(day))
    for symbol, seconds in (("COIN", 86_400), ("ZED", 0)):
        tables = {"book": two.tables["book"].with_columns(pl.col("ts_event", "ts_recv") + seconds * SECOND)}
        session = stretch(int(tables["book"]["ts_recv"][0]), int(tables["book"]["ts_recv"][-1]))
        day = replace(two, instrument=replace(COIN, symbol=symbol), session=session, tables=tables)
        ticks.write_day(day, check_day(day))
    return ticks


def test_what_is_stored_by_symbol_and_day(ticks: Counting) -> None:
    found = stored_days(ticks)
    assert list(found) == [("COIN", 20240808), ("COIN", 20240809), ("ZED", 20240808)]
    assert sorted(ref.key for ref in found["COIN", 20240808]) == [
        "lake/book/COIN/20240808/a", "lake/book/COIN/20240808/b", "lake/book_state/COIN/20240808/a", "lake/quotes/COIN/20240808/a",
        "lake/status/COIN/20240808/a", "lake/trades/COIN/20240808/a",
    ]  # fmt: skip
    assert list(stored_days(ticks, "ZED")) == [("ZED", 20240808)] and list(stored_days(ticks, "COIN", 20240809)) == [("COIN", 20240809)]
    with pytest.raises(UnknownSymbol, match="'NONE'"):
        stored_days(ticks, "NONE")
    with pytest.raises(EmptyRange, match="Nothing of COIN is stored on 20240810; stored days: 20240808, 20240809"):
        stored_days(ticks, "COIN", 20240810)


def test_a_report_is_made_once_and_again_when_the_data_change(ticks: Counting) -> None:
    def look() -> dict[str, Any]:
        return examine(ticks, "COIN", 20240808, stored_days(ticks, "COIN", 20240808)["COIN", 20240808])

    first, path = look(), report_path("COIN", 20240808)
    assert ticks.reads == 6 and orjson.loads(path.read_bytes()) == first
    picture, data = path.with_suffix(".svg").read_bytes(), path.read_bytes()
    assert look() == first and ticks.reads == 6
    for damage in (path.unlink, lambda: path.write_bytes(data[:-9]), path.with_suffix(".svg").unlink, lambda: path.write_bytes(b"[1]")):
        before = ticks.reads
        damage()
        assert look() == first and ticks.reads == before + 6
        assert (path.read_bytes(), path.with_suffix(".svg").read_bytes()) == (data, picture)
    _, two = coin_day()
    fewer = replace(two, tables={"book": two.tables["book"][:1]})
    ticks.write_day(fewer, check_day(fewer))
    assert look()["rows"] == first["rows"] - 1
    path.write_bytes(path.read_bytes().replace(first["code"].encode(), b"0" * 64))
    assert look()["code"] == first["code"]


def quality(*arguments: str) -> Any:
    from flows.cli.app import app

    return CliRunner().invoke(app, ["quality", *arguments])


def test_the_command_in_words(ticks: Counting, tmp_path: Path) -> None:
    done = quality()
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert [line[:5] for line in lines[1:]] == [
        ["COIN", "2024-08-08", "14", "4", "2"], ["COIN", "2024-08-09", "2", "0", "0"], ["ZED", "2024-08-08", "2", "0", "0"],
    ]  # fmt: skip
    assert "receive clock 1.25 s behind the exchange's" in done.output.splitlines()[1]
    assert [line.split()[1] for line in quality("COIN").output.splitlines()[1:]] == ["2024-08-08", "2024-08-09"]
    assert quality("COIN", "2024-08-09").output.startswith("COIN 2024-08-09, 00:01:40.000 to 00:01:55.000 (UTC)")
    text = quality("COIN", "2024-08-08").output
    for said in (
        "COIN 2024-08-08, 00:00:00.000 to 00:01:00.000, 00:01:40.000 to 00:02:00.000 (UTC)",
        "The receive clock runs 1.25 s behind the exchange's: kept, never repaired.",
        "book: 1 no_snapshot, 00:00:01.250 to 00:00:01.250",
        "trades: 1 non_positive, 00:00:15.000",
        "feed: 00:00:30.000 to 00:00:35.000, 5.000 s",
        "hole: 00:01:00.000 to 00:01:40.000, 40.000 s",
        "book, ticks: median 2, 95 % 10, max 10, mean over time 3",
        "1 locked (kept), 1 crossed (in quarantine), 1 with one side only",
        "quotes: ts_recv only",
        "book: ts_recv - ts_event in ms: median -1,250.000",
        "3, 3 coins (buy 2, sell 0.5, unknown 0.5, hidden 0.5), 10.1 to 10.3",
        "test a.gz, sha256 abababababab",
    ):
        assert said in text, said
    picture = next(line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("Picture"))
    assert Path(picture) == tmp_path / "home/quality/COIN/20240808.svg" and Path(picture).read_text().startswith("<?xml")


def test_a_time_of_another_day_says_so() -> None:
    from flows.cli.quality import _time

    assert _time(at(86_399.9994), "UTC", 20240808) == "23:59:59.999" and _time(at(86_400), "UTC", 20240808) == "08-09 00:00:00.000"
    assert _time(None, "UTC", 20240808) == "-"


def test_the_command_for_machines(ticks: Counting) -> None:
    listed = orjson.loads(quality("--json").output)
    assert [(one["symbol"], one["day"], one["rows"], one["gaps"], one["clock_ms"]) for one in listed] == [
        ("COIN", 20240808, 14, 2, -1_250.0), ("COIN", 20240809, 2, 0, -1_250.0), ("ZED", 20240808, 2, 0, -1_250.0),
    ]  # fmt: skip
    assert listed[0]["quarantined"]["book"] == {"crossed": 1, "duplicate": 1, "no_snapshot": 1}
    assert orjson.loads(quality("COIN", "--json").output) == listed[:2]
    assert quality("COIN", "2024-08-08", "--json").stdout_bytes == report_path("COIN", 20240808).read_bytes()


def test_what_cannot_be_shown_is_said(ticks: Counting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(quality("NONE").exception, UnknownSymbol) and isinstance(quality("ZED", "2024-08-09").exception, EmptyRange)
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "empty"))
    empty = quality().exception
    assert (
        isinstance(empty, NotStored)
        and f"Nothing is stored below {tmp_path / 'empty'}." in str(empty)
        and not (tmp_path / "empty").exists()
    )


def test_help_teaches() -> None:
    text = " ".join(quality("--help").output.split())
    assert "Example: cift quality AAPL 2012-06-21" in text and "out_of_order" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["NONE"], ["Unknown symbol 'NONE'", "Stored are COIN, ZED"]),
        (["COIN", "2024-08-10"], ["Nothing of COIN is stored on 20240810", "20240808, 20240809"]),
        (["COIN", "nan"], ["DAY is 'nan'", "2012-06-21"]),
        (["../x"], ["Unknown symbol '../x'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_mistake_is_a_few_lines_and_exit_2(ticks: Counting, tmp_path: Path, arguments: list[str], texts: list[str]) -> None:
    done = cift(tmp_path / "home", "quality", *arguments)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) <= 3, done.stderr
    assert all(text in done.stderr for text in texts), done.stderr


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, tasks.quality, cift_models.feeds.quality_plot\n"
        "print(sorted({'polars', 'matplotlib', 'prefect', 'mlflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
