"""The command line from outside: what is said, where, and with which exit code; never a stack trace."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from cift_models import compiled
from cift_models.errors import CiftError, Conflict, EmptyRange, NotStored
from cift_models.files import canonical_json
from cift_models.settings import Settings, get_settings
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import open_ticks
from flows.cli import quality, stored
from flows.cli.app import app
from flows.cli.guard import MOST_LINES, words
from tasks import clean, runs
from tests import servers
from tests.lobster_made import MESSAGES, lobster_made
from tests.market import small_market, store_small_market
from tests.processes import ROOT, cift, environment

pytestmark = pytest.mark.slow
"""Each test starts the command line as a process."""

COMMANDS = [command.name for command in app.registered_commands]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a small market is stored."""
    home = tmp_path_factory.mktemp("cli") / "home"
    return store_small_market(home)


def _says(done: subprocess.CompletedProcess[str], *texts: str, code: int) -> None:
    """One message of a few lines on stderr, nothing on stdout, no trace."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= MOST_LINES, done.stderr
    assert done.stdout == ""
    for text in texts:
        assert text in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: cift {command}" in " ".join(result.output.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cift', '--help']\n"
        "import atexit\n"
        "heavy = {'prefect', 'mlflow', 'torch', 'polars', 'numba', 'numpy', 'pydantic', 'rich.console'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "from flows.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_help_answers_at_once(tmp_path: Path) -> None:
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert cift(tmp_path, "--help").returncode == 0
        took.append(time.perf_counter() - began)
    assert min(took) < 1.0  # 0.27 s on an idle machine; importing Prefect alone takes 1.3 s


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["train", "--symbols", "ZZZ", "--start", "2024-01-08", "--end", "2024-01-08"], ["Unknown symbol 'ZZZ'", "Stored are"]),
        (["train", "--symbols", "AAA", "--start", "2030-01-01", "--end", "2030-01-02"], ["No book of AAA", "stored days: 20240108"]),
        (["train", "--symbols", "AAA", "--start", "2024-01-09", "--end", "2024-01-08"], ["ends before it starts"]),
        (["train", "--symbols", "AAA", "--start", "2024-01-08", "--end", "2024-01-08", "--models", "lienar"], ["models", "'linear'"]),
        (["train", "--symbols", "AAA", "--start", "2024-01-08", "--end", "2024-01-08", "--epochs", "nan"], ["valid integer"]),
        (
            ["train", "--symbols", "AAA", "--start", "2024-01-08", "--end", "2024-01-08", "--epochs", "0"],
            ["epochs", "greater than or equal"],
        ),
        (["train", "--symbols", "AAA", "--start", "nan", "--end", "2024-01-08"], ["--start is 'nan'", "2012-06-21"]),
        (["train", "--symbols", ",", "--start", "2024-01-08", "--end", "2024-01-08"], ["symbols", "at least 1 item"]),
        (["data-prep", "--symbols", "ZZZ", "--start", "2024-01-08", "--end", "2024-01-08"], ["Unknown symbol 'ZZZ'"]),
        (["ingest", "lobster", "nowhere.zip"], ["no file nowhere.zip"]),
        (["ingest", "ftse", "pyproject.toml"], ["feed", "'lobster'"]),
        (["predict", "--start", "2024-01-09", "--end", "2024-01-08"], ["ends before it starts"]),
        (["eval", "--split", "validation"], ["no split 'validation'", "Expected test"]),
        (["seed", "--minutes", "nan"], ["valid integer"]),
        (["trian"], ["No such command 'trian'"]),
        (["train", "--symbol", "AAA"], ["No such option: --symbol"]),
        (["clean", "--keep", "-1"], ["--keep"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value,
)
def test_what_cannot_be_done_is_said_and_exits_2(home: Path, arguments: list[str], texts: list[str]) -> None:
    _says(cift(home, *arguments), *texts, code=2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["eval"], "Nothing has been trained"),
        (["eval", "--json"], "Nothing has been trained"),
        (["promote", "challenger", "--force", "why not"], "no challenger yet"),
        (["promote", "0123456789"], "No release '0123456789'"),
        (["rollback"], "Nothing is served yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_is_not_there_is_said_and_exits_1(home: Path, arguments: list[str], text: str) -> None:
    _says(cift(home, *arguments), text, code=1)


def test_a_misspelt_setting_is_named_with_the_closest(home: Path) -> None:
    _says(cift(home, "status", CIFT_HOEM="x"), "There is no setting CIFT_HOEM", "Did you mean CIFT_HOME?", code=2)


def test_doctor_says_what_is_wrong_with_the_settings_and_goes_on(home: Path) -> None:
    done = cift(home, "doctor", "--json", CIFT_HOEM="x")
    report = orjson.loads(done.stdout)
    assert done.returncode == 1 and "CIFT_HOEM" in report["problems"][0]["what"]
    assert len(report["settings"]) > 10 and report["packages"]


def test_doctor_is_content_with_an_empty_home_and_leaves_it_empty(tmp_path: Path) -> None:
    done = cift(tmp_path / "home", "doctor")
    assert done.returncode == 0 and "Nothing is wrong." in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "home").exists()


def test_doctor_names_a_server_that_does_not_answer(tmp_path: Path) -> None:
    done = cift(tmp_path, "doctor", "--json", CIFT_MLFLOW_URI="http://user:hush@127.0.0.1:1")
    assert done.returncode == 1 and "127.0.0.1:1" in orjson.loads(done.stdout)["problems"][0]["what"]


def test_status_of_an_empty_home_and_of_a_stored_market(home: Path, tmp_path: Path) -> None:
    empty = orjson.loads(cift(tmp_path / "home", "status", "--json").stdout)
    assert (empty["stored"], empty["runs"], empty["releases"], empty["champion"], empty["challenger"]) == ([], [], [], None, None)
    shown = orjson.loads(cift(home, "status", "--json").stdout)
    market = small_market()
    days = [session.day for session in market.sessions]
    assert [(one["symbol"], one["first"], one["last"], one["sessions"]) for one in shown["stored"]] == [
        (symbol, days[0], days[-1], len(days)) for symbol in market.universe.symbols
    ]
    assert shown["stored"][0]["feed"] == "simulate" and all(one["rows"] > 0 for one in shown["stored"])
    text = cift(home, "status")
    assert text.returncode == 0 and f"{days[0]}" in text.stdout


def test_a_damaged_zip_is_one_message_although_a_task_raises_it(tmp_path: Path) -> None:
    broken = tmp_path / "AAPL_2012-06-21_34200000_57600000_message_10.zip"
    broken.write_bytes(b"PK\x03\x04 and then nothing that a zip would hold")
    done = cift(tmp_path / "home", "ingest", "lobster", str(broken))
    message = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert done.returncode == 2 and "Traceback" not in done.stderr and 1 <= len(message) <= MOST_LINES, done.stderr
    assert message[0].startswith("cift: ") and broken.name in message[0]


def test_what_was_ingested_is_said_though_another_file_failed(tmp_path: Path) -> None:
    days = ("2012-06-20", "2012-06-21", "2012-06-22")
    files = [lobster_made(tmp_path / f"{day}.zip", stem=f"TEST_{day}_34200000_57600000") for day in days]
    cut = files[1].read_bytes()[:300]
    files[1].write_bytes(cut)
    done = cift(tmp_path / "home", "ingest", "lobster", *map(str, files))
    assert done.returncode == 1, done.stderr  # 2 would say that nothing was done
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:2]] == ["TEST 20120620", "TEST 20120622"]
    assert "2012-06-21.zip is damaged" in done.stderr and "2012-06-20" not in done.stderr.rpartition("cift: ")[2]
    as_json = cift(tmp_path / "home", "ingest", "lobster", *map(str, files), "--json")
    assert [(one["file"], one["again"]) for one in orjson.loads(as_json.stdout)] == [("2012-06-20.zip", True), ("2012-06-22.zip", True)]
    assert as_json.returncode == 2
    # Two failures, and a file that is new: what each of them says.
    files[2].write_bytes(files[2].read_bytes()[:200])
    lobster_made(files[0], MESSAGES.replace("34201.1,5,0,10,", "34201.1,5,0,15,"), stem="TEST_2012-06-20_34200000_57600000")
    both = cift(tmp_path / "home", "ingest", "lobster", *map(str, files))
    assert both.returncode == 1 and both.stdout.startswith("TEST 20120620")
    assert all(said in both.stderr for said in ("2 recordings could not be ingested", "2012-06-21.zip", "2012-06-22.zip"))


def test_a_backfill_that_fails_says_what_ran_and_what_is_still_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "home"))
    files = [lobster_made(tmp_path / f"{day}.zip", stem=f"TEST_2012-06-{day}_34200000_57600000") for day in (20, 21)]
    messages = MESSAGES.splitlines()
    lobster_made(files[1], "\n".join([*messages[:-1], "never" + messages[-1]]) + "\n", stem="TEST_2012-06-21_34200000_57600000")
    asked = ("--start", "2012-06-01", "--end", "2012-06-30", "--symbols", "TEST")
    done = cift(tmp_path / "home", "backfill", "lobster", *map(str, files), *asked)
    assert done.returncode == 1, done.stderr
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()[:4]] == [
        "20120620 ingest   20.zip: done now",
        "20120621 ingest   21.zip: not done",
        "20120620 features TEST: not done",
        "20120621 features TEST: not done",
    ]
    assert done.stdout.splitlines()[-1] == "1 of 4 steps ran; 3 are still to do, the others stand as they are."
    assert "21.zip" in done.stderr.rpartition("cift: ")[2]


def test_what_nobody_expected_is_one_line_and_a_traceback_in_a_file(tmp_path: Path) -> None:
    code = "from flows.cli.guard import guarded\ndef run(): raise KeyError('a\\nb')\nguarded(run)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(tmp_path / "home"))
    (log,) = (tmp_path / "home" / "logs").glob("*.log")
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(log) in done.stderr and len(done.stderr.splitlines()) == 2
    assert "Traceback" in log.read_text() and "KeyError" in log.read_text()


def test_a_line_is_folded_where_a_width_is_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli.terminal import say

    text = (
        "adds: AAPL R2 gain in [+0.0136, +0.0216]; AMZN R2 gain in [-0.0070, +0.0150] at 95 %; GOOG, which says: `cift certify` makes one"
    )
    monkeypatch.setenv("COLUMNS", "62")
    say(text, 6, "  - ")
    folded = capsys.readouterr().out.splitlines()
    assert len(folded) == 3 and max(map(len, folded)) <= 62 and all(line.startswith(" " * 6) for line in folded[1:])
    assert all(line.count("[") == line.count("]") and line.count("`") % 2 == 0 and "%" not in line[:7] for line in folded)
    assert " ".join(line.strip() for line in folded) == f"- {text}"
    monkeypatch.delenv("COLUMNS")
    say(text, 6, "  - ")
    assert capsys.readouterr().out == f"  - {text}\n"


def test_a_long_message_is_cut_and_its_hint_is_kept() -> None:
    text = words(CiftError("\n".join(f"line {i}" for i in range(40)), hint="Do this.\nThen that."))
    assert len(text.splitlines()) == MOST_LINES and text.startswith("cift: line 0\n") and text.endswith("Then that.")
    assert "33 lines more" in text
    assert words(EmptyRange("No days.", hint="Ask for others.")) == "cift: No days.\n      Ask for others."


@pytest.mark.parametrize("script", ["train_models.py", "seed_market_data.py"])
def test_scripts_run_from_a_checkout_that_is_not_installed(script: str, tmp_path: Path) -> None:
    env = {k: v for k, v in environment(tmp_path / "home").items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, f"scripts/{script}", "--help"], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and f"python scripts/{script}" in done.stdout
    if script == "train_models.py":
        nothing = subprocess.run(
            [sys.executable, f"scripts/{script}", "--mode", "train"], capture_output=True, text=True, cwd=ROOT, env=env
        )
        _says(nothing, "Nothing is stored", code=1)


# What `cift clean` keeps and removes.


def _step(home: Path, key: str) -> str:
    (home / key).mkdir(parents=True)
    (home / key / "step.json").write_text('{"files": {}, "facts": {}}')
    (home / key / "data").write_bytes(b"x" * 100)
    return key


def _release(home: Path, content: bytes) -> str:
    from cift_models.files import sha256_bytes

    name = sha256_bytes(content)
    (home / "releases" / name).mkdir(parents=True)
    (home / "releases" / name / "manifest.json").write_bytes(content)
    return name


@pytest.fixture()
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """Five runs with a release each: the first two were served in turn, the third is the challenger; steps are shared by neighbours."""
    monkeypatch.setenv("CIFT_HOME", str(tmp_path))
    names = []
    for i in range(5):
        shared = _step(tmp_path, f"steps/features/{i:02d}")
        name = _release(tmp_path, f"release {i}".encode())
        time.sleep(0.002)
        own = [_step(tmp_path, f"models/checkpoints/linear/{i:02d}"), _step(tmp_path, f"steps/judge/{i:02d}")]
        before = [f"steps/features/{i - 1:02d}"] if i else []
        runs.write_run(
            flow="train", params={}, symbols=["AAA"], days=[20240108], judged=own[1], release=name, mlflow_run="m", version="1",
            steps=[shared, *before, *own],
        )  # fmt: skip
        names.append(name)
    _step(tmp_path, "work/stopped")
    _step(tmp_path, "steps/features/.half")
    releases = Releases(tmp_path)
    releases.compare_and_set(0, names[0])
    releases.compare_and_set(1, names[1])
    releases.set_challenger(names[2])
    return tmp_path, names


def test_clean_keeps_what_is_served_what_was_and_the_last(history: tuple[Path, list[str]]) -> None:
    home, names = history
    assert clean.kept_releases(home, 0) == set(names[:3])
    assert clean.kept_releases(home, 1) == {*names[:3], names[4]}
    removed = clean.remove(home, 1)
    assert {p.name for p in removed["releases"]} == {names[3]}
    left = {str(p.parent.relative_to(home)) for p in home.rglob("step.json")}
    # Features 03 are read by run 4 too, which stays.
    assert left == {
        *(f"steps/features/{i:02d}" for i in (0, 1, 2, 3, 4)),
        *(f"models/checkpoints/linear/{i:02d}" for i in (0, 1, 2, 4)),
        *(f"steps/judge/{i:02d}" for i in (0, 1, 2, 4)),
    }
    assert sum(removed["work"].values()) > 100 and len(runs.all_runs()) == 5
    assert clean.remove(home, 1) == {kind: {} for kind in clean.FOLDERS}
    judged = [runs.judged_step(run) is not None for run in runs.all_runs()]
    assert judged == [True, True, True, False, True]


def test_clean_in_words_and_its_dry_run_removes_nothing(history: tuple[Path, list[str]]) -> None:
    home, names = history
    dry = cift(home, "clean", "--keep", "0", "--dry-run")
    assert dry.returncode == 0 and "2 would go" in dry.stdout and (home / "releases" / names[4]).is_dir()
    done = cift(home, "clean", "--keep", "0")
    assert "Freed" in done.stdout and not (home / "releases" / names[4]).exists()
    assert [line.split()[-2:] for line in dry.stdout.splitlines()[:-1]] == [line.split()[-2:] for line in done.stdout.splitlines()[:-1]]


def test_clean_waits_for_no_run_and_runs_do_not_wait_for_each_other(history: tuple[Path, list[str]]) -> None:
    home, _ = history
    with runs.going_on(), runs.going_on(), pytest.raises(Conflict, match="going on"):
        clean.remove(home, 0)
    assert clean.remove(home, 0)["releases"]


def test_eval_prints_the_metrics_of_the_latest_run_and_nothing_else(history: tuple[Path, list[str]]) -> None:
    home, _ = history
    (home / "steps/judge/04/metrics.json").write_bytes(b'{"as": "written"}\n')
    done = cift(home, "eval", "--json")
    assert (done.returncode, done.stdout) == (0, '{"as": "written"}\n')


def test_runs_are_numbered_and_a_damaged_record_is_named(history: tuple[Path, list[str]]) -> None:
    home, names = history
    assert [(run.number, run.release) for run in runs.all_runs()] == list(enumerate(names, 1))
    (home / "runs" / "000009-train.json").write_text('{"number": 9}')
    with pytest.raises(CiftError, match=r"000009-train\.json"):
        runs.all_runs()


@pytest.mark.parametrize(
    "command",
    [
        "evaluate",
        "train",
        "data_prep",
        "predict",
        "seed",
        "ingest",
        "backfill",
        "quality",
        "sql",
        "migrate",
        "demo",
        "status",
        "clean",
        "audit",
        "bars",
    ],
)
def test_prefect_is_imported_after_its_environment_is_set(command: str) -> None:
    """Prefect reads its settings at import: one that came earlier would write to the user's own home and log to the terminal."""
    code = (
        "import sys, flows.settings, flows.cli.terminal\n"
        f"from flows.cli.{command} import *\n"
        "import flows.cli.result, flows.cli.stored, flows.cli.options, flows.parameters, tasks.runs, tasks.clean, tasks.step\n"
        "print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_a_run_says_only_what_is_ours_and_eval_finds_it(home: Path) -> None:
    market = small_market()
    first, last = (f"{day // 10_000}-{day // 100 % 100:02d}-{day % 100:02d}" for day in (market.sessions[0].day, market.sessions[-1].day))
    symbols = ",".join(market.universe.symbols)
    trained = cift(home, "train", "--symbols", symbols, "--start", first, "--end", last, "--models", "queue_imbalance")
    assert trained.returncode == 0, trained.stderr
    assert [line for line in trained.stderr.splitlines() if not line.startswith("[") and line != compiled.WORD] == []
    metrics = Path(next(line.split(maxsplit=1)[1] for line in trained.stdout.splitlines() if line.startswith("Metrics:")))
    for arguments in ([], ["--symbols", symbols], ["--start", first, "--end", last]):
        assert cift(home, "eval", "--json", *arguments).stdout == metrics.read_text()
    status = orjson.loads(cift(home, "status", "--json").stdout)
    assert len(status["runs"]) == 1  # it was found, not trained again
    (run,), (release,) = status["runs"], status["releases"]
    card = orjson.loads((home / run["gated"] / "card.json").read_bytes())
    assert run["verdict"] == release["verdict"] == {"verdict": "held", "reason": card["reasons"][0]}
    said = f"held: {card['reasons'][0]}"
    assert [line.strip() for line in cift(home, "status").stdout.splitlines()].count(said) == 2
    # Judged again, the release has another verdict; the run keeps the one that it ended with. Then one is damaged, the other cleaned away.
    kept = home / "verdicts" / f"{run['release']}.json"
    kept.write_bytes(canonical_json({**card, "reasons": ["seen again"]}))
    status = orjson.loads(cift(home, "status", "--json").stdout)
    assert status["releases"][0]["verdict"]["reason"] == "seen again" and status["runs"][0]["verdict"]["reason"] == card["reasons"][0]
    kept.write_bytes(b"{")
    (home / run["gated"] / "card.json").unlink()
    status = orjson.loads(cift(home, "status", "--json").stdout)
    assert status["releases"][0]["verdict"]["verdict"] == "unreadable" and status["runs"][0]["verdict"] is None
    shown = cift(home, "status")
    assert shown.returncode == 0 and "no verdict" in shown.stdout and "unreadable: This is no verdict" in shown.stdout


def test_the_place_that_is_named_is_the_one_that_the_settings_name(tmp_path: Path) -> None:
    here = Settings(home=tmp_path)
    there = Settings(home=tmp_path, questdb_url="http://ticks:9000", clickhouse_url="clickhouse://rows:9000/team")
    assert stored.ticks_place(here) == f"below {tmp_path}" and stored.ticks_place(there) == "in QuestDB at ticks:9000"
    assert stored.rows_place(here, "predictions/a/b") == f"{tmp_path}/predictions/a/b/data.parquet"
    assert stored.rows_place(there, "predictions/a/b") == "predictions/a/b in ClickHouse at rows:9000"
    text = " ".join(cift(tmp_path, "predict", "--help").stdout.split())
    assert "ClickHouse where CIFT_CLICKHOUSE_URL names one" in text and "CIFT_HOME/predictions" in text


@pytest.mark.slow
def test_what_is_not_stored_is_not_stored_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.questdb(tmp_path / "questdb") as server:
        monkeypatch.setenv("CIFT_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("CIFT_QUESTDB_URL", server.url)
        open_ticks(get_settings()).migrate()  # type: ignore[attr-defined]
        where = f"Nothing is stored in QuestDB at {server.url.removeprefix('http://')}."
        for call in (quality.quality, lambda: stored.fill(None, None, None)):
            with pytest.raises(NotStored, match=re.escape(where)):
                call()
