"""The nightly retrain: the latest stored sessions as of the scheduled date, never a date frozen at deploy."""

from __future__ import annotations

from datetime import date

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import NightlyParameters
from flows.train import WORKERS, run_dag
from tasks.dataset import select_data
from tasks.runs import Run, going_on

FIRST = date(1970, 1, 1)


@flow(name="nightly_retrain", task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))  # pyright: ignore[reportCallIssue, reportArgumentType]
def nightly_retrain(params: NightlyParameters) -> Run:
    """Train, judge and release on the last `lookback_sessions` stored sessions up to the date for which this run was scheduled.

    Args:
        params: The universe, the look-back, the models.
    """
    scheduled = flow_run.scheduled_start_time.date()
    with going_on():
        dataset = select_data(params.symbols, FIRST, scheduled, None, params.latency_ms, last=params.lookback_sessions)
        return run_dag("nightly_retrain", dataset, params)
