"""Plain columns come back as they went in, whatever is read at once; another layout is refused, never misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cift_models.errors import InputError, StoreError
from cift_models.features.columns import Chunk, Job, RollingZ
from tests.benchmarks.peers import made, plain_columns

PARTS = st.lists(st.integers(0, 40), min_size=1, max_size=4)
PLAIN = {"compression": "none", "use_dictionary": False}
TABLE = pa.table({"a": np.arange(1000, dtype=np.int32)}, schema=pa.schema([pa.field("a", pa.int32(), nullable=False)]))


def part(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "ts": rng.integers(-(2**63), 2**63 - 1, rows),
        "px": rng.integers(-(2**31), 2**31 - 1, rows, dtype=np.int32),
        "sz": rng.integers(0, 9, rows, dtype=np.int32),
    }


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def copied(path: Path, *args, **options) -> list[dict[str, np.ndarray]]:
    return [{name: column.copy() for name, column in lent.items()} for lent in plain_columns.read(path, *args, **options)]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PARTS, st.integers(1, 50), st.integers(1, 50))
def test_round_trip(tmp_path, monkeypatch, lengths, group, rows):
    monkeypatch.setattr(plain_columns, "GROUP_ROWS", group)
    parts = [part(n, seed) for seed, n in enumerate(lengths)]
    path = tmp_path / "x.parquet"
    assert plain_columns.write(path, parts) == sum(lengths)
    found = copied(path, rows=rows)
    assert all(0 < len(one["ts"]) <= rows for one in found)
    expected = joined(parts)
    assert same(joined([{name: column[:0] for name, column in expected.items()}, *found]), expected)
    assert pl.read_parquet(path).equals(pl.DataFrame(expected))


def test_a_whole_group_is_one_page(tmp_path):
    """The writer ends a page by bytes, rows and batches; a group is more than each of its usual bounds."""
    parts = [part(plain_columns.GROUP_ROWS + 5, 1)]
    plain_columns.write(tmp_path / "x.parquet", parts)
    assert same(joined(copied(tmp_path / "x.parquet")), parts[0])


def test_only_the_columns_that_are_asked_for(tmp_path):
    parts = [part(100, 1)]
    plain_columns.write(tmp_path / "x.parquet", parts)
    assert same(joined(copied(tmp_path / "x.parquet", ["sz", "ts"], rows=30)), {name: parts[0][name] for name in ("sz", "ts")})
    with pytest.raises(InputError, match="lacks the columns bid"):
        next(plain_columns.read(tmp_path / "x.parquet", ["sz", "bid"]))


def test_a_job_over_lent_columns_is_the_job_over_memory(tmp_path):
    """The job keeps nothing of a chunk: the next one is written over it."""
    columns = made.rows(30_000, 3)
    job = Job(3, bar_z=RollingZ(30), tick_z=RollingZ(100))
    plain_columns.write(tmp_path / "x.parquet", [columns])
    lent = job.run(Chunk.of_columns(one) for one in plain_columns.read(tmp_path / "x.parquet", rows=777))
    whole = job.run([Chunk.of_columns(columns)])
    assert lent.bars.as_of.size > 300
    for name in ("ofi", "z_ofi", "z_tick"):
        assert getattr(lent, name).tobytes() == getattr(whole, name).tobytes()
    for table in ("bars", "profile"):
        for name in getattr(whole, table).__slots__:
            assert getattr(getattr(lent, table), name).tobytes() == getattr(getattr(whole, table), name).tobytes()


def test_rows_at_hand_are_all_the_memory(tmp_path):
    plain_columns.write(tmp_path / "x.parquet", [part(100, 1)])
    reading = plain_columns.read(tmp_path / "x.parquet", rows=30)
    one, other = next(reading), next(reading)
    assert all(np.shares_memory(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (TABLE, {"compression": "zstd", "use_dictionary": False}, "ZSTD"),
        (TABLE, {"compression": "none", "use_dictionary": True}, "DICTIONARY"),
        (TABLE, PLAIN | {"column_encoding": {"a": "DELTA_BINARY_PACKED"}}, "DELTA"),
        (TABLE, PLAIN | {"column_encoding": {"a": "BYTE_STREAM_SPLIT"}}, "BYTE_STREAM_SPLIT"),
        (TABLE, PLAIN | {"max_rows_per_page": 999, "write_batch_size": 1}, "several pages"),
        (TABLE, PLAIN | {"max_rows_per_page": 500, "write_batch_size": 1}, "several pages"),
        (TABLE, PLAIN | {"data_page_version": "2.0"}, "several pages"),
        (pa.table({"a": np.arange(9, dtype=np.int32)}), PLAIN, "absent"),
        (pa.table({"a": np.arange(9.0)}), PLAIN, "DOUBLE"),
    ],
)
def test_another_layout_is_refused(tmp_path, table, options, words):
    pq.write_table(table, tmp_path / "x.parquet", **options)
    with pytest.raises(StoreError, match=words):
        next(plain_columns.read(tmp_path / "x.parquet"))


def test_a_file_that_is_none_or_cut_short_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(StoreError, match="cannot be read"):
        next(plain_columns.read(path))
    plain_columns.write(path, [part(1000, 1)])
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="cannot be read"):
        next(plain_columns.read(path))
    path.write_bytes(data)
    reading = plain_columns.read(path, rows=600)
    next(reading)
    path.write_bytes(data[:5000])
    with pytest.raises(StoreError, match="ends within ts"):
        next(reading)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [part(3, 1), {"ts": np.arange(3)}],
        [{"ts": np.arange(3), "px": np.arange(4)}],
        [part(3, 1), {name: column.astype(np.int64) for name, column in part(3, 1).items()}],
        [{"ts": np.arange(3.0)}],
        [{"ts": np.arange(3, dtype=np.int16)}],
    ],
)
def test_what_does_not_fit_leaves_the_old_file(tmp_path, parts):
    path = tmp_path / "x.parquet"
    plain_columns.write(path, [part(5, 1)])
    with pytest.raises(InputError):
        plain_columns.write(path, parts)
    assert same(joined(copied(path)), part(5, 1))
    assert [found.name for found in tmp_path.iterdir()] == ["x.parquet"]
