"""The feature store: rows of a feature set by session, and what models said about them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, InputError, NotStored, StoreError
from cift_models.features.feature_set import FeatureSet
from cift_models.files import digest
from cift_models.instruments import Session, Universe
from cift_models.refs import PartitionRef
from cift_models.schema import FEATURES, OUTPUTS, PREDICTIONS, Table
from cift_models.stores import lake

if TYPE_CHECKING:
    import polars

    from cift_models.settings import Settings

OFFSETS = "offsets.parquet"
"""The event offsets of a session's instants, beside its rows."""


class FeatureArrays(NamedTuple):
    """One session's rows as a Panel holds them."""

    as_of: NDArray[np.int64]
    """[T] ns UTC, rising."""
    available_at: NDArray[np.int64]
    """[T] ns UTC: when the row could be read; never before as_of."""
    offsets: NDArray[np.int64]
    """[T + 1]: the events of instant t are offsets[t] to offsets[t + 1]."""
    x: NDArray[np.float64]
    """[T, S, F]"""
    valid: NDArray[np.bool_]
    """[T, S]"""
    why: NDArray[np.int8]
    """[T, S]"""


class Known(NamedTuple):
    """A version of a session's rows, and when it became the newest."""

    known_at: int
    """ns UTC, by the writer's clock, read when the version could be read: it is never too early."""
    ref: PartitionRef


class FeatureStore(Protocol):
    """Where rows of features, outputs and predictions lie: Parquet here, ClickHouse on a server. float64 comes back to the bit.

    Two times belong to a row. `available_at` says from when on it could be read in the life that it describes; it is part of the row.
    `known_at` says when the version that holds it came to this store, or came back to it; it is kept beside the version and not in its
    content, so that equal rows are one version whenever they are written. What was known at an instant is the version that was the newest
    then, not what a correction said later: point_in_time.py joins by both.
    """

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
        """Write one session's rows; shapes as in FeatureArrays. The same arrays give the same reference; other arrays are another version.

        available_at  as_of where it is not given: a row is decided on at the instant that it is made at, as in PREDICTIONS

        The version is the newest from now on; one that is the newest already stays as it is, with the time at which it was first known.
        Raises DataError where shapes disagree, a value is not finite, times do not rise or a row is available before its instant.
        """
        ...

    def read(self, universe: Universe, features: FeatureSet, session: Session, sha256: str) -> FeatureArrays:
        """The rows that the reference `sha256` means, fresh arrays. Raises NotStored, StoreError (damaged), SchemaMismatch."""
        ...

    def versions(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[PartitionRef, ...]:
        """References of every stored version of one session's rows."""
        ...

    def known(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[Known, ...]:
        """What was the newest version from when on, by time: the version known at t is that of the last entry with known_at <= t.

        A version that was written, replaced by another and written again stands there twice. One whose writer died between its rows and
        this is not among them: it was not said to be there, and writing it again says so. Nor is one that `cift clean` removed.
        Raises StoreError (damaged).
        """
        ...

    def write_rows(self, table: str, run: str, model: str, fold: int, frame: polars.DataFrame) -> PartitionRef:
        """Write OUTPUTS or PREDICTIONS of one model and fold of a run; what was there before is replaced."""
        ...

    def rows(self, table: str, run: str, model: str | None = None, fold: int | None = None) -> tuple[PartitionRef, ...]:
        """References of what a run stored, by model and fold. Empty if there is nothing."""
        ...

    def read_rows(self, ref: PartitionRef) -> polars.DataFrame:
        """The rows of a reference, verified."""
        ...


class ParquetFeatures:
    """Rows as Parquet below the home: features/<universe>/<feature set>/<yyyymmdd>/<version>, predictions/<run>/<model>/<fold>.

    A folder of a universe or a feature set is named by the first 16 digits of its digest; the manifest holds all of it. On the recorded
    day (23,400 instants, 3 symbols, 108 features) lz4 takes 17 MB and 0.5 s to read and verify; npy 61 MB and 0.5 s (hashing takes it),
    zstd 3 11 MB and 1.7 s.
    """

    def __init__(self, home: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self._home = Path(home).resolve()
        self._clock = clock

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
        frame = frame_of(universe, features, arrays, 0, len(as_of))
        files = {lake.DATA: lake.to_parquet(frame, fast=True), OFFSETS: lake.to_parquet(pl.DataFrame({"offset": offsets}), fast=True)}
        facts = session_facts(universe, features, session, as_of)
        below = session_key(universe, features, session)
        ref = lake.write_partition(self._home, below, files, facts, versions=True)
        instant = became_newest(self._history(below, damaged=True), ref.key, self._clock)
        if instant is not None:
            lake.add_known(self._home, ref.key, instant)
        return ref

    def read(self, universe: Universe, features: FeatureSet, session: Session, sha256: str) -> FeatureArrays:
        import polars as pl

        key = f"{session_key(universe, features, session)}/{sha256[:16]}"
        ref, manifest = lake.read_manifest(self._home, key)
        require_version(ref, sha256)
        frame = lake.from_parquet(lake.read_file(self._home, key, manifest, lake.DATA), ref)
        offsets = pl.read_parquet(io.BytesIO(lake.read_file(self._home, key, manifest, OFFSETS)))["offset"].to_numpy(writable=True)
        arrays = empty_arrays(universe, features, manifest["instants"])._replace(offsets=offsets)
        fill(arrays, 0, frame, features)
        return arrays

    def versions(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[PartitionRef, ...]:
        keys = lake.find_manifests(self._home, session_key(universe, features, session), "*")
        return tuple(lake.read_manifest(self._home, key)[0] for key in keys)

    def known(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[Known, ...]:
        history = self._history(session_key(universe, features, session))
        refs = {key: lake.read_manifest(self._home, key)[0] for _, key in history}
        return tuple(Known(instant, refs[key]) for instant, key in history)

    def _history(self, below: str, damaged: bool = False) -> list[tuple[int, str]]:
        """Instants and the keys of what became the newest version then, by time; with `damaged`, of those that can be read."""
        found = []
        for key in lake.find_manifests(self._home, below, "*"):
            try:
                found += [(instant, key) for instant in lake.read_known(self._home, key)]
            except StoreError:
                if not damaged:
                    raise
        return sorted(found)

    def write_rows(self, table: str, run: str, model: str, fold: int, frame: polars.DataFrame) -> PartitionRef:
        facts = rows_facts(table, run, model, fold, frame)
        return lake.write_partition(self._home, rows_key(table, run, model, fold), {lake.DATA: lake.to_parquet(frame)}, facts)

    def rows(self, table: str, run: str, model: str | None = None, fold: int | None = None) -> tuple[PartitionRef, ...]:
        judged(table)
        pattern = f"{lake.folder_name(model) if model else '*'}/{'*' if fold is None else fold_name(fold)}"
        keys = lake.find_manifests(self._home, f"{table}/{lake.folder_name(run)}", pattern)
        return tuple(lake.read_manifest(self._home, key)[0] for key in keys)

    def read_rows(self, ref: PartitionRef) -> polars.DataFrame:
        manifest = lake.open_manifest(self._home, ref)
        return lake.from_parquet(lake.read_file(self._home, ref.key, manifest, lake.DATA), ref)


def open_features(settings: Settings) -> FeatureStore:
    """The feature store that the settings name. A server is not asked before it is needed."""
    if not settings.clickhouse_url:
        return ParquetFeatures(settings.home)
    from cift_models.stores.clickhouse import ClickHouseFeatures

    return ClickHouseFeatures(
        settings.clickhouse_url, settings.clickhouse_user, settings.clickhouse_password.get_secret_value(), settings.tls_ca
    )


# What every store of features says of a partition: where it lies, what its rows are, what is refused.


def session_key(universe: Universe, features: FeatureSet, session: Session) -> str:
    """Where the versions of a session's rows lie."""
    return f"features/{digest(universe.as_json())[:16]}/{features.schema_hash[:16]}/{session.day:08d}"


def session_facts(universe: Universe, features: FeatureSet, session: Session, as_of: NDArray[np.int64]) -> dict[str, Any]:
    """What the manifest of a session's rows says, besides where its bytes are."""
    return {
        "table": FEATURES.name,
        "rows": len(as_of) * len(universe),
        "schema_hash": FEATURES.repeat(features.names).schema_hash,
        "session": asdict(session),
        "instants": len(as_of),
        "first": int(as_of[0]) if len(as_of) else None,
        "last": int(as_of[-1]) if len(as_of) else None,
        "universe": universe.as_json(),
        "features": features.as_json(),
    }


def became_newest(history: Iterable[tuple[int, str]], key: str, clock: Callable[[], int]) -> int | None:
    """When the version under `key`, which can be read by now, became the newest (ns UTC); None where it is the newest already.

    history  (instant, key) of what became the newest so far, in any order
    Always behind what was known before, so that what is written last counts though the clock was set back or another writer's is ahead.
    """
    last = max(history, default=None)
    if last is None:
        return clock()
    return None if last[1] == key else max(clock(), last[0] + 1)


def require_version(found: PartitionRef, sha256: str) -> None:
    """Raise NotStored where what was found under a version's key is not what `sha256` means."""
    if found.sha256 != sha256:
        raise NotStored(f"{found.key} is not the one referred to ({sha256[:20]}...).", hint="Build the features again.", key=found.key)


def rows_key(table: str, run: str, model: str, fold: int) -> str:
    """Where the rows of one model and fold of a run lie."""
    return f"{table}/{lake.folder_name(run)}/{lake.folder_name(model)}/{fold_name(fold)}"


def rows_facts(table: str, run: str, model: str, fold: int, frame: polars.DataFrame) -> dict[str, Any]:
    """What their manifest says. Raises InputError, SchemaMismatch and DataError for rows that the table does not allow."""
    schema = judged(table)
    schema.check(frame)
    return {
        "table": table,
        "rows": len(frame),
        "schema_hash": schema.schema_hash,
        "run": run,
        "model": model,
        "fold": fold,
        "first": frame["as_of"].min(),
        "last": frame["as_of"].max(),
    }


def fold_name(fold: int) -> str:
    return f"fold_{fold:02d}" if fold >= 0 else "live"


def judged(name: str) -> Table:
    """OUTPUTS or PREDICTIONS. Raises InputError for another name."""
    tables = {t.name: t for t in (OUTPUTS, PREDICTIONS)}
    if name not in tables:
        raise InputError(f"{name!r} does not hold what models say.", hint=f"Expected one of {', '.join(tables)}.")
    return tables[name]


def check(universe: Universe, features: FeatureSet, arrays: FeatureArrays) -> None:
    """Raise DataError where shapes disagree, a value is not finite, times do not rise or a row is available before its instant."""
    shape = (len(arrays.as_of), len(universe))
    expected = {"available_at": shape[:1], "offsets": (shape[0] + 1,), "x": (*shape, len(features.names)), "valid": shape, "why": shape}
    for name, size in expected.items():
        found = getattr(arrays, name).shape
        if found != size:
            raise DataError(f"{name} has shape {found}, expected {size}.", hint="Instants, symbols and features of one session.")
    falls = np.flatnonzero(arrays.as_of[1:] <= arrays.as_of[:-1])
    if len(falls):
        t = int(falls[0]) + 1
        raise DataError(
            f"as_of {arrays.as_of[t]} follows {arrays.as_of[t - 1]}.", hint="Expected one row an instant, in the order of time."
        )
    early = np.flatnonzero(arrays.available_at < arrays.as_of)
    if len(early):
        t = int(early[0])
        raise DataError(
            f"The row at {arrays.as_of[t]} was available before its time, at {arrays.available_at[t]}.",
            hint="Expected available_at at or after as_of, where the row is made.",
        )
    if not np.isfinite(arrays.x).all():
        t, symbol, f = (int(i[0]) for i in np.nonzero(~np.isfinite(arrays.x)))
        raise DataError(
            f"{universe.symbols[symbol]} at {arrays.as_of[t]}: {features.names[f]} is {arrays.x[t, symbol, f]}.",
            hint="Write 0 and mark the row not valid, with its reason, where it is made.",
        )


def frame_of(universe: Universe, features: FeatureSet, arrays: FeatureArrays, first: int, last: int) -> polars.DataFrame:
    """The rows of the instants first to last (excluded) as the table FEATURES holds them: by time, then as the universe orders symbols."""
    import polars as pl

    rows = slice(first, last)
    columns: dict[str, Any] = {
        "symbol": list(universe.symbols) * (last - first),
        "as_of": np.repeat(arrays.as_of[rows], len(universe)),
        "available_at": np.repeat(arrays.available_at[rows], len(universe)),
        "valid": arrays.valid[rows].ravel(),
        "why": arrays.why[rows].ravel(),
    }
    columns |= {name: np.ascontiguousarray(arrays.x[rows, :, i]).ravel() for i, name in enumerate(features.names)}
    return pl.DataFrame(columns, schema=FEATURES.repeat(features.names).polars_schema())


def empty_arrays(universe: Universe, features: FeatureSet, instants: int) -> FeatureArrays:
    """Arrays for `fill`, of whatever the memory holds."""
    shape = (instants, len(universe))
    return FeatureArrays(
        np.empty(instants, np.int64),
        np.empty(instants, np.int64),
        np.empty(instants + 1, np.int64),
        np.empty((*shape, len(features.names))),
        np.empty(shape, np.bool_),
        np.empty(shape, np.int8),
    )


def fill(arrays: FeatureArrays, first: int, frame: polars.DataFrame, features: FeatureSet) -> None:
    """Write what `frame_of` made, of whole instants from `first` on, into arrays."""
    symbols = arrays.valid.shape[1]
    rows = slice(first, first + len(frame) // symbols)
    arrays.as_of[rows] = frame["as_of"].to_numpy()[::symbols]
    arrays.available_at[rows] = frame["available_at"].to_numpy()[::symbols]
    arrays.valid[rows] = frame["valid"].to_numpy().reshape(-1, symbols)
    arrays.why[rows] = frame["why"].to_numpy().reshape(-1, symbols)
    for i, name in enumerate(features.names):
        arrays.x[rows, :, i] = frame[name].to_numpy().reshape(-1, symbols)
