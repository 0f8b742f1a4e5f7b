"""The certificate: what it vouches for, and for whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cift_models.errors import NotStored, StoreError
from cift_models.evaluation.certificate import Certificate, CertifiedRun, CheapNulls
from tests.gated import CODE, CONFIG, certificate


def runs(*verdicts: str) -> tuple[CertifiedRun, ...]:
    return tuple(CertifiedRun(seed=seed, verdict=said) for seed, said in enumerate(verdicts))  # type: ignore[arg-type]


def test_it_vouches_for_one_code_and_one_config() -> None:
    made = certificate()
    assert made.faults() == () and made.matches(CODE, CONFIG)
    assert not made.matches("e" * 64, CONFIG) and not made.matches(CODE, "e" * 64)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"nulls": runs("held", "promoted", "held")}, "null seed 1 was promoted (1 of 3)"),
        ({"planted": runs("promoted", "promoted", "held")}, "planted seed 2 was held (1 of 3)"),
        ({"nulls": runs("held", "held")}, "2 null seeds, 3 are needed"),
        ({"planted": (*runs("promoted", "promoted"), *runs("promoted"))}, "2 planted seeds, 3 are needed"),
        ({"cheap": CheapNulls(n=200, promoted=4)}, "4 of 200 cheap nulls were promoted"),
        ({"cheap": CheapNulls(n=1000, promoted=16)}, "16 of 1000 cheap nulls were promoted"),
        ({"cheap": CheapNulls(n=199, promoted=0)}, "199 cheap nulls, 200 are needed"),
    ],
)
def test_what_does_not_vouch_says_why(changed: dict, says: str) -> None:
    assert certificate(**changed).faults() == (says,)


def test_three_of_two_hundred_is_what_a_sound_gate_may_do() -> None:
    assert certificate(cheap=CheapNulls(n=200, promoted=3)).faults() == ()


def test_one_of_a_single_seed_is_of_size_test_and_must_have_passed_too() -> None:
    assert certificate("test").faults() == ()
    assert certificate("test", nulls=runs("promoted")).faults() == ("null seed 0 was promoted (1 of 1)",)
    assert certificate("test", planted=()).faults() == ("0 planted seeds, 3 are needed",)


def test_it_survives_its_file_and_is_named_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "certificates" / "one.json"
    certificate().save(path)
    read = Certificate.load(path)
    assert read == certificate() and read.sha256 == certificate().sha256 != certificate("test").sha256


def test_what_is_no_certificate_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotStored, match="no certificate at"):
        Certificate.load(tmp_path / "none.json")
    for text in ("", "{}", certificate().to_bytes().decode().replace('"full"', '"whole"'), "[1"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(StoreError, match="is no certificate"):
            Certificate.load(tmp_path / "bad.json")


def test_more_promoted_than_tried_is_refused() -> None:
    with pytest.raises(ValidationError, match="3 of 2 were promoted"):
        CheapNulls(n=2, promoted=3)
    with pytest.raises(ValidationError):
        CheapNulls(n=-1, promoted=-2)
