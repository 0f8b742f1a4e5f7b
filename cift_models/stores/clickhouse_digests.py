"""What the rows of a partition are, in one number a column: the same cells give the same digest, however they come in pieces."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars


class Digests:
    """sha256 of every column of the frames given, one after another: by the cells' bytes, so -0.0 is not 0.0 and null is not 0."""

    def __init__(self) -> None:
        self._hashes: dict[str, tuple[Any, Any]] = {}
        self._rows = 0

    def update(self, frame: polars.DataFrame) -> None:
        """The next rows, of the same columns."""
        for name in frame.columns:
            cells, bounds = self._hashes.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            data, rest = _bytes(frame[name], self._rows)
            cells.update(data)
            bounds.update(rest)
        self._rows += len(frame)

    def hex(self) -> dict[str, str]:
        """Name of a column to the sha256 of what was given so far; empty where nothing was."""
        return {name: hashlib.sha256(cells.digest() + bounds.digest()).hexdigest() for name, (cells, bounds) in self._hashes.items()}


def _bytes(series: polars.Series, first: int) -> tuple[bytes, bytes]:
    """The cells, and what they alone do not say: the length of each text (all ones: null), the number of each row that is null."""
    import polars as pl

    if series.dtype == pl.String:
        lengths = series.str.len_bytes().fill_null(2**32 - 1)
        return "".join(series.drop_nulls().to_list()).encode(), lengths.to_numpy().astype("<u4").tobytes()
    if series.dtype == pl.Boolean:
        series = series.cast(pl.UInt8)
    null = series.is_null().arg_true()
    cells = (series.fill_null(0) if len(null) else series).to_numpy()
    return cells.astype(cells.dtype.newbyteorder("<"), copy=False).tobytes(), (null.to_numpy().astype("<i8") + first).tobytes()
