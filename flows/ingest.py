"""Foreign files into the canonical tables."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from cift_models.feeds.read import chains
from flows.parameters import IngestParameters
from flows.runner import SettledTaskRunner
from tasks.ingest import Ingested, done_before, failure_of, ingest_files
from tasks.runs import going_on


@flow(name="ingest", task_runner=SettledTaskRunner())  # pyright: ignore[reportCallIssue, reportArgumentType]
def ingest(params: IngestParameters) -> list[Ingested]:
    """Read, check and store files; what is stored already stays as it is.

    Args:
        params: The feed, its files, and what the files do not say.
    """
    with going_on():
        return ingest_all(params.feed, [Path(file) for file in params.files], params.options(), params.again)


def ingest_all(feed: str, files: list[Path], options: dict, again: bool = False) -> list[Ingested]:
    """Files side by side, and one after the other where a recording goes on from the one before. Called by a flow, in its run.

    One that fails stops only those that go on from it. What is raised then tells what the others came to (tasks.ingest.done_before).
    """
    futures = [ingest_files.submit(feed, [str(file) for file in chain], options, again) for chain in chains(feed, files, options)]
    done: list[Ingested] = []
    failures: list[Exception] = []
    for future in futures:
        try:
            done += future.result()
        except Exception as error:
            done += done_before(error)
            failures.append(error)
    if failures:
        raise failure_of(failures, done)
    return done
