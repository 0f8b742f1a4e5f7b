"""Real processes for tests: the command line, and servers that are awaited, stopped and, if they must be, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's, without its CIFT_ settings, with a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CIFT_", "PREFECT_", "BENTOML_"))}
    return {**kept, "CIFT_HOME": str(home), "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **more}


def cift(home: Path, *arguments: str, timeout_s: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `cift` to its end."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(home, **more), capture_output=True, text=True, timeout=timeout_s)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def stop(process: subprocess.Popen, wait_s: float = 15) -> int:
    """SIGINT, then, for what does not listen, SIGKILL to its whole group; returns the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return process.wait(5)
