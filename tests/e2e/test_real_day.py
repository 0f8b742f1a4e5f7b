"""The recorded day, whole: ingest, train, judge, serve, replay (`make real-day`). Minutes long: run before each release of the code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from tests.lobster_slice import lobster_zip
from tests.processes import ROOT, cift, environment
from tests.service import serving

SYMBOLS = ("AAPL", "AMZN", "GOOG")
REFERENCE = {"AAPL": (0.0141, 0.5695), "AMZN": (0.0285, 0.602), "GOOG": (0.0146, 0.582)}
"""R2 against zero and hit rate on moves of ridge_reference on the last 6,660 decision rows (appendix A's own code gives AAPL .56948)."""
STRONG = {"AAPL": 0.0283, "AMZN": 0.0360, "GOOG": 0.0161}
"""R2 of linear with signed counts over twelve half-lives, on the same rows."""

pytestmark = [pytest.mark.real_day, pytest.mark.real_data, pytest.mark.proof]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Ingested and trained, with the minutes that it took on record."""
    home = tmp_path_factory.mktemp("home")
    done = cift(home, "ingest", "lobster", *(str(lobster_zip(s)) for s in SYMBOLS))
    assert done.returncode == 0, done.stderr[-3000:]
    began = time.monotonic()
    done = cift(home, "train", "--symbols", ",".join(SYMBOLS), "--start", "2012-06-21", "--end", "2012-06-21", timeout_s=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n{done.stdout}\ntrained in {time.monotonic() - began:.0f} s")
    assert "Leak alarms: silent." in done.stdout
    return home


@pytest.fixture(scope="module")
def metrics(home):
    done = cift(home, "eval", "--split", "test", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return orjson.loads(done.stdout)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_reference_hits_its_figures_and_linear_is_not_worse(metrics, symbol):
    models = metrics["symbols"][symbol]
    r2, hits = REFERENCE[symbol]
    assert metrics["rows"][symbol] == 6660
    assert models["ridge_reference"]["r2"]["value"] == pytest.approx(r2, abs=5e-4)
    assert models["ridge_reference"]["hit_rate"]["value"] == pytest.approx(hits, abs=5e-4)
    assert models["linear"]["r2"]["value"] > models["ridge_reference"]["r2"]["value"] - 0.003
    assert models["strong_linear"]["r2"]["value"] == pytest.approx(STRONG[symbol], abs=5e-4)


def test_live_equals_batch_to_the_bit(home):
    files = [str(lobster_zip(s)) for s in SYMBOLS]
    with serving(home, "challenger") as service:
        command = [sys.executable, "-m", "flows.cli", "replay", "lobster", *files, "--to", service.ticks, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = orjson.loads(done.stdout)
    print(f"\n{result}")
    assert result["equal"] and result["instants"] == 23_400 and result["missing"] == 0
