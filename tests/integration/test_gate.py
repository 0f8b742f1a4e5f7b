"""A trained release and its verdict from outside: the printed line, MLflow, Prefect, and what `cift gate` and `cift promote` make of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from cift_models.evaluation.card import Card
from tests.market import small_market, store_small_market
from tests.processes import ROOT, cift, environment

pytestmark = pytest.mark.slow

FIRST, LAST = (f"{s.day // 10_000}-{s.day // 100 % 100:02d}-{s.day % 100:02d}" for s in small_market().sessions)
SYMBOLS = small_market().universe.symbols


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gate") / "home"
    return store_small_market(home)


@pytest.fixture(scope="module")
def trained(home: Path) -> subprocess.CompletedProcess[str]:
    done = cift(home, "train", "--symbols", ",".join(SYMBOLS), "--start", FIRST, "--end", LAST, "--models", "prior,queue_imbalance,linear")
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def card_of(home: Path) -> Card:
    run = orjson.loads(next((home / "runs").glob("*.json")).read_bytes())
    assert run["gated"] in run["steps"]
    return Card.from_bytes((home / run["gated"] / "card.json").read_bytes())


def test_training_ends_with_the_verdict_in_one_line(home: Path, trained: subprocess.CompletedProcess[str]) -> None:
    card = card_of(home)
    line = next(line for line in trained.stdout.splitlines() if line.startswith("Gate:"))
    assert card.verdict == "held" and line.startswith(f"Gate:     held: {card.reasons[0]} (") and "more reasons: cift gate 1)" in line


def test_gate_prints_the_card_and_exits_1_and_promote_refuses_it(home: Path, trained: subprocess.CompletedProcess[str]) -> None:
    card = card_of(home)
    shown = cift(home, "gate", "--json")
    assert shown.returncode == 1 and shown.stdout.encode() == card.to_bytes()
    assert "Judging" not in shown.stderr, "the verdict stands: nothing is judged again"
    refused = cift(home, "promote", "challenger")
    assert refused.returncode == 1 and f"does not promote it: {card.reasons[0]}" in " ".join(refused.stderr.split())
    assert not (home / "served.json").exists()


def test_mlflow_and_prefect_show_the_verdict(home: Path, trained: subprocess.CompletedProcess[str]) -> None:
    card = card_of(home)
    script = (
        "import orjson; from tasks import track; c = track.client(); v = c.search_model_versions(\"name='cift'\")[0];"
        "run = c.get_run(v.run_id);"
        "print(orjson.dumps([v.tags, run.data.tags, [a.path for a in c.list_artifacts(v.run_id)]]).decode())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    version, run, artifacts = orjson.loads(done.stdout.splitlines()[-1])
    for tags in (version, run):
        assert tags["cift.verdict"] == "held" and tags["cift.reason"] == card.reasons[0] and tags["cift.card"] == card.sha256
    assert "card.json" in artifacts
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        rows = database.execute("select data, description from artifact where key = 'verdict'").fetchall()
    assert len(rows) == 1 and "# Held" in rows[0][0] and card.reasons[0] in rows[0][1]


def test_what_is_served_by_force_changes_whom_the_next_is_judged_against(home: Path, trained: subprocess.CompletedProcess[str]) -> None:
    """Another release, of fewer models, against the first, which a person has promoted."""
    forced = cift(home, "promote", "challenger", "--force", "the first one")
    assert forced.returncode == 0 and "forced: the first one" in forced.stdout
    first = orjson.loads((home / "served.json").read_bytes())["release"]
    done = cift(home, "train", "--symbols", ",".join(SYMBOLS), "--start", FIRST, "--end", LAST, "--models", "prior,linear")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"adds nothing over linear of {first[:12]}" in done.stdout
    shown = cift(home, "gate")
    assert shown.returncode == 1 and f"against {first[:12]}, which is served" in shown.stdout
