"""A packed book comes back as it went in, whatever it holds; or it is not packed."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.lobster import read_lobster
from cift_models.schema import BOOK
from cift_models.stores import packed_book
from cift_models.stores.packed_book import from_parquet, pack, to_parquet, unpack
from tests.lobster_slice import lobster_zip

PRICES = st.one_of(
    st.integers(60_000, 60_400), st.integers(EMPTY_BID, EMPTY_ASK), st.sampled_from([EMPTY_BID, EMPTY_ASK, 0, 27_233, 92_767])
)
SIZES = st.one_of(st.integers(0, 500), st.integers(-(2**40), 2**40), st.sampled_from([2**31 - 1, 2**31, -(2**31)]))


@st.composite
def books(draw: st.DrawFn) -> pl.DataFrame:
    """Any rows of any book, near its best or not, in order or not."""
    table, n = BOOK.with_levels(draw(st.integers(1, 3))), draw(st.integers(0, 4))
    drawn = {c.name: SIZES if "_sz_" in c.name else PRICES if "_px_" in c.name else st.integers(0, 2**61) for c in table.columns}
    return pl.DataFrame(
        {name: draw(st.lists(values, min_size=n, max_size=n)) for name, values in drawn.items()}, schema=table.polars_schema()
    )


def back(packed: pa.Table) -> pl.DataFrame:
    """What was packed, in one group."""
    return unpack([packed], len(packed), packed.column_names)


@given(books())
@settings(max_examples=400, deadline=None)
def test_what_is_packed_comes_back(frame: pl.DataFrame) -> None:
    packed = pack(frame)
    assert packed is None or (back(packed).equals(frame) and back(packed).schema == frame.schema)


@given(books(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_comes_back_from_a_file_of_any_groups(frame: pl.DataFrame, rows: int) -> None:
    packed = pack(frame)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed_book, "ROWS", rows)
        if packed is not None:
            assert from_parquet(to_parquet(packed)).equals(frame) and to_parquet(packed) == to_parquet(packed)


@given(books())
@settings(max_examples=60, deadline=None)
def test_files_of_the_version_before_are_read(frame: pl.DataFrame) -> None:
    """They held the same columns, as polars encodes them: dictionaries and zstd 3."""
    packed = pack(frame)
    if packed is not None:
        before = io.BytesIO()
        as_frame = pl.from_arrow(packed)
        assert isinstance(as_frame, pl.DataFrame)
        as_frame.write_parquet(before, compression="zstd", compression_level=3)
        assert from_parquet(before.getvalue()).equals(frame)


def test_a_level_behind_an_empty_best_is_not_packed_however_near() -> None:
    """A price near the value that means none: as a distance it would fit, and come back as none."""
    assert pack(book(bid_px_00=[EMPTY_BID], bid_px_01=[EMPTY_BID + 5])) is None
    assert pack(book(ask_px_00=[EMPTY_ASK], ask_px_01=[EMPTY_ASK - 5])) is None


def book(**levels: list[int]) -> pl.DataFrame:
    n = len(next(iter(levels.values())))
    rest = {"bid_px_00": 100, "ask_px_00": 101, "bid_px_01": 99, "ask_px_01": 103} | dict.fromkeys(
        ("bid_sz_00", "ask_sz_00", "bid_sz_01", "ask_sz_01"), 1
    )
    columns = {"ts_event": range(n), "ts_recv": range(5, n + 5), "sequence": range(n)}
    filled = {name: levels.get(name, [value] * n) for name, value in rest.items()}
    table = BOOK.with_levels(2)
    return pl.DataFrame(columns | filled).select(table.names).cast(table.polars_schema())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("levels", "fits"),
    [
        ({"bid_px_01": [99, EMPTY_BID, 100 - 2**15 + 1]}, True),
        ({"bid_px_01": [100 - 2**15 - 1]}, False),
        ({"ask_px_01": [101 + 2**15]}, False),
        ({"bid_px_00": [EMPTY_BID], "bid_px_01": [EMPTY_BID]}, True),
        ({"bid_px_00": [EMPTY_BID]}, False),  # a second level behind none
        ({"ask_px_00": [EMPTY_ASK], "ask_px_01": [EMPTY_ASK]}, True),
        ({"bid_px_00": [100], "ask_px_00": [90], "ask_px_01": [95]}, True),  # crossed
        ({"bid_sz_01": [2**31]}, False),
        ({"ask_sz_00": [2**31 - 1]}, True),
    ],
)
def test_what_fits_is_packed(levels: dict[str, list[int]], fits: bool) -> None:
    frame = book(**levels)
    packed = pack(frame)
    assert (packed is not None) == fits
    if packed is not None:
        assert back(packed).equals(frame)
        assert packed.schema.field("bid_px_01").type == pa.int16() and packed.schema.field("bid_sz_00").type == pa.int32()


@pytest.mark.real_data
@pytest.mark.parametrize("symbol", ["AAPL", "AMZN", "GOOG"])
def test_recorded_books_are_packed(symbol: str) -> None:
    frame = read_lobster(lobster_zip(symbol)).tables["book"]
    packed = pack(frame)
    assert packed is not None and from_parquet(to_parquet(packed)).equals(frame)
    assert np.array_equal(packed["ts_event"].to_numpy(), np.zeros(len(frame)))
