"""`cift audit` from outside: exit codes, what is printed, what a leak looks like, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from cift_models.features import stream
from flows.cli import main
from flows.cli.audit import in_words
from tests.market import small_market
from tests.processes import cift
from tests.releases import make_home

SYMBOLS = ("--symbols", ",".join(small_market().universe.symbols))
FIRST, SECOND_DAY = (f"{s.day // 10_000}-{s.day // 100 % 100:02d}-{s.day % 100:02d}" for s in small_market().sessions)
DAY = ("--start", FIRST, "--end", FIRST)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small market of two sessions, and a release that learned from the first."""
    home = tmp_path_factory.mktemp("audit") / "home"
    make_home(home)
    return home


@pytest.fixture()
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line in this process: (exit code, stdout, stderr) of `cift audit ...`."""
    monkeypatch.setenv("CIFT_HOME", str(home))

    def audit(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cift", "audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return audit


def test_stored_sessions_are_clean_and_it_says_what_was_looked_at(run, home):
    code, out, err = run(*SYMBOLS, "--start", FIRST, "--end", SECOND_DAY, "--cuts", "8")
    assert code == 0, out + err
    lines = out.splitlines()
    assert lines[0].startswith(FIRST) and lines[4].startswith(SECOND_DAY) and lines[-1] == "Clean: nothing knows its future in 2 sessions."
    assert [line.split("  ")[1] for line in lines[1:4]] == ["features", "labels", "labels after 100 ms"]
    assert "3,600 rows of" in lines[1] and "8 cut" not in lines[0] and "4 arrival" in lines[1] and lines[1].endswith(": clean")
    assert err.startswith("[") and "Auditing" in err and "features 20240108: clean" in err
    assert not any((home / name).exists() for name in ("steps", "runs", "prefect", "features"))


def test_json_is_all_that_is_printed_and_the_seed_decides(run):
    code, out, _ = run(*SYMBOLS, *DAY, "--cuts", "9", "--seed", "3", "--json")
    report = orjson.loads(out)
    assert code == 0 and report["clean"] is True and (report["cuts"], report["seed"], report["release"]) == (9, 3, None)
    (session,) = report["sessions"]
    market = small_market()
    assert session["day"] == market.sessions[0].day and session["events"] == len(market.stream(0)) and session["clean"] is True
    features = session["audits"][0]
    assert features["what"] == "features" and features["probes"]["cut"] == 9 + 2 and features["leaks"] == []
    assert sum(features["places"].values()) == 9 and features["compared"] > features["rows"] * features["columns"]
    assert run(*SYMBOLS, *DAY, "--cuts", "9", "--seed", "3", "--json")[1] == out


def test_a_release_is_audited_with_its_symbols(run):
    code, out, err = run("--symbols", "AAA", *DAY, "--cuts", "8", "--release", "champion", "--json")
    assert code == 0, err
    session = orjson.loads(out)["sessions"][0]
    assert session["symbols"] == list(small_market().universe.symbols)
    assert [one["what"] for one in session["audits"]] == ["features", "labels", "labels after 100 ms", "models"]
    assert session["audits"][3]["columns"] > 20 and session["audits"][3]["probes"] == {"reach": 1, "cut": 2, "noise": 2}


def test_a_leak_exits_1_and_names_column_symbol_instant_and_size(run, monkeypatch):
    shipped = stream.build

    def leaky(universe, features, session, events):
        as_of, offsets, x, valid, why = shipped(universe, features, session, events)
        column = features.names.index("spread_ticks")
        x[:-1, 1, column] = x[1:, 1, column] + 0.5
        return as_of, offsets, x, valid, why

    monkeypatch.setattr(stream, "build", leaky)
    code, out, err = run(*SYMBOLS, *DAY, "--cuts", "16")
    assert code == 1 and "Traceback" not in err
    name = small_market().universe.symbols[1]
    told = [line for line in out.splitlines() if line.startswith("    ")]
    assert len(told) == 2 and told[0].strip().startswith(f"spread_ticks of {name} differs first at 2024-01-08 09:")
    assert "with its future" in told[0] and "found by" in told[1] and "at most" in told[1]
    assert ": 1 column not" in out and out.splitlines()[-1] == "Not clean: see the leaks above."
    code, out, _ = run(*SYMBOLS, *DAY, "--cuts", "16", "--json")
    leaks = orjson.loads(out)["sessions"][0]["audits"][0]["leaks"]
    assert code == 1 and orjson.loads(out)["clean"] is False
    assert [(leak["column"], leak["symbol"]) for leak in leaks] == [("spread_ticks", name)]
    opened = small_market().sessions[0].open
    assert opened < leaks[0]["as_of"] < leaks[0]["cut"] and leaks[0]["largest"] > 0 and leaks[0]["probes"]


def test_many_leaks_are_cut_short_in_words(run, monkeypatch):
    shipped = stream.build

    def leaky(universe, features, session, events):
        as_of, offsets, x, valid, why = shipped(universe, features, session, events)
        return as_of, offsets, x + np.float64(len(events)), valid, why

    monkeypatch.setattr(stream, "build", leaky)
    code, out, _ = run(*SYMBOLS, *DAY, "--cuts", "8")
    assert code == 1 and "more columns; --json lists all." in out and len(out.splitlines()) < 60


@pytest.mark.parametrize(
    ("arguments", "texts", "code"),
    [
        (["--symbols", "ZZZ", *DAY], ["Unknown symbol 'ZZZ'", "Stored are"], 2),
        (["--symbols", ",", *DAY], ["--symbols names no symbol"], 2),
        (["--symbols", "AAA", "--start", "2030-01-01", "--end", "2030-01-02"], ["No book of AAA", "stored days"], 2),
        (["--symbols", "AAA", "--start", SECOND_DAY, "--end", FIRST], ["ends before it starts"], 2),
        (["--symbols", "AAA", "--start", "soon", "--end", FIRST], ["--start is 'soon'"], 2),
        (["--symbols", "AAA", *DAY, "--cuts", "0"], ["--cuts"], 2),
        (["--symbols", "AAA", *DAY, "--seed", "-1"], ["--seed"], 2),
        (["--symbols", "ZZZ", *DAY, "--release", "champion"], ["does not know 'ZZZ'", "It knows AAA"], 2),
        (["--symbols", "AAA", *DAY, "--release", "0123456789"], ["No release '0123456789'"], 1),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else str(value),
)
def test_what_cannot_be_audited_is_said(run, arguments, texts, code):
    got, out, err = run(*arguments)
    said = "\n".join(line for line in err.splitlines() if not line.startswith("["))
    assert got == code and out == "" and "Traceback" not in err
    for text in texts:
        assert text in said, err


def test_help_teaches():
    from typer.testing import CliRunner

    from flows.cli.app import app

    text = " ".join(CliRunner().invoke(app, ["audit", "--help"]).output.split())
    for word in ("Example: cift audit --symbols AAPL,AMZN", "Exit 0", "arrival", "noise", "resume", "reach", "--release", "--seed"):
        assert word in text


def test_what_a_restart_or_a_label_changed_is_told_as_that():
    leak = {"column": "mid", "symbol": "S0", "as_of": 1, "cut": 10**9, "was": 1.5, "became": 2.5, "largest": 1.0, "rows": 3}
    first, second = in_words({**leak, "probes": {"resume": 2}})
    assert (
        "1.5 in one pass, 2.5 after a restart" in first and "out of a saved memory; found by resume (2) in 3 rows, by 1 at most" in second
    )
    first, second = in_words({**leak, "symbol": "", "column": "known_at", "was": 2e9, "became": 1e9, "probes": {"reach": 1}})
    assert first.startswith("known_at differs") and "reads 2,000,000,000 ns ahead, 1,000,000,000 ns were said" in first
    first, second = in_words({**leak, "probes": {"past": 2}})
    assert "1.5 with all of its past, 2.5 with the state alone that it left" in first and "only the books and halts stood" in second
    assert "no row with its future, 2.5 without" in in_words({**leak, "was": None, "largest": None, "probes": {"cut": 1, "resume": 1}})[0]


@pytest.mark.slow
def test_as_a_process_without_a_home(tmp_path):
    done = cift(tmp_path / "home", "audit", "--symbols", "AAA", *DAY)
    assert done.returncode == 2 and "Nothing is stored yet" in done.stderr and done.stdout == "" and "Traceback" not in done.stderr
