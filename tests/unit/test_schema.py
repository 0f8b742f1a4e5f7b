"""The canonical tables render the same everywhere and refuse what they are not."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from cift_models.errors import DataError, SchemaMismatch
from cift_models.schema import BOOK, FEATURES, PREDICTIONS, TABLES, TRADES, table_of


def test_book_of_two_levels() -> None:
    names = BOOK.with_levels(2).names
    levels = ("bid_px_00 bid_sz_00 ask_px_00 ask_sz_00", "bid_px_01 bid_sz_01 ask_px_01 ask_sz_01")
    assert names == ("ts_event", "ts_recv", "sequence", *levels[0].split(), *levels[1].split())


def test_polars_and_arrow_agree() -> None:
    for table in (*(t for t in TABLES.values() if not t.each), BOOK.with_levels(5), FEATURES.repeat(["mid", "spread"])):
        frame = table.empty()
        table.check(frame)
        assert frame.to_arrow(compat_level=pl.CompatLevel.oldest()).schema.names == table.arrow_schema().names
        assert pl.DataFrame(pa.Table.from_pylist([], table.arrow_schema())).schema == table.polars_schema()


def test_hash_depends_on_columns_and_not_on_wording() -> None:
    assert BOOK.with_levels(1).schema_hash != BOOK.with_levels(2).schema_hash
    assert FEATURES.repeat(["a", "b"]).schema_hash != FEATURES.repeat(["b", "a"]).schema_hash
    assert table_of("book", BOOK.with_levels(5).names) == BOOK.with_levels(5)
    assert table_of("features", FEATURES.repeat(["a"]).names) == FEATURES.repeat(["a"])
    with pytest.raises(SchemaMismatch, match="not known yet"):
        _ = BOOK.schema_hash
    with pytest.raises(SchemaMismatch, match="cannot be repeated"):
        TRADES.repeat(["x"])
    with pytest.raises(SchemaMismatch, match="Unknown table"):
        table_of("bok")


def test_every_column_says_what_it_is() -> None:
    for table in TABLES.values():
        assert all(c.meaning for c in table.columns + table.each), table.name
        assert set(table.key) <= {c.name for c in table.columns}


def test_check_names_what_differs() -> None:
    good = TRADES.empty()
    with pytest.raises(SchemaMismatch, match=r"size Int32 \(expected Int64\)"):
        TRADES.check(good.cast({"size": pl.Int32}))
    with pytest.raises(SchemaMismatch, match="hidden missing"):
        TRADES.check(good.drop("hidden"))
    with pytest.raises(SchemaMismatch, match="the order of columns"):
        TRADES.check(good.select(reversed(good.columns)))


def test_null_and_nan_are_refused_where_they_mean_nothing() -> None:
    row = {"symbol": "A", "as_of": 2, "available_at": 2, "release": "", "model": "linear", "fold": 1, "max_train_t1": 1, "ready": True}
    frame = pl.DataFrame([{**row, "mean_bps": 0.5, "p_down": None, "p_flat": None, "p_up": None}], schema=PREDICTIONS.polars_schema())
    PREDICTIONS.check(frame)
    with pytest.raises(DataError, match=r"predictions\.as_of: 1 of 1"):
        PREDICTIONS.check(frame.with_columns(as_of=pl.lit(None, pl.Int64)))
    table = FEATURES.repeat(["mid"])
    with pytest.raises(DataError, match=r"features\.mid"):
        table.check(pl.DataFrame([("A", 1, 1, True, 0, float("nan"))], schema=table.polars_schema(), orient="row"))
