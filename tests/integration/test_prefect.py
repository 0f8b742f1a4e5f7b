"""A real Prefect server, a real worker, and prefect.yaml: what a person sees who clicks in the form."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import orjson
import pytest

from tests.processes import ROOT, environment, free_port, stop

pytestmark = pytest.mark.slow

DEPLOYMENTS = ("seed", "ingest", "backfill", "data_prep", "train", "gate", "predict", "nightly_retrain")
SEED = {"symbols": ["AAA", "BBB"], "sessions": 2, "session_minutes": 20}
CHEAP = {"symbols": ["AAA", "BBB"], "models": ["prior", "queue_imbalance", "linear"]}
TRAIN = {**CHEAP, "start": "2024-01-08", "end": "2024-01-09"}


@dataclass
class Prefect:
    """A server, through the calls that its own pages make."""

    api: httpx.Client
    home: Path
    logs: Path

    def deployment(self, flow: str) -> dict[str, Any]:
        return self.api.get(f"/deployments/name/{flow}/{flow}").raise_for_status().json()

    def create(self, flow: str, params: dict[str, Any], **more: Any) -> httpx.Response:
        """Submit the form. A 503 is SQLite's busy moment, at which Prefect's clients ask again."""
        url = f"/deployments/{self.deployment(flow)['id']}/create_flow_run"
        for _ in range(10):
            answer = self.api.post(url, json={"parameters": {"params": params}, **more})
            if answer.status_code != 503:
                break
            time.sleep(0.5)
        return answer

    def run(self, flow: str, params: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Submit the form and wait for the end of the run."""
        return self.wait(self.create(flow, params, **more).raise_for_status().json()["id"])

    def wait(self, run_id: str, timeout_s: float = 240) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while True:
            found = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()
            if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            if time.monotonic() > until:
                tails = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in sorted(self.logs.glob("*.log")))
                raise AssertionError(f"still {found['state_name']} after {timeout_s} s\n{tails}")
            time.sleep(0.5)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """prefect.yaml deployed to a server with a worker, both of their own."""
    room = tmp_path_factory.mktemp("prefect")
    home = room / "home"
    home.mkdir()
    url = f"http://127.0.0.1:{free_port()}/api"
    env = environment(home, PREFECT_HOME=str(room / "prefect"), PREFECT_API_URL=url, PREFECT_WORKER_QUERY_SECONDS="1", CIFT_APP=str(ROOT))
    env["PREFECT_SERVER_API_PORT"] = url.split(":")[2].removesuffix("/api")
    env["NUMBA_NUM_THREADS"] = "1"
    command = [sys.executable, "-m", "prefect"]
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        with open(room / f"{name}.log", "wb") as log:
            started.append(
                subprocess.Popen(
                    [*command, *arguments], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )

    def run(*arguments: str) -> None:
        done = subprocess.run([*command, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, f"prefect {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    with httpx.Client(base_url=url, timeout=60) as api:
        try:
            start("server", "server", "start")
            _until(lambda: api.get("/health").status_code == 200, "the server answers", room / "server.log", 180)
            run("work-pool", "create", "local-pool", "--type", "process")
            # No --limit: with one, a run that is retried before its old process has gone kills the worker (prefect 3.8.8: "this borrower
            # is already holding one of this CapacityLimiter's tokens"). The deployments have their own limits.
            start("worker", "worker", "start", "--pool", "local-pool")
            run("--no-prompt", "deploy", "--all")
            yield Prefect(api, home, room)
        finally:
            for process in reversed(started):
                stop(process)


def _until(true: Any, what: str, log: Path, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while True:
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, f"waited {timeout_s} s until {what}\n{log.read_text()[-3000:]}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def stored(prefect: Prefect) -> dict[str, Any]:
    """A small market, seeded through its deployment."""
    run = prefect.run("seed", SEED)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    return run


def test_every_flow_is_deployed_with_a_schema_that_is_enforced(prefect: Prefect) -> None:
    for flow in DEPLOYMENTS:
        found = prefect.deployment(flow)
        assert found["enforce_parameter_schema"] and found["work_pool_name"] == "local-pool"
        assert found["entrypoint"] == f"flows.{flow}.{flow}"
        assert found["global_concurrency_limit"]["limit"] == 1
        fields = _fields(found["parameter_openapi_schema"])
        assert all(field.get("description") and field.get("title") for field in fields.values()), f"{flow}: {fields}"


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    (model,) = [d for name, d in schema["definitions"].items() if name.endswith("Parameters")]
    return model["properties"]


def test_nights_are_scheduled_after_the_close_in_new_york(prefect: Prefect) -> None:
    nightly = prefect.deployment("nightly_retrain")
    scheduled: list[dict[str, Any]] = []

    def some() -> bool:
        wanted = {"deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        scheduled[:] = prefect.api.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        return len(scheduled) > 0

    _until(some, "the scheduler made runs", prefect.logs / "server.log", 90)
    for run in scheduled:
        when = datetime.fromisoformat(run["expected_start_time"].replace("Z", "+00:00"))
        there = when.astimezone(ZoneInfo("America/New_York"))
        assert (there.hour, there.minute) == (18, 30) and there.weekday() < 5
        assert there.date() == when.date()  # the session's date in New York is the one that the flow reads in UTC


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ["lienar"]},
        {"epochs": 0},
        {"seed": -1},
        {"seed": "many"},
        {"latency_ms": 5},
        {"symbols": []},
        {"symbols": ["a b"]},
        {"start": "yesterday"},
    ],
    ids=str,
)
def test_the_form_refuses_a_bad_parameter(prefect: Prefect, wrong: dict[str, Any]) -> None:
    answer = prefect.create("train", {**TRAIN, **wrong})
    assert answer.status_code == 409, answer.text
    assert next(iter(wrong)) in answer.text or "validation" in answer.text.lower()


def test_a_failed_run_is_retried_and_only_the_missing_steps_run(prefect: Prefect, stored: dict[str, Any]) -> None:
    # A file where the judge's folder has to be made: that step fails, as on a disk that refuses it.
    obstacle = prefect.home / "steps" / "judge"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("in the way")
    failed = prefect.run("train", TRAIN)
    assert failed["state_type"] == "FAILED" and "FileExistsError" in failed["state"]["message"], failed["state"]["message"]
    before = _written(prefect.home)
    assert len(before) == 2 + 2 * 4 + 4 + 3  # features, fits, heads, plan and offsets

    obstacle.unlink()
    again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    prefect.api.post(f"/flow_runs/{failed['id']}/set_state", json=again).raise_for_status()
    _until(
        lambda: prefect.api.get(f"/flow_runs/{failed['id']}").json()["state_type"] != "FAILED", "retried", prefect.logs / "worker.log", 60
    )
    done = prefect.wait(failed["id"])
    assert done["state_type"] == "COMPLETED" and done["run_count"] == 2, done["state"]["message"]
    after = _written(prefect.home)
    assert {path: after[path] for path in before} == before
    new = {path.split("/")[1]: path for path in set(after) - set(before)}
    assert set(new) == {"judge", "audit_release", "latency", "gate"} and len(after) == len(before) + 4
    judged = new["judge"]
    record = orjson.loads((prefect.home / "runs" / "000001-train.json").read_bytes())
    assert record["judged"] == judged and record["days"] == [20240108, 20240109]
    assert record["gated"] == new["gate"]
    assert set(record["steps"]) | {new[kind] for kind in ("audit_release", "latency", "gate")} == set(after)
    assert (prefect.home / "releases" / record["release"] / "manifest.json").is_file()


def test_the_gate_judges_a_run_again_from_its_form(prefect: Prefect, stored: dict[str, Any]) -> None:
    trained = prefect.run("train", {**CHEAP, "models": ["linear"], "start": "2024-01-08", "end": "2024-01-09"})
    assert trained["state_type"] == "COMPLETED", trained["state"]["message"]
    record = orjson.loads(max((prefect.home / "runs").glob("*-train.json")).read_bytes())
    kept = prefect.home / "verdicts" / f"{record['release']}.json"
    before = kept.read_bytes()
    kept.unlink()
    for params in ({}, {"run": record["number"]}):
        run = prefect.run("gate", params)
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
        assert kept.read_bytes() == before
    assert prefect.create("gate", {"run": 0}).status_code == 409


def _written(home: Path) -> dict[str, int]:
    """Every step's folder, and when its record was written."""
    found = [*home.glob("steps/*/*/step.json"), *home.glob("models/checkpoints/*/*/step.json")]
    return {str(path.parent.relative_to(home)): path.stat().st_mtime_ns for path in found}


def test_a_night_takes_the_sessions_up_to_its_scheduled_day(prefect: Prefect, stored: dict[str, Any]) -> None:
    night = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2024-01-08T23:30:00+00:00"}}
    run = prefect.run("nightly_retrain", {**CHEAP, "models": ["linear"], "lookback_sessions": 5}, state=night)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    (record,) = (orjson.loads(path.read_bytes()) for path in (prefect.home / "runs").glob("*-nightly_retrain.json"))
    assert record["days"] == [20240108]
    card = orjson.loads((prefect.home / record["gated"] / "card.json").read_bytes())
    assert run["state"]["message"] == f"Run {record['number']}: held: {'; '.join(card['reasons'])}"
    assert card["audited"] == 9 and card["nulls"] == {"n": 200, "promoted": 0} and card["clauses"]["nulls"] and card["clauses"]["audit"]
    (newest,) = (key for key in record["steps"] if key.startswith("steps/audit_newest/"))
    assert (prefect.home / newest / "audits.json").is_file()
    again = prefect.run("gate", {"run": record["number"]})
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    assert (prefect.home / "verdicts" / f"{record['release']}.json").read_bytes() == (
        prefect.home / record["gated"] / "card.json"
    ).read_bytes()


def test_a_mistake_that_no_schema_shows_fails_with_its_words(prefect: Prefect, stored: dict[str, Any]) -> None:
    run = prefect.run("train", {**TRAIN, "symbols": ["ZZZ"]})
    assert run["state_type"] == "FAILED" and "Unknown symbol 'ZZZ'" in run["state"]["message"]
