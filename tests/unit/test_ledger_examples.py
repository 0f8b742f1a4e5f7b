"""The ledger in two other backtesters: the fills of docs/examples are those of our own backtest, and nobody acts before `available_at`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cift_models.instruments import SECOND
from cift_models.signals import SignalRule, round_trips, signals

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("CIFT_BENCH_PYTHON", ROOT / ".venv-bench" / "bin" / "python"))
TICK, START, LATE_NS = 0.01, 1_700_000_000 * SECOND, 3_000_000

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason="`make bench` installs nautilus_trader and hftbacktest")]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Ten minutes of quotes at odd times, some twice in a nanosecond, and forecasts that come 3 ms late; every seventh is not ready."""
    folder = tmp_path_factory.mktemp("ledger")
    rng = np.random.default_rng(0)
    ts = START + np.cumsum(rng.integers(5_000_000, 400_000_000, 3600)) // 2 * 2 + 1
    ts[1::5] = ts[0::5][: len(ts[1::5])]  # some rows share their nanosecond: the last one stands
    bid = 10_000 + np.cumsum(rng.integers(-2, 3, len(ts)))
    ask = bid + rng.integers(1, 4, len(ts))
    quotes = {
        "ts": ts,
        "bid_px": bid * TICK,
        "bid_sz": rng.integers(5, 50, len(ts)),
        "ask_px": ask * TICK,
        "ask_sz": rng.integers(5, 50, len(ts)),
    }
    pl.DataFrame(quotes).write_parquet(folder / "quotes.parquet")
    as_of = START + SECOND * np.arange(2, 602)
    ready = np.arange(600) % 7 > 0
    mean = rng.normal(scale=3.0, size=600)
    made = {
        "symbol": ["AAA"] * 600,
        "as_of": as_of,
        "available_at": as_of + LATE_NS,
        "model": ["linear"] * 600,
        "ready": ready,
        "mean_bps": pl.Series(mean).set(pl.Series(~ready), None),
    }
    other = pl.DataFrame({**made, "model": ["trees"] * 600, "mean_bps": np.full(600, 99.0)})
    pl.concat([pl.DataFrame(made), other]).write_parquet(folder / "ledger.parquet")
    return folder


def ours(files: Path, delay_ns: int) -> list[tuple[int, int, float]]:
    """(row, side, price) of every fill of CIFT's own backtest: decided at available_at, filled at the touch delay_ns later."""
    quotes = pl.read_parquet(files / "quotes.parquet")
    rows = pl.read_parquet(files / "ledger.parquet").filter(pl.col("ready") & (pl.col("model") == "linear"))
    at = rows["available_at"].to_numpy()

    def touch(times):
        i = np.searchsorted(quotes["ts"].to_numpy(), times, "right") - 1
        return quotes["bid_px"].to_numpy()[i], quotes["ask_px"].to_numpy()[i]

    bid, ask = touch(at)
    cost = 1e4 * (ask - bid) / (ask + bid)
    signal = signals(SignalRule(), rows["mean_bps"].to_numpy()[:, None], cost[:, None], np.ones((len(at), 1), bool))[:, 0]
    bid, ask = touch(at + delay_ns)
    trips = round_trips(signal, bid, ask)
    fills = []
    for entry, leave, side in zip(trips.entry, trips.exit, trips.side, strict=True):
        fills += [(int(entry), int(side), (ask if side > 0 else bid)[entry]), (int(leave), -int(side), (bid if side > 0 else ask)[leave])]
    return sorted(fills)


def theirs(script: str, files: Path, *options: str) -> dict:
    command = [PYTHON, ROOT / "docs/examples" / script, files / "ledger.parquet", files / "quotes.parquet"]
    command += ["--symbol", "AAA", "--model", "linear", *options]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=clean, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def same(files: Path, found: list[dict], delay_ns: int) -> None:
    expected = ours(files, delay_ns)
    at = pl.read_parquet(files / "ledger.parquet").filter(pl.col("ready") & (pl.col("model") == "linear"))["available_at"].to_numpy()
    assert len(expected) > 100
    assert [fill["side"] for fill in found] == [side for _, side, _ in expected]
    np.testing.assert_allclose([fill["price"] for fill in found], [price for *_, price in expected], atol=1e-9)
    np.testing.assert_array_equal([fill["ts"] for fill in found], [at[row] + delay_ns for row, *_ in expected])


def test_nautilus_fills_as_we_do_and_sees_nothing_early(files):
    found = theirs("nautilus_ledger.py", files)
    ready = pl.read_parquet(files / "ledger.parquet").filter(pl.col("ready") & (pl.col("model") == "linear"))
    assert found["seen_at"] == ready["available_at"].to_list()
    same(files, found["fills"], 0)


@pytest.mark.parametrize("delay_ms", [0, 100])
def test_hftbacktest_fills_as_we_do_after_the_delay(files, delay_ms):
    found = theirs("hftbacktest_ledger.py", files, "--delay-ms", str(delay_ms))
    same(files, found["fills"], delay_ms * 1_000_000)
    assert found["net"] == pytest.approx(-sum(side * price for _, side, price in ours(files, delay_ms * 1_000_000)))
