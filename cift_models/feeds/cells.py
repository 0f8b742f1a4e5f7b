"""Cells of foreign tables to integers, exactly: decimal text, whole numbers, instants and flags. Nothing is rounded.

A column may be text (all of a CSV is), an integer, a Decimal, a Float64 (Parquet), a zoned Datetime or a Boolean. Each function returns one
int64 a row; a row that is empty gives 0 and is marked in `empty`, for only the caller knows whether it may be. A cell that is not what it
should be raises BadCell with its row.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars

NUMBER = r"^-?\d+(\.\d+)?([eE][+-]?\d{1,3})?$"
"""Text of a decimal number."""
ISO = r"^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:?\d{2})$"
"""Text of an instant with its offset."""
EARLIEST = 631_152_000_000_000_000
"""1990-01-01 in ns: a lesser number of nanoseconds is a number of something else."""
FEW_DIGITS = 15
"""A text of so many characters at most has so many digits at most; two decimal numbers of 15 digits are never the same Float64."""
EXACT = 10**FEW_DIGITS
"""Integers below it, divided by a power of ten, are such decimals."""
LARGEST = 2**63 - 1


class BadCell(Exception):
    """A cell that is not what it should be: its row from 0, what it was, and what was expected."""

    def __init__(self, row: int, cell: object, expected: str) -> None:
        super().__init__(f"row {row}: {cell!r}, expected {expected}")
        self.row, self.cell, self.expected = row, cell, expected


class Cells(NamedTuple):
    """One int64 a row, and which rows are empty."""

    values: NDArray[np.int64]
    empty: NDArray[np.bool_]


def scaled(column: polars.Series, scale: int, unit: str) -> Cells:
    """`scale` (a power of ten) times each number, which must come to whole ones. `unit` says in an error what a whole one is.

    A Float64 counts as the decimal number of at most 15 digits that it stands for, if there is one: 0.07 is 7 hundredths, .1 + .2 is not 3
    tenths. O(rows), about .2 us a cell; text of more than 15 digits is slower.
    """
    import polars as pl

    expected = f"a decimal number that is a whole number of {unit}"
    empty = column.is_null().to_numpy()
    if column.dtype.is_integer():
        return Cells(_times(column, scale, expected), empty)
    if column.dtype == pl.Float64:
        values, sure = _nearest(column.fill_null(0.0).to_numpy(), scale)
        _refuse(column, ~sure & ~empty, expected)
        return Cells(values, empty)
    text = _text(column, expected)
    _refuse(column, ~text.str.contains(NUMBER).fill_null(True).to_numpy(), expected)
    if column.dtype.is_decimal() and column.dtype.scale:  # type: ignore[attr-defined]
        text = text.str.strip_chars_end("0")  # digits that say nothing, and would make every cell a long one
    number = text.cast(pl.Float64, strict=False).fill_null(0.0).to_numpy()
    values, sure = _nearest(number, scale)
    short = (text.str.len_bytes().fill_null(0) <= FEW_DIGITS).to_numpy()
    # What the quick way cannot tell is told one by one: 16 digits or more may hide what a Float64 cannot hold.
    for row in np.flatnonzero(~empty & ~(short & sure)).tolist():
        values[row] = _exactly(row, str(column[row]), scale, expected)
    return Cells(values, empty)


def whole(column: polars.Series, expected: str = "a whole number") -> Cells:
    """Integers as they are."""
    import polars as pl

    empty = column.is_null().to_numpy()
    if column.dtype.is_integer():
        return Cells(_times(column, 1, expected), empty)
    text = _text(column, expected)
    values = text.cast(pl.Int64, strict=False)
    _refuse(column, (~text.str.contains(r"^-?\d{1,19}$") | values.is_null()).fill_null(False).to_numpy() & ~empty, expected)
    return Cells(values.fill_null(0).to_numpy().copy(), empty)


def instants(column: polars.Series) -> Cells:
    """Instants as ns UTC: an integer of nanoseconds, ISO 8601 with an offset, or a zoned Datetime."""
    import polars as pl

    expected = "nanoseconds since 1970 UTC, or ISO 8601 with an offset like 2024-08-08T23:54:14.030314667Z"
    empty = column.is_null().to_numpy()
    if column.dtype == pl.Datetime:
        if column.dtype.time_zone is None:  # type: ignore[attr-defined]
            raise BadCell(int(np.argmin(empty)), column[int(np.argmin(empty))], f"{expected} (these times have no zone)")
        return Cells(column.dt.epoch("ns").fill_null(0).to_numpy().copy(), empty)
    if column.dtype.is_integer():
        values = _times(column, 1, expected)
    else:
        text = _text(column, expected)
        digits = text.str.contains(r"^\d{1,19}$").fill_null(False)
        numbers = text.filter(digits).cast(pl.Int64, strict=False)
        parsed = _iso(text.filter(~digits))
        values = np.zeros(len(text), np.int64)
        mask = digits.to_numpy()
        values[mask], values[~mask] = numbers.fill_null(0).to_numpy(), parsed.fill_null(0).to_numpy()
        odd = np.zeros(len(text), bool)
        odd[mask], odd[~mask] = numbers.is_null().to_numpy(), parsed.is_null().to_numpy()
        _refuse(column, odd & ~empty, expected)
    early = (values < EARLIEST) & ~empty
    if early.any():
        row = int(np.argmax(early))
        guess = {10: "seconds", 13: "milliseconds", 16: "microseconds"}.get(len(str(abs(int(values[row])))), "no nanoseconds")
        raise BadCell(row, column[row], f"{expected} (these look like {guess})")
    return Cells(values, empty)


def flags(column: polars.Series) -> Cells:
    """true and false as 1 and 0."""
    import polars as pl

    empty = column.is_null().to_numpy()
    if column.dtype == pl.Boolean:
        return Cells(column.cast(pl.Int64).fill_null(0).to_numpy().copy(), empty)
    text = _text(column, "true or false").str.to_lowercase()
    _refuse(column, ~text.is_in(["true", "false"]).fill_null(True).to_numpy(), "true or false")
    return Cells((text == "true").cast(pl.Int64).fill_null(0).to_numpy().copy(), empty)


def decimals(values: polars.Series, scale: int) -> polars.Series:
    """The decimal text of integers divided by a power of ten: what `scaled` reads back. Null stays null."""
    import polars as pl

    if scale == 1:
        return values.cast(pl.String)
    size = values.abs()
    places = len(str(scale)) - 1
    sign = pl.select(pl.when(values < 0).then(pl.lit("-")).otherwise(pl.lit(""))).to_series()
    return sign + (size // scale).cast(pl.String) + "." + (size % scale).cast(pl.String).str.pad_start(places, "0")


def _text(column: polars.Series, expected: str) -> polars.Series:
    """The column as text. Refuses a type that no rule is for."""
    import polars as pl

    if column.dtype == pl.String:
        return column
    if column.dtype.is_decimal() or column.dtype == pl.Null:
        return column.cast(pl.String)
    first = int(np.argmin(column.is_null().to_numpy()))
    raise BadCell(first, column[first] if len(column) else None, f"{expected} (a column of type {column.dtype} holds none)")


def _times(column: polars.Series, scale: int, expected: str) -> NDArray[np.int64]:
    import polars as pl

    values = column.cast(pl.Int64, strict=False)  # an Int128 or a UInt64 may hold what an Int64 cannot
    _refuse(column, (values.is_null() & column.is_not_null()).to_numpy(), expected)
    values, most = values.fill_null(0).to_numpy(), LARGEST // scale
    if scale > 1:
        _refuse(column, (values > most) | (values < -most), expected)
    return values * scale


def _nearest(number: NDArray[np.float64], scale: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The whole numbers nearest to scale times each, and where they are what was meant for sure."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.rint(number * scale)
        sure = (np.abs(near) < EXACT) & (near / scale == number)
    return np.where(sure, near, 0).astype(np.int64), sure


def _exactly(row: int, text: str, scale: int, expected: str) -> int:
    # A ratio of integers: arithmetic of Decimals keeps 28 digits and rounds the rest in silence.
    above, below = Decimal(text).as_integer_ratio()
    units, rest = divmod(above * scale, below)
    if rest or abs(units) > LARGEST:
        raise BadCell(row, text, expected)
    return units


def _iso(text: polars.Series) -> polars.Series:
    """ns UTC of ISO 8601 texts; null where one is not."""
    import polars as pl

    groups = text.to_frame("t").select(pl.col("t").str.extract_groups(ISO).alias("g")).unnest("g")
    day, clock, fraction, offset = (pl.col(name) for name in groups.columns)
    seconds = pl.concat_str(day, clock, separator=" ").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    minutes = pl.when(offset == "Z").then(0).otherwise(offset.str.slice(1, 2).cast(pl.Int64, strict=False) * 60
        + offset.str.slice(-2, 2).cast(pl.Int64, strict=False))  # fmt: skip
    east = pl.when(offset.str.starts_with("-")).then(-minutes).otherwise(minutes)
    ns = fraction.fill_null("").str.pad_end(9, "0").cast(pl.Int64)
    return groups.select((seconds - 60 * east) * 1_000_000_000 + ns).to_series()


def _refuse(column: polars.Series, bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise BadCell(row, column[row], expected)
