"""docs/data.md: its dictionary is schema.py, its lists are the code's, and every example runs and prints what stands there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from cift_models.feeds import lean, quality
from cift_models.feeds import read as door
from cift_models.feeds.canonical_files import read_canonical
from cift_models.feeds.instruments_file import OPTIONAL, REQUIRED
from cift_models.instruments import CALENDARS
from cift_models.schema import BARS, PROFILE, TABLES, rows_of
from cift_models.stores.ticks import ParquetTicks
from tests.processes import ROOT

TEXT = (ROOT / "docs" / "data.md").read_text()
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def dictionary() -> str:
    """The data dictionary as it must stand in the document."""
    out = []
    for table in (*TABLES.values(), BARS, PROFILE):
        key, time = ", ".join(table.key), f", ordered by {table.time}" if table.time else ""
        out += [f"**{table.name}** (key {key}{time})", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        out += [
            f"| `{c['name']}` | {c['dtype']}{' or null' if c['nullable'] else ''} | {c['unit']} | {c['meaning']} |" for c in rows_of(table)
        ]
        out.append("")
    return "\n".join(out)


def test_the_dictionary_is_schema_py() -> None:
    assert dictionary() in TEXT, f"docs/data.md must hold:\n{dictionary()}"


def listed(heading: str) -> set[str]:
    """First cells of the first table behind a line that holds `heading`."""
    rows = TEXT[TEXT.index(heading) :].split("|---|", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return {row.split("|")[1].strip().strip("`") for row in rows}


def test_the_lists_are_the_codes() -> None:
    assert listed("**Sessions.**") == set(CALENDARS)
    assert listed("`instruments.csv` beside the files") == {*REQUIRED, *OPTIONAL}
    reasons = listed("**Quarantine.**")
    assert set(quality.REASONS) <= reasons
    said_by_lean = set(re.findall(r"^    (\w+)  ", lean.__doc__ or "", re.MULTILINE))
    assert said_by_lean == {"suspicious", "sale_condition", "non_positive", "no_side"} and said_by_lean <= reasons
    assert set(re.findall(r"^### (\w+): ", TEXT, re.MULTILINE)) == set(door.FEEDS)


def test_the_examples_run_and_print_what_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed, ran = "", 0
    for kind, file, body in BLOCK.findall(TEXT):
        if kind == "csv":
            Path(file).write_text(body)
        elif kind == "python":
            assert printed == "", "what an example prints stands behind it"
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(body, "docs/data.md", "exec"), names)
            printed, ran = out.getvalue(), ran + 1
        elif kind == "text":
            assert printed == body
            printed = ""
        elif kind == "sh":
            ingest = [line.split()[3:] for line in body.splitlines() if line.startswith("cift ingest canonical")]
            for path in ingest[0]:
                (day,) = read_canonical(Path(path))
                ParquetTicks(tmp_path / "ingested").write_day(day, quality.check_day(day))
                assert not any(checked.counts for checked in quality.check_day(day).values())
    assert printed == "" and ran == 5
    ticks = ParquetTicks(tmp_path / "ingested")
    for symbol, n in (("AAPL", 5), ("BTCUSDT.USDM", 4)):
        (session,) = ticks.sessions([symbol])
        assert len(ticks.events(ticks.universe([symbol]), session)) == n
