"""What Debian's ClickHouse 18.16 cannot run, on today's engine (chDB): the same statements, rendered from schema.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from cift_models.instruments import SECOND
from cift_models.schema import FEATURES, OUTPUTS, PREDICTIONS
from cift_models.stores import clickhouse as store_module
from cift_models.stores.clickhouse_tables import FIXED, LACKS, Abilities, abilities, create, lacking, set_name, set_table
from tests.clickhouse_stores import ChdbServer, chdb_store, database, get, predictions, put, same
from tests.panels import OPEN, toy_panel

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(chdb_session: Any) -> ChdbServer:
    """An empty database."""
    server = ChdbServer(chdb_session, database())
    with server.connection():
        return server


def ask(engine: ChdbServer, statement: str) -> pl.DataFrame:
    return engine.select(statement)


def test_it_lacks_nothing(engine: ChdbServer) -> None:
    can = abilities(engine.select)
    assert all(getattr(can, name) for name in LACKS) and lacking(can) == ()


def test_what_the_old_server_lacks_is_told_from_what_comes_out(engine: ChdbServer) -> None:
    """18.16 reads ASOF as an alias: without an answer that only a join by time gives, an ability is not believed."""

    def old(statement: str) -> pl.DataFrame:
        return pl.DataFrame({"n": [0]}) if "ASOF" in statement else engine.select(statement)

    assert [name for name in LACKS if not getattr(abilities(old), name)] == ["asof_join"]


def test_columns_show_their_times_their_codecs_and_their_meaning(engine: ChdbServer) -> None:
    store = chdb_store(engine.session)
    store.write_rows("predictions", "run", "linear", 1, predictions(0.5).with_columns(as_of=pl.col("as_of") + 1_340_285_400_275_016_159))
    name = store._server.database
    shown = engine.select(
        f"SELECT as_of, toString(as_of_utc) AS utc, toString(max_train_t1_utc) AS t1 FROM {name}.predictions ORDER BY as_of LIMIT 1"
    )
    assert shown.rows() == [(1_340_285_400_275_016_159, "2012-06-21 13:30:00.275016159", "1969-12-31 23:59:59.999999999")]
    columns = engine.select(
        "SELECT name, type, default_kind, compression_codec AS codec, comment FROM system.columns "
        f"WHERE database = '{name}' AND table = 'predictions'"
    )
    by_name = {row["name"]: row for row in columns.iter_rows(named=True)}
    assert {n: r["type"] for n, r in by_name.items() if r["default_kind"] == "ALIAS"} == {
        f"{c.name}_utc": "DateTime64(9, 'UTC')" for c in PREDICTIONS.columns if c.instant
    }
    assert by_name["as_of"]["codec"] == "CODEC(Delta(8), ZSTD(1))" and by_name["mean_bps"]["codec"] == "CODEC(ZSTD(1))"
    assert by_name["mean_bps"]["comment"].startswith("bps: expected move of the mid")
    assert store.migrate() == ((), ())  # the shown times are no difference


def test_a_query_by_time_opens_few_granules(engine: ChdbServer) -> None:
    table = set_table(toy_panel(steps=1).features)
    engine.do(create("features_0000000000000000", table, abilities(engine.select)))
    n = 100_000
    engine.do(
        "INSERT INTO features_0000000000000000 (version, row, symbol, as_of) "
        f"SELECT 5, number, 'S0', {OPEN} + number * {SECOND} FROM numbers({n})"
    )
    last = f"as_of > {OPEN + (n - 100) * SECOND}"
    plan = "\n".join(engine.select(f"EXPLAIN indexes = 1 SELECT count() FROM features_0000000000000000 WHERE {last}")["explain"])
    assert "Name: as_of_range" in plan and "Granules: 1/13" in plan, plan
    assert engine.select(f"SELECT count() AS n FROM features_0000000000000000 FINAL WHERE {last}")["n"].to_list() == [99]


def test_every_table_is_made_for_every_server_it_may_meet(engine: ChdbServer) -> None:
    features = toy_panel(steps=1).features
    tables = {**FIXED, set_name(features): set_table(features)}
    none, every = (Abilities(**dict.fromkeys(LACKS, able)) for able in (False, True))
    for name, table in tables.items():
        plain, rich = create(name, table, none), create(name, table, every)
        for word in ("CODEC", "DateTime64", "INDEX", "SETTINGS", "fsync"):
            assert word not in plain
            assert (word in rich) == (word not in ("DateTime64", "INDEX") or bool(table.time)), (name, word)
        assert "deduplication" not in rich
        engine.do(plain)
        assert engine.select(f"EXISTS TABLE {name}").item() == 1
        engine.do(f"DROP TABLE {name}")
        engine.do(rich)
        kinds = dict(
            engine.select(f"SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = '{name}'").iter_rows()
        )
        assert {n: t for n, t in kinds.items() if not n.endswith("_utc")} == table.clickhouse_columns()
    assert {c.name for c in OUTPUTS.columns} <= set(FIXED["outputs"].names) and "value" in FIXED["outputs"].names


def test_a_join_by_time_sees_the_row_before(engine: ChdbServer) -> None:
    store = chdb_store(engine.session)
    panel = toy_panel(steps=40, symbols=2)
    put(store, panel)
    name, table = store._server.database, set_name(panel.features)
    late = panel.as_of[10] + 1
    joined = engine.select(
        f"SELECT a.symbol AS symbol, b.as_of AS as_of, b.mid AS mid FROM (SELECT arrayJoin(['S0', 'S1']) AS symbol, {late} AS t) AS a "
        f"ASOF JOIN (SELECT symbol, as_of, mid FROM {name}.{table} FINAL) AS b ON a.symbol = b.symbol AND a.t >= b.as_of ORDER BY symbol"
    )
    mid = panel.x[10, :, panel.features.names.index("mid")]
    assert joined.rows() == [("S0", int(panel.as_of[10]), mid[0]), ("S1", int(panel.as_of[10]), mid[1])]


def test_why_no_table_has_a_deduplication_window(engine: ChdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that was seen before is dropped by such a table, also where its rows are gone: what mends would not mend."""
    engine.do(
        "CREATE TABLE windowed (version Int64, row Int64) ENGINE = ReplacingMergeTree ORDER BY (version, row) "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    block = f"INSERT INTO windowed VALUES {', '.join(f'(5, {row})' for row in range(10))}"
    for _ in range(2):
        engine.do(block)
        assert engine.select("SELECT count() AS n FROM windowed")["n"].item() == 10
    engine.do("ALTER TABLE windowed DELETE WHERE 1 SETTINGS mutations_sync = 2")
    engine.do(block)
    assert engine.select("SELECT count() AS n FROM windowed")["n"].item() == 0
    # Ours: the same rows, sent again, are there again, and a block that is sent twice is seen once.
    monkeypatch.setattr(store_module, "BLOCK_CELLS", 1)
    monkeypatch.setattr(store_module, "BLOCK_ROWS", 30)
    store = chdb_store(engine.session)
    panel = toy_panel(steps=40, symbols=2)
    ref, table = put(store, panel), set_name(panel.features)
    with store._server.connection() as ours:
        ours.do(f"ALTER TABLE {table} DELETE WHERE row < 10 SETTINGS mutations_sync = 2")
    assert put(store, panel) == ref and same(get(store, panel, ref), panel)
    with store._server.connection() as ours:
        raw, seen = (ours.select(f"SELECT count() AS n FROM {table}{final}")["n"].item() for final in ("", " FINAL"))
    assert seen == 80 and raw >= 80


def test_floats_of_every_kind_survive_the_codecs(engine: ChdbServer) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, 50_000, np.uint64)
    values = bits.view(np.float64)
    frame = pl.DataFrame({"version": 1, "row": np.arange(len(values)), "mid": np.where(np.isnan(values), 0.0, values)})
    engine.do(create("odd", FEATURES.repeat(["mid"]), abilities(engine.select)).replace("ORDER BY (`symbol`, `as_of`)", "ORDER BY `as_of`"))
    engine.insert("odd", frame.select(as_of="row", mid="mid"))
    found = engine.select("SELECT mid FROM odd ORDER BY as_of")["mid"].to_numpy()
    assert found.tobytes() == frame["mid"].to_numpy().tobytes()
