"""Releases: write one, make it the challenger, register it, move what is served."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models import release
from cift_models.errors import NotStored, ReleaseError
from cift_models.refs import ReleaseRef
from cift_models.settings import get_settings
from cift_models.stores.releases import Releases, Served
from tasks import track
from tasks.code import code_sha256
from tasks.dataset import Dataset
from tasks.fit import Fits
from tasks.judge import planned_pipeline
from tasks.step import StepRef

HEADLINE = ("r2", "log_loss_direction", "hit_rate")
"""Metrics that a release carries with it."""


@task(persist_result=False, cache_policy=NO_CACHE)
def write_release(dataset: Dataset, fits: Fits, heads: StepRef, assembled: StepRef, judged: StepRef) -> ReleaseRef:
    """Write the pipeline that was judged as a release, and make it the challenger."""
    home = get_settings().home
    plan = orjson.loads((assembled.directory / "plan.json").read_bytes())
    metrics = orjson.loads((judged.directory / "metrics.json").read_bytes())
    pipeline = planned_pipeline(dataset, plan, fits, heads)
    directory = release.write(
        home / "releases",
        pipeline,
        max_train_t1=plan["max_train_t1"],
        data={ref.key: ref.sha256 for refs in dataset.partitions.values() for ref in refs},
        code=code_sha256(),
        metrics={
            symbol: {kind: {m: models[kind][m]["value"] for m in HEADLINE} for kind in pipeline.models}
            for symbol, models in metrics["symbols"].items()
        },
    )
    release.verify(directory)
    Releases(home).set_challenger(directory.name)
    return ReleaseRef.of(directory.name)


@task(persist_result=False, cache_policy=NO_CACHE)
def register(ref: ReleaseRef, run: dict[str, str]) -> str:
    """Register a release in MLflow, once, under the alias challenger; returns its version."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = track.client()
    directory = get_settings().home / ref.key
    version = registered_version(client, ref.sha256)
    if version is None:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(get_settings().mlflow_uri)
        mlflow.set_registry_uri(get_settings().mlflow_uri)
        with mlflow.start_run(run_id=run["run_id"]):
            logged = mlflow.pyfunc.log_model(
                name="release",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"release": str(directory)},
                signature=signature(release.verify(directory)),
                pip_requirements=["cift"],
            )
        with contextlib.suppress(MlflowException):
            client.create_registered_model(track.MODEL)
        made = client.create_model_version(track.MODEL, logged.model_uri, run_id=run["run_id"], tags={"release": ref.sha256})
        version = str(made.version)
    client.set_registered_model_alias(track.MODEL, "challenger", version)
    return version


def signature(manifest: release.Manifest):
    """What the registered model takes: canonical events, a row each, with the book levels of the release's universe."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    levels = max(i["levels"] for i in manifest.universe)
    columns: list[Any] = [ColSpec("long", name) for name in ("ts", "sequence", "kind", "side", "trade_px", "trade_sz")]
    columns += [ColSpec("string", "symbol")]
    columns += [ColSpec("long", f"{name}_{level:02d}") for level in range(levels) for name in ("bid_px", "bid_sz", "ask_px", "ask_sz")]
    return ModelSignature(Schema(columns))


def registered_version(client: Any, sha256: str) -> str | None:
    """The version under which a release is registered."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.search_model_versions(f"name = '{track.MODEL}'")
    except MlflowException:
        return None
    return next((str(v.version) for v in found if v.tags.get("release") == sha256), None)


def move_alias(served: Served) -> bool:
    """Let MLflow's alias `champion` follow what is served. False where the release is not registered there (`cift doctor` shows it)."""
    client = track.client()
    version = registered_version(client, served.release)
    if version is None:
        return False
    client.set_registered_model_alias(track.MODEL, "champion", version)
    return True


def champion_alias() -> str | None:
    """The release to which MLflow's alias `champion` points."""
    from mlflow.exceptions import MlflowException

    try:
        return track.client().get_model_version_by_alias(track.MODEL, "champion").tags.get("release")
    except MlflowException:
        return None


def promote(name: str, force: str | None) -> Served:
    """Serve a release that its verdict promotes: compare-and-set, then the alias. With a reason it is served whatever the verdict, and
    recorded as forced.

    Raises ReleaseError without a promoted verdict or a reason, Conflict where what is served moved since it was judged.
    """
    releases = Releases(get_settings().home)
    ref = releases.resolve(name)
    release.verify(releases.directory(ref))
    now = releases.served()
    sequence = now.sequence if now else 0
    if force:
        served = releases.compare_and_set(sequence, ref, f"forced: {force}")
    else:
        card = releases.verdict(ref)
        if card is None:
            raise ReleaseError(
                f"Release {ref[:12]} has no verdict.", hint='`cift gate` judges it; or read its report, then --force "why".', release=ref
            )
        served = releases.promote(sequence, card, f"promoted: {card.first_reason}")
    move_alias(served)
    return served


def rollback(name: str | None) -> Served:
    """Serve the release that was served before, or a named one that was; then the alias."""
    releases = Releases(get_settings().home)
    now = releases.served()
    if now is None:
        raise NotStored("Nothing is served yet.", hint="There is nothing to roll back from.")
    served = releases.rollback(now.sequence, releases.resolve(name) if name else None)
    move_alias(served)
    return served
