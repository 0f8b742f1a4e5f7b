"""The demo, killed in the middle and given again, ends in the release of a demo that was not (`make prove-models`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from tests.processes import ROOT, cift, environment

pytestmark = pytest.mark.proof


def release_name(home: Path) -> str:
    return orjson.loads((home / "challenger.json").read_bytes())["release"]


def test_killed_and_given_again(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = cift(whole, "demo", timeout_s=900)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n{done.stdout}")
    killed.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "demo"], cwd=ROOT, env=environment(killed),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 600
    while not list((killed / "models/checkpoints").glob("transformer/*/step.json")):
        assert process.poll() is None and time.monotonic() < until, "the demo ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {p: p.stat().st_mtime_ns for p in (killed / "models/checkpoints").glob("*/*/step.json")}
    done = cift(killed, "demo", timeout_s=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(p.stat().st_mtime_ns == at for p, at in finished.items()), "a finished step was done again"
    assert release_name(killed) == release_name(whole)
