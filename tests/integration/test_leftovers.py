"""What nothing refers to on a real QuestDB and a real ClickHouse: found, left while it is young, removed, and what dies in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from clickhouse_driver import Client

from cift_models.errors import Conflict, NotStored
from cift_models.files import sha256_bytes
from cift_models.models.protocol import Panel
from cift_models.stores import questdb_leftovers
from cift_models.stores.clickhouse_server import Connection
from cift_models.stores.leftovers import REMOVED, REPLACED, KeepsLeftovers
from cift_models.stores.questdb import QuestDBTicks
from cift_models.stores.questdb_http import Http
from cift_models.stores.questdb_send import until_visible
from cift_models.stores.ticks import Key
from tasks import clean, runs
from tests.clickhouse_stores import chdb_store, database, fresh_store, get, known, predictions, put, same, sql, url, versions
from tests.contract.test_stores import SESSION, some_events
from tests.panels import toy_panel, toy_universe
from tests.processes import ROOT, environment
from tests.servers import ClickHouse
from tests.tick_places import OnQuestDB, on_questdb

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnQuestDB]:
    with on_questdb(tmp_path_factory.mktemp("questdb")) as place:
        yield place


@pytest.fixture
def ticks(place: OnQuestDB) -> QuestDBTicks:
    return place.fresh()


@pytest.fixture(scope="module")
def panel() -> Panel:
    return toy_panel(steps=40, symbols=2)


class Died(BaseException):
    """A process that is gone: nothing of ours catches it."""


def found(store: KeepsLeftovers, *unneeded: str, remove: bool = False, young_s: float = 0.0) -> dict[tuple[str, str], int]:
    """Rows by where and why, of what can go."""
    return {(one.where, one.why): one.rows for one in store.leftovers(unneeded, remove=remove, young_s=young_s) if not one.stays}


# ClickHouse


@pytest.mark.parametrize("engine", ["18.16", "chdb"])
def test_replaced_rows_go_and_what_a_manifest_names_stays(engine: str, request: pytest.FixtureRequest, panel: Panel) -> None:
    server = request.getfixturevalue("clickhouse_server" if engine == "18.16" else "chdb_session")
    store = fresh_store(server) if engine == "18.16" else chdb_store(server)
    kept = put(store, panel)
    store.write_rows("predictions", "run", "linear", 1, predictions(1.0, 70))
    now = store.write_rows("predictions", "run", "linear", 1, predictions(2.0, 50))
    other = store.write_rows("predictions", "other", "linear", 1, predictions(1.0, 30))
    assert found(store) == {("predictions", REPLACED): 70} == found(store)
    assert found(store, remove=True) == {("predictions", REPLACED): 70}
    assert store.leftovers(young_s=0.0) == []
    assert store.read_rows(now).equals(predictions(2.0, 50)) and store.read_rows(other).equals(predictions(1.0, 30))
    assert same(get(store, panel, kept), panel) and store.rows("predictions", "run") == (now,)
    # What was there once may be again: its manifest of then does not count as its own now.
    again = store.write_rows("predictions", "run", "linear", 1, predictions(1.0, 70))
    assert found(store, remove=True) == {("predictions", REPLACED): 50} and store.read_rows(again).equals(predictions(1.0, 70))


def test_rows_whose_writer_died_go_once_they_are_old(clickhouse_server: ClickHouse, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    insert = Connection.insert

    def dying(self: Connection, table: str, frame: pl.DataFrame) -> None:
        if table == "partitions":
            raise Died
        insert(self, table, frame)

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(Connection, "insert", dying)
        put(store, panel)
    (table,) = [t for (t,) in sql(clickhouse_server, name, "SHOW TABLES") if t.startswith("features_")]
    young = store.leftovers(remove=True)
    assert {one.where: (one.rows, one.stays) for one in young} == {
        table: (80, "written in the last 60 minutes, perhaps still being written"),
        "offsets": (41, "written in the last 60 minutes, perhaps still being written"),
    }
    assert all(one.size > 0 for one in young)
    assert sql(clickhouse_server, name, f"SELECT count() FROM {table}") == [(80,)]
    assert found(store, remove=True) == {(table, REPLACED): 80, ("offsets", REPLACED): 41}
    assert sql(clickhouse_server, name, f"SELECT count() FROM {table}") == [(0,)]
    ref = put(store, panel)
    assert same(get(store, panel, ref), panel)


def test_sessions_of_removed_runs_go_whatever_their_age(clickhouse_server: ClickHouse, panel: Panel) -> None:
    store = fresh_store(clickhouse_server)
    other = replace(panel, x=panel.x + 1.0)
    kept, gone = put(store, panel), put(store, other)
    assert store.session_keys() == sorted([kept.key, gone.key])
    table = f"features_{kept.key.split('/')[2]}"
    assert found(store, gone.key, remove=True, young_s=3600.0) == {(table, REMOVED): 80, ("offsets", REMOVED): 41, ("known", REMOVED): 1}
    assert [one.ref for one in known(store, panel)] == [kept]
    assert versions(store, panel) == (kept,) and same(get(store, panel, kept), panel)
    with pytest.raises(NotStored):
        get(store, other, gone)
    assert store.leftovers([gone.key]) == []


def test_a_removal_that_dies_leaves_what_the_next_one_removes(
    clickhouse_server: ClickHouse, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(panel, x=panel.x + 1.0)
    execute = Client.execute
    for at in range(1, 6):
        store = fresh_store(clickhouse_server)
        kept, gone = put(store, panel), put(store, other)
        left = iter(range(at - 1))

        def dying(self: Client, query: str, *args: Any, left: Iterator[int] = left, **how: Any) -> Any:
            if query.startswith("ALTER") and next(left, None) is None:
                raise Died
            return execute(self, query, *args, **how)

        with monkeypatch.context() as patched:
            patched.setattr(Client, "execute", dying)
            try:
                store.leftovers([gone.key], remove=True)
            except Died:
                assert at < 5
            else:
                assert at == 5  # the manifest, the rows, when it was known, the offsets
        assert same(get(store, panel, kept), panel)
        found(store, gone.key, remove=True)
        assert store.leftovers([gone.key]) == [] and versions(store, panel) == (kept,) and same(get(store, panel, kept), panel)


# QuestDB


def stored_days(ticks: QuestDBTicks) -> dict[str, Any]:
    """Two symbols on one day, one of them sent again with other rows, and a third that was replaced by a day without it."""
    a, b = toy_universe(2).instruments
    with_quarantine = some_events(30)
    kept = {}
    ticks.write_events(a, SESSION, some_events(20, seed=1), {"feed": "test"})
    for instrument, events in ((a, some_events(25, seed=2)), (b, with_quarantine)):
        for ref in ticks.write_events(instrument, SESSION, events, {"feed": "test"}):
            kept[ref.key] = ref
    return kept


def all_read(ticks: QuestDBTicks, refs: dict[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    return {key: ticks.read(ref).rows() for key, ref in refs.items()}


def test_a_day_is_rewritten_without_what_was_replaced(ticks: QuestDBTicks) -> None:
    kept = stored_days(ticks)
    before = all_read(ticks, kept)
    day = "book 1970-01-01"
    assert found(ticks) == {(day, REPLACED): 20} == found(ticks)
    (young,) = ticks.leftovers(remove=True)
    assert young.rows == 20 and young.size > 0 and young.stays == "book was written to in the last 60 minutes, perhaps is still"
    assert found(ticks, remove=True) == {(day, REPLACED): 20}
    assert ticks.leftovers(young_s=0.0) == [] and all_read(ticks, kept) == before
    assert ticks.http.rows("select count() from book") == [[55]]
    assert [n for (n,) in ticks.http.rows("select table_name from tables()") if n.startswith("cift_clean")] == []
    # And the store goes on: the same connection, the same rows again, other rows.
    instrument = toy_universe(1).instruments[0]
    refs = ticks.write_events(instrument, SESSION, some_events(20, seed=1), {"feed": "test"})
    assert ticks.read(refs[-1]).height == 20 and found(ticks, remove=True) == {(day, REPLACED): 25}


def test_a_day_that_nothing_refers_to_is_dropped(ticks: QuestDBTicks) -> None:
    kept = stored_days(ticks)
    before = all_read(ticks, kept)
    (ref,) = [ref for key, ref in kept.items() if key.startswith("lake/book/S0")]
    frame = ticks.read(ref).with_columns(pl.col("ts_recv") + 86_400 * 10**9, pl.col("ts_event") + 86_400 * 10**9)
    partitions = ticks._partitions
    key = Key("book", "S0", SESSION.day)
    quarantined = frame.head(3).with_columns(reason=pl.lit("crossed"))
    facts = ticks.facts(ref)
    partitions.write(key, frame, quarantined, facts)
    again = partitions.write(key, ticks.read(kept["lake/book/S1/20231114"]), None, facts | {"rows": 30})
    assert found(ticks, remove=True) == {
        ("book 1970-01-01", REPLACED): 45,
        ("book 1970-01-02", REPLACED): 25,
        ("quarantine 2023-11", REPLACED): 3,
    }
    assert ticks.http.rows("select name from table_partitions('book')") == [["1970-01-01"]]
    assert ticks.http.rows("select count() from quarantine") == [[0]]
    del before[ref.key], kept[ref.key]
    assert all_read(ticks, kept) == before and ticks.read(again).height == 30


def test_kept_quarantined_rows_stay(ticks: QuestDBTicks) -> None:
    kept = stored_days(ticks)
    key, ref = Key("book", "S0", SESSION.day), kept["lake/book/S0/20231114"]
    rows, facts = ticks.read(ref), ticks.facts(ref)
    for n in (3, 2):
        ref = ticks._partitions.write(key, rows, rows.head(n).with_columns(reason=pl.lit("crossed")), facts)
    assert found(ticks, remove=True)[("quarantine 2023-11", REPLACED)] == 3
    held = ticks.quarantined(ref)
    assert held is not None and held.height == 2 and ticks.read(ref).equals(rows)


def test_a_removal_that_dies_at_any_statement_loses_nothing(ticks: QuestDBTicks, place: OnQuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questdb_leftovers, "DEAD_S", -1.0)
    do, at, n = Http.do, 0, 0

    def dying(self: Http, statement: str) -> None:
        nonlocal n
        n += 1
        if n == at:
            raise Died
        do(self, statement)

    torn = 0
    while True:
        at += 1
        ticks = place.fresh()
        kept = stored_days(ticks)
        before = all_read(ticks, kept)
        n = 0
        with monkeypatch.context() as patched:
            patched.setattr(Http, "do", dying)
            try:
                ticks.leftovers(remove=True, young_s=0.0)
                break
            except Died:
                pass
        until_visible(ticks.http, ["book"])
        torn += ticks.http.rows("select count() from book") == [[0]]
        ticks.leftovers(remove=True, young_s=3600.0)  # puts back what lies aside, though the table is young
        assert all_read(ticks, kept) == before
        ticks.leftovers(remove=True, young_s=0.0)
        assert all_read(ticks, kept) == before and ticks.leftovers(young_s=0.0) == []
        assert [name for (name,) in ticks.http.rows("select table_name from tables()") if name.startswith("cift_clean")] == []
    assert torn and at > 5  # the day was gone at one of them at least


def test_a_day_that_is_written_to_meanwhile_stays(ticks: QuestDBTicks, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stored_days(ticks)
    within = questdb_leftovers._sums
    other = toy_universe(3).instruments[2]
    new: list[Any] = []

    def writing(*args: Any) -> Any:
        if not new:
            new.extend(ticks.write_events(other, SESSION, some_events(10), {"feed": "test"}))
        return within(*args)

    monkeypatch.setattr(questdb_leftovers, "_sums", writing)
    (left,) = ticks.leftovers(remove=True, young_s=0.0)
    assert left.stays == "book was written to just now" and ticks.read(new[-1]).height == 10
    monkeypatch.undo()
    assert found(ticks, remove=True) == {("book 1970-01-01", REPLACED): 20}
    assert ticks.read(new[-1]).height == 10 and all_read(ticks, kept)


def test_what_another_removal_works_with_is_not_dropped(ticks: QuestDBTicks) -> None:
    """Rows that lie aside are put back by whoever comes by, and dropped only where nobody has written there for long."""
    kept = stored_days(ticks)
    before = all_read(ticks, kept)
    (d,) = [d for d in questdb_leftovers.definitions() if d.name == "book"]
    ticks.http.do(replace(d, name="cift_clean_book_0123abcd").create())
    ticks.http.do("insert into cift_clean_book_0123abcd select * from book")
    until_visible(ticks.http, ["cift_clean_book_0123abcd"])
    ticks.http.do("alter table book drop partition list '1970-01-01'")
    ticks.leftovers(remove=True)
    assert all_read(ticks, kept) == before
    assert ticks.http.rows("select count() from cift_clean_book_0123abcd") == [[75]]
    ticks.http.do("drop table cift_clean_book_0123abcd")


def test_nothing_is_removed_where_nothing_is_stored(ticks: QuestDBTicks, clickhouse_server: ClickHouse, tmp_path: Path) -> None:
    for store in (ticks, fresh_store(clickhouse_server)):
        assert isinstance(store, KeepsLeftovers) and store.leftovers(remove=True) == []


# The command.


def step_of(home: Path, name: str, key: str) -> str:
    """A step that built features and wrote them under a key."""
    folder = home / "steps" / "features" / name
    folder.mkdir(parents=True)
    (folder / "step.json").write_bytes(orjson.dumps({"files": {}, "facts": {"features": {"key": key}}, "inputs": {}}))
    return f"steps/features/{name}"


def test_clean_says_and_does_it_on_both_servers(
    clickhouse_server: ClickHouse, place: OnQuestDB, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database()
    store, ticks = fresh_store(clickhouse_server, name), place.fresh()
    kept, gone, others = (put(store, replace(panel, x=panel.x + shift)) for shift in (0.0, 1.0, 2.0))
    stored_days(ticks)
    urls = {"CIFT_QUESTDB_URL": place.url, "CIFT_CLICKHOUSE_URL": url(clickhouse_server, name)}
    for variable, value in {"CIFT_HOME": str(tmp_path), **urls}.items():
        monkeypatch.setenv(variable, value)
    release = tmp_path / "releases" / sha256_bytes(b"{}")
    release.mkdir(parents=True)
    (release / "manifest.json").write_bytes(b"{}")
    judged = step_of(tmp_path, "kept", kept.key)
    step_of(tmp_path, "removed", gone.key)
    made = {"symbols": [], "days": [], "mlflow_run": "", "version": ""}
    runs.write_run(flow="train", params={}, judged=judged, release=release.name, steps=[judged], **made)

    def cift(*arguments: str) -> str:
        command = [sys.executable, "-m", "flows.cli", "clean", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path, **urls), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    table = f"features_{kept.key.split('/')[2]}"
    dry = cift("--dry-run")
    assert f"ClickHouse {table}: 80 rows of removed runs, about " in dry and "would go" in dry
    assert "QuestDB book 1970-01-01: 20 rows replaced or never finished, about " in dry
    assert "stay: book was written to in the last 60 minutes" in dry and "Would free about 0 B (0 rows) on QuestDB." in dry
    assert store.session_keys() == sorted([kept.key, gone.key, others.key]) and (tmp_path / "steps/features/removed").is_dir()
    done = cift()
    assert f"{table}: 80 rows of removed runs, about " in done and "(122 rows) on ClickHouse." in done
    assert store.session_keys() == sorted([kept.key, others.key]) and not (tmp_path / "steps/features/removed").exists()
    assert f"{table}: 80 rows of removed runs" in cift("--orphans", "--dry-run")
    cift("--orphans")
    assert store.session_keys() == [kept.key] and same(get(store, panel, kept), panel)
    with pytest.raises(Conflict), runs.going_on():
        clean.server_leftovers(tmp_path, 3, removing=True)
