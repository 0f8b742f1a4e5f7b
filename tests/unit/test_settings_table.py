"""What is said of the settings, in the README and by `cift doctor`, is what the settings say of themselves."""

from __future__ import annotations

import re

import orjson
import pytest

from cift_models.settings import describe
from tests.processes import ROOT, cift

README = ROOT / "README.md"


@pytest.mark.skipif(not README.is_file(), reason="there is no README.md here")
def test_the_readme_lists_every_setting_as_it_is() -> None:
    rows = [[cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] for line in README.read_text().splitlines()]
    found = {row[0]: row[1:] for row in rows if re.fullmatch(r"CIFT_[A-Z_]+", row[0]) and len(row) == 3}
    assert found == {one.name: [one.default, one.meaning] for one in describe()}


def test_doctor_prints_every_setting_with_its_meaning_and_hides_secrets(tmp_path) -> None:
    done = cift(tmp_path / "home", "doctor", "--json", CIFT_REDIS_URL="redis://127.0.0.1:1/0", CIFT_REDIS_PASSWORD="hush", CIFT_THREADS="3")
    report = orjson.loads(done.stdout)
    assert [(s["name"], s["meaning"]) for s in report["settings"]] == [(one.name, one.meaning) for one in describe()]
    values = {s["name"]: (s["value"], s["from"]) for s in report["settings"]}
    assert values["CIFT_THREADS"] == ("3", "environment") and values["CIFT_SERVICE_PORT"] == ("3000", "default")
    assert values["CIFT_REDIS_PASSWORD"] == ("(set)", "environment") and "hush" not in done.stdout + done.stderr
