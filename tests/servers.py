"""Real servers for tests: each a process in a folder, on free ports, that can be killed and started again.

    with servers.questdb(tmp_path) as server:
        server.url, server.ports, server.process, server.folder
        server.kill()       # -9
        server.start()      # the same folder and ports

How each is got and started is said in scripts/local_servers.py. A server that this machine does not have is a skip with its reason, which
CI=true turns into a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts import local_servers
from scripts.local_servers import ClickHouse, QuestDB, Redis, Server, Valkey

__all__ = ["ClickHouse", "QuestDB", "Redis", "Server", "Valkey", "clickhouse", "questdb", "redis", "running", "valkey"]


@contextmanager
def running(kind: type[Server], folder: Path, **how: Any) -> Iterator[Any]:
    """A server that answers, and is stopped at the end, or killed with a test run that is; `how` is password, read_only or options."""
    server = kind(Path(folder), local_servers.free_ports(kind), tied=True, **how)
    try:
        try:
            server.start()
        except local_servers.Missing as missing:
            pytest.skip(str(missing))
        yield server
    finally:
        server.stop()


def questdb(folder: Path, **how: Any):
    """QuestDB: url http://127.0.0.1:P, ports http, pg, health. Ready in 3 to 5 s."""
    return running(QuestDB, folder, **how)


def clickhouse(folder: Path, **how: Any):
    """ClickHouse 18.16: url clickhouse://127.0.0.1:P, ports native, http. Ready in 0.3 s, stops in 2 s."""
    return running(ClickHouse, folder, **how)


def redis(folder: Path, **how: Any):
    """Redis 7: url redis://127.0.0.1:P/0, port redis. Keeps nothing over a restart unless options say `appendonly`."""
    return running(Redis, folder, **how)


def valkey(folder: Path, **how: Any):
    """Valkey 9, otherwise as `redis`."""
    return running(Valkey, folder, **how)
