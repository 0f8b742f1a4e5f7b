"""A release over stored sessions."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import PredictParameters
from tasks.predict import predict_range
from tasks.runs import going_on


@flow(name="predict")
def predict(params: PredictParameters) -> list[dict[str, Any]]:
    """Fold a release over a range of stored sessions, and store its predictions.

    Args:
        params: The release and the range.
    """
    with going_on():
        return predict_range(params.release, params.symbols, params.start, params.end)
