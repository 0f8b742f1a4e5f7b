"""References: what tasks pass instead of data. Content-addressed, relative to the home, so they mean the same on every machine.

A reference says where (`key`, a path below the home) and what (`sha256`). A reader that finds other bytes there refuses them.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from cift_models.errors import InputError
from cift_models.files import canonical_json, digest


def _relative(key: str) -> str:
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\\" in key or str(path) != key:
        raise ValueError(f"expected a path relative to the home, like lake/book/AAPL/20120621; was {key!r}")
    return key


Key = Annotated[str, AfterValidator(_relative)]
"""A path below the home, with forward slashes."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""Hex sha256."""


class Ref(BaseModel):
    """Where and what: `key` below the home, `sha256` of what lies there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    sha256: Sha256

    def to_json(self) -> bytes:
        """Canonical JSON: equal references give equal bytes."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes | str | dict[str, Any]) -> Self:
        """What `to_json` wrote. Raises InputError for anything else."""
        try:
            return cls.model_validate(data if isinstance(data, dict) else orjson.loads(data))
        except ValueError as error:
            raise InputError(f"Not a {cls.__name__}: {str(error).splitlines()[-1].strip()}", hint="Pass what to_json() wrote.") from error

    @property
    def digest(self) -> str:
        """Hex sha256 of the reference itself: what a step's key is made of."""
        return digest(self.model_dump(mode="json"))


class PartitionRef(Ref):
    """One stored partition: a table (or an array set) of one symbol or universe in one session.

    `sha256` is of its partition.json, which lists the sha256 of every file and what the rows mean (session, instrument, source);
    `schema_hash` names the columns.
    """

    table: str
    rows: int
    schema_hash: Sha256


class ReleaseRef(Ref):
    """A release: `sha256` of its manifest.json, which is also the name of its folder."""

    @classmethod
    def of(cls, sha256: str) -> ReleaseRef:
        return cls(key=f"releases/{sha256}", sha256=sha256)
