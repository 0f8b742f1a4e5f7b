"""References mean the same on every machine, and cannot point outside the home."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cift_models.errors import InputError
from cift_models.files import sha256_bytes
from cift_models.refs import PartitionRef, ReleaseRef

H = sha256_bytes(b"")


def part(key: str = "lake/book/AAPL/20120621", sha256: str = H) -> PartitionRef:
    return PartitionRef(key=key, sha256=sha256, table="book", rows=3, schema_hash=H)


def test_round_trip() -> None:
    refs = [part(), ReleaseRef.of(H)]
    for ref in refs:
        assert type(ref).from_json(ref.to_json()) == ref and type(ref).from_json(ref.model_dump(mode="json")) == ref
        assert hash(ref) == hash(type(ref).from_json(ref.to_json()))


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "lake/../../x", "", "lake//book", "./lake", "lake\\book", "lake/"])
def test_key_stays_below_the_home(key: str) -> None:
    with pytest.raises(ValidationError):
        part(key)


def test_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        part().rows = 4  # type: ignore[misc]
    with pytest.raises(InputError, match="Not a PartitionRef"):
        PartitionRef.from_json(ReleaseRef.of(H).to_json())
    with pytest.raises(InputError):
        PartitionRef.from_json(b"{")
    with pytest.raises(ValidationError):
        part(sha256="abc")
