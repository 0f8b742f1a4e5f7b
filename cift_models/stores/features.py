"""The feature store: rows of a feature set by session, and what models said about them."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, InputError, NotStored
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
    """[T] ns UTC."""
    offsets: NDArray[np.int64]
    """[T + 1]: the events of instant t are offsets[t] to offsets[t + 1]."""
    x: NDArray[np.float64]
    """[T, S, F]"""
    valid: NDArray[np.bool_]
    """[T, S]"""
    why: NDArray[np.int8]
    """[T, S]"""


class FeatureStore(Protocol):
    """Where rows of features, outputs and predictions lie: Parquet here, ClickHouse on a server. float64 comes back to the bit."""

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
    ) -> PartitionRef:
        """Write one session's rows; shapes as in FeatureArrays. The same arrays give the same reference; other arrays are another version.

        Raises DataError where shapes disagree or a value is not finite.
        """
        ...

    def read(self, universe: Universe, features: FeatureSet, session: Session, sha256: str) -> FeatureArrays:
        """The rows that the reference `sha256` means, fresh arrays. Raises NotStored, StoreError (damaged), SchemaMismatch."""
        ...

    def versions(self, universe: Universe, features: FeatureSet, session: Session) -> tuple[PartitionRef, ...]:
        """References of every stored version of one session's rows."""
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

    def __init__(self, home: Path) -> None:
        self._home = Path(home).resolve()

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
    ) -> PartitionRef:
        import polars as pl

        arrays = FeatureArrays(as_of, offsets, x, valid, why)
        check(universe, features, arrays)
        frame = frame_of(universe, features, arrays, 0, len(as_of))
        files = {lake.DATA: lake.to_parquet(frame, fast=True), OFFSETS: lake.to_parquet(pl.DataFrame({"offset": offsets}), fast=True)}
        facts = session_facts(universe, features, session, as_of)
        return lake.write_partition(self._home, session_key(universe, features, session), files, facts, versions=True)

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
    """Raise DataError where shapes disagree or a value is not finite."""
    shape = (len(arrays.as_of), len(universe))
    expected = {"offsets": (shape[0] + 1,), "x": (*shape, len(features.names)), "valid": shape, "why": shape}
    for name, size in expected.items():
        found = getattr(arrays, name).shape
        if found != size:
            raise DataError(f"{name} has shape {found}, expected {size}.", hint="Instants, symbols and features of one session.")
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
    arrays.valid[rows] = frame["valid"].to_numpy().reshape(-1, symbols)
    arrays.why[rows] = frame["why"].to_numpy().reshape(-1, symbols)
    for i, name in enumerate(features.names):
        arrays.x[rows, :, i] = frame[name].to_numpy().reshape(-1, symbols)
