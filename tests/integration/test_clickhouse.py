"""The feature store on a real ClickHouse: what a kill, a faulty network, another hand or a full disk does to it, and what it says then."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cift_models.errors import NotStored, SchemaMismatch, SettingsError, StoreError, StoreUnavailable
from cift_models.models.protocol import Panel
from cift_models.settings import get_settings
from cift_models.stores import clickhouse as store_module
from cift_models.stores.clickhouse import ClickHouseFeatures
from cift_models.stores.clickhouse_server import Connection
from cift_models.stores.clickhouse_tables import LACKS
from cift_models.stores.features import open_features
from flows.cli import checks
from tests import servers
from tests.clickhouse_stores import database, fresh_store, get, known, predictions, put, same, sql, url, versions
from tests.panels import toy_panel
from tests.processes import ROOT
from tests.proxy import proxy
from tests.servers import ClickHouse
from tests.tls import terminated

pytestmark = pytest.mark.slow

SECRET = "kept between us"


@pytest.fixture(scope="module")
def panel() -> Panel:
    return toy_panel(steps=40, symbols=2)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of a test come in several blocks, as real ones do."""
    monkeypatch.setattr(store_module, "BLOCK_CELLS", 1)
    monkeypatch.setattr(store_module, "BLOCK_ROWS", 30)


def features_table(server: ClickHouse, name: str) -> str:
    (table,) = [t for (t,) in sql(server, name, "SHOW TABLES") if t.startswith("features_")]
    return table


# Rows


def test_blocks_change_nothing_but_the_size_of_a_part(clickhouse_server: ClickHouse, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, name = fresh_store(clickhouse_server), database()
    once = put(whole, panel)
    sent: list[tuple[str, int]] = []
    insert = Connection.insert
    monkeypatch.setattr(Connection, "insert", lambda self, table, frame: (sent.append((table, len(frame))), insert(self, table, frame))[1])
    monkeypatch.setattr(store_module, "BLOCK_CELLS", 1)
    monkeypatch.setattr(store_module, "BLOCK_ROWS", 30)
    store = fresh_store(clickhouse_server, name)
    assert put(store, panel) == once and same(get(store, panel, once), panel)
    assert sent == [*[(features_table(clickhouse_server, name), 40)] * 2, ("offsets", 41), ("partitions", 1), ("known", 1)]
    sent.clear()
    assert put(store, panel) == once and sent == []


def test_a_large_partition_is_sent_in_blocks_of_ten_thousand_rows_or_more() -> None:
    tables = {"features": store_module.set_table(toy_panel(steps=1).features), "offsets": store_module.OFFSETS}
    for table, multiple, n in ((tables["features"], 3, 200_000), (tables["offsets"], 1, 5_000_000), (tables["features"], 3, 5)):
        sizes = [(last - first) * multiple for first, last in store_module._blocks(n, table, multiple)]
        assert sum(sizes) == n * multiple and max(sizes) - min(sizes) <= multiple
        assert len(sizes) == 1 or min(sizes) >= 10_000
        assert max(sizes) * len(table.columns) <= 2 * (store_module.BLOCK_CELLS + 10_000 * len(table.columns))


@pytest.mark.usefixtures("small_blocks")
def test_a_block_that_is_sent_twice_is_seen_once(clickhouse_server: ClickHouse, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    insert = Connection.insert
    monkeypatch.setattr(Connection, "insert", lambda self, table, frame: [insert(self, table, frame) for _ in range(2)] and None)
    ref, rows = put(store, panel), store.write_rows("predictions", "run", "linear", 1, predictions(0.5))
    monkeypatch.undo()
    count = f"SELECT count(), uniqExact(version, row) FROM {features_table(clickhouse_server, name)}"
    sent, distinct = sql(clickhouse_server, name, count)[0]
    assert sent > distinct == 80  # not merged yet: reading is what shows each once
    assert same(get(store, panel, ref), panel) and versions(store, panel) == (ref,)
    assert store.read_rows(rows).equals(predictions(0.5)) and store.rows("predictions", "run") == (rows,)


@pytest.mark.usefixtures("small_blocks")
def test_rows_may_come_in_any_order(clickhouse_server: ClickHouse, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with many threads gives parts as they are ready."""
    store = fresh_store(clickhouse_server)
    ref, rows = put(store, panel), store.write_rows("predictions", "run", "linear", 1, predictions(0.5))
    select = Connection.select
    monkeypatch.setattr(Connection, "select", lambda self, *asked: select(self, *asked).reverse())
    assert same(get(store, panel, ref), panel) and store.read_rows(rows).equals(predictions(0.5))


def test_what_is_replaced_is_old_or_new_for_every_reader(clickhouse_server: ClickHouse) -> None:
    store = fresh_store(clickhouse_server)
    frames = {value: predictions(value, 2_000) for value in (1.0, 2.0)}
    first = store.write_rows("predictions", "run", "linear", 1, frames[1.0])
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            (ref,) = store.rows("predictions", "run")
            try:
                values = store.read_rows(ref)["mean_bps"].unique().to_list()
            except NotStored:
                continue  # replaced between the two questions
            (seen.add(values[0]) if values in ([1.0], [2.0]) else wrong.append(values))

    def write() -> None:
        for value in (2.0, 1.0) * 4:
            store.write_rows("predictions", "run", "linear", 1, frames[value])

    threads = [threading.Thread(target=read), *(threading.Thread(target=write) for _ in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(120)
    stop.set()
    threads[0].join(120)
    assert seen == {1.0, 2.0} and not wrong
    second = store.write_rows("predictions", "run", "linear", 1, frames[2.0])
    assert store.rows("predictions", "run") == (second,) and store.read_rows(second).equals(frames[2.0])
    with pytest.raises(NotStored, match="not the one referred to"):
        store.read_rows(first)
    assert store.write_rows("predictions", "run", "linear", 1, frames[1.0]) == first and store.read_rows(first).equals(frames[1.0])


# Kills

WRITER = """
import os, signal, sys
from cift_models.stores import clickhouse
from cift_models.stores.clickhouse_server import Connection
from tests.clickhouse_stores import predictions, put
from tests.panels import toy_panel
clickhouse.BLOCK_CELLS, clickhouse.BLOCK_ROWS = 1, 30
panel = toy_panel(steps=40, symbols=2)
points, at = [], 0
def reach(name):
    points.append(name)
    if len(points) == at:
        os.kill(os.getpid(), signal.SIGKILL)
def dying(name):
    call = getattr(Connection, name)
    def wrapper(self, first, *rest, **more):
        reach(f"before {name} {first[:40]}")
        out = call(self, first, *rest, **more)
        reach(f"after {name} {first[:40]}")
        return out
    setattr(Connection, name, wrapper)
for name in ("do", "insert"):
    dying(name)
for line in sys.stdin:
    url, at, what = line.split()
    at = int(at)
    child = os.fork()  # imports take seconds, a write none; nothing has started a thread yet
    if not child:
        store = clickhouse.ClickHouseFeatures(url)
        if what == "features":
            put(store, panel)
        else:
            store.write_rows("predictions", "run", "linear", 1, predictions(float(what)))
        print("|".join(points), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(f"ended with {status}", flush=True)
"""


@pytest.fixture(scope="module")
def writer() -> Iterator[subprocess.Popen]:
    """Another process that writes and dies where it is told, over and over."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def write_and_die(writer: subprocess.Popen, where: str, at: int, what: str) -> list[str]:
    """Write in that process, which dies at its `at`-th step; the steps, where it did not die."""
    assert writer.stdin and writer.stdout and writer.stderr
    print(where, at, what, file=writer.stdin, flush=True)
    said = writer.stdout.readline().strip()
    assert said, writer.stderr.read()
    if at:
        assert said == f"ended with {signal.SIGKILL.value}", said
        return []
    return said.split("|")


def test_a_writer_that_dies_at_any_step_leaves_nothing_or_all_and_goes_on(
    clickhouse_server: ClickHouse, writer: subprocess.Popen, panel: Panel
) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    points = write_and_die(writer, url(clickhouse_server, name), 0, "features")
    (expected,) = versions(store, panel)
    # CREATE, two blocks of rows, offsets in one, the manifest, when it was known: before and after each.
    assert len(points) == 12 and points[-1] == "after insert known" and "features_" in points[2]
    there = points.index("after insert partitions") + 1
    for at in range(1, len(points) + 1):
        name = database()
        store = fresh_store(clickhouse_server, name)
        assert write_and_die(writer, url(clickhouse_server, name), at, "features") == []
        assert versions(store, panel) == ((expected,) if at >= there else ()), points[at - 1]
        assert [one.ref for one in known(store, panel)] == [expected] * (at == len(points)), points[at - 1]
        if at >= there:
            assert same(get(store, panel, expected), panel)
        else:
            with pytest.raises(NotStored):
                get(store, panel, expected)
        assert put(store, panel) == expected and same(get(store, panel, expected), panel)
        assert [one.ref for one in known(store, panel)] == [expected]
        table = features_table(clickhouse_server, name)
        assert sql(clickhouse_server, name, f"SELECT count() FROM {table} FINAL") == [(80,)], points[at - 1]
        assert sql(clickhouse_server, name, "SELECT count() FROM offsets FINAL") == [(41,)]


def test_a_writer_that_dies_while_it_replaces_leaves_the_old_or_the_new(clickhouse_server: ClickHouse, writer: subprocess.Popen) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    points = write_and_die(writer, url(clickhouse_server, name), 0, "1.0")
    assert len(points) == 8 and points[-1] == "after insert partitions"
    for at, value in zip(range(1, len(points) + 1), [2.0, 3.0] * 4, strict=True):
        store.write_rows("predictions", "run", "linear", 1, predictions(1.0))
        assert write_and_die(writer, url(clickhouse_server, name), at, str(value)) == []
        (ref,) = store.rows("predictions", "run")
        assert store.read_rows(ref).equals(predictions(value if at == len(points) else 1.0)), points[at - 1]
        ref = store.write_rows("predictions", "run", "linear", 1, predictions(value))
        assert store.rows("predictions", "run") == (ref,) and store.read_rows(ref).equals(predictions(value))


@pytest.mark.usefixtures("small_blocks")
def test_a_server_that_is_killed_in_mid_write_and_started_again(
    tmp_path: Path, clickhouse_server: ClickHouse, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = put(fresh_store(clickhouse_server), panel)
    insert = Connection.insert
    with servers.clickhouse(tmp_path / "server") as server:
        for at in range(1, 6):
            name, calls = database(), []
            store = fresh_store(server, name)

            def dying(self: Connection, table: str, frame: pl.DataFrame, at: int = at, calls: list = calls) -> None:
                calls.append(table)
                if len(calls) == at:
                    server.kill()
                    threading.Timer(0.3, server.start).start()
                insert(self, table, frame)

            monkeypatch.setattr(Connection, "insert", dying)
            assert put(store, panel) == expected and len(calls) == 5
            monkeypatch.setattr(Connection, "insert", insert)
            assert same(get(store, panel, expected), panel)
            server.kill()
            server.start()
            assert same(get(store, panel, expected), panel) and versions(store, panel) == (expected,)
            assert [one.ref for one in known(store, panel)] == [expected]


# The network


@pytest.mark.usefixtures("small_blocks")
def test_a_connection_that_is_reset_in_mid_batch_is_made_again(clickhouse_server: ClickHouse, panel: Panel) -> None:
    expected = put(fresh_store(clickhouse_server), panel)
    with proxy(clickhouse_server.ports["native"]) as between:
        measured = fresh_store(clickhouse_server, port=between.port)
        before = dict(between.bytes)
        put(measured, panel)
        took = {side: between.bytes[side] - before[side] for side in ("request", "response")}
        assert took["request"] > 80 * len(panel.features.names) * 8
        cut = {"request": 0, "response": 0}
        for side in cut:
            for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
                between.heal()
                name = database()
                store = fresh_store(clickhouse_server, name, port=between.port)
                cuts = between.cuts
                between.cut(side, after=int(share * took[side]), times=1)
                assert put(store, panel) == expected, (side, share)
                cut[side] += between.cuts - cuts
                between.heal()
                assert same(get(store, panel, expected), panel) and versions(store, panel) == (expected,)
                assert sql(clickhouse_server, name, f"SELECT count() FROM {features_table(clickhouse_server, name)} FINAL") == [(80,)]
        # How much a server says of its progress depends on its haste: near the end there may be nothing left to cut.
        assert cut["request"] == 7 and cut["response"] >= 2, cut
        for after in (0, 100, 2_000, 20_000):
            between.cut("response", after=after, times=1)
            assert same(get(measured, panel, expected), panel)


def test_a_server_that_is_gone_slow_or_silent(clickhouse_server: ClickHouse, panel: Panel) -> None:
    with proxy(clickhouse_server.ports["native"]) as between:
        quick = {"timeout_s": 1.0, "read_patience_s": 0.3, "write_patience_s": 0.3}
        store = fresh_store(clickhouse_server, port=between.port, **quick)
        ref = put(store, panel)
        between.delay(0.05)
        assert same(get(store, panel, ref), panel)
        between.refuse()
        began = time.monotonic()
        with pytest.raises(
            StoreUnavailable, match=rf"ClickHouse at 127.0.0.1:{between.port} does not answer: Connection refused"
        ) as caught:
            get(store, panel, ref)
        assert caught.value.retryable and 0.15 < time.monotonic() - began < 5
        between.stall("response")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            put(store, panel)
        assert time.monotonic() - began < 10
        between.heal()
        assert same(get(store, panel, ref), panel)


def test_a_server_that_comes_back_in_time_is_waited_for(clickhouse_server: ClickHouse, panel: Panel) -> None:
    with proxy(clickhouse_server.ports["native"]) as between:
        store = fresh_store(clickhouse_server, port=between.port)
        between.refuse()
        threading.Timer(0.5, between.heal).start()
        ref = put(store, panel)
        between.refuse()
        threading.Timer(0.5, between.heal).start()
        assert same(get(store, panel, ref), panel)


# Refusals


def test_another_password_or_user_is_one_clear_message(tmp_path: Path) -> None:
    with servers.clickhouse(tmp_path, password=SECRET) as server:
        name = database()
        assert fresh_store(server, name, password=SECRET).migrate() == ((), ())
        for how in ({}, {"password": "guessed it"}, {"user": "nobody", "password": SECRET}):
            with pytest.raises(StoreError, match=rf"refuses the user '{how.get('user', 'default')}'") as caught:
                ClickHouseFeatures(url(server, name), **how).rows("predictions", "run")
            said = f"{caught.value} {caught.value.__cause__} {caught.value.evidence}"
            assert "CIFT_CLICKHOUSE_PASSWORD" in said and not caught.value.retryable
            assert SECRET not in said and how.get("password", SECRET) not in said


def test_a_user_who_may_only_read_reads(tmp_path: Path, panel: Panel) -> None:
    name = database()
    with servers.clickhouse(tmp_path) as server:
        ref = put(fresh_store(server, name), panel)
        server.stop()
    with servers.clickhouse(tmp_path, read_only=True) as server:
        store = ClickHouseFeatures(url(server, name))
        assert same(get(store, panel, ref), panel) and versions(store, panel) == (ref,) and put(store, panel) == ref
        assert store.migrate() == ((), ()) and len(store.lacks()) == len(LACKS)
        for write in (
            lambda: store.write_rows("predictions", "run", "linear", 1, predictions(1.0)),
            lambda: put(store, replace(panel, x=panel.x + 1)),
            lambda: ClickHouseFeatures(url(server, "elsewhere")).migrate(),
        ):
            with pytest.raises(StoreError, match=r"does not let the user 'default' do this.*readonly") as caught:
                write()
            assert "may SELECT, INSERT, CREATE TABLE and" in caught.value.hint and "Stack trace" not in str(caught.value)
        assert versions(store, panel) == (ref,)


def test_what_is_missing_is_named_with_what_makes_it(clickhouse_server: ClickHouse, panel: Panel) -> None:
    name = database()
    store = ClickHouseFeatures(url(clickhouse_server, name))
    with pytest.raises(StoreError, match=f"has no database {name}") as caught:
        put(store, panel)
    assert "cift migrate" in caught.value.hint
    assert store.migrate() == (("partitions", "known", "offsets", "outputs", "predictions"), ()) and store.migrate() == ((), ())
    ref = put(store, panel)
    sql(clickhouse_server, name, f"DROP TABLE {features_table(clickhouse_server, name)}")
    with pytest.raises(StoreError, match=r"has no table features_\w{16}") as caught:
        get(store, panel, ref)
    assert "cift data-prep ... --again" in caught.value.hint
    assert put(store, panel) == ref and same(get(store, panel, ref), panel)
    sql(clickhouse_server, name, "DROP TABLE partitions")
    with pytest.raises(StoreError, match="has no table partitions") as caught:
        put(store, panel)
    assert "cift migrate" in caught.value.hint and store.migrate() == (("partitions",), ())
    with pytest.raises(NotStored):
        get(store, panel, ref)


def test_another_protocol_or_a_name_that_is_none(clickhouse_server: ClickHouse, tmp_path: Path) -> None:
    http = ClickHouseFeatures(f"clickhouse://127.0.0.1:{clickhouse_server.ports['http']}", timeout_s=1.0, read_patience_s=0)
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        http.rows("predictions", "run")
    assert "not HTTP's" in caught.value.hint
    for name in ("a b", "a/b", "a`; DROP TABLE partitions", "%41"):
        with pytest.raises(SettingsError, match="names no database"):
            ClickHouseFeatures(f"clickhouse://127.0.0.1/{name}")
    with pytest.raises(SettingsError, match="CIFT_TLS_CA"):
        ClickHouseFeatures("clickhouses://127.0.0.1", ca=tmp_path / "nothing.pem")


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path, panel: Panel) -> None:
    with small_disk(tmp_path / "disk", megabytes=16) as disk, servers.clickhouse(disk) as server:
        name = database()
        store = fresh_store(server, name, write_patience_s=1.0)
        ref = put(store, panel)
        rng = np.random.default_rng(0)
        large = toy_panel(steps=30_000, symbols=1)
        large = replace(large, x=rng.normal(size=large.x.shape))
        with pytest.raises(StoreError, match=r"disk of ClickHouse at .* is full") as caught:
            put(store, large)
        assert "Stack trace" not in str(caught.value) and not caught.value.retryable
        assert versions(store, large) == () and same(get(store, panel, ref), panel)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"only root may mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        for _ in range(50):
            if not subprocess.run(["umount", str(folder)], capture_output=True).returncode:
                break
            time.sleep(0.1)


# Damage


@pytest.mark.usefixtures("small_blocks")
def test_damage_is_found_and_a_write_mends_it(clickhouse_server: ClickHouse, panel: Panel) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    ref, table = put(store, panel), features_table(clickhouse_server, name)
    other = put(store, replace(panel, x=panel.x + 1.0))
    columns = ", ".join(f"`{c}`" for c in ("symbol", "as_of", "available_at", "valid", "why", *panel.features.names))
    mixed = (
        f"INSERT INTO {table} (version, row, {columns}) SELECT {store_module._version(ref.sha256)}, row, {columns} "
        f"FROM {table} FINAL WHERE version = {store_module._version(other.sha256)} AND row = 50"
    )
    of_ref = f"version = {store_module._version(ref.sha256)}"
    cases = {
        "mid, .* are not what was written": lambda: sql(clickhouse_server, name, mixed),
        r"holds 39 of its rows 0 to 39": lambda: delete(clickhouse_server, name, table, f"{of_ref} AND row = 7"),
        r"offsets holds 0 of its rows 0 to 40": lambda: delete(clickhouse_server, name, "offsets", of_ref),
        r"valid of .* is not what was written": lambda: sql(
            clickhouse_server,
            name,
            f"INSERT INTO {table} (version, row, {columns}) SELECT version, row, {columns.replace('`valid`', 'toUInt8(2) AS two')} "
            f"FROM {table} FINAL WHERE {of_ref} AND row = 79 AND valid = 1",
        ),
    }
    for message, damage in cases.items():
        damage()
        with pytest.raises(StoreError, match=message) as caught:
            get(store, panel, ref)
        assert ref.key in caught.value.message and not isinstance(caught.value, NotStored)
        assert put(store, panel) == ref and same(get(store, panel, ref), panel), message
    sql(
        clickhouse_server,
        name,
        "INSERT INTO partitions (key, sequence, sha256, version, manifest, committed) "
        "SELECT key, sequence + 1, sha256, version, replaceAll(manifest, ': 40', ': 39'), committed FROM partitions",
    )
    with pytest.raises(StoreError, match=r"manifest of features/.* is damaged"):
        get(store, panel, ref)
    assert put(store, panel) == ref and same(get(store, panel, ref), panel)


def delete(server: ClickHouse, name: str, table: str, where: str) -> None:
    sql(server, name, f"ALTER TABLE {table} DELETE WHERE {where}")
    until = time.monotonic() + 20
    while sql(server, name, f"SELECT count() FROM {table} WHERE {where}") != [(0,)]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_text_of_any_kind_comes_back_and_never_becomes_sql(clickhouse_server: ClickHouse) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    odd = ["'; DROP TABLE predictions; --", "\\", "%(key)s", "é€😀", "", "a\nb\tc\0d", "`x`"]
    frame = predictions(1.0, len(odd)).with_columns(symbol=pl.Series(odd), release=pl.Series(odd[::-1]))
    ref = store.write_rows("predictions", "run", "linear", 1, frame)
    assert store.read_rows(ref).equals(frame)
    with pytest.raises(NotStored):
        store.read_rows(ref.model_copy(update={"key": "predictions/run/lin'ear\\/fold_01"}))


# Tables


def test_migrate_names_what_differs_and_alters_nothing(clickhouse_server: ClickHouse, panel: Panel) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    put(store, panel)
    table = features_table(clickhouse_server, name)
    assert store.migrate() == ((), ())
    for statement in (
        "DROP TABLE outputs",
        "DROP TABLE offsets",
        "CREATE TABLE offsets (version Int64, row Int32, ours String) ENGINE = MergeTree ORDER BY (version)",
        f"ALTER TABLE {table} MODIFY COLUMN mid Float32",
        f"ALTER TABLE {table} ADD COLUMN as_of_utc DateTime",
        "ALTER TABLE predictions DROP COLUMN release",
    ):
        sql(clickhouse_server, name, statement)
    made, differences = store.migrate()
    assert made == () and sorted(differences) == [
        f"{table}.mid is Float32, expected Float64.",
        "offsets is a MergeTree, expected ReplacingMergeTree (or Replicated, Shared).",
        "offsets is sorted by version, expected row, version.",
        "offsets.offset is missing, expected Int64.",
        "offsets.row is Int32, expected Int64.",
        "predictions.release is missing, expected String.",
    ]
    assert "outputs" not in [t for (t,) in sql(clickhouse_server, name, "SHOW TABLES")]
    with pytest.raises(SchemaMismatch, match=r"predictions in ClickHouse .* has other columns") as caught:
        store.write_rows("predictions", "run", "linear", 1, predictions(1.0))
    assert "cift migrate" in caught.value.hint


def test_a_table_of_before_is_named_and_not_touched(clickhouse_server: ClickHouse, panel: Panel) -> None:
    """A feature set's table that was made before its rows said when they could be read, on a server that kept no time of versions."""
    name = database()
    store = fresh_store(clickhouse_server, name)
    put(store, panel)
    table = features_table(clickhouse_server, name)
    for statement in (f"ALTER TABLE {table} DROP COLUMN available_at", "DROP TABLE known"):
        sql(clickhouse_server, name, statement)
    assert store.migrate() == ((), (f"{table}.available_at is missing, expected Int64.",))
    with pytest.raises(SchemaMismatch, match=rf"{table} in ClickHouse .* has other columns") as caught:
        put(store, replace(panel, x=panel.x + 1.0))
    assert "cift migrate" in caught.value.hint
    sql(clickhouse_server, name, f"RENAME TABLE {table} TO before_{table}")
    with pytest.raises(StoreError, match="has no table known") as caught:
        put(store, panel)
    assert "cift migrate" in caught.value.hint
    assert store.migrate() == (("known",), ()) and store.migrate() == ((), ())
    ref = put(store, panel)
    assert same(get(store, panel, ref), panel) and [one.ref for one in known(store, panel)] == [ref]
    assert sql(clickhouse_server, name, f"SELECT count() FROM before_{table}") == [(80,)]


def test_tables_explain_themselves(clickhouse_server: ClickHouse) -> None:
    name = database()
    fresh_store(clickhouse_server, name)
    comments = dict(
        sql(clickhouse_server, name, f"SELECT name, comment FROM system.columns WHERE table = 'predictions' AND database = '{name}'")
    )
    assert comments["mean_bps"].startswith("bps: expected move of the mid") and all(comments.values())


def test_the_old_server_says_what_it_lacks(clickhouse_server: ClickHouse) -> None:
    name = database()
    store = fresh_store(clickhouse_server, name)
    assert store.lacks() == tuple(LACKS.values())
    said: list[str] = []
    assert checks._lacks("features", store, lambda what, do: said.append(what)) == list(LACKS.values()) and said == []
    sql(clickhouse_server, name, "DROP TABLE outputs")
    assert store.lacks() == ("no table outputs: `cift migrate` makes it", *LACKS.values())
    checks._lacks("features", store, lambda what, do: said.append(what))
    assert said == ["ClickHouse: no table outputs: `cift migrate` makes it."]


# Settings


def test_the_settings_open_it_and_ask_nothing_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFT_HOME", str(tmp_path))
    monkeypatch.setenv("CIFT_CLICKHOUSE_URL", "clickhouse://127.0.0.1:1/cift")
    monkeypatch.setenv("CIFT_CLICKHOUSE_USER", "trader")
    monkeypatch.setenv("CIFT_CLICKHOUSE_PASSWORD", SECRET)
    store = open_features(get_settings())
    assert isinstance(store, ClickHouseFeatures) and SECRET not in repr(vars(store._server).keys())
    store._server.read_patience_s = 0
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1 does not answer") as caught:
        store.rows("outputs", "run")
    assert SECRET not in str(caught.value)


def test_tls_is_checked_against_the_authority_that_is_named(clickhouse_server: ClickHouse, tmp_path: Path) -> None:
    with terminated(clickhouse_server.ports["native"], tmp_path) as (port, ca):
        name = database()
        fresh_store(clickhouse_server, name)
        secure = f"clickhouses://127.0.0.1:{port}/{name}"
        assert ClickHouseFeatures(secure, ca=ca).rows("predictions", "run") == ()
        with pytest.raises(StoreError, match=r"certificate of ClickHouse .* is not trusted") as caught:
            ClickHouseFeatures(secure).rows("predictions", "run")
        assert "CIFT_TLS_CA" in caught.value.hint and not caught.value.retryable
        plain = ClickHouseFeatures(f"clickhouse://127.0.0.1:{port}/{name}", timeout_s=1.0, read_patience_s=0)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            plain.rows("predictions", "run")
