"""`cift record`, `cift feed` and `cift replay --as-exchange` from outside: what they teach, and what they say when something is wrong."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

from flows.cli.guard import MOST_LINES
from tests.feed_made import made
from tests.processes import cift, free_port

pytestmark = pytest.mark.slow
"""Each test starts the command line as a process."""


@pytest.mark.parametrize("command", ["record", "feed", "replay"])
def test_help_teaches(command: str) -> None:
    from typer.testing import CliRunner

    from flows.cli.app import app

    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: cift {command} binance" in " ".join(result.output.split())


def _says(done: subprocess.CompletedProcess[str], *texts: str, code: int) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= MOST_LINES, done.stderr
    assert done.stdout == ""
    for text in texts:
        assert text in done.stderr


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["record", "kraken", "--symbols", "BTCUSDT", "--out", "x"], ["Unknown exchange 'kraken'", "cift record binance"]),
        (["record", "binance", "--out", "x"], ["Missing option '--symbols'"]),
        (["record", "binance", "--symbols", "BTC/USDT", "--out", "x"], ["BTC/USDT is no symbol of spot", "BTCUSDT,ETHUSDT"]),
        (["record", "binance", "--symbols", "BTCUSDT", "--market", "swap", "--out", "x"], ["Unknown market 'swap'", "spot, usdm, coinm"]),
        (["record", "binance", "--symbols", "BTCUSDT", "--out", "x", "--ws", "127.0.0.1:9"], ["--ws is '127.0.0.1:9'", "ws://HOST:PORT"]),
        (["record", "binance", "--symbols", "BTCUSDT", "--out", "x", "--flush", "0"], ["--flush is 0"]),
        (["record", "binance", "--symbols", "BTCUSDT", "--out", "x", "--backlog-mb", "0.1"], ["--backlog-mb"]),
        (["feed", "binance", "--to", "http://127.0.0.1:9"], ["--to is 'http://127.0.0.1:9'", "ws://127.0.0.1:3000/ticks"]),
        (["feed", "binance", "--session-hours", "0"], ["--session-hours is 0", "1 to 168"]),
        (["replay", "--as-exchange", "9000", "nowhere.gz"], ["There is no file", "nowhere.gz", "spot_btcusdt_20240808.gz"]),
        (["replay", "binance", "--as-exchange", "9000"], ["needs captures", "cift replay binance FILE..."]),
        (["replay", "lobster"], ["nothing to replay", "cift replay lobster FILE..."]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value,
)
def test_what_cannot_be_done_is_said_and_exits_2(tmp_path: Path, arguments: list[str], texts: list[str]) -> None:
    if "--out" in arguments:
        arguments = [str(tmp_path / "x") if a == "x" else a for a in arguments]
    _says(cift(tmp_path, *arguments), *texts, code=2)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("more", "texts"),
    [
        (["--speed", "-1"], ["--speed is -1"]),
        (["--fault", "explode=1"], ["--fault 'explode=1'", "disconnect=N"]),
        (["--market", "usdm"], ["holds messages that spot sends"]),
    ],
)
def test_what_an_exchange_cannot_be_is_said(tmp_path: Path, more: list[str], texts: list[str]) -> None:
    path = made(seconds=1).write(tmp_path)
    _says(cift(tmp_path, "replay", "binance", str(path), "--as-exchange", str(free_port()), *more), *texts, code=2)


def test_a_service_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = cift(tmp_path, "feed", "binance", "--to", f"ws://127.0.0.1:{free_port()}/ticks")
    _says(done, "No service answers", "cift serve", code=1)


def test_a_home_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "feed").write_text("")
    done = cift(tmp_path, "feed", "binance", "--to", "ws://127.0.0.1:3999/ticks")
    _says(done, str(tmp_path / "feed"), "File exists", "CIFT_HOME", code=1)


def test_a_second_feed_of_one_service_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feed").mkdir()
    with open(tmp_path / "feed" / "127.0.0.1_3999.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _says(cift(tmp_path, "feed", "binance", "--to", "ws://127.0.0.1:3999/ticks"), "Another feed of this home", code=2)


def test_an_exchange_that_is_not_there_is_waited_for_as_long_as_asked(tmp_path: Path) -> None:
    at = f"127.0.0.1:{free_port()}"
    asked = ["record", "binance", "--symbols", "BTCUSDT", "--out", str(tmp_path / "out"), "--seconds", "2"]
    done = cift(tmp_path, *asked, "--ws", f"ws://{at}", "--rest", f"http://{at}")
    assert done.returncode == 1 and "did not answer within 2 s" in done.stderr and "Traceback" not in done.stderr
    assert "asking again in" in done.stderr
