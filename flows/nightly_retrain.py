"""The nightly retrain: the latest stored sessions as of the scheduled date, never a date frozen at deploy.

A night tries what a certificate tried with whole runs in its cheapest form: the newest session is audited for causality, and the gate asks
whether the forecasts are better on labels without direction too. Either holds the release; the run's state says what the gate said.
"""

from __future__ import annotations

from datetime import date

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import NightlyParameters
from flows.train import WORKERS, run_dag
from tasks.audit import audit_newest
from tasks.dataset import select_data
from tasks.runs import NIGHTLY, Run, going_on, read_card

FIRST = date(1970, 1, 1)


@flow(name=NIGHTLY, task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))  # pyright: ignore[reportCallIssue, reportArgumentType]
def nightly_retrain(params: NightlyParameters) -> State[Run]:
    """Train, judge and release on the last `lookback_sessions` stored sessions up to the date for which this run was scheduled.

    The run's message is the verdict with all its reasons.

    Args:
        params: The universe, the look-back, the models.
    """
    scheduled = flow_run.scheduled_start_time.date()
    with going_on():
        dataset = select_data(params.symbols, FIRST, scheduled, None, params.latency_ms, last=params.lookback_sessions)
        run = run_dag(NIGHTLY, dataset, params, audit_newest(dataset))
        return Completed(message=_said(run), data=run)


def _said(run: Run) -> str:
    card = read_card(run.gated) if run.gated else None
    return f"Run {run.number}: {card.verdict}: {'; '.join(card.reasons)}" if card else f"Run {run.number}: no verdict"
