"""What the tick store adds to QuestDB's own client and to a bare read: ratios of one run, its parts alternating (`make bench`)."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cift_models.schema import BOOK, TRADES, Table
from cift_models.stores.questdb import QuestDBPartitions
from cift_models.stores.questdb_rows import layout_of, version_of
from cift_models.stores.questdb_send import Courier, until_visible
from cift_models.stores.ticks import Key
from tests.tick_places import OnQuestDB, on_questdb

pytestmark = pytest.mark.benchmark

ROWS = 300_000
ROUNDS = 5
BATCH = 50_000
SECOND_NS = 10**9


def rows_of(table: Table) -> pl.DataFrame:
    """A day of one symbol: distinct rising times, prices and sizes of a market."""
    rng = np.random.default_rng(0)
    at = 1_700_000_000 * SECOND_NS + np.sort(rng.choice(23_400 * 1_000_000, ROWS, replace=False)) * 1000
    made = {}
    for column in table.columns:
        if column.name.startswith("ts_"):
            made[column.name] = at
        elif column.name == "sequence":
            made[column.name] = np.arange(ROWS)
        elif column.dtype == "bool":
            made[column.name] = rng.random(ROWS) < 0.2
        else:
            made[column.name] = rng.integers(1, 100 if column.dtype == "int8" else 100_000, ROWS)
    return pl.DataFrame(made, schema=table.polars_schema())


def timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


@pytest.mark.parametrize("name", ["trades", "book"])
def test_ingest_and_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = TRADES if name == "trades" else BOOK.with_levels(5)
    frame = rows_of(table)
    with on_questdb(tmp_path / "server") as place:
        spent = measure(name, table, frame, place)
    median = {what: statistics.median(values) for what, values in spent.items()}
    with capsys.disabled():
        print(f"\n{name}, {ROWS:,} rows of {len(table.names)} columns, medians of {ROUNDS} (least to greatest)")
        for what, values in spent.items():
            print(f"  {what:44} {ROWS / median[what]:12,.0f} rows/s   {min(values):.2f} to {max(values):.2f} s")
        for what in list(spent)[:4]:
            print(f"  the store writes at {median[what] / median['store: write']:.2f} of: {what}")
        print(f"  the store reads at {median['GET and polars'] / median['store: read']:.2f} of a bare read of the same rows")


def plain(courier: Courier, table: str, parts: list[Any]) -> None:
    """The client as its manual has it: fill and flush, batch by batch."""
    for part in parts:
        courier._sender.dataframe(part, table_name=table, symbols=["symbol"], at="ts_recv")
        courier._sender.flush()


def measure(name: str, table: Table, frame: pl.DataFrame, place: OnQuestDB) -> dict[str, list[float]]:
    """Seconds of each part, by round. The client's table has the rows' own columns and none of ours."""
    http = place.ticks.http
    layout = layout_of(TRADES if name == "trades" else BOOK, frame)

    def made() -> list[Any]:
        """The rows as pandas, an array a book level side, without the columns that are the store's own."""
        parts = (layout.outgoing(frame[a : a + BATCH], "A", 0, a) for a in range(0, ROWS, BATCH))
        return [part.drop(columns=["version", "row"]) for part in parts]

    pandas = made()
    stored_rows = [layout.outgoing(frame[a : a + BATCH], "A", 2**62, a) for a in range(0, ROWS, BATCH)]
    columns = ", ".join(f'"{c}" {kind}' for c, kind in layout.table.questdb_columns().items())
    facts = {"table": name, "rows": ROWS, "schema_hash": table.schema_hash}
    courier = Courier(http)
    partitions = QuestDBPartitions(http)
    spent: dict[str, list[float]] = {}

    def note(what: str, seconds: float) -> None:
        spent.setdefault(what, []).append(seconds)

    for k in range(ROUNDS + 1):
        own = f"own_{k}"
        how = "TIMESTAMP(ts_recv) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts_recv, symbol, sequence)"
        http.do(f"CREATE TABLE {own} ({columns}, symbol SYMBOL) {how}")
        acknowledged = timed(lambda own=own: plain(courier, own, pandas))
        visible = acknowledged + timed(lambda own=own: until_visible(http, (own,)))
        http.do(f"DROP TABLE {own}")
        making = timed(made)
        place.fresh()
        same = timed(lambda: [plain(courier, name, stored_rows), until_visible(http, (name,))])
        place.fresh()
        written = timed(lambda: partitions.write(Key(name, "A", 20231114), frame, None, facts))
        ref, stored = partitions.manifest(Key(name, "A", 20231114))
        read = timed(lambda ref=ref, stored=stored: partitions.rows(ref, stored))
        sql = f'select {layout.select()} from "{name}" where version = {version_of(stored["content"]["sha256"])}'
        bare = timed(lambda sql=sql: http.frame(sql))
        data = http._get("/exp", {"query": sql, "fmt": "parquet"}).content
        alone = timed(lambda data=data: pl.read_parquet(io.BytesIO(data)))
        if k:  # the first round warms the server up
            note("client's dataframe() until acknowledged", acknowledged)
            note("until visible", visible)
            note("until visible, its pandas frames made too", visible + making)
            note("until visible, the store's own two columns too", same)
            note("store: write", written)
            note("store: read", read)
            note("GET and polars", bare)
            note("polars on those bytes alone", alone)
    return spent
