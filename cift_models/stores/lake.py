"""Partitions on disk that are whole or absent: data files and a manifest, `partition.json`, which is written last and hashes them all.

A reference is the sha256 of the manifest, and the manifest names every file's: whoever holds a reference reads those bytes or an error.
A writer that dies leaves no manifest or the old one; temporary files that it left are removed by the next writer.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from cift_models.errors import InputError, NotStored, SchemaMismatch, StoreError
from cift_models.files import canonical_json, fsync, safe_join, sha256_bytes, write_atomic
from cift_models.refs import PartitionRef
from cift_models.schema import table_of

if TYPE_CHECKING:
    import polars

MANIFEST = "partition.json"
"""The file that makes a partition exist."""
DATA = "data.parquet"
"""The rows of a table's partition."""
KNOWN = "known.json"
"""When a version became the newest one of its partition, once or more often. Beside the manifest and not named by it: equal rows are one
version, whenever they are written."""
NAME = re.compile(r"^[A-Za-z0-9_\-][A-Za-z0-9._\-]{0,127}$")
"""What a symbol, a run or a model may be called where it becomes a folder."""


def folder_name(name: str) -> str:
    """`name` if it may be a folder; raises InputError otherwise."""
    if not NAME.match(name):
        raise InputError(
            f"{name!r} cannot be a folder.", hint="Expected letters, digits, dot, dash and underscore, at most 128, no leading dot."
        )
    return name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the one writer's lock of a folder. The kernel gives it back when the holder dies, however it dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_partition(home: Path, key: str, files: Mapping[str, bytes], facts: Mapping[str, Any], versions: bool = False) -> PartitionRef:
    """Write a partition and return its reference; the same files and facts give the same reference and touch nothing.

    facts     what the manifest says besides the files; must hold table, rows and schema_hash, and nothing that changes from run to run
    versions  keep every version, each under the first 16 digits of its reference below `key`; otherwise another partition under
              the key is replaced: it is absent in between, never a mixture
    """
    listed = {name: {"sha256": sha256_bytes(data), "bytes": len(data)} for name, data in files.items()}
    manifest = canonical_json({**facts, "files": listed})
    sha256 = sha256_bytes(manifest)
    if versions:
        key = f"{key}/{sha256[:16]}"
    ref = PartitionRef(key=key, sha256=sha256, table=facts["table"], rows=facts["rows"], schema_hash=facts["schema_hash"])
    folder = safe_join(home, key)
    with _writing(home, key), locked(folder):
        _sweep(folder)
        place = folder / MANIFEST
        if place.exists():
            if place.read_bytes() == manifest and all(_is(folder / name, data) for name, data in files.items()):
                return ref
            place.unlink()
            fsync(folder)
        for name, data in files.items():
            write_atomic(folder / name, data)
        for old in folder.iterdir():
            if old.is_file() and old.name not in files and old.name not in (".lock", KNOWN):
                old.unlink()
        write_atomic(place, manifest)
    return ref


def add_known(home: Path, key: str, instant: int) -> None:
    """Say that the version under a key became the newest at an instant (ns UTC), besides those that were said before."""
    folder = safe_join(home, key)
    with _writing(home, key), locked(folder):
        try:
            before = read_known(home, key)
        except StoreError:
            before = ()  # Damaged: it counts from now on, which is late and never early.
        write_atomic(folder / KNOWN, canonical_json(sorted({*before, instant})))


def read_known(home: Path, key: str) -> tuple[int, ...]:
    """The instants (ns UTC, rising) at which the version under a key became the newest; empty where its writer died before it could say so.

    Raises StoreError where the file is damaged.
    """
    try:
        data = (safe_join(home, key) / KNOWN).read_bytes()
    except FileNotFoundError:
        return ()
    try:
        instants = orjson.loads(data)
    except ValueError:
        instants = None
    if not isinstance(instants, list) or not all(isinstance(instant, int) for instant in instants):
        raise StoreError(
            f"{key}/{KNOWN} is damaged: expected a list of instants.",
            hint="Remove it: then the version counts as known from when it is written again.",
            key=key,
        )
    return tuple(instants)


@contextmanager
def _writing(home: Path, key: str) -> Iterator[None]:
    """Turn what a disk answers that is full, read-only or another's into words. What was there before is whole or absent."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(home).free if home.exists() else 0
        raise StoreError(
            f"{key} cannot be written below {home}: {error.strerror or error} ({free / 1e9:.1f} GB free).",
            hint="Make room (`cift clean` does), or set CIFT_HOME to a folder that can be written; then run it again.",
            key=key,
        ) from error


def _sweep(folder: Path) -> None:
    """Remove temporary files of writers that died; the caller holds the lock, so nobody is writing."""
    for left in folder.glob(".*.*"):
        left.unlink()


def _is(path: Path, data: bytes) -> bool:
    return path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data


def find_manifests(home: Path, prefix: str, pattern: str) -> list[str]:
    """Keys of the partitions below `prefix` whose path matches a glob (one part a level), sorted."""
    root = safe_join(home, prefix)
    return sorted(str(path.parent.relative_to(home.resolve())) for path in root.glob(f"{pattern}/{MANIFEST}"))


def read_manifest(home: Path, key: str) -> tuple[PartitionRef, dict[str, Any]]:
    """The reference and manifest of the partition under a key. Raises NotStored if there is none, StoreError if it is damaged."""
    try:
        data = (safe_join(home, key) / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise NotStored(f"No partition {key}.", hint="Ingest it, or look at what is stored with `cift status`.", key=key) from None
    try:
        manifest = orjson.loads(data)
        ref = PartitionRef(
            key=key, sha256=sha256_bytes(data), table=manifest["table"], rows=manifest["rows"], schema_hash=manifest["schema_hash"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"The manifest of {key} is damaged: {error}.", hint="Remove the folder and ingest again.", key=key) from error
    return ref, manifest


def open_manifest(home: Path, ref: PartitionRef) -> dict[str, Any]:
    """The manifest that a reference means. Raises NotStored if the partition is gone or has been replaced."""
    found, manifest = read_manifest(home, ref.key)
    require(found, ref)
    return manifest


def require(found: PartitionRef, ref: PartitionRef) -> None:
    """Raise NotStored where what was found under a key is not what a reference means."""
    if found != ref:
        raise NotStored(
            f"The partition {ref.key} is not the one referred to: manifest {found.sha256[:12]}, expected {ref.sha256[:12]}.",
            hint="It was written again since. Run the steps that read it again.",
            key=ref.key,
        )


def read_file(home: Path, key: str, manifest: Mapping[str, Any], name: str) -> bytes:
    """The bytes of one file of a partition, verified. Raises StoreError where they are not what the manifest says, NotStored where another
    partition has taken its place since the manifest was read."""
    try:
        data = (safe_join(home, key) / name).read_bytes()
    except FileNotFoundError:
        data = b""
    expected = manifest["files"][name]["sha256"]
    if sha256_bytes(data) != expected:
        if read_manifest(home, key)[1] != manifest:
            raise NotStored(f"The partition {key} is being written again.", hint="Run the same again.", key=key)
        raise StoreError(
            f"{key}/{name} is damaged: {len(data):,} bytes, sha256 {sha256_bytes(data)[:12]}; "
            f"expected {manifest['files'][name]['bytes']:,} bytes, {expected[:12]}.",
            hint="Remove the folder and ingest again.",
            key=key,
        )
    return data


def to_parquet(frame: polars.DataFrame, fast: bool = False) -> bytes:
    """A frame as Parquet bytes: the same frame, the same bytes. `fast` trades size for time: lz4 in the place of zstd 3."""
    buffer = io.BytesIO()
    if fast:
        frame.write_parquet(buffer, compression="lz4")
    else:
        frame.write_parquet(buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()


def from_parquet(data: bytes, ref: PartitionRef, read: Callable[[bytes], polars.DataFrame] | None = None) -> polars.DataFrame:
    """The frame in some verified Parquet bytes, by the reader of their encoding.

    Raises SchemaMismatch where it is of another version of the table.
    """
    import polars as pl

    frame = read(data) if read is not None else pl.read_parquet(io.BytesIO(data))
    table = table_of(ref.table, frame.columns)
    if ref.schema_hash != table.schema_hash or frame.schema != table.polars_schema():
        raise SchemaMismatch(
            f"{ref.key} was written with another version of the table {ref.table}.", hint="Ingest it again with this version.", key=ref.key
        )
    return frame


def disk_bytes(home: Path, key: str) -> int:
    """Bytes that a partition takes on disk."""
    return sum(entry.stat().st_size for entry in os.scandir(safe_join(home, key)))
