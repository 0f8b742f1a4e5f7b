"""What no kept release needs: which folders those are, what lies on servers and is in nobody's use, and their removal."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import orjson

from cift_models.settings import get_settings
from cift_models.stores.features import open_features
from cift_models.stores.leftovers import KeepsLeftovers, Leftover
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import open_ticks
from tasks.runs import all_runs, alone
from tasks.step import RECORD

FOLDERS = ("releases", "steps", "checkpoints", "features", "work")
"""What is cleaned, in the order in which it goes: a release before what made it."""


def kept_releases(home: Path, keep: int) -> set[str]:
    """The last `keep` releases, the champion, what was served before it, and the challenger."""
    releases = Releases(home)
    names = [ref.sha256 for ref in releases.all()]
    kept = set(names[-keep:] if keep else [])
    if served := releases.served():
        kept.add(served.release)
        before = [move.release for move in served.history if move.release != served.release]
        kept |= set(before[-1:])
    if challenger := releases.challenger():
        kept.add(challenger)
    return kept


def unneeded(home: Path, keep: int) -> dict[str, dict[Path, int]]:
    """Folders that no kept release needs, and the bytes in each, by kind. A step of a run without a kept release is unneeded."""
    releases = kept_releases(home, keep)
    steps = {key for run in all_runs() if run.release in releases for key in run.steps}
    found: dict[str, list[Path]] = {kind: [] for kind in FOLDERS}
    found["releases"] = [p for p in _folders(home / "releases", 1) if p.name not in releases]
    # What was ingested is no run's: without its record the next backfill would read every file again.
    found["steps"] = [p for p in _folders(home / "steps", 2) if str(p.relative_to(home)) not in steps and p.parent.name != "ingest"]
    found["checkpoints"] = [p for p in _folders(home / "models" / "checkpoints", 2) if str(p.relative_to(home)) not in steps]
    features = {_features_of(home / key) for key in steps if key.startswith("steps/features/")}
    found["features"] = [p for p in _folders(home / "features", 4) if str(p.relative_to(home)) not in features]
    found["work"] = _folders(home / "work", 1)
    return {kind: {path: _bytes(path) for path in paths} for kind, paths in found.items()}


def server_leftovers(home: Path, keep: int, orphans: bool = False, removing: bool = False) -> dict[str, list[Leftover]]:
    """What lies on the servers that the settings name and is in nobody's use, by server; with `removing` it goes, but for what `stays`.

    Of features, the sessions that only runs of this home without a kept release refer to. A server may serve other homes too: sessions that
    no run of this one knows are theirs, unless `orphans` says that there are none. Raises Conflict while a run is going on.
    """
    settings = get_settings()
    ticks, features = open_ticks(settings), open_features(settings)
    found: dict[str, list[Leftover]] = {}
    with alone() if removing else nullcontext():
        if isinstance(ticks, KeepsLeftovers):
            found["QuestDB"] = ticks.leftovers(remove=removing)
        if isinstance(features, KeepsLeftovers):
            known, kept = _sessions_of_steps(home, keep)
            gone = set(features.session_keys()) if orphans else known
            found["ClickHouse"] = features.leftovers(gone - kept, remove=removing)
    return found


def _sessions_of_steps(home: Path, keep: int) -> tuple[set[str], set[str]]:
    """Keys of the features that steps of this home wrote: of all, and of those that are kept."""
    releases = kept_releases(home, keep)
    kept = {key for run in all_runs() if run.release in releases for key in run.steps}
    known = {path: _features_of(path) for path in _folders(home / "steps" / "features", 1)}
    return (
        {key for key in known.values() if key is not None},
        {key for path, key in known.items() if key is not None and str(path.relative_to(home)) in kept},
    )


def remove(home: Path, keep: int) -> dict[str, dict[Path, int]]:
    """Remove what is unneeded and return what that was. Raises Conflict while a run is going on."""
    with alone():
        found = unneeded(home, keep)
        for paths in found.values():
            for path in paths:
                # Renamed first: a folder with half of its files must not look like a result.
                gone = path.with_name(f".gone.{path.name.lstrip('.')}")
                path.rename(gone)
                shutil.rmtree(gone)
    return found


def _folders(root: Path, depth: int) -> list[Path]:
    """Folders so many levels below a root, left-overs with a leading dot among them; links are not followed."""
    return sorted(p for p in root.glob("/".join("*" * depth)) if p.is_dir() and not p.is_symlink()) if root.is_dir() else []


def _features_of(step: Path) -> str | None:
    """Key of the feature partition that a step wrote."""
    try:
        return orjson.loads((step / RECORD).read_bytes())["facts"]["features"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
