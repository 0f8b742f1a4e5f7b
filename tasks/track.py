"""What happened, in MLflow: a parent run per flow run, a child per model and fold; and the registered release.

Only the client is used: the fluent API keeps its run in a thread, and the tasks run in many.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from cift_models.refs import ReleaseRef
from cift_models.settings import get_settings
from tasks.code import code_sha256
from tasks.dataset import Dataset
from tasks.fit import Fits
from tasks.step import StepRef, seconds

EXPERIMENT = "cift"
MODEL = "cift"
"""Name of the registered model."""
MAX_PARAM = 6000
"""Longest parameter value that MLflow takes."""


def client():
    """An MLflow client of the tracking and registry server that the settings name."""
    import logging

    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    uri = get_settings().mlflow_uri
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(mlflow) -> str:
    """The experiment, made at first use; embedded artifacts lie below the home."""
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    settings = get_settings()
    embedded = settings.mlflow_uri.startswith("sqlite:")
    location = (settings.home / "mlflow" / "artifacts").as_uri() if embedded else None
    return mlflow.create_experiment(EXPERIMENT, artifact_location=location)


@task(persist_result=False, cache_policy=NO_CACHE)
def track(
    flow: str, params: dict[str, Any], dataset: Dataset, built: dict[int, StepRef], fits: Fits, judged: StepRef, release: ReleaseRef
) -> dict[str, str]:
    """Log a run and its fits. Returns {"run_id", "experiment_id"}."""
    from mlflow.entities import Metric, Param, RunTag

    mlflow = client()
    experiment = experiment_id(mlflow)
    now = int(time.time() * 1000)
    name = flow_run.name or flow
    tags = {
        "cift.flow": flow,
        "cift.release": release.sha256,
        "cift.code": code_sha256(),
        "prefect.flow_run_id": flow_run.id or "",
    }
    parent = mlflow.create_run(
        experiment, run_name=name, tags={**tags, "mlflow.note.content": "Open report.html among the artifacts."}
    ).info.run_id
    flat = [(k, v) for k, v in _flatten(orjson.loads((judged.directory / "metrics.json").read_bytes())) if v is not None]
    for i in range(0, len(flat), 1000):
        mlflow.log_batch(parent, metrics=[Metric(k, v, now, 0) for k, v in flat[i : i + 1000]])
    mlflow.log_batch(parent, params=[Param(k, str(v)[:MAX_PARAM]) for k, v in params.items()])
    for path in sorted(judged.directory.iterdir()):
        if path.is_dir():
            mlflow.log_artifacts(parent, str(path), path.name)
        elif path.name not in ("step.json", "seconds"):
            mlflow.log_artifact(parent, str(path))
    mlflow.log_dict(parent, dataset.model_dump(mode="json"), "data_manifest.json")
    mlflow.log_dict(parent, {str(day): ref.facts for day, ref in built.items()}, "features.json")
    mlflow.log_text(parent, uncommitted_diff(), "uncommitted.diff")
    for kind, by_fold in fits.items():
        for fold, ref in by_fold.items():
            report = orjson.loads((ref.directory / "fit.json").read_bytes())
            child = mlflow.create_run(
                experiment, run_name=f"{kind} {fold}", tags={"mlflow.parentRunId": parent, "cift.kind": kind, "cift.fold": fold}
            ).info.run_id
            metrics = [Metric("n_rows", report["n_rows"], now, 0), Metric("seconds", seconds(ref), now, 0)]
            for curve, values in report["curves"].items():
                metrics += [Metric(curve, float(v), now, i) for i, v in enumerate(values)]
            facts = [RunTag("cift.status", report["status"]), RunTag("cift.checkpoint", ref.key)]
            facts += [RunTag(f"fact.{k}", orjson.dumps(v).decode()[:4900]) for k, v in report["facts"].items()]
            mlflow.log_batch(child, metrics=metrics[:1000], params=[Param("kind", kind), Param("fold", fold)], tags=facts)
            mlflow.set_terminated(child)
    mlflow.set_terminated(parent)
    return {"run_id": parent, "experiment_id": experiment}


def _flatten(metrics: dict[str, Any]):
    """metrics.json as (symbol/model/metric, value) pairs."""
    for symbol, models in metrics["symbols"].items():
        for model, values in models.items():
            for metric, estimate in values.items():
                yield f"{symbol}/{model}/{metric}", estimate["value"]


def uncommitted_diff() -> str:
    """What the working tree holds beyond the last commit; a note where the code does not lie in a repository."""
    app = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=app, capture_output=True, text=True, check=True, timeout=20).stdout
        diff = subprocess.run(["git", "diff", "HEAD"], cwd=app, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "The code does not lie in a git repository.\n"
    return f"HEAD {head}{diff}"
