"""The columnar job beside the features that models read, and on the recorded LOBSTER days."""

from __future__ import annotations

import tracemalloc
import zipfile

import numpy as np
import polars as pl
import pytest

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.features import FeatureSet, stream
from cift_models.features.columns import Chunk, Job, RollingZ, TimeClock
from cift_models.features.columns.volume_profile import VolumeProfile
from cift_models.instruments import SECOND, Session
from tests.lobster_slice import lobster_zip
from tests.panels import OPEN, toy_panel, toy_universe

STEPS = 200


def test_order_flow_and_bars_of_a_second_are_those_that_models_read():
    """A bar that ends at instant t holds what the features at t look back on: (t - 1 s, t]."""
    events = toy_panel(5, STEPS, symbols=1, rate_hz=3.0).events
    events.ts[:] = np.sort(events.ts // 50_000_000 * 50_000_000)  # ties, some on the very instants
    universe = toy_universe(1)
    features = FeatureSet(levels=2)
    as_of, _, x, *_ = stream.build(universe, features, Session(20231114, OPEN, OPEN + STEPS * SECOND), events)
    rows = Job(2, TimeClock(SECOND, anchor_ns=OPEN)).run([Chunk.of_events(events, universe.instruments[0].tick_units)])
    place = {name: i for i, name in enumerate(features.names)}
    at = np.searchsorted(as_of, rows.bars.as_of)
    inside = rows.bars.as_of > OPEN  # an event at the open itself belongs to no second of the session
    assert inside.sum() > STEPS / 2
    for level in range(2):
        assert x[at, 0, place[f"ofi_{level:02d}_1000ms"]][inside].tolist() == rows.ofi[level][inside].tolist()
    assert x[at, 0, place["volume"]][inside].tolist() == rows.bars.volume[inside].tolist()
    assert x[at, 0, place["n_trades"]][inside].tolist() == rows.bars.n_trades[inside].tolist()
    assert (x[:, 0, place["volume"]].sum() == rows.bars.volume[inside].sum()) and rows.bars.volume.sum() > 0


def recorded(symbol: str, kind: type) -> Chunk:
    """The recorded day as columns: prices in cents (LOBSTER's unit is a hundredth of one), ts ns after midnight."""
    with zipfile.ZipFile(lobster_zip(symbol)) as archive:
        tables = {}
        for what in ("message", "orderbook"):
            name = next(n for n in archive.namelist() if f"_{what}_" in n)
            tables[what] = pl.read_csv(archive.read(name), has_header=False)
    messages, book = tables["message"], tables["orderbook"]
    # Seconds of a day with nine decimals are told apart by float64: an ulp is 7e-12 s.
    columns = {"ts": np.rint(messages.to_series(0).to_numpy() * 1e9).astype(np.int64)}
    executed = messages.to_series(1).is_in([4, 5]).to_numpy()
    columns["price"] = (messages.to_series(4).to_numpy() // 100).astype(np.int32)
    columns["size"] = np.where(executed, messages.to_series(3).to_numpy(), 0).astype(kind)
    for level in range(book.width // 4):
        for at, (side, empty) in enumerate((("ask", EMPTY_ASK), ("bid", EMPTY_BID))):
            px = book.to_series(4 * level + 2 * at).to_numpy()
            gone = np.abs(px) >= 9_999_999_999
            columns[f"{side}_px_{level:02d}"] = np.where(gone, empty, px // 100).astype(np.int32)
            columns[f"{side}_sz_{level:02d}"] = np.where(gone, 0, book.to_series(4 * level + 2 * at + 1).to_numpy()).astype(kind)
    return Chunk.of_columns(columns)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("symbol", "volume", "expected"),
    [
        ("AAPL", 2_850_140, (0.308, 0.412, 0.545)),
        ("AMZN", 810_755, (0.159, 0.312, 0.422)),
        ("GOOG", 706_125, (0.179, 0.164, 0.107)),
    ],
)
def test_recorded_days_give_the_known_figures(symbol, volume, expected):
    """Volume executed, and the R2 of the mid's move on the order flow of the same 1, 10 and 60 s, every slope positive."""
    chunk = recorded(symbol, np.int32)
    mid = (chunk.levels[0].bid_px.astype(np.int64) + chunk.levels[0].ask_px) / 2
    found = []
    for seconds in (1, 10, 60):
        rows = Job(len(chunk.levels), TimeClock(seconds * SECOND)).run([chunk])
        assert rows.bars.volume.sum() == volume
        assert rows.profile.volume.sum() == volume
        ends = np.arange(34_200 + seconds, 57_600 + 1, seconds) * SECOND
        flow = np.zeros(len(ends))  # an interval without a row has no bar: nothing flowed, nothing moved
        flow[np.searchsorted(ends, rows.bars.as_of)] = rows.ofi[0]
        last = np.searchsorted(chunk.ts, ends, "right") - 1
        move = np.diff(mid[np.maximum(last, 0)], prepend=mid[0])
        slope, correlation = np.polyfit(flow, move, 1)[0], np.corrcoef(flow, move)[0, 1]
        assert slope > 0
        found.append(round(correlation**2, 3))
    assert found == pytest.approx(expected, abs=0.0011)


@pytest.mark.real_data
def test_a_recorded_day_in_pieces_and_in_wider_columns_is_the_same():
    chunk, wide = recorded("GOOG", np.int32), recorded("GOOG", np.int64)
    job = Job(len(chunk.levels), TimeClock(SECOND))
    whole = job.run([chunk])
    cuts = [0, 1, 2, 70_000, 70_001, 120_003, len(chunk)]
    for other in (job.run([wide]), job.run([chunk[a:b] for a, b in zip(cuts, cuts[1:], strict=False)])):
        for name in ("ofi", "z_ofi", "z_tick"):
            assert getattr(other, name).tobytes() == getattr(whole, name).tobytes()
        assert other.bars.vwap.tobytes() == whole.bars.vwap.tobytes()
        assert other.profile.volume.tobytes() == whole.profile.volume.tobytes()


def test_memory_is_the_output_and_a_chunk():
    """Twelve chunks of a quarter of a million rows: what is alive at once beside the rows that came out stays far below 50 MB."""
    n, chunks = 250_000, 12
    job = Job(1, TimeClock(SECOND), RollingZ(300), RollingZ(1000), VolumeProfile())
    panel = np.random.default_rng(0)
    book = {
        name: panel.integers(1, 50, n).astype(np.int32) for name in ("bid_px_00", "bid_sz_00", "ask_px_00", "ask_sz_00", "price", "size")
    }

    def pieces():
        for k in range(chunks):
            ts = np.arange(k * n, (k + 1) * n, dtype=np.int64) * (SECOND // 40)
            yield Chunk.of_columns({"ts": ts, **book})

    job.run([next(pieces())])  # compile outside
    lent = np.empty(n)
    tracemalloc.start()
    try:
        state, out = job.start(), 0
        for chunk in pieces():
            rows, state = job.fold(state, chunk, lent)
            out += rows.ofi.nbytes
            del rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out > 0
    assert peak < 20e6
