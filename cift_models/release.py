"""A release: what crosses from training to serving. One directory, one manifest, every file hashed, nothing in it that runs.

    $CIFT_HOME/releases/<sha256 of manifest.json>/
        manifest.json
        models/<kind>/...      what Model.save wrote
        heads/<kind>/...       what Head.save wrote

Every byte is read once and checked before anything is parsed; a file that the manifest does not list is refused.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cift_models.engine import Pipeline
from cift_models.errors import CiftError, InputError, ReleaseError
from cift_models.features import FeatureSet
from cift_models.files import canonical_json, fresh_folder, fsync, safe_join, sha256_bytes
from cift_models.instruments import Universe

MANIFEST = "manifest.json"

MAX_FILE_BYTES = 512 * 1024 * 1024
"""A file of a release is read whole into memory; none of ours comes near."""

FORMAT = 1
"""Version of the manifest's shape."""


class Entry(BaseModel):
    """One model of a release."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    needs: list[str]
    outputs: list[str]
    max_train_t1: int


class Manifest(BaseModel):
    """What a release says of itself. `files` maps each relative path to its sha256; `models` stand in the order in which they run.

    max_train_t1   ns: the latest moment that anything in the release learned from (normalisers, heads and thresholds included)
    data           sha256 of the partitions that it was trained on, by name
    judged_as      sha256 of the release whose verdict this one borrows (a refit), or None
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int
    models: list[Entry]
    heads: list[str]
    universe: list[dict[str, Any]]
    features: dict[str, Any]
    feature_hash: str
    rule: dict[str, Any]
    decides: str
    max_train_t1: int
    data: dict[str, str]
    code: str
    metrics: dict[str, Any]
    judged_as: str | None = None
    files: dict[str, str]


def write(
    root: Path, pipeline: Pipeline, *, max_train_t1: dict[str, int], data: dict[str, str], code: str, metrics: dict[str, Any]
) -> Path:
    """Write a release below `root` and return its directory, named by its manifest's sha256.

    `max_train_t1` gives each kind's, and under "rule" the threshold's. The same content gives the same name: an existing one is kept,
    a damaged one is replaced.
    """
    root.mkdir(parents=True, exist_ok=True)
    room = fresh_folder(root, ".writing.")
    try:
        for folder, parts in (("models", pipeline.models), ("heads", pipeline.heads)):
            for kind, part in parts.items():
                directory = room / folder / kind
                directory.mkdir(parents=True)
                part.save(directory)
        files = {str(p.relative_to(room)): sha256_bytes(p.read_bytes()) for p in sorted(room.rglob("*")) if p.is_file()}
        manifest = Manifest(
            format=FORMAT,
            models=[
                Entry(kind=kind, needs=list(model.needs), outputs=list(model.outputs), max_train_t1=max_train_t1[kind])
                for kind, model in pipeline.models.items()
            ],
            heads=list(pipeline.heads),
            universe=pipeline.universe.as_json(),
            features=pipeline.features.as_json(),
            feature_hash=pipeline.features.schema_hash,
            rule=pipeline.rule.model_dump(mode="json"),
            decides=pipeline.decides,
            max_train_t1=max(max_train_t1.values()),
            data=data,
            code=code,
            metrics=metrics,
            files=files,
        )
        raw = canonical_json(manifest.model_dump())
        (room / MANIFEST).write_bytes(raw)
        for path in room.rglob("*"):
            fsync(path)
        target = root / sha256_bytes(raw)
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        if not target.exists():
            room.rename(target)
            fsync(root)
        return target
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _is_whole(directory: Path) -> bool:
    try:
        verify(directory)
    except ReleaseError:
        return False
    return True


def verify(directory: Path) -> Manifest:
    """Check every byte of a release and return its manifest. Raises ReleaseError on any damage: a flipped byte, the manifest's own
    included, a file too many or too few, a link, a name that is not the manifest's sha256."""
    return _read(directory)[0]


def _read(directory: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the bytes of every listed file, all verified."""
    directory = Path(directory)
    if not directory.is_dir() or not (directory / MANIFEST).is_file():
        raise ReleaseError(
            f"No release at {directory}.", hint="Expected a directory with a manifest.json; `cift status` lists what there is."
        )
    raw = _bytes(directory / MANIFEST)
    name = directory.resolve().name
    if sha256_bytes(raw) != name:
        raise ReleaseError(
            f"The release {name[:12]} is damaged: its manifest.json has sha256 {sha256_bytes(raw)[:12]}.",
            hint="A release is named by its manifest's sha256. Train again, or restore the directory from where it came.",
        )
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise ReleaseError(
            f"The manifest of {name[:12]} is not one this version reads: {error.errors()[0]['msg']}.", hint="Train a new release."
        ) from error
    inside = {str(p.relative_to(directory)): p for p in directory.rglob("*")}
    if links := sorted(relative for relative, p in inside.items() if p.is_symlink()):
        raise ReleaseError(
            f"The release {name[:12]} holds {links[0]}, which is a link and not a regular file.", hint="Put the file itself there."
        )
    found = {relative for relative, p in inside.items() if not p.is_dir()} - {MANIFEST}
    if extra := sorted(found - set(manifest.files)):
        raise ReleaseError(
            f"The release {name[:12]} holds {extra[0]}, which its manifest does not list.", hint="Remove it: unlisted files are refused."
        )
    content = {}
    for relative, expected in manifest.files.items():
        try:
            path = safe_join(directory, relative)
        except InputError as error:
            raise ReleaseError(
                f"The manifest of {name[:12]} lists {relative!r}, outside the release.", hint="Train a new release."
            ) from error
        data = _bytes(path)
        if sha256_bytes(data) != expected:
            raise ReleaseError(
                f"The release {name[:12]} is damaged: {relative} has sha256 {sha256_bytes(data)[:12]}, expected {expected[:12]}.",
                hint="Train again, or restore the directory from where it came.",
            )
        content[relative] = data
    return manifest, content


def _bytes(path: Path) -> bytes:
    """A regular file's bytes, within the size limit."""
    if path.is_symlink() or not path.is_file():
        raise ReleaseError(
            f"{path.name} is missing from the release, or is not a regular file.", hint="Restore the directory from where it came."
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ReleaseError(f"{path.name} has more than {MAX_FILE_BYTES} bytes.", hint="No file of a release is that large.")
    return path.read_bytes()


def load(directory: Path) -> tuple[Pipeline, Manifest]:
    """A verified release as a pipeline, ready for an Engine. Parses only bytes that were verified; executes nothing.

    Raises ReleaseError, also for verified bytes that are no release: a manifest that its files or this version of the code contradict.
    """
    manifest, content = _read(directory)
    try:
        return _built(manifest, content), manifest
    except CiftError:
        raise
    except Exception as error:  # whatever a parser says of nonsense
        said = (str(error).splitlines() or [""])[0]
        raise ReleaseError(
            f"The release {Path(directory).resolve().name[:12]} cannot be built: {type(error).__name__}: {said[:200]}.",
            hint="Its bytes are those of its manifest: it was written wrong, or by another version. Train a new release.",
        ) from error


def _built(manifest: Manifest, content: dict[str, bytes]) -> Pipeline:
    """The pipeline of a manifest and its files' bytes."""
    from cift_models.models import model_class
    from cift_models.models.head import Head
    from cift_models.signals import SignalRule

    if manifest.format != FORMAT:
        raise ReleaseError(f"The release has format {manifest.format}; this version reads {FORMAT}.", hint="Train a new release.")
    features = FeatureSet.from_json(manifest.features)
    if features.schema_hash != manifest.feature_hash:
        raise ReleaseError("The release was trained on another feature set than this version makes.", hint="Train a new release.")
    kinds = [entry.kind for entry in manifest.models]
    if stray := sorted({*manifest.heads} - {*kinds}) or sorted(
        relative
        for relative in content
        if not relative.startswith((*(f"models/{kind}/" for kind in kinds), *(f"heads/{kind}/" for kind in manifest.heads)))
    ):
        raise ReleaseError(f"The release holds {stray[0]}, which belongs to none of its models.", hint="Train a new release.")
    # The models read files; give them a private copy of the verified bytes, so that nothing can change between check and parse.
    with tempfile.TemporaryDirectory(prefix="cift-release-") as private:
        for relative, data in content.items():
            path = safe_join(Path(private), relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        models = {entry.kind: model_class(entry.kind).load(Path(private, "models", entry.kind)) for entry in manifest.models}
        heads = {kind: Head.load(Path(private, "heads", kind)) for kind in manifest.heads}
    for entry in manifest.models:
        if list(models[entry.kind].outputs) != entry.outputs:
            raise ReleaseError(
                f"{entry.kind} says {models[entry.kind].outputs}, its manifest {entry.outputs}.", hint="Train a new release."
            )
    return Pipeline(Universe.from_json(manifest.universe), features, models, heads, SignalRule(**manifest.rule), manifest.decides)
