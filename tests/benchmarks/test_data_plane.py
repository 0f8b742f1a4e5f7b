"""The data plane beside what only decodes or carries the same bytes: medians of contestants that take turns (`make bench`).

Each line is ours, the peer, and peer / ours: above 1 we are faster. Recorded files, so CIFT_TEST_DATA must be set.
"""

from __future__ import annotations

import gzip
import io
import os
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from cift_models.features import FeatureSet, stream
from cift_models.feeds import l3_book
from cift_models.feeds.binance import read_binance
from cift_models.feeds.lobster import NAME, read_lobster
from cift_models.feeds.quality import check_day
from cift_models.instruments import Session, Universe
from cift_models.stores.packed_book import from_parquet, pack, to_parquet
from cift_models.stores.ticks import ParquetTicks
from tests.lobster_slice import lobster_zip

pytestmark = [pytest.mark.benchmark, pytest.mark.real_data]

ROUNDS = int(os.environ.get("CIFT_BENCH_ROUNDS", "7"))


def race(
    capsys: pytest.CaptureFixture[str], job: str, rows: int, ours: Callable[[], object], peers: dict[str, Callable[[], object]]
) -> None:
    """Print a line a peer. Contestants take turns, so that a busy moment falls on all of them."""
    contestants = {"": ours, **peers}
    for run in contestants.values():
        run()  # compile, fill the page cache
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times) for name, times in took.items()}
    with capsys.disabled():
        for name in peers:
            print(
                f"\n{job:44} {rows:>9,} rows  ours {1e3 * median['']:8.1f} ms ({rows / median[''] / 1e6:6.2f} M/s)"
                f"  {name} {1e3 * median[name]:8.1f} ms  ratio {median[name] / median['']:5.2f}",
                end="",
            )
    assert all(seconds > 0 for seconds in median.values())


@pytest.fixture(scope="module", params=["AAPL", "AMZN", "GOOG"])
def zipped(request: pytest.FixtureRequest) -> Path:
    return lobster_zip(request.param)


@pytest.fixture(scope="module")
def book() -> pl.DataFrame:
    """GOOG's book of 5 levels, repeated to a million rows, later each time."""
    one = read_lobster(lobster_zip("GOOG")).tables["book"]
    copies = -(-1_000_000 // len(one))
    later = [
        one.with_columns(pl.col("ts_event", "ts_recv") + k * 86_400_000_000_000, pl.col("sequence") + k * len(one)) for k in range(copies)
    ]
    return pl.concat(later, rechunk=True).head(1_000_000)


def as_floats(frame: pl.DataFrame) -> pl.DataFrame:
    """The same book as it is stored elsewhere: prices in dollars, sizes as floats too."""
    return frame.with_columns(pl.col("^(bid|ask)_px_.*$") / 100.0, pl.col("^(bid|ask)_sz_.*$").cast(pl.Float64))


def test_lobster_parse_and_book(zipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(zipped) as archive:
        names = [m.string for m in map(NAME.match, archive.namelist()) if m]

    def bare() -> None:
        with zipfile.ZipFile(zipped) as archive:
            for name in names:
                pl.read_csv(archive.read(name), has_header=False)

    rows = read_lobster(zipped).source["rows"]
    race(
        capsys, f"LOBSTER {zipped.stem.split('_')[2]}: parse, book, check of both", rows, lambda: read_lobster(zipped), {"polars csv": bare}
    )


def orders(n: int) -> list[np.ndarray]:
    """A complete stream: action, order id, side, ticks, lots. Half adds within 50 ticks of a fixed mid, the rest take from what rests."""
    rng = np.random.default_rng(0)
    action, order_id, lots = np.ones(n, np.int8), np.arange(n, dtype=np.int64), rng.integers(1, 500, n)
    side = np.where(rng.random(n) < 0.5, 1, -1).astype(np.int8)
    ticks = (10_000 - side * rng.geometric(0.1, n).clip(1, 50)).astype(np.int64)
    resting: list[int] = []
    for i, (takes, which) in enumerate(zip(rng.random(n) < 0.5, rng.random(n), strict=True)):
        if takes and len(resting) > 1000:
            k = int(which * len(resting))
            j, resting[k] = resting[k], resting[-1]
            resting.pop()
            action[i], order_id[i], side[i], ticks[i], lots[i] = l3_book.DELETE, order_id[j], side[j], ticks[j], lots[j]
        else:
            resting.append(i)
    return [action, order_id, side, ticks, lots]


def test_l3_engine(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = orders(500_000)

    def ours() -> object:
        return l3_book.L3Book.empty().apply(*arrays, 10)

    def read_each() -> object:
        return sum(int(a.sum()) for a in arrays)

    race(capsys, "L3 engine, 10 levels after each message", len(arrays[0]), ours, {"a sum of the columns": read_each})


@pytest.mark.parametrize("file", ["spot_btcusdt_20240808.gz", "usdm_btcusdt_20240808.gz"])
def test_binance_parse(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = Path(os.environ["CIFT_TEST_DATA"]) / "binance_20240808" / file
    plain = tmp_path / file.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    lines = plain.read_bytes().splitlines()

    def bare() -> None:
        for line in plain.read_bytes().splitlines():
            orjson.loads(line[20:])

    race(capsys, f"Binance {file[:12]}: parse and book", len(lines), lambda: list(read_binance(plain)), {"orjson": bare})


def test_parquet(book: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    floats = as_floats(book)
    arrow = floats.to_arrow()

    def polars_write() -> bytes:
        buffer = io.BytesIO()
        floats.write_parquet(buffer, compression="zstd", compression_level=3)
        return buffer.getvalue()

    def arrow_write() -> bytes:
        buffer = io.BytesIO()
        pq.write_table(arrow, buffer, compression="zstd", compression_level=3)
        return buffer.getvalue()

    def our_write() -> bytes:
        packed = pack(book)
        assert packed is not None
        return to_parquet(packed)

    ours, theirs, arrows = our_write(), polars_write(), arrow_write()
    n = len(book)
    race(capsys, "Parquet write, 5 levels", n, our_write, {"polars float64": polars_write, "pyarrow": arrow_write})
    race(
        capsys,
        "Parquet read, 5 levels",
        n,
        lambda: from_parquet(ours),
        {"polars float64": lambda: pl.read_parquet(io.BytesIO(theirs)), "pyarrow": lambda: pq.read_table(io.BytesIO(arrows))},
    )
    with capsys.disabled():
        print(
            f"\nParquet bytes a row: ours {len(ours) / n:.1f}, polars float64 {len(theirs) / n:.1f}, pyarrow {len(arrows) / n:.1f}", end=""
        )


def test_clickhouse(clickhouse_server, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.clickhouse_stores import database, fresh_store, sql

    day = read_lobster(lobster_zip("GOOG"))
    universe = Universe((day.instrument,))
    features = FeatureSet(levels=universe.levels)
    from cift_models.feeds.canonical import events_of_tables

    events = events_of_tables({name: one.rows for name, one in check_day(day).items()})
    as_of, offsets, x, valid, why = stream.build(universe, features, day.session, events)
    name = database()
    store = fresh_store(clickhouse_server, name)
    rows = {"as_of": as_of, "offsets": offsets, "valid": valid, "why": why}
    fresh = iter(range(1, 1_000_000))

    def ours() -> object:
        session = Session(20_000_101 + next(fresh), day.session.open, day.session.close)
        return session, store.write(universe, features, session, x=x, **rows)

    columns = [np.ascontiguousarray(x[:, 0, i]) for i in range(x.shape[2])]
    fields = ", ".join(f"f{i} Float64" for i in range(len(columns)))
    sql(clickhouse_server, name, f"CREATE TABLE peer (as_of Int64, {fields}) ENGINE = MergeTree ORDER BY as_of")
    from clickhouse_driver import Client

    client = Client("127.0.0.1", clickhouse_server.ports["native"], database=name, settings={"use_numpy": True})

    def theirs() -> None:
        client.execute("INSERT INTO peer VALUES", [as_of, *columns], columnar=True)

    race(capsys, f"ClickHouse insert, {x.shape[2]} features", len(as_of), ours, {"driver, one block": theirs})
    session, ref = ours()  # type: ignore[misc]

    def their_read() -> object:
        return client.execute(f"SELECT * FROM peer LIMIT {len(as_of)}", columnar=True)

    race(
        capsys,
        f"ClickHouse read, {x.shape[2]} features, verified",
        len(as_of),
        lambda: store.read(universe, features, session, ref.sha256),
        {"driver": their_read},
    )
    client.disconnect()


def test_ingest_of_a_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `cift ingest` does to a file, beside reading it only."""
    path = lobster_zip("GOOG")
    fresh = iter(range(1, 1_000_000))

    def ours() -> None:
        day = read_lobster(path)
        ParquetTicks(tmp_path / str(next(fresh))).write_day(day, check_day(day))

    race(capsys, "LOBSTER GOOG: parse, check and store", read_lobster(path).source["rows"], ours, {"parse": lambda: read_lobster(path)})
