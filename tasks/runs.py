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

from cift_models.errors import Conflict, StoreError
from cift_models.files import canonical_json, digest, write_atomic
from cift_models.settings import get_settings
from cift_models.stores.lake import locked
from tasks.step import RECORD, StepRef

GOING_ON = ".going-on"
"""Locked, shared, by every run that is going on; the lock dies with its process, however it dies."""


class Run(BaseModel):
    """One run that ended well.

    number     counts runs of this home from 1
    symbols    the universe, in order; days its sessions, yyyymmdd
    judged     key of the folder that holds metrics.json and report.html
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


def judged_step(run: Run) -> StepRef | None:
    """The folder with a run's metrics.json; None where it is no longer there (`cift clean` removed it)."""
    try:
        record = orjson.loads((get_settings().home / run.judged / RECORD).read_bytes())
    except OSError:
        return None
    return StepRef(key=run.judged, sha256=digest(record["files"]), facts=record["facts"])


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
