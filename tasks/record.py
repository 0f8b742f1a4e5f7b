"""The last step of a run: its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models.refs import ReleaseRef
from tasks.dataset import Dataset
from tasks.fit import Fits
from tasks.runs import Run, write_run
from tasks.step import StepRef


@task(persist_result=False, cache_policy=NO_CACHE)
def record_run(
    flow: str,
    params: dict[str, Any],
    dataset: Dataset,
    steps: Sequence[StepRef],
    fits: Fits,
    judged: StepRef,
    gated: StepRef,
    release: ReleaseRef,
    run: dict[str, str],
    version: str,
) -> Run:
    """Write down what ran, so that `cift status`, `eval` and `clean` know it."""
    keys = {ref.key for ref in steps} | {ref.key for by_fold in fits.values() for ref in by_fold.values()} | {judged.key, gated.key}
    return write_run(
        flow=flow,
        params=params,
        symbols=list(dataset.get_universe().symbols),
        days=dataset.days,
        judged=judged.key,
        gated=gated.key,
        release=release.sha256,
        mlflow_run=run["run_id"],
        version=version,
        steps=sorted(keys),
    )
