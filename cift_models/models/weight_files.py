"""A fitted model on disk: config.json and weights.npz, whole or absent, nothing that executes."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import ReleaseError
from cift_models.files import canonical_json, write_atomic

Shape = tuple[int | None, ...]


def write_weights(directory: Path, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write config.json (canonical) and weights.npz; equal input gives equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(directory / "config.json", canonical_json(config))
    write_atomic(directory / "weights.npz", buffer.getvalue())


def read_config(directory: Path, kind: str) -> dict[str, Any]:
    """config.json of a model of `kind`. Raises ReleaseError where it is absent, damaged or another kind's."""
    import orjson

    path = directory / "config.json"
    try:
        config = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ReleaseError(f"{path} cannot be read: {error}.", hint="Expected what save() wrote.") from error
    if not isinstance(config, dict) or config.get("kind") != kind:
        raise ReleaseError(f"{path} is not of kind {kind!r}.", hint="Load it with the class of its kind.")
    return config


def read_weights(directory: Path, shapes: dict[str, Shape]) -> dict[str, NDArray[Any]]:
    """weights.npz, with exactly the arrays that `shapes` names (None: any length).

    Raises ReleaseError for other arrays or shapes, and for numbers that are not finite.
    """
    path = directory / "weights.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ReleaseError(f"{path} cannot be read: {error}.", hint="Expected what save() wrote.") from error
    if set(arrays) != set(shapes):
        raise ReleaseError(f"{path} holds {sorted(arrays)}; expected {sorted(shapes)}.", hint="The release is damaged.")
    for name, shape in shapes.items():
        array = arrays[name]
        fits = len(array.shape) == len(shape) and all(want is None or got == want for got, want in zip(array.shape, shape, strict=True))
        if not fits:
            raise ReleaseError(f"{path}: {name} has shape {array.shape}; expected {shape}.", hint="The release is damaged.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ReleaseError(f"{path}: {name} holds a value that is not finite.", hint="The release is damaged.")
    return arrays


def read_file(path: Path) -> bytes:
    """A file of a model. Raises ReleaseError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read: {error}.", hint="Expected what save() wrote.") from error
