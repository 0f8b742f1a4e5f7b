"""CIFT's tables in QuestDB: rendered from schema.py, made by `migrate`, compared with what the server has, never altered in silence.

Rows of a canonical table lie with the symbol, the `version` of the partition that they are of, and their number in it (`row`). A version is
63 bits of the content's digest: equal rows under the same key are the same version, other rows are another one. So no row is overwritten
by another, and a batch that is sent twice is stored once: DEDUP is by time, version and row. Rows of a
replaced version stay until `cift clean` (questdb_leftovers.py), and who reads with SQL joins `partitions`, which names the version that
counts:

    select t.* from trades t join partitions p on t.version = p.version where t.symbol = 'AAPL'
"""

from __future__ import annotations

from dataclasses import dataclass

from cift_models.schema import INSTRUMENTS, TICK_TABLES
from cift_models.stores.questdb_http import Http, literal

PARTITIONS = "partitions"
"""One row a partition, written last: what makes it exist. `at` is the midnight of its day (UTC), so that a later row replaces it.

`written` says when, so that a row that came is told from an equal one that was there.
"""
QUARANTINE = "quarantine"
"""Rows that quality kept apart, each as JSON: their times may be wild, so `at` is the midnight of their partition's day."""
INSTRUMENTS_TABLE = "instruments"
"""What a symbol was on a day, for whoever reads with SQL."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One table: columns with their types, the designated timestamp, what one folder on the server's disk holds, and what DEDUP goes by."""

    name: str
    columns: dict[str, str]
    time: str
    by: str
    key: tuple[str, ...]

    def create(self) -> str:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in self.columns.items())
        key = ", ".join(f'"{name}"' for name in self.key)
        how = f'TIMESTAMP("{self.time}") PARTITION BY {self.by} WAL DEDUP UPSERT KEYS({key})'
        return f'CREATE TABLE IF NOT EXISTS "{self.name}" ({columns}) {how}'


def definitions() -> tuple[Definition, ...]:
    """Every table of CIFT in QuestDB."""
    own = {"symbol": "SYMBOL", "version": "LONG", "row": "INT"}
    ticks = [Definition(t.name, t.questdb_columns() | own, t.time, "DAY", (t.time, "version", "row")) for t in TICK_TABLES.values()]
    at = {"at": "TIMESTAMP_NS"}
    return (
        *ticks,
        Definition(
            QUARANTINE, at | {"table": "SYMBOL"} | own | {"reason": "SYMBOL", "json": "STRING"}, "at", "MONTH", ("at", "version", "row")
        ),
        Definition(INSTRUMENTS_TABLE, at | INSTRUMENTS.questdb_columns(), "at", "MONTH", ("at", "symbol")),
        Definition(
            PARTITIONS,
            at
            | {"table": "SYMBOL", "symbol": "SYMBOL", "day": "INT", "part": "SYMBOL", "rows": "LONG"}
            | {"version": "LONG", "sha256": "STRING", "manifest": "STRING", "written": "TIMESTAMP_NS"},
            "at",
            "MONTH",
            ("at", "table", "symbol", "part"),
        ),
    )


def compare(http: Http) -> tuple[tuple[Definition, ...], tuple[str, ...]]:
    """The tables that the server lacks, and what is wrong with those that it has, a sentence each.

    A column that only the server has is nobody's harm and is not looked at. Raises StoreUnavailable, StoreError.
    """
    tables = http.rows("select table_name, designatedTimestamp, partitionBy, walEnabled, dedup from tables()")
    found = {name: rest for name, *rest in tables}
    missing = tuple(d for d in definitions() if d.name not in found)
    wrong: list[str] = []
    for d in definitions():
        if d.name not in found:
            continue
        time, by, wal, dedup = found[d.name]
        columns = http.rows(f'select "column", type, upsertKey from table_columns({literal(d.name)})')
        types = {name: kind for name, kind, _ in columns}
        key = tuple(name for name, _, is_key in columns if is_key)
        for name, kind in d.columns.items():
            if types.get(name) != kind:
                wrong.append(f"{d.name}.{name} is {types.get(name, 'missing')}, expected {kind}.")
        for what, is_now, expected in (
            ("designated timestamp", time, d.time),
            ("partitioning", by, d.by),
            ("WAL", "on" if wal else "off", "on"),
            ("deduplication", "on" if dedup else "off", "on"),
            ("key of deduplication", ", ".join(sorted(key)), ", ".join(sorted(d.key))),
        ):
            if is_now != expected:
                wrong.append(f"{d.name}: its {what} is {is_now or 'none'}, expected {expected}.")
    return missing, tuple(wrong)


def migrate(http: Http) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make the tables that are missing; returns the names of those made, and the differences of those that were there.

    Where there is a difference nothing is made: a table that another program owns, or another version of CIFT made, is for a person to
    move away (`RENAME TABLE`) or to alter. Called again it makes nothing. Raises StoreUnavailable, StoreError (read-only).
    """
    missing, differences = compare(http)
    if differences:
        return (), differences
    for definition in missing:
        http.do(definition.create())
    return tuple(d.name for d in missing), ()
