"""What a certificate is made of; whole runs are `make prove-judge`."""

from __future__ import annotations

import runpy

import pytest

from cift_models.errors import CiftError
from tasks import certify
from tasks.certify import Form
from tests.processes import ROOT


class Said:
    def __init__(self, failed: tuple[str, ...]) -> None:
        self.failed = failed
        self.config = "c" * 64
        self.code = certify.code_sha256()


def test_a_run_without_a_certificate_is_promoted_where_nothing_else_is_missing():
    assert certify.said(Said(("certificate",))) == "promoted" and certify.said(Said(())) == "promoted"
    assert certify.said(Said(("certificate", "better"))) == "held"


@pytest.mark.parametrize(("form", "size"), [(Form(), "full"), (Form(seeds=2), "test"), (Form(cheap=199), "test")])
def test_fewer_runs_are_of_size_test(form, size):
    assert form.size == size


def test_the_certificate_lies_where_the_gate_looks(tmp_path, monkeypatch):
    from tasks.gate import find_certificate

    monkeypatch.setenv("CIFT_HOME", str(tmp_path))
    monkeypatch.setattr(certify, "certified_run", lambda kind, seed, form: Said(("certificate",) if kind == "planted" else ("better",)))
    monkeypatch.setattr(certify, "cheap_nulls", lambda n, first_seed: (("null", object()) for _ in range(n)))
    monkeypatch.setattr(certify, "promoted", lambda card: False)
    told = []
    made = certify.certify(Form(), lambda what, share: told.append(share))
    assert made.faults() == () and made.size == "full" and made.cheap.n == 200
    assert find_certificate(made.code, made.config) == made and told == sorted(told) and told[-1] < 1
    monkeypatch.setattr(certify, "promoted", lambda card: True)
    assert any("cheap" in fault for fault in certify.certify(Form(), lambda what, share: None).faults())


def test_code_that_changes_on_the_way_certifies_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFT_HOME", str(tmp_path))
    monkeypatch.setattr(certify, "certified_run", lambda kind, seed, form: Said(("certificate",)))
    monkeypatch.setattr(certify, "code_sha256", lambda: "d" * 64)
    monkeypatch.setattr(Said, "__init__", lambda self, failed: self.__dict__.update(failed=failed, config="c" * 64, code="e" * 64))
    with pytest.raises(CiftError, match="changed"):
        certify.certify(Form(cheap=0), lambda what, share: None)


def test_a_run_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(CiftError, match=r"cift seed --minutes 1 failed: \S"):
        certify._cift(tmp_path, "seed", "--minutes", "1")


@pytest.mark.parametrize(("failed", "code"), [((), 0), (("better",), 1)])
def test_the_proof_of_the_judge_tells_each_run_and_fails_where_one_is_wrong(failed, code, monkeypatch, capsys):
    asked = []

    def run(kind: str, seed: int, form: Form) -> Said:
        asked.append((kind, form.minutes, form.plant))
        card = Said(("better",) if kind == "null" else ("certificate", *failed))
        card.symbols = {}
        return card

    monkeypatch.setattr(certify, "certified_run", run)
    monkeypatch.setattr("sys.argv", ["prove_judge.py", "--seeds", "2"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "prove_judge.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert ended.value.code == code and asked == 2 * [("null", 120, "clear")] + 2 * [("planted", 270, "usual")]
    assert told.count('"verdict"') == 4 and "null: 2 of 2 held" in told and f"planted: {0 if code else 2} of 2 promoted" in told
