"""Real processes for tests: the command line, and servers that are awaited, stopped and, if they must be, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

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


@contextmanager
def serving(home: Path, release: str, timeout_s: float = 120) -> Iterator[str]:
    """The service as a process; yields its base URL, without the scheme."""
    port = free_port()
    log = home / f"service-{port}.log"
    command = [sys.executable, "-m", "serving", "--release", release, "--port", str(port)]
    with open(log, "w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + timeout_s
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the service did not come up:\n{log.read_text()[-3000:]}")
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        stop(process)


def stop(process: subprocess.Popen, wait_s: float = 15) -> None:
    """SIGINT, then, for what does not listen, SIGKILL to its whole group."""
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
    process.wait(5)
