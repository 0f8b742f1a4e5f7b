"""CIFT's tables in ClickHouse: rendered from schema.py for what a server can, made by `migrate`, compared, never altered in silence.

Rows of a canonical table lie with the `version` of the partition that they are of and their number in it (`row`). A version is the first
64 bits of the manifest's sha256, which hashes the rows: equal rows under the same key are the same version, other rows are another one. So
a row is never overwritten by another, and a block that is sent twice replaces itself: ReplacingMergeTree goes by version and row, and FINAL
shows each row once while parts are not merged yet. Rows of a replaced version stay until `cift clean`; who reads with SQL asks
`partitions` for the versions that count:

    select * from predictions final where version in
        (select argMax(version, sequence) from partitions where key like 'predictions/%' group by key)

The tables have no deduplication window. A server drops a block that it has seen before, also where those rows have been deleted or damaged
since: what is meant to mend would be answered as written, and would not be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from cift_models.errors import StoreError
from cift_models.features.feature_set import FeatureSet
from cift_models.schema import FEATURES, OUTPUTS, PREDICTIONS, Column, Table
from cift_models.stores.clickhouse_server import literal, quoted

if TYPE_CHECKING:
    import polars

Ask = Callable[[str], "polars.DataFrame"]
"""Sends a query and gives its rows; raises StoreError where the server refuses it."""

VERSION = Column("version", "int64", "1", "first 64 bits of the sha256 of the partition that the row is of, signed")
ROW = Column("row", "int64", "1", "number of the row in its partition, from 0")
PARTITIONS = Table(
    "partitions",
    (
        Column("key", "str", "", "where the partition lies: a session of a feature set, or a model and fold of a run"),
        Column("sequence", "int64", "1", "number of the write under this key; the greatest counts"),
        Column("sha256", "str", "", "of the manifest; what a reference holds"),
        VERSION,
        Column("manifest", "str", "", "JSON: what the rows mean, how many they are, and the sha256 of every column"),
        Column("committed", "int64", "ns", "when it was written, by the writer's clock"),
    ),
    key=("key", "sequence", "sha256"),
    time="committed",
)
"""One row a write, made last: what makes a partition exist."""
OFFSETS = Table(
    "offsets",
    (VERSION, ROW, Column("offset", "int64", "1", "events before the instant `row` of the session")),
    key=("version", "row"),
    time="",
)
"""The event offsets of a session's instants: one more than there are instants."""

KNOWN = Table(
    "known",
    (
        Column("key", "str", "", "where a version of a session's rows lies"),
        Column("known_at", "int64", "ns", "when it became the newest one of its session, by the writer's clock"),
        VERSION,
    ),
    key=("key", "known_at"),
    time="known_at",
)
"""One row a version, and one more each time that it comes back after another; made behind its manifest."""


def stored(table: Table) -> Table:
    """A canonical table as it lies on the server: each row with its version and its number."""
    return replace(table, columns=(VERSION, ROW, *table.columns), key=(VERSION.name, ROW.name))


FIXED = {t.name: t for t in (PARTITIONS, KNOWN, OFFSETS, stored(OUTPUTS), stored(PREDICTIONS))}
"""The tables that `migrate` makes. A feature set's is made when its first rows are written: its columns are not known before."""
SET_NAME = re.compile(r"^features_[0-9a-f]{16}$")
"""What the table of a feature set is called."""


def set_name(features: FeatureSet) -> str:
    """The table of a feature set. Another column, order, window or clock is another set, so the columns of a name never change."""
    return f"features_{features.schema_hash[:16]}"


def set_table(features: FeatureSet) -> Table:
    return stored(FEATURES.repeat(features.names))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server has of that which came after 2018; ClickHouse 18.16, which Debian still ships, has nothing of it."""

    datetime64: bool
    codecs: bool
    skip_indices: bool
    fsync: bool
    window_functions: bool
    asof_join: bool
    deduplication_window: bool


LACKS = {
    "datetime64": "no DateTime64: instants are shown as integers (ns UTC) only",
    "codecs": "no codecs: columns are compressed by one general method",
    "skip_indices": "no skipping indices: a query by time reads the whole time column",
    "fsync": "no fsync on insert: what it acknowledged may be lost with the machine's power (not with the process)",
    "window_functions": "no window functions: `cift sql` has them, over the Parquet lake",
    "asof_join": "no ASOF JOIN, and it may read one as an ordinary join without an error: never join by time there",
    "deduplication_window": "no insert deduplication on tables without replicas: this store does not need it, other writers may",
}
"""Each ability as a person reads it where it is missing."""


def abilities(ask: Ask) -> Abilities:
    """What a server has, by its own tables, and for ASOF JOIN by what comes out. Raises StoreUnavailable."""

    def count(system: str, /, **where: str) -> bool:
        condition = " AND ".join(f"{quoted(column)} = {literal(value)}" for column, value in where.items())
        return bool(ask(f"SELECT count() AS n FROM system.{quoted(system)} WHERE {condition}")["n"][0])

    try:
        # One row where the join is by time; none where the word is taken for an alias and the times are held equal.
        asof = ask(
            "SELECT count() AS n FROM (SELECT 1 AS k, 2 AS t) AS a ASOF JOIN (SELECT 1 AS k, arrayJoin([0, 1]) AS t) AS b USING (k, t)"
        )["n"][0]
    except StoreError as error:
        if error.retryable:
            raise
        asof = 0
    return Abilities(
        datetime64=count("data_type_families", name="DateTime64"),
        codecs=count("columns", database="system", table="columns", name="compression_codec"),
        skip_indices=count("tables", database="system", name="data_skipping_indices"),
        fsync=count("merge_tree_settings", name="fsync_after_insert"),
        window_functions=count("functions", name="row_number"),
        asof_join=bool(asof == 1),
        deduplication_window=count("merge_tree_settings", name="non_replicated_deduplication_window"),
    )


def lacking(can: Abilities) -> tuple[str, ...]:
    """What a server lacks, a sentence each."""
    return tuple(LACKS[field.name] for field in fields(can) if not getattr(can, field.name))


def create(name: str, table: Table, can: Abilities) -> str:
    """The statement that makes a table, with what the server can: readable times, codecs, an index by time, fsync. It may be repeated."""
    types = table.clickhouse_columns()
    lines = []
    for c in table.columns:
        codec = f" CODEC({_codec(c)})" if can.codecs else ""
        comment = literal(f"{c.unit}: {c.meaning}" if c.unit not in ("", "1") else c.meaning)
        lines.append(f"{quoted(c.name)} {types[c.name]}{codec} COMMENT {comment}")
    if can.datetime64:
        lines += [
            f"{quoted(f'{c.name}_utc')} DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano({quoted(c.name)}, 'UTC')"
            for c in table.columns
            if c.instant
        ]
    if can.skip_indices and table.time:
        # Rows of a version lie by time, so 8,192 of them span little of it.
        lines.append(f"INDEX {quoted(f'{table.time}_range')} {quoted(table.time)} TYPE minmax GRANULARITY 1")
    key = ", ".join(quoted(column) for column in table.key)
    settings = " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1" if can.fsync else ""
    return f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({', '.join(lines)}) ENGINE = ReplacingMergeTree ORDER BY ({key}){settings}"


def compare(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of FIXED that the current database lacks, and what is wrong with the tables that it has, a sentence each.

    A column that only the server has is nobody's harm and is not looked at. Raises StoreUnavailable, StoreError.
    """
    engines = dict(ask("SELECT name, engine FROM system.tables WHERE database = currentDatabase()").select("name", "engine").iter_rows())
    columns: dict[str, dict[str, tuple[str, int]]] = {}
    found = ask("SELECT table, name, type, is_in_sorting_key FROM system.columns WHERE database = currentDatabase()")
    for table, name, kind, in_key in found.select("table", "name", "type", "is_in_sorting_key").iter_rows():
        columns.setdefault(table, {})[name] = (kind, in_key)
    expected = {name: (table, table.clickhouse_columns()) for name, table in FIXED.items()}
    base = replace(stored(FEATURES), each=())
    for name in filter(SET_NAME.match, columns):
        # Which features its set has, only its writer knows; all of them are numbers.
        rest = {c: "Float64" for c in columns[name] if c not in base.names and not c.endswith("_utc")}
        expected[name] = (base, base.clickhouse_columns() | rest)
    wrong = []
    for name, (table, types) in expected.items():
        if name not in engines:
            continue
        there = columns.get(name, {})
        wrong += [
            f"{name}.{c} is {there.get(c, ('missing', 0))[0]}, expected {t}." for c, t in types.items() if there.get(c, ("", 0))[0] != t
        ]
        if not engines[name].endswith("ReplacingMergeTree"):
            wrong.append(f"{name} is a {engines[name]}, expected ReplacingMergeTree (or Replicated, Shared).")
        key = sorted(c for c, (_, in_key) in there.items() if in_key)
        if key != sorted(table.key):
            wrong.append(f"{name} is sorted by {', '.join(key) or 'nothing'}, expected {', '.join(sorted(table.key))}.")
    return tuple(name for name in FIXED if name not in engines), tuple(wrong)


def _codec(column: Column) -> str:
    # Features of a recorded day: ZSTD(1) takes 3.2 MB where LZ4 takes 4.2 and Gorilla 4.2, and is read as fast (chDB 26.9).
    return "Delta(8), ZSTD(1)" if column.dtype == "int64" else "ZSTD(1)"
