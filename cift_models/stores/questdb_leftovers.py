"""Rows on a QuestDB server that no manifest means: found by their version, removed with the whole day that they lie in.

QuestDB has no DELETE, but drops a day (of the quarantine: a month). Where rows in use lie in it too, they are copied to a table aside, the
day is dropped, and they are copied back. Until then reading them fails as damaged. A removal that dies in between leaves the table aside,
and the next one, of whatever home, copies back what lies there first: rows that are there already are deduplicated. So a table aside is
never dropped before its rows are seen in their place, and one that somebody may be working with never at all.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from cift_models.errors import StoreError
from cift_models.schema import QUESTDB, TICK_TABLES
from cift_models.stores.leftovers import REPLACED, Leftover
from cift_models.stores.questdb_http import Http, literal
from cift_models.stores.questdb_rows import version_of
from cift_models.stores.questdb_send import log_states, until_visible
from cift_models.stores.questdb_tables import QUARANTINE, Definition, definitions

ASIDE = re.compile(r"^cift_clean_(.+)_[0-9a-f]{8}$")
"""What a table aside is called."""
DEAD_S = 600.0
"""A table aside that nobody wrote to for so long is nobody's."""


class Day(NamedTuple):
    """What one folder of a table on the server's disk holds: its name, rows by version, and bytes."""

    name: str
    rows: dict[int, int]
    size: int


def leftovers(http: Http, manifests: Callable[[], list[dict[str, Any]]], remove: bool, young_s: float) -> list[Leftover]:
    """As KeepsLeftovers says. `manifests` are read when the state of the logs has been: who commits meanwhile is seen by that."""
    tables = [d for d in definitions() if d.name in TICK_TABLES or d.name == QUARANTINE]
    if remove:
        for name in _asides(http):
            put_back(http, name)
    states = {name: state.acknowledged for name, state in log_states(http, [d.name for d in tables]).items()}
    idle_s = {d.name: _idle_s(http, d.name) for d in tables}
    named: set[int] = set()
    for facts in manifests():
        content = facts["content"]
        named |= {version_of(part["sha256"]) for part in (content, content["quarantined"]) if part}
    found = []
    for d in tables:
        for day in _days(http, d):
            n = sum(rows for version, rows in day.rows.items() if version not in named)
            if not n:
                continue
            stays = ""
            if idle_s[d.name] < young_s:
                stays = f"{d.name} was written to in the last {young_s / 60:.0f} minutes, perhaps is still"
            elif remove:
                used = named & day.rows.keys()
                stays = _without(http, d, day, used, states[d.name])
                states[d.name] = log_states(http, [d.name])[d.name].acknowledged
            found.append(Leftover(f"{d.name} {day.name}", n, round(day.size * n / sum(day.rows.values())), REPLACED, stays))
    return found


def put_back(http: Http, aside: str) -> None:
    """Copy the rows of a table aside to where they belong, and drop it unless somebody may be working with it. Raises StoreError."""
    match = ASIDE.match(aside)
    assert match is not None
    (home,) = (d for d in definitions() if d.name == match[1])
    until_visible(http, [aside])
    http.do(f'INSERT INTO "{home.name}" SELECT * FROM "{aside}"')
    until_visible(http, [home.name])
    kept, there = _sums(http, home, aside), {}
    if kept:
        there = _sums(http, home, home.name, kept)
    for version, sums in kept.items():
        # One that died while it copied aside has less there than where it belongs.
        if version not in there or there[version][0] < sums[0] or (there[version][0] == sums[0] and not _alike(there[version], sums)):
            raise StoreError(
                f"{http.place}: rows of {home.name} that lie in {aside} cannot be seen in their place.",
                hint=f'Was the disk full? They are safe in "{aside}": make room, and run `cift clean` again.',
            )
    if _idle_s(http, aside) > DEAD_S:
        http.do(f'DROP TABLE IF EXISTS "{aside}"')


def _without(http: Http, d: Definition, day: Day, used: Collection[int], acknowledged: int) -> str:
    """Leave in a day only the versions in use. Returns why it was left as it is; "" where it was not. Raises StoreError."""
    aside = f"cift_clean_{d.name}_{secrets.token_hex(4)}"
    if used:
        http.do(replace(d, name=aside).create())
        try:
            http.do(f'INSERT INTO "{aside}" SELECT * FROM "{d.name}" WHERE {_within(d, day)} AND version IN ({_listed(used)})')
            until_visible(http, [aside])
            copied, original = (_sums(http, d, table, used, day) for table in (aside, d.name))
            whole = copied.keys() == original.keys() and all(_alike(copied[v], original[v]) for v in original)
        except BaseException:
            http.do(f'DROP TABLE IF EXISTS "{aside}"')
            raise
        if not whole or not original:
            http.do(f'DROP TABLE IF EXISTS "{aside}"')
            return "its rows in use could not be copied aside as they are"
    if log_states(http, [d.name])[d.name].acknowledged != acknowledged:
        if used:
            http.do(f'DROP TABLE IF EXISTS "{aside}"')
        return f"{d.name} was written to just now"
    http.do(f"ALTER TABLE \"{d.name}\" DROP PARTITION LIST '{day.name}'")
    if used:
        put_back(http, aside)
        http.do(f'DROP TABLE IF EXISTS "{aside}"')
    else:
        until_visible(http, [d.name])
    return ""


def _asides(http: Http) -> list[str]:
    """Tables aside that a removal left, or that one works with."""
    there = [name for (name,) in http.rows("select table_name from tables()")]
    known = {d.name for d in definitions()}
    return sorted(name for name in there if (match := ASIDE.match(name)) and match[1] in known)


def _idle_s(http: Http, table: str) -> float:
    """How long nobody has written to a table; for ever where nobody has."""
    last = [at for (at,) in http.rows(f"select max(timestamp)::long from wal_transactions({literal(table)})") if at is not None]
    ((now,),) = http.rows("select systimestamp()::long from long_sequence(1)")
    return (now - last[0]) / 1e6 if last else math.inf


def _days(http: Http, d: Definition) -> list[Day]:
    """Every day of a table. O(rows) for the server."""
    unit, length = ("d", 10) if d.by == "DAY" else ("M", 7)
    rows: dict[str, dict[int, int]] = {}
    for begin, version, n in http.rows(f'select timestamp_floor(\'{unit}\', "{d.time}") begin, version, count() from "{d.name}"'):
        rows.setdefault(begin[:length], {})[version] = n
    sizes: dict[str, Any] = dict(http.rows(f"select name, diskSize from table_partitions({literal(d.name)})"))
    return [Day(name, versions, sizes.get(name, 0)) for name, versions in sorted(rows.items())]


def _within(d: Definition, day: Day) -> str:
    """The day as a condition: QuestDB reads a date cut short as all of it."""
    return f"\"{d.time}\" IN '{day.name}'"


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))


def _sums(http: Http, d: Definition, table: str, versions: Iterable[int] | None = None, day: Day | None = None) -> dict[int, list[Any]]:
    """Of each version how many rows lie in a table, and what their columns sum up to."""
    kinds = {QUESTDB[c] for c in ("int64", "int32", "int8", "bool")}
    asked = ["count()"]
    for name, kind in d.columns.items():
        if kind.endswith("[]"):
            asked.append(f'sum(array_sum("{name}"))')
        elif kind == "STRING":
            asked.append(f'sum(length("{name}"))')
        elif kind in kinds or kind.startswith("TIMESTAMP"):
            asked.append(f'sum("{name}"::long)')
    conditions = [_within(d, day)] if day else []
    if versions is not None:
        conditions.append(f"version IN ({_listed(versions)})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return {version: sums for version, *sums in http.rows(f'select version, {", ".join(asked)} from "{table}"{where}')}


def _alike(one: list[Any], other: list[Any]) -> bool:
    """Whether sums are of the same rows: those of doubles may be added in another order."""
    return all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-12))
        for a, b in zip(one, other, strict=True)
    )
