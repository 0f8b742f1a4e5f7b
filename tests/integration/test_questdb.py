"""Ticks on a real QuestDB: what comes back, versions side by side, damage, tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import InputError, NotStored, SchemaMismatch, StoreError
from cift_models.events import Events
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_tables
from cift_models.refs import PartitionRef
from cift_models.schema import INSTRUMENTS, TICK_TABLES, TRADES, Table
from cift_models.stores import questdb
from cift_models.stores.questdb import QuestDBPartitions, QuestDBTicks
from cift_models.stores.questdb_http import Http
from cift_models.stores.questdb_rows import EXACT, LAST, version_of
from cift_models.stores.questdb_send import Courier, until_visible
from cift_models.stores.ticks import Key, ParquetTicks
from tests.contract.test_stores import SESSION, some_events
from tests.lobster_slice import lobster_zip, slice_lobster
from tests.panels import toy_universe
from tests.tick_places import TABLES, OnQuestDB, on_questdb

pytestmark = pytest.mark.slow
KEY = Key("trades", "A", 20231114)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnQuestDB]:
    with on_questdb(tmp_path_factory.mktemp("questdb")) as place:
        yield place


@pytest.fixture
def ticks(place: OnQuestDB) -> QuestDBTicks:
    return place.fresh()


@pytest.fixture
def partitions(ticks: QuestDBTicks) -> QuestDBPartitions:
    return QuestDBPartitions(ticks.http)


def random_rows(table: Table, n: int, rng: np.random.Generator, wild: bool = False) -> pl.DataFrame:
    """Rows of any table with anything that its types hold in QuestDB, in any order; `wild` takes every value of the types."""
    columns = {}
    for column in table.columns:
        if column.dtype == "bool":
            columns[column.name] = rng.integers(0, 2, n).astype(bool)
            continue
        info = np.iinfo(column.dtype)
        low, high = info.min + (0 if column.dtype == "int8" else 1), info.max
        if column.name[:4] in ("bid_", "ask_") and table.name == "book" and column.dtype == "int64":
            low, high = 1 - EXACT, EXACT - 1
        if column.name == table.time and not wild:
            low, high = 0, (LAST if rng.integers(0, 2) else 10**9)
        ends = rng.choice(np.array([low, high, 0 if low <= 0 else low], dtype=column.dtype), n)
        if column.name == table.time and not wild:
            # Few days: the server keeps a folder for each.
            columns[column.name] = rng.choice(np.array([low, high, high // 2]), n) + rng.integers(0, 2, n) * (high < LAST)
            continue
        columns[column.name] = np.where(rng.integers(0, 2, n), rng.integers(low, high, n, dtype=column.dtype, endpoint=True), ends)
    return pl.DataFrame(columns, schema=table.polars_schema())


def facts_of(table: Table, frame: pl.DataFrame, **more: Any) -> dict[str, Any]:
    return {"table": table.name, "rows": len(frame), "schema_hash": table.schema_hash, **more}


def some_trades(n: int = 50, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, 10**12, n))
    columns = {"ts_event": at, "ts_recv": at, "sequence": np.arange(n), "side": np.ones(n, np.int8), "price": rng.integers(1, 9, n)}
    return pl.DataFrame({**columns, "size": np.ones(n, np.int64), "hidden": np.zeros(n, bool)}, schema=TRADES.polars_schema())


def put(partitions: QuestDBPartitions, frame: pl.DataFrame, key: Key = KEY, **more: Any) -> PartitionRef:
    return partitions.write(key, frame, None, facts_of(TRADES, frame, **more))


def got(partitions: QuestDBPartitions, key: Key = KEY) -> pl.DataFrame:
    ref, facts = partitions.manifest(key)
    return partitions.rows(ref, facts)


def settled(ticks: QuestDBTicks, *statements: str) -> None:
    """Change the server's tables behind the store's back."""
    for sql in statements:
        ticks.http.do(sql)
    until_visible(ticks.http, TABLES)


@given(name=st.sampled_from(sorted(TICK_TABLES)), n=st.integers(0, 40), levels=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_rows_of_any_table_come_back_to_the_byte_and_in_their_order(
    name: str, n: int, levels: int, seed: int, place: OnQuestDB
) -> None:
    rng = np.random.default_rng(seed)
    partitions = QuestDBPartitions(place.ticks.http)
    table = TICK_TABLES[name].with_levels(levels) if TICK_TABLES[name].each else TICK_TABLES[name]
    frame = random_rows(table, n, rng)
    kept = random_rows(table, n // 3, rng, wild=True).with_columns(reason=pl.lit("off_session")) if n >= 3 else None
    key = Key(name, "A-b_c.D", 20231114, "" if seed % 2 else "part.1")
    with pytest.MonkeyPatch.context() as patch:
        # Batches and slices of a few rows: borders between them are crossed.
        patch.setattr(questdb, "BATCH_BYTES", 1000)
        patch.setattr(questdb, "SLICE_BYTES", 3000)
        ref = partitions.write(key, frame, kept, facts_of(table, frame, note="ü\n\"'\\"))
        found, facts = partitions.manifest(key)
        assert found == ref and facts["note"] == "ü\n\"'\\"
        back = partitions.rows(ref, facts)
        assert back.schema == frame.schema and back.equals(frame)
        again = partitions.quarantined(ref, facts)
        assert (again is None and kept is None) or (again is not None and kept is not None and again.equals(kept))
        assert again is None or again.schema == kept.schema  # type: ignore[union-attr]


def test_keys_are_apart_whatever_rows_they_share(partitions: QuestDBPartitions) -> None:
    frame = some_trades()
    keys = [Key("trades", s, day, part) for s in ("A", "A.B") for day in (20231114, 20231115) for part in ("", "p")]
    refs = [put(partitions, frame, key) for key in keys]
    assert partitions.find() == sorted(keys) == partitions.find("trades") and partitions.find("book") == []
    assert len({partitions.manifest(key)[1]["content"]["sha256"] for key in keys}) == len(keys)
    assert all(got(partitions, key).equals(frame) for key in keys) and len({r.key for r in refs}) == len(keys)


def test_a_replaced_partition_is_whole_for_whoever_has_its_manifest(partitions: QuestDBPartitions, ticks: QuestDBTicks) -> None:
    a, b = some_trades(seed=1), some_trades(n=30, seed=2)
    ref_a = put(partitions, a)
    held = partitions.manifest(KEY)
    ref_b = put(partitions, b)
    assert ref_a != ref_b and got(partitions).equals(b)
    assert partitions.rows(*held).equals(a)  # a reader in the middle
    with pytest.raises(NotStored, match="not the one referred to"):
        ticks.read(ref_a)
    assert put(partitions, a) == ref_a and got(partitions).equals(a)
    assert partitions.find() == [KEY] and ticks.http.rows("select count() from trades") == [[80]]


def test_other_facts_of_the_same_rows_are_another_partition(partitions: QuestDBPartitions, ticks: QuestDBTicks) -> None:
    frame = some_trades()
    first, second = put(partitions, frame, source="x"), put(partitions, frame, source="y")
    assert first != second and partitions.manifest(KEY)[1]["source"] == "y" and got(partitions).equals(frame)
    assert ticks.http.rows("select count() from trades") == [[len(frame)]]


def test_an_instrument_is_written_for_sql(ticks: QuestDBTicks) -> None:
    for instrument in toy_universe(2).instruments:
        ticks.write_events(instrument, SESSION, some_events(), {"feed": "test"})
    columns = ", ".join(INSTRUMENTS.names)
    sql = f"select at, {columns} from instruments order by symbol"
    row = [10_000, 100, 1, "shares", 0.0, "simulated", 2, "sent"]
    assert ticks.http.rows(sql) == [["2023-11-14T00:00:00.000000000Z", s, *row] for s in ("S0", "S1")]
    sql = "select count() from book b join partitions p on b.version = p.version where b.symbol = 'S0'"
    assert ticks.http.rows(sql) == [[20]]


def test_damage_is_found_and_writing_again_mends_it(partitions: QuestDBPartitions, ticks: QuestDBTicks) -> None:
    frame = some_trades()
    kept = frame[:5].with_columns(reason=pl.lit("crossed"))

    def write() -> PartitionRef:
        return partitions.write(KEY, frame, kept, facts_of(TRADES, frame))

    ref = write()
    _, facts = partitions.manifest(KEY)
    version = version_of(facts["content"]["sha256"])
    for statement, what in (
        (f'UPDATE trades SET price = price + 1 WHERE version = {version} and "row" = 7', "its rows are not those"),
        (f"UPDATE trades SET hidden = true WHERE version = {version}", "its rows are not those"),
        ("ALTER TABLE trades DROP PARTITION LIST '1970-01-01'", "0 of 50 rows from row 0 on came back"),
        ("TRUNCATE TABLE trades", "0 of 50 rows from row 0 on came back"),
    ):
        settled(ticks, statement)
        with pytest.raises(StoreError, match=f"lake/trades/A/20231114 is damaged: {what}") as caught:
            ticks.read(ref)
        assert "cift ingest --again" in caught.value.hint
        assert write() == ref and ticks.read(ref).equals(frame), statement
    for statement in (
        "UPDATE quarantine SET json = '{}' WHERE \"row\" = 3",
        "TRUNCATE TABLE quarantine",
    ):
        settled(ticks, statement)
        with pytest.raises(StoreError, match="quarantined rows came back"):
            ticks.quarantined(ref)
        assert write() == ref
        mended = ticks.quarantined(ref)
        assert mended is not None and mended.equals(kept), statement
    for statement, what in (
        ("UPDATE partitions SET manifest = '{}'", "its sha256 is another"),
        ("UPDATE partitions SET manifest = '{}', sha256 = '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'", "'table'"),
    ):
        settled(ticks, statement)
        with pytest.raises(StoreError, match=f"manifest of lake/trades/A/20231114 is damaged: {what}"):
            partitions.manifest(KEY)
        assert write() == ref and ticks.read(ref).equals(frame), statement


def test_a_reader_during_rewrites_sees_one_or_the_other(place: OnQuestDB) -> None:
    ticks = place.fresh()
    frames = {len(f): f for f in (some_trades(900, 1), some_trades(1_000, 2), some_trades(1_100, 3))}
    writer = QuestDBPartitions(ticks.http)
    put(writer, frames[900])
    stop, seen, wrong = threading.Event(), [], []

    def read() -> None:
        own = QuestDBPartitions(QuestDBTicks(f"http://{ticks.http.host}:{ticks.http.port}").http)
        while not stop.is_set():
            try:
                frame = got(own)
                seen.append(len(frame))
                assert frame.equals(frames[len(frame)])
            except Exception as error:
                wrong.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for k in range(12):
        put(writer, list(frames.values())[k % 3])
        # One writer at a time: what was written is what is read.
        assert len(got(writer)) == list(frames)[k % 3]
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong and set(seen) == set(frames) and len(seen) > 20


def test_two_writers_of_one_partition_leave_one_whole(place: OnQuestDB) -> None:
    ticks = place.fresh()
    frames = [some_trades(2_000, seed) for seed in range(3)]
    wrong = []

    def write(frame: pl.DataFrame) -> None:
        own = QuestDBPartitions(ticks.http)
        try:
            for _ in range(3):
                put(own, frame)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(frame,)) for frame in frames]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    partitions = QuestDBPartitions(ticks.http)
    assert not wrong and any(got(partitions).equals(frame) for frame in frames)
    assert ticks.http.rows("select count() from trades") == [[6_000]]


def test_a_writer_who_is_overtaken_by_what_was_there_before_has_lost_nothing(
    partitions: QuestDBPartitions, ticks: QuestDBTicks, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = some_trades(seed=1), some_trades(seed=2)
    first = put(partitions, old)
    wait, committed = questdb.until_visible, []

    def overtaken(http: Http, tables: Any) -> None:
        wait(http, tables)
        if "partitions" in tables:
            committed.append(1)
            if len(committed) == 1:
                put(QuestDBPartitions(ticks.http), old)

    monkeypatch.setattr(questdb, "until_visible", overtaken)
    put(partitions, new)
    assert len(committed) == 2  # one each: nothing was sent twice
    assert partitions.manifest(KEY)[0] == first and got(partitions).equals(old)


def test_what_is_written_can_be_read_at_once(place: OnQuestDB) -> None:
    """An acknowledgement is no visibility: each write is read back on the spot, by another client."""
    ticks = place.fresh()
    writer, reader = QuestDBPartitions(ticks.http), QuestDBPartitions(QuestDBTicks(f"http://{ticks.http.host}:{ticks.http.port}").http)
    for k in range(15):
        key, frame = Key("trades", f"S{k}", 20231114 + k % 3), some_trades(3_000, k)
        ref = put(writer, frame, key)
        assert reader.manifest(key)[0] == ref and got(reader, key).equals(frame)


def test_days_and_tables_that_are_none(partitions: QuestDBPartitions) -> None:
    for day in (20231131, 19691231, 0, 99999999):
        with pytest.raises(InputError, match=f"{day} is no day"):
            put(partitions, some_trades(), Key("trades", "A", day))
    with pytest.raises(SchemaMismatch, match="outputs is no table of ticks"):
        put(partitions, some_trades(), Key("outputs", "A", 20231114))
    with pytest.raises(InputError, match="cannot be a folder"):
        put(partitions, some_trades(), Key("trades", "A'; drop table trades --", 20231114))
    assert partitions.find() == []


def test_a_table_that_is_missing_is_never_made_by_a_write(place: OnQuestDB) -> None:
    ticks = place.fresh()
    for name in ("trades", "partitions", "instruments", "quarantine"):
        partitions = QuestDBPartitions(ticks.http)
        ticks.http.do(f'DROP TABLE "{name}"')
        try:
            with pytest.raises(StoreError, match=f"has no table {name}") as caught:
                put(partitions, some_trades())
            assert "cift migrate" in caught.value.hint
            assert ticks.http.rows(f"select count() from tables() where table_name = '{name}'") == [[0]]
            assert any(name in sentence and "cift migrate" in sentence for sentence in ticks.lacks())
        finally:
            made, differences = ticks.migrate()
        assert made == (name,) and differences == ()
    assert ticks.migrate() == ((), ()) and ticks.lacks() == []


def test_a_table_that_is_made_anew_under_an_open_connection_loses_nothing(place: OnQuestDB) -> None:
    """The server acknowledges the next batch of such a connection, and loses it."""
    ticks = place.fresh()
    partitions = QuestDBPartitions(ticks.http)
    frame, kept = some_trades(), some_trades(5).with_columns(reason=pl.lit("crossed"))
    for k, name in enumerate(("trades", "quarantine", "partitions")):
        key = Key("trades", f"S{k}", 20231114)
        partitions.write(key, frame, kept, facts_of(TRADES, frame))
        # A second connection, as threads side by side leave it.
        with partitions._couriers.one(), partitions._couriers.one() as second:
            second.row(name, {"symbol": "B"}, {"version": 1}, 0)
        ticks.http.do(f'DROP TABLE "{name}"')
        assert ticks.migrate() == ((name,), ())
        key = Key("trades", f"S{k}", 20231115)
        ref = partitions.write(key, frame, kept, facts_of(TRADES, frame))
        assert partitions.manifest(key)[0] == ref and got(partitions, key).equals(frame)
        again = partitions.quarantined(*partitions.manifest(key))
        assert again is not None and again.equals(kept)


def test_what_is_stored_otherwise_than_it_was_sent_is_sent_again(partitions: QuestDBPartitions, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does whose disk was full: every number of rows is right, and a page of one column is zeros."""
    true, sent = Courier.frames, []
    rng = np.random.default_rng(0)
    book = random_rows(TICK_TABLES["book"].with_levels(2), 30, rng)
    for column in ("ts_event", "price", "hidden", "bid_sz", "json"):

        def wrong(self: Courier, table: str, batches: Iterator[Any], *how: Any, column: str = column) -> None:
            def spoilt() -> Iterator[Any]:
                for rows in batches:
                    if column in rows and len(sent) == 0:
                        zero = {"bid_sz": np.zeros(2), "json": "{}", "hidden": True}.get(column, 0)
                        rows = rows.assign(**{column: [zero if i < 5 else cell for i, cell in enumerate(rows[column])]})
                        rows = rows.astype({"ts_event": "datetime64[ns]"} if "ts_event" in rows else {})
                    sent.append(table)
                    yield rows

            true(self, table, spoilt(), *how)

        sent.clear()
        monkeypatch.setattr(Courier, "frames", wrong)
        frame, name = (book, "book") if column == "bid_sz" else (some_trades(40 if column != "json" else 0), "trades")
        table = TICK_TABLES["book"].with_levels(2) if name == "book" else TRADES
        kept = some_trades(6).with_columns(reason=pl.lit("crossed")) if column == "json" else None
        key = Key(name, f"S-{column}", 20231114)
        ref = partitions.write(key, frame, kept, facts_of(table, frame))
        assert len(sent) == 2, column
        found, facts = partitions.manifest(key)
        again = partitions.quarantined(found, facts)
        assert found == ref and partitions.rows(found, facts).equals(frame), column
        assert (again is None) == (kept is None) and (again is None or again.equals(kept))


def test_a_table_that_is_otherwise_is_refused_and_not_altered(place: OnQuestDB) -> None:
    ticks = place.fresh()
    ticks.http.do("DROP TABLE trades")
    ticks.http.do("DROP TABLE quotes")
    ticks.http.do(
        "CREATE TABLE trades (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, sequence LONG, side INT, price LONG, hidden BOOLEAN, "
        'symbol SYMBOL, version LONG, "row" INT, own DOUBLE) TIMESTAMP(ts_recv) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts_recv, symbol)'
    )
    try:
        expected = (
            "trades.side is INT, expected BYTE.",
            "trades.size is missing, expected LONG.",
            "trades: its key of deduplication is symbol, ts_recv, expected row, ts_recv, version.",
        )
        assert ticks.migrate() == ((), expected)
        assert set(expected) <= set(ticks.lacks())
        with pytest.raises(StoreError, match=r"has other tables than this version writes: trades\.side is INT"):
            put(QuestDBPartitions(ticks.http), some_trades())
        assert ticks.http.rows("select count() from trades") == [[0]]
        assert ticks.http.rows("select count() from tables() where table_name = 'quotes'") == [[0]]
    finally:
        ticks.http.do("DROP TABLE trades")
        assert ticks.migrate() == (("trades", "quotes"), ())


@pytest.mark.real_data
def test_a_recorded_stretch_gives_the_events_that_parquet_gives(ticks: QuestDBTicks, tmp_path) -> None:
    parquet = ParquetTicks(tmp_path / "home")
    for symbol in ("AAPL", "AMZN"):
        day = read_lobster(slice_lobster(lobster_zip(symbol), tmp_path / f"{symbol}.zip", 36_000_000, 36_900_000))
        for store in (ticks, parquet):
            store.write_day(day, check_tables(day.tables, day.session, receive_clock=False))
    universe = parquet.universe(["AAPL", "AMZN"])
    assert ticks.universe(["AAPL", "AMZN"]) == universe and ticks.sessions(["AAPL"]) == parquet.sessions(["AAPL"])
    (session,) = parquet.sessions(["AAPL"])
    one, other = ticks.events(universe, session), parquet.events(universe, session)
    assert len(one) > 10_000
    for f in fields(Events):
        a, b = getattr(one, f.name), getattr(other, f.name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), f.name
    for table in ("orders", "trades", "status", "book"):
        for mine, theirs in zip(ticks.partitions(table), parquet.partitions(table), strict=True):
            assert mine.key == theirs.key and mine.schema_hash == theirs.schema_hash
            assert ticks.read(mine).equals(parquet.read(theirs))


def test_many_manifests_are_one_question(ticks: QuestDBTicks, monkeypatch: pytest.MonkeyPatch) -> None:
    for instrument in toy_universe(3).instruments:
        ticks.write_events(instrument, SESSION, some_events(), {"feed": "test"})
    asked: list[str] = []
    rows = Http.rows
    monkeypatch.setattr(Http, "rows", lambda http, sql: asked.append(sql) or rows(http, sql))
    universe = ticks.universe(["S0", "S1", "S2"])
    assert len(asked) == 2  # what is there, and its manifests
    assert ticks.sessions(universe.symbols) == (SESSION,) and len(ticks.partitions("book")) == 3
    assert len(ticks.event_partitions(universe, SESSION)) == 9
    # universe, sessions and partitions one each, events one a symbol
    assert sum("manifest" in sql for sql in asked) == 3 + 3
