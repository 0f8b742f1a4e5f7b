"""Frames of canonical tables as QuestDB holds them, and back, to the byte; values that it cannot hold are refused before anything is sent.

What repeats in a table (the levels of a book) lies in one DOUBLE[] a column. QuestDB writes null as the smallest integer of a type, and an
array's integers as doubles: those values are refused by name, never changed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, SchemaMismatch, StoreError
from cift_models.files import canonical_json
from cift_models.schema import POLARS, QUESTDB, Column, Table

if TYPE_CHECKING:
    import pandas
    import polars

LAST = 9_214_646_399_999_999_999
"""The latest designated timestamp that the server takes, ns UTC; the earliest is 0."""
EXACT = 2**53
"""Integers below it, either way, are exact as doubles."""
MAX_ROWS = 2**31 - 1
"""Rows are numbered by an INT."""


def digest_of(path: str, frame: polars.DataFrame) -> str:
    """Hex sha256 of a partition's key and rows: names, types, then every column's little-endian bytes in order, a boolean as one byte.

    The same rows in the same order under the same key give the same digest, however the frame came about. O(cells); one column in memory.
    """
    columns = [[name, str(dtype)] for name, dtype in frame.schema.items()]
    found = hashlib.sha256(canonical_json({"key": path, "rows": len(frame), "columns": columns}))
    for name in frame.columns:
        values = frame[name].to_numpy()
        found.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
    return found.hexdigest()


def digest_of_lines(path: str, lines: polars.Series) -> str:
    """Hex sha256 of a partition's key and some lines of text."""
    found = hashlib.sha256(canonical_json({"key": path, "lines": len(lines)}))
    for line in lines:
        found.update(line.encode() + b"\n")
    return found.hexdigest()


def version_of(digest: str) -> int:
    """The first 63 bits of a digest: what a LONG holds without its sign."""
    return int(digest[:16], 16) >> 1


class Layout:
    """How one table lies in QuestDB: plain columns as they are, each repeated one as an array of `levels`.

    table   the table as schema.py defines it, its repeated columns not written out
    levels  how often they repeat; 0 where none does
    """

    def __init__(self, table: Table, levels: int) -> None:
        self.table = table
        self.levels = levels
        self.written = table.with_levels(levels) if table.each else table

    @property
    def row_bytes(self) -> int:
        """About what a row takes on its way, raw."""
        return 8 * (len(self.table.columns) + 3 + self.levels * len(self.table.each))

    def array(self, column: Column) -> str:
        """Name of the array of a repeated column."""
        return column.name.removesuffix("_{}")

    def names(self, column: Column) -> list[str]:
        """Names of a repeated column, written out: in a book, level by level."""
        return [column.name.format(f"{level:02d}") for level in range(self.levels)]

    def refuse_unstorable(self, frame: polars.DataFrame) -> None:
        """Raise DataError for the first value that would not come back as it is. O(cells)."""
        if len(frame) > MAX_ROWS:
            raise DataError(f"{self.table.name}: {len(frame):,} rows in one partition.", hint=f"QuestDB takes {MAX_ROWS:,}: cut the day.")
        for column in self.table.columns:
            low, high = _limits(column, column.name == self.table.time)
            self._refuse(frame[column.name], low, high)
        for column in self.table.each:
            for name in self.names(column):
                if column.dtype != "float64":
                    self._refuse(frame[name], 1 - EXACT, EXACT - 1)

    def _refuse(self, series: polars.Series, low: int, high: int) -> None:
        """Raise DataError where a value of an integer column lies outside."""
        if not len(series) or not series.dtype.is_integer():
            return
        values = series.to_numpy()
        if values.min() < low or values.max() > high:
            row = int(np.argmax((values < low) | (values > high)))
            raise DataError(
                f"{self.table.name}.{series.name}: row {row:,} holds {values[row]}; QuestDB keeps {low} to {high} there exactly.",
                hint="Such a value is no price, size or time of a market: look at the feed. Parquet stores keep it.",
                row=row,
            )

    def outgoing(self, frame: polars.DataFrame, symbol: str, version: int, first: int) -> pandas.DataFrame:
        """Rows as the line protocol's client takes them, numbered from `first`. Instants are datetime64, arrays one object a row."""
        import pandas as pd

        n = len(frame)
        columns: dict[str, Any] = {}
        for column in self.table.columns:
            values = frame[column.name].to_numpy()
            columns[column.name] = values.view("datetime64[ns]") if column.instant else values
        for column in self.table.each:
            together = np.empty((n, self.levels), np.float64)
            for i, name in enumerate(self.names(column)):
                together[:, i] = frame[name].to_numpy()
            # An object column of views: the client takes an array a row and nothing wider.
            cells = np.empty(n, object)
            cells[:] = list(together) if n else []
            columns[self.array(column)] = cells
        columns["symbol"] = pd.Categorical.from_codes(np.zeros(n, np.int8), categories=[symbol])
        columns["version"] = np.full(n, version, np.int64)
        columns["row"] = np.arange(first, first + n, dtype=np.int32)
        return pd.DataFrame(columns, copy=False)

    def sums(self, frame: polars.DataFrame) -> dict[str, int | float | None]:
        """What the columns sum up to, by the SQL that asks the server for it; None where doubles would not sum exactly.

        Integers wrap at 64 bits, here as there. A cheap look at all that is stored: pages of zeros, which a server whose disk was full had
        acknowledged, do not pass it. Who finds a difference reads the rows themselves.
        """
        found: dict[str, int | float | None] = {}
        for column in self.table.columns:
            name = f'"{column.name}"' if QUESTDB[column.dtype] == "LONG" and not column.instant else f'"{column.name}"::long'
            values = frame[column.name].to_numpy()
            found[f"sum({name})"] = int(values.sum(dtype=np.int64)) if column.dtype != "bool" else int(np.count_nonzero(values))
        for column in self.table.each:
            total, size = 0.0, 0.0
            for name in self.names(column):
                values = frame[name].to_numpy().astype(np.float64)
                total += float(values.sum())
                size += float(np.abs(values).sum())
            # Every partial sum is a whole number below 2**53, so no order of adding them rounds.
            found[f'sum(array_sum("{self.array(column)}"))'] = total if column.dtype != "float64" and size < EXACT else None
        return found

    def select(self) -> str:
        """What a query names to get the rows back."""
        return ", ".join(f'"{name}"' for name in ("row", *self.table.questdb_columns()))

    def incoming(self, found: polars.DataFrame, first: int, n: int, path: str) -> polars.DataFrame:
        """The canonical rows in what a query gave, which must be those numbered from `first`. Raises StoreError where they are not."""
        import polars as pl

        number = found["row"].to_numpy()
        if len(number) > 1 and (np.diff(number) < 0).any():
            found = found.sort("row")
            number = found["row"].to_numpy()
        if len(number) != n or (number != np.arange(first, first + n)).any():
            raise damaged(path, f"{len(number):,} of {n:,} rows from row {first:,} on came back")
        out: dict[str, polars.Series] = {}
        for column in self.table.columns:
            out[column.name] = found[column.name].to_physical().cast(getattr(pl, POLARS[column.dtype]))
        for column in self.table.each:
            cells = self._cells(found[self.array(column)], n, path)
            for i, name in enumerate(self.names(column)):
                out[name] = pl.Series(name, np.ascontiguousarray(cells[:, i]).astype(column.dtype))
        return pl.DataFrame([out[name].alias(name) for name in self.written.names], schema=self.written.polars_schema())

    def _cells(self, arrays: polars.Series, n: int, path: str) -> NDArray[np.float64]:
        """The arrays of a column as one, rows by levels."""
        lengths = arrays.list.len()
        if n and (lengths.min() != self.levels or lengths.max() != self.levels):
            raise damaged(path, f"its arrays {arrays.name} hold {lengths.min()} to {lengths.max()} levels, expected {self.levels}")
        flat = arrays.list.explode(empty_as_null=False, keep_nulls=False).to_numpy() if n else np.zeros(0)
        if not np.isfinite(flat).all():
            raise damaged(path, f"its arrays {arrays.name} hold no number somewhere")
        return flat.reshape(n, self.levels)


def layout_of(table: Table, frame: polars.DataFrame) -> Layout:
    """The layout of a table with a frame's columns. Raises SchemaMismatch where the frame is not one of the table."""
    levels = (len(frame.columns) - len(table.columns)) // len(table.each) if table.each else 0
    layout = Layout(table, levels)
    if frame.schema != layout.written.polars_schema():
        raise SchemaMismatch(
            f"These are no rows of {table.name}: {', '.join(frame.columns[:8])}.", hint="Make them with schema.py's columns."
        )
    return layout


def lines_of(frame: polars.DataFrame) -> polars.Series:
    """Rows as JSON, a line each. Raises DataError for rows that JSON cannot hold (a float that is no number)."""
    import polars as pl

    lines = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series()
    if not frame_of_lines(lines, frame.schema).equals(frame):
        raise DataError("Quarantined rows cannot be written as JSON.", hint="Expected integers, booleans, text and finite floats.")
    return lines


def frame_of_lines(lines: polars.Series, schema: Any) -> polars.DataFrame:
    """What `lines_of` was given."""
    import polars as pl

    if not len(lines):
        return pl.DataFrame(schema=schema)
    return lines.alias("row").str.json_decode(pl.Struct(dict(schema))).struct.unnest()


def damaged(path: str, what: str) -> StoreError:
    return StoreError(f"{path} is damaged: {what}.", hint="`cift ingest --again` mends it.", key=path)


def _limits(column: Column, designated: bool) -> tuple[int, int]:
    """What a plain integer column keeps exactly."""
    if designated:
        return 0, LAST
    bits = {"int64": 63, "int32": 31, "int8": 7}.get(column.dtype, 63)
    # The smallest LONG and INT mean null; BYTE knows no null.
    return (-(2**bits) if bits == 7 else 1 - 2**bits), 2**bits - 1
