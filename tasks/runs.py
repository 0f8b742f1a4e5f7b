"""What ran: one small file a run, written when it has ended well, never changed.

$CIFT_HOME/runs/000001-train.json
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from cift_models.errors import Conflict, NotStored, StoreError
from cift_models.evaluation.card import Card
from cift_models.files import canonical_json, digest, write_atomic
from cift_models.settings import get_settings
from cift_models.stores.lake import locked
from tasks.step import RECORD, StepRef

NIGHTLY = "nightly_retrain"
"""The flow of a night: what its runs are judged by has more to it."""

CARD = "card.json"
"""The gate's verdict, in the folder of its step."""
REPORT = "report.html"
"""The page: the judge's without a verdict, beside it the gate's with it."""

GOING_ON = ".going-on"
"""Locked, shared, by every run that is going on; the lock dies with its process, however it dies."""


class Run(BaseModel):
    """One run that ended well.

    number     counts runs of this home from 1
    symbols    the universe, in order; days its sessions, yyyymmdd
    judged     key of the folder that holds metrics.json, the ledger and the report without a verdict
    gated      key of the folder that holds card.json, the gate's verdict, and report.html with it; None where there was no gate yet
    steps      keys of every folder that the run made or reused, `judged` among them
    finished   UTC, ISO 8601
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    flow: str
    params: dict[str, Any]
    symbols: list[str]
    days: list[int]
    judged: str
    gated: str | None = None
    release: str
    mlflow_run: str
    version: str
    steps: list[str]
    finished: str


def write_run(**facts: Any) -> Run:
    """Write down a run that has ended well: the fields of Run, but for its number and its time."""
    folder = get_settings().home / "runs"
    with locked(folder):
        number = max((one.number for one in all_runs()), default=0) + 1
        made = Run(number=number, finished=datetime.now(UTC).isoformat(timespec="seconds"), **facts)
        write_atomic(folder / f"{number:06d}-{made.flow}.json", canonical_json(made.model_dump(mode="json")))
    return made


def all_runs() -> tuple[Run, ...]:
    """Every run that is on record, oldest first. Raises StoreError for a damaged record."""
    found = []
    for path in sorted((get_settings().home / "runs").glob("*.json")):
        try:
            found.append(Run.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise StoreError(
                f"{path} is not the record of a run: {error.errors()[0]['msg']}.", hint="Remove it; nothing depends on it."
            ) from error
    return tuple(found)


def find_run(number: int | None = None) -> Run:
    """A run by its number; the last one without. Raises NotStored where there is none."""
    runs = all_runs()
    if not runs:
        raise NotStored(f"Nothing has been trained below {get_settings().home}.", hint="Begin with `cift train`, or `cift demo`.")
    found = runs[-1] if number is None else next((run for run in runs if run.number == number), None)
    if found is None:
        raise NotStored(f"There is no run {number}.", hint=f"There are {runs[0].number} to {runs[-1].number}; `cift status` lists them.")
    return found


def judged_of(run: Run) -> StepRef:
    """The folder with a run's metrics.json. Raises NotStored where it is no longer there."""
    judged = judged_step(run)
    if judged is None:
        raise NotStored(f"The metrics of run {run.number} are not there any more.", hint="`cift clean` removed them; train again.")
    return judged


def judged_step(run: Run) -> StepRef | None:
    """The folder with a run's metrics.json; None where it is no longer there (`cift clean` removed it)."""
    try:
        record = orjson.loads((get_settings().home / run.judged / RECORD).read_bytes())
    except OSError:
        return None
    return StepRef(key=run.judged, sha256=digest(record["files"]), facts=record["facts"])


def read_card(gated: str) -> Card | None:
    """The verdict in a run's folder; None where it is no longer there."""
    try:
        return Card.from_bytes((get_settings().home / gated / CARD).read_bytes())
    except FileNotFoundError:
        return None


@contextmanager
def going_on() -> Iterator[None]:
    """Say that a run is going on, for as long as it does."""
    handle = _open_lock(get_settings().home)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone() -> Iterator[None]:
    """Keep runs from starting while something is removed. Raises Conflict where one is going on."""
    handle = _open_lock(get_settings().home)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("A run is going on below this home.", hint="Wait until it has ended.") from None
        yield
    finally:
        os.close(handle)


def _open_lock(home: Path) -> int:
    (home / "runs").mkdir(parents=True, exist_ok=True)
    return os.open(home / "runs" / GOING_ON, os.O_RDWR | os.O_CREAT, 0o644)
