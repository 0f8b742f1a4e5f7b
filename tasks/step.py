"""The one cache: a step writes under a key made of code, inputs and name; a step that finds its key does not run.

Prefect never caches for us (persist_result=False, NO_CACHE), so a retry re-enters every task and only the missing step runs again.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from cift_models.errors import DataError
from cift_models.files import canonical_json, digest, fresh_folder, fsync, sha256_file, write_atomic
from cift_models.refs import Ref
from cift_models.settings import get_settings
from tasks.code import code_sha256
from tasks.progress import reporter

RECORD = "step.json"
"""Written last into a step's folder: a folder without it is not a result."""


class StepRef(Ref):
    """What a step made: `key` is its folder below the home, `sha256` the digest of {file: sha256}; `facts` what it says of itself."""

    facts: dict[str, Any]

    @property
    def directory(self) -> Path:
        return get_settings().home / self.key


class Room:
    """Where one step works: `out` is empty and becomes the result, `work` survives a kill, `progress` tells the watchers."""

    def __init__(self, out: Path, work: Path, progress: Callable[[str, float], None]) -> None:
        self.out = out
        self.work = work
        self.progress = progress


def step(name: str, inputs: Mapping[str, Any], run: Callable[[Room], dict[str, Any] | None], *, under: str | None = None) -> StepRef:
    """Run a step, or find that it has run.

    `inputs` are JSON values and references: everything the result depends on, besides the code. `run` writes files into room.out and
    returns facts (JSON values). The folder appears whole, by one rename; a kill leaves the old state and the work folder.
    """
    home = get_settings().home
    key = step_key(name, inputs)
    relative = f"{under or f'steps/{name}'}/{key}"
    target = home / relative
    found = _found(target, relative)
    if found is not None:
        logging.getLogger("cift").info("%s: done before (%s)", name, key[:12])
        reporter(name)("done before", 1.0)
        return found
    target.parent.mkdir(parents=True, exist_ok=True)
    work = home / "work" / key
    work.mkdir(parents=True, exist_ok=True)
    out = fresh_folder(target.parent, f".{key[:12]}.")
    began = time.monotonic()
    progress = reporter(name)
    progress("started", 0.0)
    try:
        facts = run(Room(out, work, progress)) or {}
        files = {str(path.relative_to(out)): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}
        record = {"step": name, "files": files, "facts": plain(facts), "inputs": {k: plain(v) for k, v in inputs.items()}}
        write_atomic(out / RECORD, canonical_json(record))
        (out / "seconds").write_text(f"{time.monotonic() - began:.3f}\n")
        try:
            os.rename(out, target)
        except OSError:
            # Another run finished the same step first: its result is as good as ours.
            if _found(target, relative) is None:
                shutil.rmtree(target, ignore_errors=True)
                os.rename(out, target)
        fsync(target.parent)
        shutil.rmtree(work, ignore_errors=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    made = _found(target, relative)
    if made is None:
        raise DataError(f"{name} wrote {relative} and cannot read it back.", hint="Look at the disk.")
    progress("done", 1.0)
    return made


def step_key(name: str, inputs: Mapping[str, Any]) -> str:
    """What a step writes under: digest of its name, the code and its inputs."""
    return digest({"step": name, "code": code_sha256(), "inputs": {k: plain(v) for k, v in inputs.items()}})


def find_step(name: str, inputs: Mapping[str, Any]) -> StepRef | None:
    """The result of a step that has run with these inputs and this code; None where there is none, or it is damaged."""
    relative = f"steps/{name}/{step_key(name, inputs)}"
    return _found(get_settings().home / relative, relative)


def forget(ref: StepRef) -> None:
    """Remove a result, so that its step runs again: for a step whose work lies elsewhere (a store) and is there no more."""
    shutil.rmtree(ref.directory, ignore_errors=True)


def runs_of(name: str) -> list[dict[str, Any]]:
    """The inputs of every result that a step has left, whatever the code was."""
    found = []
    for path in sorted((get_settings().home / "steps" / name).glob(f"*/{RECORD}")):
        try:
            found.append(orjson.loads(path.read_bytes())["inputs"])
        except (OSError, ValueError, KeyError):
            continue
    return found


def _found(target: Path, relative: str) -> StepRef | None:
    """The result that lies at `target`, or None where there is none or a byte of it has changed (then it is made again)."""
    try:
        record = orjson.loads((target / RECORD).read_bytes())
        for name, sha256 in record["files"].items():
            if sha256_file(target / name) != sha256:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return StepRef(key=relative, sha256=digest(record["files"]), facts=record["facts"])


def seconds(ref: StepRef) -> float:
    """How long the run that made a result took."""
    try:
        return float((ref.directory / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def plain(value: Any) -> Any:
    """A JSON value: references as what they point to (key and sha256), models as dictionaries."""
    if isinstance(value, StepRef):
        return {"key": value.key, "sha256": value.sha256}
    if value is None:
        return None
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return orjson.loads(canonical_json(value))
