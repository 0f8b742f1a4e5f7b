"""Foreign files into the canonical tables."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import IngestParameters
from tasks.ingest import ingest_file


@flow(name="ingest", task_runner=ThreadPoolTaskRunner(max_workers=2))  # pyright: ignore[reportCallIssue, reportArgumentType]
def ingest(params: IngestParameters) -> list[dict[str, Any]]:
    """Read, check and store files; what is stored already stays as it is.

    Args:
        params: The feed and its files.
    """
    futures = [ingest_file.submit(params.feed, file) for file in params.files]
    return [future.result() for future in futures]
