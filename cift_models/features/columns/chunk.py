"""A stretch of one symbol's rows, as contiguous integer columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.events import BOOK, TRADE, Events

EMPTY_OFFSET = 2**15 - 1
"""Distance in ticks of an int16 level that holds no order."""

MAX_LOTS = {np.dtype(np.int32): 2**28 - 1, np.dtype(np.int64): 2**40 - 1}
"""Largest size by type of column: four order-flow increments, each at most twice it, are added in the column's own type."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the book after each of n rows.

    bid_px, ask_px   int32[n] ticks, EMPTY_BID or EMPTY_ASK where no order rests (cift_models.events); below the best level also
                     int16[n], ticks away from the best of the same side, EMPTY_OFFSET where no order rests
    bid_sz, ask_sz   int32[n] or int64[n] lots, 0 where no order rests
    """

    bid_px: NDArray[Any]
    bid_sz: NDArray[Any]
    ask_px: NDArray[Any]
    ask_sz: NDArray[Any]

    @property
    def is_near(self) -> bool:
        """Whether the prices are distances from the best."""
        return self.bid_px.dtype == np.int16


@dataclass(frozen=True, slots=True)
class Chunk:
    """n consecutive rows: what was traded with each, and the book after it.

    ts       int64[n] ns UTC, never falling
    price    int32[n] ticks (or another unit that a caller counts in), read where `size` is above 0
    size     int32[n] or int64[n] lots traded with the row; 0 where it is no trade
    levels   best first; a row that says nothing of the book repeats the one before it

    Every column is contiguous (a strided view of a wider table would read the whole of it). Raises DataError where a column has another
    type, length or stride. What the columns hold is checked as they are read.
    """

    ts: NDArray[np.int64]
    price: NDArray[np.int32]
    size: NDArray[Any]
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        n = len(self.ts)
        _check("ts", self.ts, n, (np.int64,))
        _check("price", self.price, n, (np.int32,))
        _check("size", self.size, n, (np.int32, np.int64))
        for at, level in enumerate(self.levels):
            prices = (np.int32, np.int16) if at else (np.int32,)
            for side in ("bid", "ask"):
                _check(f"{side}_px_{at:02d}", getattr(level, f"{side}_px"), n, prices)
                _check(f"{side}_sz_{at:02d}", getattr(level, f"{side}_sz"), n, (np.int32, np.int64))
            if level.bid_px.dtype != level.ask_px.dtype or level.bid_sz.dtype != level.ask_sz.dtype:
                raise DataError(
                    f"Level {at:02d} has bids of {level.bid_px.dtype} and {level.bid_sz.dtype}, asks of {level.ask_px.dtype} and "
                    f"{level.ask_sz.dtype}. Expected the same types on both sides.",
                    hint="Cast both sides of a level alike.",
                )

    def __len__(self) -> int:
        return len(self.ts)

    def __getitem__(self, part: slice) -> Chunk:
        """Some of the rows, as views; a step other than 1 is refused as a strided column is."""
        levels = tuple(Level(*(getattr(level, f.name)[part] for f in fields(Level))) for level in self.levels)
        return Chunk(self.ts[part], self.price[part], self.size[part], levels)

    @classmethod
    def of_columns(cls, columns: Mapping[str, NDArray]) -> Chunk:
        """The chunk of columns named ts, price, size, bid_px_00, bid_sz_00, ask_px_00, ask_sz_00, bid_px_01, ...; no copy."""
        levels = []
        while f"bid_px_{len(levels):02d}" in columns:
            at = f"{len(levels):02d}"
            try:
                levels.append(Level(*(columns[f"{name}_{at}"] for name in ("bid_px", "bid_sz", "ask_px", "ask_sz"))))
            except KeyError as error:
                raise DataError(
                    f"Level {at} of the book lacks {error.args[0]}.", hint="Give price and size of both sides of each level."
                ) from None
        missing = [name for name in ("ts", "price", "size") if name not in columns]
        if missing:
            raise DataError(f"The columns lack {missing[0]!r}.", hint="Name them ts, price, size, bid_px_00, bid_sz_00, ...")
        return cls(columns["ts"], columns["price"], columns["size"], tuple(levels))

    @classmethod
    def of_events(cls, events: Events, unit: int = 1) -> Chunk:
        """The chunk of one symbol's events, one copy. A price counts whole `unit` price units: 1 keeps a trade between two ticks as it is.

        An event without BOOK repeats the book before it, those before the first book that one (no order flow comes of either); without any
        book all levels are empty. Raises DataError where a price does not fit int32.
        """
        price = events.trade_px // unit
        if len(price) and (price.min() < -(2**31) or price.max() >= 2**31):
            raise DataError(
                f"A trade stands at {price.max():,} units of {unit:,} price units. Expected prices that fit int32.",
                hint="Count in larger units: the instrument's tick_units.",
            )
        has_book = (events.kind & BOOK) > 0
        at = np.maximum.accumulate(np.where(has_book, np.arange(len(events)), int(np.argmax(has_book)) if len(events) else 0))
        levels = tuple(
            Level(*(column[at, level] for column in (events.bid_px, events.bid_sz, events.ask_px, events.ask_sz)))
            for level in range(events.levels)
        )
        return cls(events.ts, price.astype(np.int32), np.where(events.kind & TRADE, events.trade_sz, 0), levels)


def check_lots(name: str, column: NDArray, rows_before: int = 0) -> None:
    """Raise DataError where a size is negative or above MAX_LOTS of its type."""
    if len(column) and (column.min() < 0 or column.max() > MAX_LOTS[column.dtype]):
        raise refuse_lots(name, column, rows_before)


def refuse_lots(name: str, column: NDArray, rows_before: int) -> DataError:
    """What to raise where a size is negative or above MAX_LOTS of its type; `rows_before` were read before this chunk."""
    most = MAX_LOTS[column.dtype]
    row = int(np.argmax((column < 0) | (column > most)))
    hint = "Cast the sizes to int64." if column[row] > 0 and column.dtype == np.int32 else "Check the feed, or count in larger lots."
    return DataError(
        f"{name}: row {rows_before + row:,} holds {column[row]:,} lots. Expected 0 to {most:,} in a column of {column.dtype}.",
        hint=hint,
        row=rows_before + row,
    )


def _check(name: str, column: NDArray, n: int, dtypes: tuple[type, ...]) -> None:
    """Raise DataError unless `column` is a contiguous vector of n values of one of `dtypes`."""
    if not isinstance(column, np.ndarray) or column.ndim != 1 or len(column) != n or column.dtype not in dtypes:
        was = f"{column.dtype}{list(column.shape)}" if isinstance(column, np.ndarray) else type(column).__name__
        raise DataError(
            f"Column {name} is {was}. Expected {' or '.join(d.__name__ for d in dtypes)}[{n}].",
            hint="Every column of a chunk has the same number of rows and one of the integer types named.",
        )
    if not column.flags.c_contiguous:
        raise DataError(f"Column {name} is strided. Expected a contiguous vector.", hint="np.ascontiguousarray(column) makes one.")
