"""Half an hour of the three recorded stocks through ingest, train, serve and replay, as a person would: every word equal to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from tests.lobster_slice import lobster_zip, slice_lobster
from tests.processes import ROOT, cift, environment
from tests.service import serving

SYMBOLS = ("AAPL", "AMZN", "GOOG")
TRAIN = ("train", "--symbols", ",".join(SYMBOLS), "--start", "2012-06-21", "--end", "2012-06-21", "--epochs", "1")

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slice")
    opening_ms = 34_200_000
    return [slice_lobster(lobster_zip(s), folder / f"LOBSTER_{s}.zip", opening_ms, opening_ms + 1_800_000) for s in SYMBOLS]


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Path:
    """A home with the slice ingested and trained on, after a kill -9 in the middle of training."""
    home = tmp_path_factory.mktemp("home")
    done = cift(home, "ingest", "lobster", *map(str, files))
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(f"{symbol} 20120621" in done.stdout for symbol in SYMBOLS)
    command = [sys.executable, "-m", "flows.cli", *TRAIN]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 240
    while len(list((home / "models/checkpoints").glob("gnn/*/step.json"))) < 1:
        assert process.poll() is None and time.monotonic() < until, "training ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in (home / "models/checkpoints").glob("*/*/step.json")}
    assert before and not list((home / "releases").glob("*/manifest.json"))
    done = cift(home, *TRAIN, timeout_s=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Leak alarms: silent." in done.stdout
    assert all(p.stat().st_mtime_ns == at for p, at in before.items()), "a finished step was done again"
    return home


def release_name(home: Path) -> str:
    return orjson.loads((home / "challenger.json").read_bytes())["release"]


def test_every_model_has_its_figures(trained):
    metrics = orjson.loads(next((trained / "steps/judge").glob("*/metrics.json")).read_bytes())
    assert set(metrics["symbols"]) == set(SYMBOLS)
    for symbol in SYMBOLS:
        models = metrics["symbols"][symbol]
        forecasting = [kind for kind, figures in models.items() if figures["r2"]["value"] is not None]
        assert len(forecasting) == 13 and models["hmm"]["r2"]["reason"]
        assert metrics["rows"][symbol] > 400


def test_every_model_of_the_stack_has_its_marginal_value_and_its_cost(trained):
    folder = next((trained / "steps/judge").glob("*/metrics.json")).parent
    metrics = orjson.loads((folder / "metrics.json").read_bytes())
    for symbol in SYMBOLS:
        for model, row in metrics["marginal"][symbol].items():
            assert row["rows"] > 400 and row["r2_gain"]["value"] is not None, (symbol, model, row)
            assert row["live_ms"] > 0 and row["fit_minutes"] > 0
        assert metrics["economics"][symbol]["linear"]["touch_size"]["always"]["median_lots"] > 0
        assert metrics["economics"][symbol]["linear"]["deflated_sharpe"]["trials"] >= 10
    offsets = orjson.loads((folder / "offsets.json").read_bytes())
    for symbol in SYMBOLS:
        for kind in ("linear", "ridge_reference"):
            assert len(offsets[symbol][kind]["offsets"]) == 10
            assert offsets[symbol][kind]["offsets"][0]["value"] == metrics["symbols"][symbol][kind]["r2"]["value"]
    assert len(list((trained / "trials").glob("*.json"))) == 1


def test_no_prediction_knew_its_label(trained):
    import polars as pl

    frame = pl.read_parquet(next((trained / "steps/judge").glob("*/ledger.parquet")))
    assert (frame["max_train_t1"] < frame["as_of"]).all() and (frame["as_of"] <= frame["available_at"]).all()
    assert frame["model"].n_unique() == 13


def test_the_same_command_again_does_nothing_and_ends_in_the_same_release(trained):
    name = release_name(trained)
    done = cift(trained, *TRAIN)
    assert done.returncode == 0 and release_name(trained) == name
    assert len(list((trained / "releases").glob("*/manifest.json"))) == 1


def test_a_run_that_was_not_killed_ends_in_the_same_release(trained, files, tmp_path):
    home = tmp_path / "home"
    assert cift(home, "ingest", "lobster", *map(str, files)).returncode == 0
    done = cift(home, *TRAIN, timeout_s=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert release_name(home) == release_name(trained)


def test_live_equals_batch_to_the_bit(trained, files):
    with serving(trained, "challenger") as service:
        command = [sys.executable, "-m", "flows.cli", "replay", "lobster", *map(str, files), "--to", service.ticks, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=environment(trained), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        result = orjson.loads(done.stdout)
        row = service.get("/prediction/AAPL").json()
    assert result["equal"] and result["values_unequal"] == 0 and result["missing"] == 0
    assert result["instants"] == 1800 and result["values"] > 100_000
    assert set(result["actions"]) == {"Hold"}, "a held release never acts"
    assert row["release"] == release_name(trained) and np.isfinite(row["models"]["ensemble"]["outputs"]["mean_bps"])


def test_mlflow_has_the_run_and_loads_the_release(trained):
    script = (
        "import mlflow, sys; from tasks import track; c = track.client(); mlflow.set_tracking_uri(c.tracking_uri);"
        "runs = c.search_runs([c.get_experiment_by_name('cift').experiment_id], max_results=500);"
        "parents = [r for r in runs if 'mlflow.parentRunId' not in r.data.tags];"
        "children = [r for r in runs if r.data.tags.get('mlflow.parentRunId') == parents[0].info.run_id];"
        "names = {a.path for a in c.list_artifacts(parents[0].info.run_id)};"
        "assert {'metrics.json', 'report.html', 'ledger.parquet', 'data_manifest.json', 'uncommitted.diff'} <= names, names;"
        "assert len(children) == 59, len(children);"
        "m = mlflow.pyfunc.load_model('models:/cift@challenger');"
        "print(len(parents), len(children), type(m).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(trained), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
