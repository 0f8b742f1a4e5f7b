"""Features and labels, and no fit."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import DataPrepParameters
from flows.runner import SettledTaskRunner
from flows.train import build
from tasks.dataset import select_data
from tasks.runs import going_on


@flow(name="data_prep", task_runner=SettledTaskRunner())  # pyright: ignore[reportCallIssue, reportArgumentType]
def data_prep(params: DataPrepParameters) -> dict[int, Any]:
    """Build features and labels of a range of stored sessions; what is built already stays as it is.

    Args:
        params: The symbols and the range.
    """
    with going_on():
        return build(select_data(params.symbols, params.start, params.end, params.test_from, 0), params.again)
