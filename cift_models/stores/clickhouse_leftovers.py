"""Rows on a ClickHouse server that no manifest means: found by their version, removed by ALTER TABLE DELETE."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from cift_models.errors import StoreUnavailable
from cift_models.stores.clickhouse_server import Connection, quoted
from cift_models.stores.clickhouse_tables import FIXED, PARTITIONS, SET_NAME
from cift_models.stores.leftovers import REMOVED, REPLACED, Leftover

AT_ONCE = 1_000
"""Versions that one statement names."""
UNMOVED_S = 60.0
"""How long a removal may show no progress: the server rewrites whole parts."""


def leftovers(asked: Connection, unneeded: Collection[str], remove: bool, young_s: float) -> list[Leftover]:
    """As KeepsLeftovers says. A manifest goes before its rows: a kill in between leaves rows that no manifest means."""
    named, dropped = _named(asked, set(unneeded))
    found: list[Leftover] = []
    going: dict[str, set[int]] = {}
    for table in _tables(asked):
        # What makes rows young is the newest part that holds some of them. A merge makes it younger than they are, never older.
        now = int(asked.select("SELECT toUInt32(now()) AS now")["now"][0])
        parts = asked.select(
            "SELECT name, toUInt32(modification_time) AS changed, rows, bytes_on_disk AS size FROM system.parts "
            "WHERE database = currentDatabase() AND table = %(table)s AND active",
            {"table": table},
        )
        changed = dict(parts.select("name", "changed").iter_rows())
        per_row = int(parts["size"].sum()) / max(int(parts["rows"].sum()), 1)
        rows: dict[int, int] = {}
        written: dict[int, int] = {}
        lying = asked.select(f"SELECT version, _part AS part, count() AS n FROM {quoted(table)} GROUP BY version, part", about=table)
        for version, part, n in lying.select("version", "part", "n").iter_rows():
            rows[version] = rows.get(version, 0) + n
            # A part that came after the list of parts was read is as young as can be.
            written[version] = max(written.get(version, 0), int(changed.get(part, now)))
        by_fate: dict[tuple[str, bool], list[int]] = {}
        for version in rows.keys() - named:
            why = REMOVED if version in dropped else REPLACED
            by_fate.setdefault((why, why == REPLACED and now - written[version] < young_s), []).append(version)
        for (why, young), versions in sorted(by_fate.items()):
            n = sum(rows[version] for version in versions)
            found.append(Leftover(table, n, round(n * per_row), why, _young(young_s) if young else ""))
            if not young:
                going.setdefault(table, set()).update(versions)
    if remove:
        _delete(asked, PARTITIONS.name, dropped.union(*going.values()))
        for table, versions in going.items():
            _delete(asked, table, versions)
    return found


def session_keys(asked: Connection) -> list[str]:
    """Keys of every session's rows that are stored, sorted."""
    found = asked.select(f"SELECT DISTINCT key FROM {quoted(PARTITIONS.name)} WHERE key > 'features/' AND key < 'features0'")
    return sorted(found["key"].to_list())


def _named(asked: Connection, unneeded: set[str]) -> tuple[set[int], set[int]]:
    """Versions that a manifest in use means, and those that only an unneeded one does."""
    newest: dict[str, tuple[int, str, int]] = {}
    found = asked.select(f"SELECT key, sequence, sha256, version FROM {quoted(PARTITIONS.name)}", about=PARTITIONS.name)
    for key, *row in found.select("key", "sequence", "sha256", "version").iter_rows():
        newest[key] = max(newest.get(key, (-1, "", 0)), tuple(row))
    named = {version for key, (_, _, version) in newest.items() if key not in unneeded}
    return named, {version for key, (_, _, version) in newest.items() if key in unneeded} - named


def _tables(asked: Connection) -> list[str]:
    """Our tables of rows."""
    there = asked.select("SELECT name FROM system.tables WHERE database = currentDatabase()")["name"].to_list()
    return sorted(name for name in there if (name in FIXED and name != PARTITIONS.name) or SET_NAME.match(name))


def _delete(asked: Connection, table: str, versions: Iterable[int]) -> None:
    named = [str(version) for version in sorted(versions)]
    for first in range(0, len(named), AT_ONCE):
        asked.do(f"ALTER TABLE {quoted(table)} DELETE WHERE version IN ({', '.join(named[first : first + AT_ONCE])})", table)
        _until_done(asked, table)


def _until_done(asked: Connection, table: str) -> None:
    """Wait until a table has no removal before it. Raises StoreUnavailable where nothing moves."""
    seen: list[tuple[str, int]] = []
    until = time.monotonic() + UNMOVED_S
    pause_s = 0.01
    while True:
        left = asked.select(
            "SELECT mutation_id AS id, parts_to_do AS parts FROM system.mutations "
            "WHERE database = currentDatabase() AND table = %(table)s AND NOT is_done",
            {"table": table},
        )
        now = sorted(left.select("id", "parts").iter_rows())
        if not now:
            return
        if now != seen:
            seen, until = now, time.monotonic() + UNMOVED_S
        elif time.monotonic() > until:
            raise StoreUnavailable(
                f"{asked.server.place} has not removed rows of {table} after {UNMOVED_S:.0f} s without progress.",
                hint="It goes on by itself; `select * from system.mutations where not is_done` there says what holds it up.",
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 1.0)


def _young(young_s: float) -> str:
    return f"written in the last {young_s / 60:.0f} minutes, perhaps still being written"
