"""The verdict on a run's release, again: against what is served now, with the certificate that is there now."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import flow

from cift_models.refs import ReleaseRef
from flows.parameters import GateParameters
from flows.train import build
from tasks.audit import audit_newest
from tasks.dataset import select_data
from tasks.gate import gate as judge_release
from tasks.gate import publish
from tasks.runs import NIGHTLY, find_run, going_on, judged_of


@flow(name="gate")
def gate(params: GateParameters) -> dict[str, Any]:
    """Judge the release of a run; the card is kept as its last verdict. Returns the verdict and its first reason.

    Args:
        params: The run.
    """
    with going_on():
        run = find_run(params.run)
        first, last = (date.fromisoformat(str(day)) for day in (run.days[0], run.days[-1]))
        test_from = run.params.get("test_from")
        dataset = select_data(
            run.symbols, first, last, date.fromisoformat(test_from) if test_from else None, run.params.get("latency_ms", 0)
        )
        # A leak that held a night's release holds it when it is judged again.
        newest = audit_newest(dataset) if run.flow == NIGHTLY else None
        gated = judge_release(dataset, build(dataset), judged_of(run), ReleaseRef.of(run.release), newest)
        publish(gated, run.mlflow_run, run.version)
        return gated.facts
