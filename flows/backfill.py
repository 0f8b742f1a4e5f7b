"""Any range of days again: only what is missing or changed is done."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.ingest import ingest_all
from flows.parameters import BackfillParameters
from flows.runner import SettledTaskRunner
from flows.train import build
from tasks.dataset import select_data
from tasks.plan import Planned, plan_features, plan_ingest
from tasks.runs import going_on


@flow(name="backfill", task_runner=SettledTaskRunner())  # pyright: ignore[reportCallIssue, reportArgumentType]
def backfill(params: BackfillParameters) -> list[Planned]:
    """Ingest the files of a range and build the features of its sessions; returns what there was to do, and why.

    Where a file fails, the others are ingested, no features are built, and what is raised tells what was `planned`.

    Args:
        params: The feed, its files, the range, the universe.
    """
    with going_on():
        options = params.options()
        ingesting = plan_ingest(params.feed, params.files, options, params.start, params.end)
        building = plan_features(params.symbols, params.start, params.end, ingesting) if params.symbols else []
        if params.dry_run:
            return [*ingesting, *building]
        try:
            ingest_all(params.feed, [Path(one.file) for one in ingesting if one.state != "done"], options)
        except Exception as error:
            error.planned = [*ingesting, *building]  # type: ignore[attr-defined]
            raise
        if params.symbols:
            build(select_data(params.symbols, params.start, params.end, None, 0, blocks=False))
        return [*ingesting, *building]
