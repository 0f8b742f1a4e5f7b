"""Ticks in QuestDB: partitions that are whole or absent on a server that knows no transaction over tables and deletes no rows.

A partition exists by one row of the table `partitions`, which is written when all else can be read: its manifest, whose sha256 is the
reference. The manifest holds the digest of the rows, and rows lie under the version that this digest gives them. So whoever has read a
manifest finds the rows that it means, whatever another writer does meanwhile: a reader sees the old partition or the new one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from cift_models.errors import InputError, NotStored, SchemaMismatch, StoreError, StoreUnavailable
from cift_models.files import canonical_json, sha256_bytes
from cift_models.instruments import to_ns
from cift_models.refs import PartitionRef
from cift_models.schema import INSTRUMENTS, TICK_TABLES
from cift_models.stores import questdb_leftovers
from cift_models.stores.leftovers import YOUNG_S, Leftover
from cift_models.stores.questdb_http import Http, instant, literal
from cift_models.stores.questdb_rows import (
    Layout,
    damaged,
    digest_of,
    digest_of_lines,
    frame_of_lines,
    layout_of,
    lines_of,
    version_of,
)
from cift_models.stores.questdb_send import BATCH_BYTES, Courier, Couriers, log_states, until_visible
from cift_models.stores.questdb_tables import INSTRUMENTS_TABLE, PARTITIONS, QUARANTINE, compare
from cift_models.stores.questdb_tables import migrate as migrate_tables
from cift_models.stores.ticks import Key, TickStore

if TYPE_CHECKING:
    import pandas
    import polars

    from cift_models.settings import Settings

SLICE_BYTES = 64 * 2**20
"""About what one answer of the server holds, unpacked: a day is read in several, so that none has to wait for all of it."""


STORED = "manifest, sha256, written::long written"
"""Columns of a _Stored."""


class Vanished(StoreError):
    """What the server acknowledged is not there, or is not that."""


class QuestDBPartitions:
    """Partitions on one server. `http` says where; the tables must be there (`migrate`).

    Any frame that its table allows comes back as it was, in its order. Refused are values that QuestDB cannot hold (questdb_rows) and a day
    that is no date. Two writers of one partition leave one of them whole. Memory: two batches, or one slice beside the frame.
    """

    def __init__(self, http: Http) -> None:
        self._http = http
        self._couriers = Couriers(http)
        self._compared = False

    def find(self, table: str | None = None, symbol: str | None = None) -> list[Key]:
        asked = [f'"{name}" = {literal(value)}' for name, value in (("table", table), ("symbol", symbol)) if value is not None]
        where = f" where {' and '.join(asked)}" if asked else ""
        return sorted(Key(*row) for row in self._http.rows(f'select "table", symbol, "day", part from "{PARTITIONS}"{where}'))

    def manifest(self, key: Key) -> tuple[PartitionRef, dict[str, Any]]:
        return self._read(key.path, self._stored(key))

    def manifests(self, keys: Sequence[Key]) -> list[tuple[PartitionRef, dict[str, Any]]]:
        if len(keys) < 2:
            return [self.manifest(key) for key in keys]
        paths = [key.path for key in keys]  # refuses names that are none before SQL sees them
        days = sorted(_midnight(key) for key in keys)
        where = f"at between {instant(days[0])} and {instant(days[-1])}"
        for name, values in (("table", {key.table for key in keys}), ("symbol", {key.symbol for key in keys})):
            if len(values) <= 100:  # more would make the URL too long; what comes too many is left lying
                where += f' and "{name}" in ({", ".join(literal(value) for value in sorted(values))})'
        sql = f'select "table", symbol, "day", part, {STORED} from "{PARTITIONS}" where {where}'
        stored: dict[Key, list[_Stored]] = {}
        for *key, manifest, sha256, written in self._http.rows(sql):
            stored.setdefault(Key(*key), []).append(_Stored(manifest.encode(), sha256, written))
        return [self._read(path, _only(path, stored.get(key, []))) for path, key in zip(paths, keys, strict=True)]

    def write(self, key: Key, frame: polars.DataFrame, quarantined: polars.DataFrame | None, facts: Mapping[str, Any]) -> PartitionRef:
        new = _prepared(key, frame, quarantined, facts)
        self._look_before_writing(key.table)
        before = self._stored(key)
        if before is not None and before.says(new) and self._is_whole(new):
            return new.ref
        try:
            self._send(new, before)
        except Vanished:
            # Seen of QuestDB 9.3.4: a connection that outlives its table (dropped, made again) has its next batch acknowledged and lost; a
            # server whose disk was full has pages of zeros in what it acknowledges afterwards. Sent again, the rows replace them.
            self._couriers.forget()
            self._send(new, before)
        return new.ref

    def rows(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame:
        import polars as pl

        content = facts["content"]
        table = TICK_TABLES.get(ref.table)
        layout = Layout(table, content["levels"]) if table is not None else None
        if layout is None or layout.written.schema_hash != ref.schema_hash:
            raise SchemaMismatch(
                f"{ref.key} was written with another version of the table {ref.table}.",
                hint="Ingest it again with this version.",
                key=ref.key,
            )
        step = max(1, SLICE_BYTES // layout.row_bytes)
        where = _where(layout, content)
        parts = [layout.written.empty()]
        for first in range(0, ref.rows, step):
            n = min(step, ref.rows - first)
            among = f' and "row" >= {first} and "row" < {first + n}' if n < ref.rows else ""
            found = self._http.frame(f'select {layout.select()} from "{ref.table}" where {where}{among}')
            parts.append(layout.incoming(found, first, n, ref.key))
        frame = pl.concat(parts, rechunk=True)
        if digest_of(ref.key, frame) != content["sha256"]:
            raise damaged(ref.key, "its rows are not those that were written")
        return frame

    def quarantined(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame | None:
        import polars as pl

        kept = facts["content"]["quarantined"]
        if kept is None:
            return None
        where = _where_kept(Key.of(ref.key), kept)
        lines = self._http.frame(f'select "row", json from "{QUARANTINE}" where {where}').sort("row")["json"].cast(pl.String)
        if lines.null_count() or len(lines) != kept["rows"] or digest_of_lines(ref.key, lines) != kept["sha256"]:
            raise damaged(ref.key, f"{len(lines):,} of {kept['rows']:,} quarantined rows came back, or others")
        return frame_of_lines(lines, {name: getattr(pl, dtype) for name, dtype in kept["columns"]})

    def _stored(self, key: Key) -> _Stored | None:
        """The manifest of a key, as it lies there; None where there is none."""
        path, where = key.path, f"at = {instant(_midnight(key))}"
        for name, value in (("table", key.table), ("symbol", key.symbol), ("part", key.part)):
            where += f' and "{name}" = {literal(value)}'
        found = self._http.rows(f'select {STORED} from "{PARTITIONS}" where {where}')
        return _only(path, [_Stored(manifest.encode(), sha256, written) for manifest, sha256, written in found])

    @staticmethod
    def _read(path: str, stored: _Stored | None) -> tuple[PartitionRef, dict[str, Any]]:
        """What a manifest says, verified. Raises NotStored, StoreError (damaged)."""
        if stored is None:
            raise NotStored(f"No partition {path}.", hint="Ingest it, or look at what is stored with `cift status`.", key=path)
        try:
            if sha256_bytes(stored.manifest) != stored.sha256:
                raise ValueError("its sha256 is another")
            facts = orjson.loads(stored.manifest)
            ref = PartitionRef(key=path, sha256=stored.sha256, table=facts["table"], rows=facts["rows"], schema_hash=facts["schema_hash"])
            facts["content"]["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"The manifest of {path} is damaged: {error}.", hint="`cift ingest --again` mends it.", key=path) from error
        return ref, facts

    def _is_whole(self, new: _New) -> bool:
        """Whether every row of a partition comes back as it was written."""
        try:
            self.rows(new.ref, new.facts)
            self.quarantined(new.ref, new.facts)
        except StoreUnavailable:
            raise
        except StoreError:
            return False
        return True

    def _look_before_writing(self, table: str) -> None:
        """Raise StoreError where the tables are not as they must be: the server would make a missing one, without deduplication."""
        if not self._compared:
            _, differences = compare(self._http)
            if differences:
                raise StoreError(
                    f"{self._http.place} has other tables than this version writes: {' '.join(differences[:3])}",
                    hint="`cift migrate` lists all of it, and alters nothing.",
                )
            self._compared = True
        for state in log_states(self._http, (table, QUARANTINE, INSTRUMENTS_TABLE, PARTITIONS)).values():
            state.refuse_suspended(self._http)

    def _send(self, new: _New, before: _Stored | None) -> None:
        """Everything of a partition, what makes it exist last. Raises Vanished."""
        with self._couriers.one() as courier:
            self._send_rows(courier, new)
            self._send_lines(courier, new)
            self._make_sure(new)
            self._send_instrument(courier, new)
            self._commit(courier, new, before)

    def _send_rows(self, courier: Courier, new: _New) -> None:
        layout, frame = new.layout, new.frame
        step = max(1, BATCH_BYTES // layout.row_bytes)
        batches = (layout.outgoing(frame.slice(at, step), new.key.symbol, new.version, at) for at in range(0, len(frame), step))
        courier.frames(layout.table.name, batches, ("symbol",), layout.table.time)

    def _send_lines(self, courier: Courier, new: _New) -> None:
        """The quarantined rows."""
        if new.lines is not None:
            step = 50_000
            batches = (_outgoing_lines(new, new.lines[first : first + step], first) for first in range(0, len(new.lines), step))
            courier.frames(QUARANTINE, batches, ("table", "symbol", "reason"), "at")

    def _make_sure(self, new: _New) -> None:
        """Wait until all rows can be read, and look at them: nothing is committed that is not there as it was sent. Raises Vanished."""
        until_visible(self._http, (new.key.table, QUARANTINE))
        try:
            if not self._sums_agree(new):
                self.rows(new.ref, new.facts)
            self.quarantined(new.ref, new.facts)
        except StoreUnavailable:
            raise
        except StoreError as error:
            what = f"{self._http.place} has acknowledged rows that are not there as they were sent: {error.message}"
            raise Vanished(what, hint="Has somebody changed the tables, or was the disk full? Look, and run the same again.") from error

    def _sums_agree(self, new: _New) -> bool:
        """Whether the server has as many rows as were sent, and every column of them sums up to the same."""
        if not len(new.frame):
            return True
        expected = {"count()": len(new.frame), **new.layout.sums(new.frame)}
        (found,) = self._http.rows(f'select {", ".join(expected)} from "{new.key.table}" where {_where(new.layout, new.content)}')
        return found == list(expected.values())

    def _send_instrument(self, courier: Courier, new: _New) -> None:
        """What the symbol was on that day. Nothing here reads it: it is for SQL."""
        said = new.facts.get("instrument")
        if said is None:
            return
        kinds = INSTRUMENTS.questdb_columns()
        symbols = {name: str(said[name]) for name, kind in kinds.items() if kind == "SYMBOL"}
        courier.row(INSTRUMENTS_TABLE, symbols, {name: said[name] for name in kinds if name not in symbols}, new.at)

    def _commit(self, courier: Courier, new: _New, before: _Stored | None) -> None:
        """Write the one row that makes the partition exist, and wait until it can be read. Raises Vanished."""
        key, ref = new.key, new.ref
        symbols = {"table": key.table, "symbol": key.symbol, "part": key.part}
        columns = {"day": key.day, "rows": ref.rows, "version": new.version, "sha256": ref.sha256, "manifest": new.manifest.decode()}
        courier.row(PARTITIONS, symbols, columns, new.at, {"written": time.time_ns()})
        until_visible(self._http, (INSTRUMENTS_TABLE, PARTITIONS))
        # Anything but what was there before is ours, or that of a second writer who came right behind.
        if self._stored(key) == before:
            raise Vanished(
                f"{key.path}: its manifest was acknowledged and is not there.",
                hint=f"Was the table {PARTITIONS} dropped just now? Run the same again.",
            )


class _Stored(NamedTuple):
    """A manifest as it lies in the table: its bytes, what the column beside it says of them, and when it was written (ns UTC)."""

    manifest: bytes
    sha256: str
    written: int

    def says(self, new: _New) -> bool:
        """Whether it is what a write would write."""
        return (self.manifest, self.sha256) == (new.manifest, new.ref.sha256)


@dataclass(frozen=True, slots=True)
class _New:
    """A partition on its way: what will be said of it, and what is sent.

    at        midnight of its day, ns UTC
    content   what its manifest says of the rows: digest, levels, first and last time, and the same of quarantined rows
    facts     the whole manifest
    manifest  its bytes
    lines     quarantined rows as JSON with their reason; None where there are none
    """

    key: Key
    at: int
    ref: PartitionRef
    facts: dict[str, Any]
    manifest: bytes
    layout: Layout
    frame: polars.DataFrame
    lines: polars.DataFrame | None

    @property
    def content(self) -> dict[str, Any]:
        return self.facts["content"]

    @property
    def version(self) -> int:
        return version_of(self.content["sha256"])


def _prepared(key: Key, frame: polars.DataFrame, quarantined: polars.DataFrame | None, facts: Mapping[str, Any]) -> _New:
    """What a write will send. Raises InputError, SchemaMismatch, DataError for what cannot be stored."""
    import polars as pl

    path, at = key.path, _midnight(key)
    if key.table not in TICK_TABLES:
        raise SchemaMismatch(f"{key.table} is no table of ticks.", hint=f"Expected one of {', '.join(TICK_TABLES)}.")
    layout = layout_of(TICK_TABLES[key.table], frame)
    layout.refuse_unstorable(frame)
    times = frame[layout.table.time]
    content = {"sha256": digest_of(path, frame), "levels": layout.levels, "first": times.min(), "last": times.max(), "quarantined": None}
    lines = None
    if quarantined is not None:
        lines = pl.DataFrame({"reason": quarantined["reason"], "json": lines_of(quarantined)})
        # Pairs: JSON objects are sorted by key, and the order of columns is part of a frame.
        columns = [[name, str(dtype)] for name, dtype in quarantined.schema.items()]
        content["quarantined"] = {"sha256": digest_of_lines(path, lines["json"]), "rows": len(lines), "columns": columns}
    whole = {**facts, "content": content}
    manifest = canonical_json(whole)
    ref = PartitionRef(key=path, sha256=sha256_bytes(manifest), table=facts["table"], rows=facts["rows"], schema_hash=facts["schema_hash"])
    return _New(key, at, ref, whole, manifest, layout, frame, lines)


def _outgoing_lines(new: _New, part: polars.DataFrame, first: int) -> pandas.DataFrame:
    """Some quarantined rows as the client takes them, numbered from `first`."""
    import numpy as np
    import pandas as pd

    n = len(part)
    columns = {
        "at": np.full(n, new.at).view("datetime64[ns]"),
        "table": [new.key.table] * n,
        "symbol": [new.key.symbol] * n,
        "version": np.full(n, version_of(new.content["quarantined"]["sha256"])),
        "row": np.arange(first, first + n),
        "reason": part["reason"].to_list(),
        "json": part["json"].to_list(),
    }
    return pd.DataFrame(columns)


class QuestDBTicks(TickStore):
    """Ticks on a QuestDB server, for teams and for days that do not fit a disk.

    url, user, password, ca  as the settings say; patience and timeouts as in questdb_http
    """

    def __init__(self, url: str, user: str = "", password: str = "", ca: Path | None = None, **how: float) -> None:
        self.http = Http(url, user, password, ca, **how)
        super().__init__(QuestDBPartitions(self.http))

    @classmethod
    def of(cls, settings: Settings) -> QuestDBTicks:
        """The store that the settings name. Connects to nothing. Raises SettingsError."""
        assert settings.questdb_url is not None
        return cls(settings.questdb_url, settings.questdb_user, settings.questdb_password.get_secret_value(), settings.tls_ca)

    def migrate(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Make the tables that are missing: (names of those made, differences of those that were there). See questdb_tables.migrate."""
        return migrate_tables(self.http)

    def session_keys(self) -> list[str]:
        """None: ticks are no run's."""
        return []

    def leftovers(self, unneeded: Collection[str] = (), *, remove: bool = False, young_s: float = YOUNG_S) -> list[Leftover]:
        """As KeepsLeftovers says; a manifest is always of use here. While a day is being rewritten, reading it fails as damaged."""
        assert not unneeded

        def manifests() -> list[dict[str, Any]]:
            return [facts for _, facts in self._partitions.manifests(self._partitions.find())]

        return questdb_leftovers.leftovers(self.http, manifests, remove, young_s)

    def lacks(self) -> list[str]:
        """What the server lacks that this store needs, a sentence each; nothing where it is as it must be. Changes nothing.

        Raises StoreUnavailable where it does not answer, StoreError where it refuses the user.
        """
        return lacks(self.http)


def lacks(http: Http) -> list[str]:
    """What a server lacks that the tick store needs, a sentence each. Each thing is tried, not read off the version."""
    says = http.settings()
    version = f"QuestDB {says['release.version']}" if "release.version" in says else "This QuestDB"
    http.rows("select 1")
    out = []
    for what, sql in (
        ("no instants in nanoseconds (TIMESTAMP_NS)", "select 1::timestamp_ns"),
        ("no arrays (DOUBLE[])", "select ARRAY[1.0, 2.0]"),
        ("no log of writes that says how far it is applied", "select sequencerTxn, writerTxn, suspended, errorMessage from wal_tables()"),
        ("no list of tables with their deduplication", "select table_name, partitionBy, walEnabled, dedup from tables()"),
    ):
        try:
            http.rows(sql)
        except StoreUnavailable:
            raise
        except StoreError:
            out.append(f"{version} has {what}: it is too old.")
    try:
        http.frame("select 1")
    except StoreError:
        out.append(f"{version} exports no Parquet: it is too old.")
    if 3 not in says.get("line.proto.support.versions", [3]):
        out.append(f"{version} does not speak version 3 of the line protocol: it is too old.")
    if "http" not in says.get("accepting.writes", ["http"]):
        out.append(f"{http.place} takes no writes: it is read-only.")
    if not out:
        missing, differences = compare(http)
        if missing:
            out.append(f"{http.place} has no table {', '.join(d.name for d in missing)}: run `cift migrate`.")
        out += differences
    return out


def _only(path: str, found: list[_Stored]) -> _Stored | None:
    """The one manifest of a key. Raises StoreError where there are more."""
    if len(found) > 1:
        raise damaged(path, f"{len(found)} manifests are stored under its key")
    return found[0] if found else None


def _where(layout: Layout, content: Mapping[str, Any]) -> str:
    """Which rows of a table are a partition's. The times let the server leave out other days."""
    span = f'"{layout.table.time}" between {instant(content["first"])} and {instant(content["last"])}'
    return f"version = {version_of(content['sha256'])} and {span}"


def _where_kept(key: Key, kept: Mapping[str, Any]) -> str:
    """Which quarantined rows are a partition's."""
    return f"at = {instant(_midnight(key))} and version = {version_of(kept['sha256'])}"


def _midnight(key: Key) -> int:
    """The instant at which a key's day begins, ns UTC. Raises InputError for a day that is none."""
    try:
        day = datetime.strptime(f"{key.day:08d}", "%Y%m%d").replace(tzinfo=UTC)
        if day.year < 1970:
            raise ValueError("before 1970")
    except ValueError as error:
        raise InputError(f"{key.path}: {key.day} is no day: {error}.", hint="Expected a date from 1970 on, as yyyymmdd.") from error
    return to_ns(day)
