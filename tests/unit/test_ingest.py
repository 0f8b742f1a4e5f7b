"""Files into the store: once, again, after a loss, in any order; and what a backfill says before it does anything."""

from __future__ import annotations

import gzip
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import CiftError, Conflict, EmptyRange, FeedError, InputError, StoreError, UnknownSymbol
from cift_models.events import BOOK, HALT, Events
from cift_models.feeds import read
from cift_models.feeds.canonical import tables_of_events
from cift_models.feeds.canonical_files import write_canonical
from cift_models.feeds.day import FeedDay
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import Checked, check_tables
from cift_models.files import sha256_file
from cift_models.instruments import SECOND, Instrument, Session, Universe, stretch
from cift_models.settings import get_settings
from cift_models.splits import decision_rows
from cift_models.stores.ticks import open_ticks
from flows.backfill import backfill
from flows.ingest import ingest, ingest_all
from flows.parameters import BackfillParameters, IngestParameters
from tasks.dataset import build_session, feature_inputs, select_data
from tasks.ingest import done_before, ingest_file, ingest_files
from tasks.plan import Planned, plan_features, plan_ingest
from tasks.runs import alone
from tests import feed_made
from tests.lobster_made import lobster_made

DAYS = [date(2012, 6, day) for day in (20, 21, 22)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """One symbol's day on three dates."""
    return [made(tmp_path / "in" / f"{day:%Y%m%d}.zip", day) for day in DAYS]


def made(path: Path, day: date, symbol: str = "TEST") -> Path:
    path.parent.mkdir(exist_ok=True)
    return lobster_made(path, stem=f"{symbol}_{day.isoformat()}_34200000_57600000")


def lake(home: Path) -> dict[str, str]:
    return {str(p.relative_to(home)): sha256_file(p) for p in sorted((home / "lake").rglob("*")) if p.is_file() and p.name != ".lock"}


def states(planned: list) -> list[tuple[str, str]]:
    return [(one.state, one.why) for one in planned]


def test_a_file_again_is_not_read_again(files: list[Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ingest_file("lobster", files[0], {})
    before = lake(home)
    monkeypatch.setattr(read, "_reader", lambda feed: pytest.fail("read again"))
    again = ingest_file("lobster", files[0], {})
    assert again.again and not first.again and again.stored == first.stored and lake(home) == before


def test_what_the_store_has_lost_is_made_again(files: list[Path], home: Path) -> None:
    ingest_file("lobster", files[0], {})
    before = lake(home)
    shutil.rmtree(home / "lake" / "trades")
    done = ingest_file("lobster", files[0], {})
    assert not done.again and lake(home) == before


def test_a_damaged_manifest_is_mended_by_the_same_file(files: list[Path], home: Path) -> None:
    ingest_file("lobster", files[0], {})
    before = lake(home)
    (home / "lake" / "trades" / "TEST" / "20120620" / "partition.json").write_text("{}")
    (one,) = plan_ingest.fn("lobster", [str(files[0])], {}, DAYS[0], DAYS[0])
    assert (one.state, one.why) == ("changed", "the manifest of lake/trades/TEST/20120620 is damaged")
    assert not ingest_file("lobster", files[0], {}).again and lake(home) == before


def test_nothing_is_cleaned_away_while_files_are_ingested(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def clean(*_: object) -> list:
        with pytest.raises(Conflict, match="going on"), alone():
            pass
        return ["tried"]

    monkeypatch.setattr("flows.ingest.ingest_all", clean)
    assert ingest.fn(IngestParameters(feed="lobster", files=[str(files[0])])) == ["tried"]


def test_again_reads_a_file_that_was_stored_before(files: list[Path], home: Path) -> None:
    first = ingest_file("lobster", files[0], {})
    before = lake(home)
    data = home / "lake/trades/TEST/20120620/data.parquet"
    data.write_bytes(b"damaged")
    assert ingest_file("lobster", files[0], {}).again  # the manifests stand: who only asks for them cannot see it
    done = ingest_file("lobster", files[0], {}, again=True)
    assert not done.again and done.stored == first.stored and lake(home) == before


def test_a_table_that_a_file_no_longer_has_is_left_behind(home: Path) -> None:
    """Sent again without its status: the session is whole, though the old table still lies there."""
    ticks = open_ticks(get_settings())
    session = Session(20231114, 1_000, 2_000)
    events = Events.empty(3, 1)
    events.ts[:], events.sequence[:], events.kind[:] = [1_100, 1_200, 1_300], [0, 1, 2], [BOOK, HALT, BOOK]
    instrument = Instrument("A", 100, 1, 1, "shares", 0.0, "simulated", 1)
    ticks.write_events(instrument, session, events, {"feed": "first"})
    tables = {name: frame for name, frame in tables_of_events(events).items() if name != "status"}
    again = FeedDay(instrument, session, tables, {"feed": "second"})
    ticks.write_day(again, {name: Checked(frame, frame.clear(), {}) for name, frame in tables.items()})
    assert ticks.events(Universe((instrument,)), session).kind.tolist() == [BOOK, BOOK]


def test_any_order_and_any_number_of_workers_give_the_same_bytes(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes = []
    for name, order, workers in (("a", files, 1), ("b", files[::-1], 1), ("c", files, 3)):
        monkeypatch.setenv("CIFT_HOME", str(tmp_path / name))
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda file: ingest_file("lobster", file, {}), order))
        lakes.append(lake(tmp_path / name))
    assert lakes[0] == lakes[1] == lakes[2] and len(lakes[0]) == 24


def test_a_damaged_file_stores_nothing_and_says_so_every_time(files: list[Path], home: Path) -> None:
    files[1].write_bytes(files[1].read_bytes()[:300])
    for _ in range(2):
        with pytest.raises(FeedError, match=r"20120621\.zip"):
            ingest_file("lobster", files[1], {})
    assert not (home / "lake").exists()


def test_an_option_that_a_feed_has_not_is_refused(files: list[Path]) -> None:
    with pytest.raises(InputError, match=r"lobster has no option market"):
        ingest_file("lobster", files[0], {"market": "spot"})
    with pytest.raises(InputError, match="Unknown feed 'ftse'"):
        ingest_file("ftse", files[0], {})


def test_the_preview_says_what_and_why(files: list[Path], home: Path) -> None:
    def plan(**options: int) -> list[tuple[str, str]]:
        return states(plan_ingest.fn("lobster", [str(files[0].parent)], options, DAYS[0], DAYS[-1]))

    assert plan() == [("missing", "never done")] * 3
    for file in files:
        ingest_file("lobster", file, {})
    assert plan() == [("done", "")] * 3
    assert plan(tick_units=50) == [("changed", "options changed")] * 3
    made(files[1], DAYS[1], symbol="OTHER")
    shutil.rmtree(home / "lake" / "status" / "TEST" / "20120622")
    assert plan() == [
        ("done", ""),
        ("changed", "the file changed"),
        ("changed", "lake/status/TEST/20120622 is not stored as it was"),
    ]
    only = plan_ingest.fn("lobster", [str(f) for f in files], {}, DAYS[2], DAYS[2])
    assert [one.day for one in only] == [20120622]
    with pytest.raises(EmptyRange, match="None of the files begins in 2013-01-01"):
        plan_ingest.fn("lobster", [str(files[0])], {}, date(2013, 1, 1), date(2013, 1, 2))
    with pytest.raises(InputError, match="no file or folder /nowhere"):
        plan_ingest.fn("lobster", ["/nowhere"], {}, DAYS[0], DAYS[0])


def test_changed_code_is_a_reason(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ingest_file("lobster", files[0], {})
    monkeypatch.setattr("tasks.step.code_sha256", lambda: "0" * 64)
    assert states(plan_ingest.fn("lobster", [str(files[0])], {}, DAYS[0], DAYS[0])) == [("changed", "the code changed")]


def test_features_are_planned_a_day_at_a_time(files: list[Path], home: Path) -> None:
    def plan() -> list[tuple[int, str, str]]:
        ingesting = plan_ingest.fn("lobster", [str(f) for f in files], {}, DAYS[0], DAYS[-1])
        return [(one.day, one.state, one.why) for one in plan_features.fn(["TEST"], DAYS[0], DAYS[-1], ingesting)]

    assert plan() == [(day, "missing", "its ticks are ingested first") for day in (20120620, 20120621, 20120622)]
    for file in files:
        ingest_file("lobster", file, {})
    dataset = select_data.fn(["TEST"], DAYS[0], DAYS[-1], None, 0)
    for day in dataset.days:
        build_session.fn(dataset, day)
    assert [state for _, state, _ in plan()] == ["done"] * 3
    shutil.rmtree(home / "lake" / "trades" / "TEST" / "20120620")
    (stored,) = (home / "features").glob("*/*/20120621")
    shutil.rmtree(stored)
    assert plan() == [
        (20120620, "changed", "its ticks are ingested first"),
        (20120621, "changed", "the store has lost it"),
        (20120622, "done", ""),
    ]
    build_session.fn(dataset, 20120621)
    assert plan()[1] == (20120621, "done", "")
    (manifest,) = (home / "features").glob("*/*/20120621/*/partition.json")
    written = manifest.read_bytes()
    manifest.write_text("{}")
    assert plan()[1] == (20120621, "changed", "the store has lost it")
    build_session.fn(dataset, 20120621)
    assert plan()[1] == (20120621, "done", "") and manifest.read_bytes() == written
    assert open_ticks(get_settings()).sessions(["TEST"])


def over_midnight() -> None:
    """Store a venue that never closes: 30 s before a midnight and 30 s behind it, in two recordings."""
    midnight = 19_900 * 86_400
    instrument = Instrument("COIN", 100, 1, 1, "coins", 0.0, "always", 1)
    for part, first in (("a", midnight - 30), ("b", midnight)):
        events = Events.empty(30, 1)
        events.ts[:] = (first + np.arange(30)) * SECOND + SECOND // 2
        events.sequence[:], events.kind[:] = first + np.arange(30), BOOK
        events.bid_px[:], events.ask_px[:], events.bid_sz[:], events.ask_sz[:] = 10, 11, 1, 1
        session = stretch(int(events.ts[0]), int(events.ts[-1]))
        day = FeedDay(instrument, session, tables_of_events(events), {"feed": "test", "part": part}, part)
        open_ticks(get_settings()).write_day(day, check_tables(day.tables, session, receive_clock=True))


def test_a_session_over_midnight_is_planned_as_one() -> None:
    over_midnight()
    days = (date(2024, 6, 25), date(2024, 6, 26))

    def plan(*ingesting: Planned) -> list[tuple[int, str, str]]:
        return [(one.day, one.state, one.why) for one in plan_features.fn(["COIN"], *days, list(ingesting))]

    assert plan() == [(20240625, "missing", "never done")]
    dataset = select_data.fn(["COIN"], *days, None, 0)
    assert dataset.days == [20240625]
    build_session.fn(dataset, 20240625)
    assert plan() == [(20240625, "done", "")]
    second = Planned(step="ingest", what="b", symbol="COIN", day=20240626, state="changed", why="the file changed")
    assert plan(second) == [(20240625, "changed", "its ticks are ingested first")]


def short(days: dict[int, int]) -> None:
    """Store a venue that never closes: so many seconds of some days (of June 2024)."""
    instrument = Instrument("COIN", 100, 1, 1, "coins", 0.0, "always", 1)
    for day, n in days.items():
        first = int(datetime(2024, 6, day, 12, tzinfo=UTC).timestamp())
        events = Events.empty(n, 1)
        events.ts[:] = (first + np.arange(n)) * SECOND
        events.sequence[:], events.kind[:] = np.arange(n), BOOK
        events.bid_px[:], events.ask_px[:], events.bid_sz[:], events.ask_sz[:] = 10, 11, 1, 1
        session = stretch(int(events.ts[0]), int(events.ts[-1]))
        feed_day = FeedDay(instrument, session, tables_of_events(events), {"feed": "test"}, "t1")
        open_ticks(get_settings()).write_day(feed_day, check_tables(feed_day.tables, session, receive_clock=True))


def test_sessions_too_short_for_ten_blocks_say_what_they_have_and_what_is_needed() -> None:
    short({25: 14, 26: 30})
    days = (date(2024, 6, 25), date(2024, 6, 26))
    (one, two) = open_ticks(get_settings()).sessions(["COIN"])
    rows = [len(decision_rows(session, SECOND, SECOND)) for session in (one, two)]
    assert 0 <= rows[0] < rows[1] and sum(rows) < 200
    with pytest.raises(
        EmptyRange, match=rf"COIN: 1 sessions .* 20240625 has {rows[0]} in 13 s\. Needed are 10, one a block \(there are {rows[0]}\)"
    ):
        select_data.fn(["COIN"], days[0], days[0], None, 0)
    needed = rf"20240625 has {rows[0]} in 13 s, 20240626 has {rows[1]} in 29 s\. Needed are 7 before 2024-06-25 and 3 from it on "
    with pytest.raises(EmptyRange, match=needed + rf"\(there are 0 and {sum(rows)}\)"):
        select_data.fn(["COIN"], *days, days[0], 0)
    with pytest.raises(EmptyRange, match="one in each block of whole sessions") as caught:
        short(dict.fromkeys(range(1, 13), 1))
        select_data.fn(["COIN"], date(2024, 6, 1), date(2024, 6, 12), None, 0)
    assert "7 others have more" in str(caught.value) and "`cift backfill --symbols`" in caught.value.hint


def test_a_backfill_needs_no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    short({25: 14})
    day = date(2024, 6, 25)
    (one,) = plan_features.fn(["COIN"], day, day, [])
    assert (one.state, one.why) == ("missing", "never done")
    dataset = select_data.fn(["COIN"], day, day, None, 0, blocks=False)
    assert build_session.fn(dataset, 20240625).facts["instants"] >= 13
    with pytest.raises(InputError, match="features only"):
        dataset.get_calendar()
    assert states(plan_features.fn(["COIN"], day, day, [])) == [("done", "")]
    asked: list[bool] = []
    monkeypatch.setattr("flows.backfill.plan_ingest", lambda *_: [])
    monkeypatch.setattr("flows.backfill.build", lambda dataset: asked.append(dataset.calendar == {}))
    params = BackfillParameters(feed="lobster", files=["x"], start=day, end=day, symbols=["COIN"])
    monkeypatch.setattr("flows.backfill.select_data", select_data.fn)
    monkeypatch.setattr("flows.backfill.plan_features", plan_features.fn)
    assert [one.state for one in backfill.fn(params)] == ["done"] and asked == [True]


def test_the_blocks_do_not_change_what_features_are_keyed_by(files: list[Path]) -> None:
    ingest_file("lobster", files[0], {})
    keys = [feature_inputs(select_data.fn(["TEST"], DAYS[0], DAYS[0], None, 0, blocks=b), 20120620) for b in (True, False)]
    assert keys[0] == keys[1]


def test_a_symbol_that_is_still_to_come_hides_no_session_of_the_others(files: list[Path]) -> None:
    for file in files[:2]:
        ingest_file("lobster", file, {})
    other = made(files[0].parent / "other.zip", DAYS[2], symbol="OTHER")
    ingesting = plan_ingest.fn("lobster", [str(other)], {}, DAYS[0], DAYS[-1])
    planned = plan_features.fn(["TEST", "OTHER"], DAYS[0], DAYS[-1], ingesting)
    assert [one.day for one in planned] == [20120620, 20120621, 20120622] and {one.state for one in planned} == {"missing"}
    with pytest.raises(UnknownSymbol, match="OTHRE"):
        plan_features.fn(["TEST", "OTHRE"], DAYS[0], DAYS[-1], ingesting)


def two_days(folder: Path) -> tuple[Path, Path]:
    """Captures of a venue that never closes, of which the second goes on from the first."""
    midnight = 1_723_161_600 * SECOND
    lines = feed_made.made(seconds=10, start=midnight - 5 * SECOND).lines
    first, second = (folder / f"spot_btcusdt_2024080{day}.gz" for day in (8, 9))
    first.write_bytes(gzip.compress(b"".join(b"%d %s\n" % line for line in lines if line[0] < midnight)))
    second.write_bytes(gzip.compress(b"".join(b"%d %s\n" % line for line in lines if line[0] >= midnight)))
    return first, second


def test_a_recording_behind_one_that_is_to_be_ingested_is_ingested_again(tmp_path: Path) -> None:
    days = (date(2024, 8, 8), date(2024, 8, 9))
    first, second = two_days(tmp_path)
    ingest_file("binance", second, {})
    plan = plan_ingest.fn("binance", [str(first), str(second)], {}, *days)
    assert states(plan) == [("missing", "never done"), ("changed", "the recording of BTCUSDT.SPOT before it is ingested first")]
    for one in plan:
        ingest_file("binance", Path(one.file), {})
    assert states(plan_ingest.fn("binance", [str(first), str(second)], {}, *days)) == [("done", "")] * 2


def test_what_came_before_a_failure_in_a_chain_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_days(tmp_path)
    lines = gzip.decompress(second.read_bytes()).splitlines(keepends=True)
    second.write_bytes(gzip.compress(b"".join([*lines[:40], *(line[:20] + b"\n" for line in lines[40:])])))

    class Submitted:
        @staticmethod
        def submit(*args: object) -> Future:
            with ThreadPoolExecutor(1) as aside:
                return aside.submit(ingest_files.fn, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("flows.ingest.ingest_files", Submitted)
    with pytest.raises(CiftError, match=second.name) as caught:
        ingest_all("binance", [first, second], {})
    assert [one.file for one in done_before(caught.value)] == [first.name] and not isinstance(caught.value, InputError)


def test_a_damaged_book_state_is_named_and_mended_by_its_own_file(tmp_path: Path, home: Path) -> None:
    first, second = two_days(tmp_path)
    days = (date(2024, 8, 8), date(2024, 8, 9))
    for file in (first, second):
        ingest_file("binance", file, {})
    before = lake(home)
    early, late = sorted((home / "lake" / "book_state" / "BTCUSDT.SPOT").glob("*/*/partition.json"))
    late.write_text("{}")  # what it left itself: nothing that it reads
    assert not ingest_file("binance", second, {}, again=True).again and lake(home) == before
    late.write_text("{}")
    early.write_text("{}")
    key = early.parent.relative_to(home)
    with pytest.raises(StoreError, match=rf"The book that the recording t\d+ of BTCUSDT.SPOT on 20240808 left is damaged.*{key}") as caught:
        ingest_file("binance", second, {}, again=True)
    assert f"`cift ingest --again` of that recording's file mends {key}" in caught.value.hint
    plan = plan_ingest.fn("binance", [str(first), str(second)], {}, *days)
    assert states(plan) == [("changed", f"the manifest of {key} is damaged"), ("missing", "never done")]
    for one in plan:
        ingest_file("binance", Path(one.file), {})
    assert lake(home) == before and states(plan_ingest.fn("binance", [str(first), str(second)], {}, *days)) == [("done", "")] * 2
    early.write_text("{}")
    plan = plan_ingest.fn("binance", [str(second)], {}, *days)
    assert states(plan) == [("changed", f"the book that the recording of BTCUSDT.SPOT before it left is damaged ({key})")]


def test_a_recording_sent_again_without_its_book_says_what_is_read_no_more(tmp_path: Path) -> None:
    day = read_lobster(lobster_made(tmp_path / "TEST.zip"))
    files = write_canonical(tmp_path / "in", day)
    (book,) = [path for path in files if path.name.startswith("book_")]
    (trades,) = [path for path in files if path.name.startswith("trades_")]
    ingest_file("canonical", trades, {})
    whole = book.read_bytes()
    book.unlink()
    (one,) = ingest_file("canonical", trades, {}).stored
    assert one.summary.endswith("; the book stored before is of another file and no longer read")
    ticks = open_ticks(get_settings())

    def events() -> Events:
        (session,) = ticks.sessions(["TEST"])
        return ticks.events(ticks.universe(["TEST"]), session)

    assert len(events()) and not (events().kind & BOOK).any()
    assert ingest_file("canonical", trades, {}).again
    book.write_bytes(whole)
    (one,) = ingest_file("canonical", trades, {}).stored
    assert (events().kind & BOOK).any() and "no longer read" not in one.summary


@pytest.mark.real_data
def test_a_recording_goes_on_from_the_one_before_whatever_the_order_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.environ.get("CIFT_TEST_DATA")
    if not root:
        pytest.skip("CIFT_TEST_DATA is not set: no recorded market data")
    first, second = (Path(root) / "binance_20240808" / f"spot_ethusdt_2024080{day}.gz" for day in (8, 9))
    days = (date(2024, 8, 8), date(2024, 8, 9))
    (early,) = ingest_file("binance", second, {}).stored
    assert set(early.quarantined) == {"no_snapshot"} and early.rows > 20_000  # trades and best bid and ask need no book
    ingest_file("binance", first, {})
    plan = plan_ingest.fn("binance", [str(first), str(second)], {}, *days)
    assert states(plan) == [("done", ""), ("changed", "the recording of ETHUSDT.SPOT before it has been stored since")]
    (late,) = ingest_file("binance", second, {}).stored
    assert late.quarantined == {} and late.rows > early.rows
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "in_order"))
    for chain in read.chains("binance", [second, first], {}):
        assert chain == [first, second]
        for file in chain:
            ingest_file("binance", file, {})
    assert lake(tmp_path / "in_order") == lake(tmp_path / "home")
