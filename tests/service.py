"""The service for tests: `python -m serving` as a process, which can be restarted, killed and asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.processes import ROOT, environment, free_port, stop


@dataclass
class Service:
    """`python -m serving` as a process of its own group, on a port that stays the same over restarts."""

    home: Path
    release: str = "champion"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def log(self) -> Path:
        return self.home / f"service-{self.port}.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ticks(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ticks"

    def start(self, timeout_s: float = 120, after_pid: int = 0) -> None:
        """Start, and wait until it is ready. Raises AssertionError with the log's tail where it is not."""
        command = [sys.executable, "-m", "serving", "--release", self.release, "--port", str(self.port)]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(self.home), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.wait(timeout_s, after_pid)

    def wait(self, timeout_s: float = 120, after_pid: int = 0) -> None:
        """Wait until a process other than `after_pid` says 200 at /readyz."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200 and self.get("/model").json()["pid"] != after_pid:
                    return
            except httpx.HTTPError:
                pass
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the service did not come up:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self, *also: int) -> None:
        """kill -9 of the supervisor, and of other processes (its worker's group is its own)."""
        assert self.process is not None
        for pid in (*also, self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGINT, and SIGKILL for what does not listen; returns the exit code."""
        assert self.process is not None
        return stop(self.process)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)


@contextmanager
def serving(home: Path, release: str = "champion") -> Iterator[Service]:
    """A service that is up, and is stopped at the end."""
    service = Service(home, release)
    try:
        service.start()
        yield service
    finally:
        if service.process is not None:
            service.stop()
