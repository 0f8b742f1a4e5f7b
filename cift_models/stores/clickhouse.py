"""The feature store on a ClickHouse server: rows by version, and a manifest of each partition that is written last."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from cift_models.errors import NotStored, SchemaMismatch, StoreError
from cift_models.features.feature_set import FeatureSet
from cift_models.files import canonical_json, sha256_bytes
from cift_models.instruments import Session, Universe
from cift_models.refs import PartitionRef
from cift_models.schema import FEATURES, Table
from cift_models.stores import clickhouse_leftovers, lake
from cift_models.stores.clickhouse_digests import Digests
from cift_models.stores.clickhouse_server import (
    NO_DATABASE,
    NO_TABLE,
    READ_PATIENCE_S,
    TIMEOUT_S,
    WRITE_PATIENCE_S,
    Connection,
    Server,
    quoted,
)
from cift_models.stores.clickhouse_tables import (
    FIXED,
    KNOWN,
    OFFSETS,
    PARTITIONS,
    ROW,
    VERSION,
    Abilities,
    abilities,
    compare,
    create,
    lacking,
    set_name,
    set_table,
    stored,
)
from cift_models.stores.features import (
    FeatureArrays,
    Known,
    became_newest,
    check,
    empty_arrays,
    fill,
    fold_name,
    frame_of,
    judged,
    require_version,
    rows_facts,
    rows_key,
    session_facts,
    session_key,
)
from cift_models.stores.leftovers import YOUNG_S, Leftover

if TYPE_CHECKING:
    import polars

BLOCK_CELLS = 4_000_000
"""Cells of one block, 32 MB: what a write or a read holds besides the arrays themselves."""
BLOCK_ROWS = 10_000
"""Rows of one block at the least, where there are as many: every block is a part of its own until the server merges it."""


class Stored(NamedTuple):
    """What `partitions` says of a key now."""

    ref: PartitionRef
    sequence: int
    manifest: dict[str, Any]


class Rows(NamedTuple):
    """Rows of one partition in one table: how many there are, and the frames they come in."""

    table: Table
    rows: int
    frames: Callable[[], Iterable[polars.DataFrame]]


class ClickHouseFeatures:
    """Features, outputs and predictions on a ClickHouse server. Every read is verified, every write may be repeated.

    A table for each feature set, `outputs`, `predictions`, `offsets`, and `partitions`, whose rows make the others' count
    (clickhouse_tables.py). A write sends the rows, then the manifest: a reader sees what was there before, or all of what is new. Then
    `known` says from when on a version of a session is the newest. Killed at any point and called again, it leaves what one call leaves. A
    write that is given again reads and verifies what lies there; rows that are damaged are sent anew.

    `patience_s` says how long a call goes on asking a server that does not answer. Nothing is connected before the first call, and
    calls from several threads do not meet. Raises StoreUnavailable (retryable), StoreError, SchemaMismatch besides what FeatureStore says.
    """

    def __init__(
        self,
        url: str,
        user: str = "",
        password: str = "",
        ca: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        read_patience_s: float = READ_PATIENCE_S,
        write_patience_s: float = WRITE_PATIENCE_S,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock = clock
        self._server = Server(url, user, password, ca, timeout_s, read_patience_s, write_patience_s)

    def write(
        self,
        universe: Universe,
        features: FeatureSet,
        session: Session,
        *,
        as_of: NDArray[np.int64],
        offsets: NDArray[np.int64],
        x: NDArray[np.float64],
        valid: NDArray[np.bool_],
        why: NDArray[np.int8],
        available_at: NDArray[np.int64] | None = None,
    ) -> PartitionRef:
        import polars as pl

        arrays = FeatureArrays(as_of, as_of if available_at is None else available_at, offsets, x, valid, why)
        check(universe, features, arrays)
        table, symbols = set_table(features), len(universe)

        def rows() -> Iterator[polars.DataFrame]:
            for first, last in _blocks(len(as_of), table, symbols):
                yield frame_of(universe, features, arrays, first, last)

        def events_before() -> Iterator[polars.DataFrame]:
            for first, last in _blocks(len(offsets), OFFSETS):
                yield pl.DataFrame({"offset": offsets[first:last]})

        parts = {set_name(features): Rows(table, len(as_of) * symbols, rows), OFFSETS.name: Rows(OFFSETS, len(offsets), events_before)}
        facts = session_facts(universe, features, session, as_of)
        below = session_key(universe, features, session)
        ref = self._write(below, facts, parts, versions=True)
        with self._server.connection(writes=True) as asked:
            instant = became_newest(_history(asked, below), ref.key, self._clock)
            if instant is not None:
                row = {"key": ref.key, "known_at": instant, "version": _version(ref.sha256)}
                asked.insert(KNOWN.name, pl.DataFrame([row], schema=KNOWN.polars_schema()))
        return ref

    def read(self, universe: Universe, features: FeatureSet, session: Session, sha256: str) -> FeatureArrays:
        key = f"{session_key(universe, features, session)}/{sha256[:16]}"
        with self._server.connection() as asked:
            there = self._stored(asked, key)
            if there is None:
                raise _not_stored(key)
            require_version(there.ref, sha256)
            _require_schema(there.ref, FEATURES.repeat(features.names))
            instants, symbols = there.manifest["instants"], len(universe)
            arrays = empty_arrays(universe, features, instants)
            for first, frame in self._verified(asked, there, set_name(features), set_table(features), symbols):
                fill(arrays, first // symbols, frame, features)
            for first, frame in self._verified(asked, there, OFFSETS.name, OFFSETS):
                arrays.offsets[first : first + len(frame)] = frame["offset"].to_numpy()
        return arrays

    def versions(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[PartitionRef, ...]:
        with self._server.connection() as asked:
            return tuple(there.ref for there in self._below(asked, session_key(universe, features, session)))

    def known(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[Known, ...]:
        below = session_key(universe, features, session)
        with self._server.connection() as asked:
            # What is known has a manifest, unless it was removed since: asked in this order, none is missed.
            history = _history(asked, below)
            refs = {there.ref.key: there.ref for there in self._below(asked, below)}
        return tuple(Known(instant, refs[key]) for instant, key in history if key in refs)

    def write_rows(self, table: str, run: str, model: str, fold: int, frame: polars.DataFrame) -> PartitionRef:
        facts = rows_facts(table, run, model, fold, frame)
        schema = stored(judged(table))
        parts = {table: Rows(schema, len(frame), lambda: (frame[first:last] for first, last in _blocks(len(frame), schema)))}
        return self._write(rows_key(table, run, model, fold), facts, parts)

    def rows(self, table: str, run: str, model: str | None = None, fold: int | None = None) -> tuple[PartitionRef, ...]:
        judged(table)
        wanted = (lake.folder_name(model) if model else None, None if fold is None else fold_name(fold))
        with self._server.connection() as asked:
            found = self._below(asked, f"{table}/{lake.folder_name(run)}")
        return tuple(t.ref for t in found if all(w in (None, part) for w, part in zip(wanted, t.ref.key.split("/")[2:], strict=True)))

    def read_rows(self, ref: PartitionRef) -> polars.DataFrame:
        import polars as pl

        table = judged(ref.table)
        with self._server.connection() as asked:
            there = self._stored(asked, ref.key)
            if there is None:
                raise _not_stored(ref.key)
            lake.require(there.ref, ref)
            _require_schema(ref, table)
            frames = [frame for _, frame in self._verified(asked, there, table.name, stored(table))]
        return pl.concat(frames) if frames else table.empty()

    def migrate(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Make the tables (and the database) that are missing; returns the names of those made, and what differs in those that were there.

        Where there is a difference nothing is made: a table that another program owns, or another version of CIFT made, is for a person to
        move away (`RENAME TABLE`) or to alter. Called again it makes nothing. A feature set's table is made by its first write. Raises
        StoreUnavailable, StoreError (a right that is missing).
        """
        with self._server.connection() as asked:
            try:
                missing, differences = compare(asked.select)
            except StoreError as error:
                if getattr(error, "code", None) != NO_DATABASE:
                    raise
                with self._server.connection(database="default") as elsewhere:
                    elsewhere.do(f"CREATE DATABASE IF NOT EXISTS {quoted(self._server.database)}")
                missing, differences = compare(asked.select)
            if differences:
                return (), differences
            can = abilities(asked.select) if missing else None
            for name in missing:
                assert can is not None
                asked.do(create(name, FIXED[name], can), name)
        return missing, ()

    def lacks(self) -> tuple[str, ...]:
        """What the server lacks: tables of ours, which `migrate` makes, and what ClickHouse has today, of which nothing is needed.

        Changes nothing. Raises StoreUnavailable, StoreError.
        """
        with self._server.connection() as asked:
            missing, differences = compare(asked.select)
            tables = (f"no table {', '.join(missing)}: `cift migrate` makes it",) if missing else ()
            return tables + differences + lacking(abilities(asked.select))

    def leftovers(self, unneeded: Collection[str] = (), *, remove: bool = False, young_s: float = YOUNG_S) -> list[Leftover]:
        """As KeepsLeftovers says; `unneeded` are keys of sessions' versions. The user needs ALTER DELETE."""
        with self._server.connection(writes=remove) as asked:
            return clickhouse_leftovers.leftovers(asked, unneeded, remove, young_s)

    def session_keys(self) -> list[str]:
        """Keys of every version of every session's rows, sorted."""
        with self._server.connection() as asked:
            return clickhouse_leftovers.session_keys(asked)

    def _write(self, key: str, facts: Mapping[str, Any], parts: Mapping[str, Rows], versions: bool = False) -> PartitionRef:
        """Send the rows of a partition and then its manifest. `versions`: as lake.write_partition."""
        manifest = canonical_json(
            {**facts, "tables": {name: {"rows": p.rows, "columns": _digests(p.frames())} for name, p in parts.items()}}
        )
        sha256 = sha256_bytes(manifest)
        if versions:
            key = f"{key}/{sha256[:16]}"
        ref = PartitionRef(key=key, sha256=sha256, table=facts["table"], rows=facts["rows"], schema_hash=facts["schema_hash"])
        with self._server.connection(writes=True) as asked:
            newest = self._newest(asked, key)
            # A damaged manifest is one more that is replaced: whoever is told to write again can.
            there = _parse(newest) if newest and _is_as_written(newest) else None
            if there is not None and there.ref == ref and self._is_whole(asked, there, parts):
                return ref
            for name, part in parts.items():
                if name not in FIXED:
                    self._make(asked, name, part.table)
                first = 0
                for frame in part.frames():
                    asked.insert(name, _numbered(frame, sha256, first))
                    first += len(frame)
            if there is None or there.ref != ref:
                self._commit(asked, ref, manifest, newest["sequence"] + 1 if newest else 1)
        return ref

    def _make(self, asked: Connection, name: str, table: Table) -> None:
        """Make a feature set's table if it is not there. Asked first: a user who may only insert need not make what there is."""
        if not asked.select(f"EXISTS TABLE {quoted(name)}", about=name).item():
            can: Abilities = abilities(asked.select)
            asked.do(create(name, table, can), name)

    def _commit(self, asked: Connection, ref: PartitionRef, manifest: bytes, sequence: int) -> None:
        """Make a partition exist. Of two writers who number alike, the one with the greater sha256 counts, for every reader."""
        import polars as pl

        row = {
            "key": ref.key,
            "sequence": sequence,
            "sha256": ref.sha256,
            "version": _version(ref.sha256),
            "manifest": manifest.decode(),
            "committed": self._clock(),
        }
        asked.insert(PARTITIONS.name, pl.DataFrame([row], schema=PARTITIONS.polars_schema()))

    def _stored(self, asked: Connection, key: str) -> Stored | None:
        """What lies under a key now; None where nothing does."""
        newest = self._newest(asked, key)
        return _parse(newest) if newest else None

    def _newest(self, asked: Connection, key: str) -> dict[str, Any] | None:
        """The row of `partitions` that counts for a key; None where there is none."""
        sql = f"{_MANIFESTS} WHERE key = %(key)s ORDER BY sequence DESC, sha256 DESC LIMIT 1"
        found = asked.select(sql, {"key": key}, PARTITIONS.name)
        return found.row(0, named=True) if len(found) else None

    def _below(self, asked: Connection, prefix: str) -> list[Stored]:
        """What lies under every key that continues a prefix, by key."""
        sql = f"{_MANIFESTS} WHERE key > %(first)s AND key < %(last)s ORDER BY key, sequence DESC, sha256 DESC LIMIT 1 BY key"
        found = asked.select(sql, _within(prefix), PARTITIONS.name)
        return sorted((_parse(row) for row in found.iter_rows(named=True)), key=lambda there: there.ref.key)

    def _is_whole(self, asked: Connection, there: Stored, parts: Mapping[str, Rows]) -> bool:
        """Whether every row of a partition is on the server as its manifest says."""
        try:
            for name, part in parts.items():
                for _ in self._verified(asked, there, name, part.table):
                    pass
        except StoreError as error:
            if getattr(error, "damaged", False) or getattr(error, "code", None) == NO_TABLE:
                return False
            raise
        return True

    def _verified(
        self, asked: Connection, there: Stored, name: str, table: Table, multiple: int = 1
    ) -> Iterator[tuple[int, polars.DataFrame]]:
        """The rows of a partition in one table, in blocks of a multiple of so many: the first one's number, and the rows.

        Raises StoreError in a block that lacks rows, and after the last one where a column is not what the manifest says.
        """
        import polars as pl

        expected = there.manifest["tables"][name]
        names = [c for c in table.names if c not in (VERSION.name, ROW.name)]
        schema = table.polars_schema()
        columns = ", ".join(quoted(c) for c in (ROW.name, *names))
        where = "WHERE version = %(version)s AND row >= %(first)s AND row < %(last)s LIMIT %(most)s"
        digests = Digests()
        for first, last in _blocks(expected["rows"] // multiple, table, multiple):
            first, last = first * multiple, last * multiple
            asked_for = {"version": _version(there.ref.sha256), "first": first, "last": last, "most": last - first + 1}
            # FINAL takes the server more than twice as long, and is needed only where a block was sent twice and is not merged yet.
            for final in ("", " FINAL"):
                frame = asked.select(f"SELECT {columns} FROM {quoted(name)}{final} {where}", asked_for, name)
                if not frame[ROW.name].is_sorted():
                    frame = frame.sort(ROW.name)
                if np.array_equal(frame[ROW.name].to_numpy(), np.arange(first, last)):
                    break
            else:
                raise _damaged(there.ref, f"{name} holds {len(frame):,} of its rows {first:,} to {last - 1:,}")
            digests.update(frame.select(names))
            yield first, frame.select(pl.col(c).cast(schema[c]) for c in names)
        found = digests.hex()
        wrong = [c for c in names if found.get(c) != expected["columns"].get(c)]
        if wrong:
            raise _damaged(there.ref, f"{', '.join(wrong[:5])} of {name} {'are' if len(wrong) > 1 else 'is'} not what was written")


_MANIFESTS = f"SELECT key, sequence, sha256, manifest FROM {quoted(PARTITIONS.name)} FINAL"


def _within(prefix: str) -> dict[str, int | str]:
    """Between which keys every one lies that continues a prefix: "0" follows "/", and the tables are sorted by key."""
    return {"first": f"{prefix}/", "last": f"{prefix}0"}


def _history(asked: Connection, below: str) -> list[tuple[int, str]]:
    """Instants and the keys of what became the newest version of a session then. A row that was sent twice may stand there twice."""
    sql = f"SELECT known_at, key FROM {quoted(KNOWN.name)} WHERE key > %(first)s AND key < %(last)s"
    found = asked.select(sql, _within(below), KNOWN.name)
    return sorted(set(found.select("known_at", "key").iter_rows()))


def _parse(row: Mapping[str, Any]) -> Stored:
    """One row of `partitions`. Raises StoreError where its manifest is not the one that it names."""
    if not _is_as_written(row):
        raise StoreError(f"The manifest of {row['key']} is damaged.", hint="Write it again: what made it runs anew.", key=row["key"])
    manifest = orjson.loads(row["manifest"])
    ref = PartitionRef(
        key=row["key"], sha256=row["sha256"], table=manifest["table"], rows=manifest["rows"], schema_hash=manifest["schema_hash"]
    )
    return Stored(ref, row["sequence"], manifest)


def _is_as_written(row: Mapping[str, Any]) -> bool:
    return sha256_bytes(row["manifest"].encode()) == row["sha256"]


def _digests(frames: Iterable[polars.DataFrame]) -> dict[str, str]:
    digests = Digests()
    for frame in frames:
        digests.update(frame)
    return digests.hex()


def _blocks(n: int, table: Table, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Even stretches of 0..n, where one stands for `multiple` rows: blocks of once to twice BLOCK_CELLS cells, BLOCK_ROWS rows at least."""
    size = -(-max(BLOCK_ROWS, BLOCK_CELLS // len(table.columns)) // multiple)
    count = max(1, n // size)
    bounds = [n * i // count for i in range(count + 1)]
    return ((first, last) for first, last in pairwise(bounds) if last > first)


def _version(sha256: str) -> int:
    """The first 64 bits of a digest, signed."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def _numbered(frame: polars.DataFrame, sha256: str, first: int) -> polars.DataFrame:
    """The rows of a partition with their version and their numbers."""
    import polars as pl

    version = pl.lit(_version(sha256), pl.Int64).alias(VERSION.name)
    return frame.select(version, pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias(ROW.name), pl.all())


def _require_schema(ref: PartitionRef, table: Table) -> None:
    if ref.schema_hash != table.schema_hash:
        raise SchemaMismatch(
            f"{ref.key} was written with another version of the table {ref.table}.", hint="Write it again with this version.", key=ref.key
        )


def _not_stored(key: str) -> NotStored:
    return NotStored(f"No partition {key}.", hint="Run what writes it again: the step that made it, or `cift predict`.", key=key)


def _damaged(ref: PartitionRef, what: str) -> StoreError:
    return StoreError(
        f"{ref.key} is damaged: {what}.", hint="Write it again: the same rows replace what is there.", key=ref.key, damaged=True
    )
