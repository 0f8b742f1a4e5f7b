"""`make up-local`: servers of one home that are started once, found again, kept apart from other processes, and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import up_local
from scripts.local_servers import STOP_S, ClickHouse, QuestDB, Redis, Valkey, free_port
from tests.integration.test_local_servers import ask
from tests.processes import ROOT, environment

pytestmark = pytest.mark.slow

KINDS = {kind.name: kind for kind in (QuestDB, ClickHouse, Redis, Valkey)}
NAMES = ["questdb", "clickhouse", "valkey"]


class Local:
    """The command, for one home and three free ports."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = dict(zip(NAMES, {free_port() for _ in range(30)}, strict=False))
        self.more = {"ONLINE": "valkey", "INFRA_QUESTDB_PORT": str(self.ports["questdb"])}
        self.more |= {"INFRA_CLICKHOUSE_PORT": str(self.ports["clickhouse"]), "INFRA_REDIS_PORT": str(self.ports["valkey"])}

    def __call__(self, what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/up_local.py", what]
        where = environment(self.home, **self.more)
        return subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, timeout=120)

    def known(self, name: str) -> dict:
        return json.loads((self.home / "servers" / name / "up.json").read_text())

    def server(self, name: str):
        return KINDS[name](self.home / "servers" / name, self.known(name)["ports"])


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path / "home")
    yield made
    made("down")


def gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_up_is_up_once_keeps_what_it_stores_and_down_stops_it(local: Local) -> None:
    first = local("up")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [
        f"export CIFT_QUESTDB_URL=http://127.0.0.1:{local.ports['questdb']}",
        f"export CIFT_CLICKHOUSE_URL=clickhouse://127.0.0.1:{local.ports['clickhouse']}",
        f"export CIFT_REDIS_URL=redis://127.0.0.1:{local.ports['valkey']}/0",
    ]
    assert all(f"{name:<10} is up after" in first.stderr for name in NAMES)
    known = {name: local.known(name) for name in NAMES}
    assert all(local.server(name).answers() for name in NAMES)
    ask(local.server("questdb"), "create table kept as (select 7 x from long_sequence(1))")
    ask(local.server("clickhouse"), "create table kept (x Int64) engine = MergeTree order by x")
    ask(local.server("clickhouse"), "insert into kept values (7)")

    again = local("up")
    assert again.stdout == first.stdout and again.stderr.count("is up already") == 3 and again.returncode == 0
    assert {name: local.known(name) for name in NAMES} == known

    # One that died is started again, the others stay.
    os.kill(known["clickhouse"]["pid"], signal.SIGKILL)
    assert gone(known["clickhouse"]["pid"])
    third = local("up")
    assert third.stdout == first.stdout and third.stderr.count("is up already") == 2 and "clickhouse is up after" in third.stderr

    pids = [local.known(name)["pid"] for name in NAMES]
    begin = time.monotonic()
    down = local("down")
    assert time.monotonic() - begin < STOP_S, "in order, not by SIGKILL"
    assert down.returncode == 0 and down.stdout == "" and down.stderr.count("is down") == 3 and all(gone(pid) for pid in pids)
    assert local("down").stderr.count("is not up") == 3
    assert local("up").returncode == 0
    assert "7" in ask(local.server("questdb"), "select x from kept") and "7" in ask(local.server("clickhouse"), "select x from kept")


def test_a_port_that_is_taken_is_named_and_the_others_come_up(local: Local, redis_server) -> None:
    local.more["INFRA_REDIS_PORT"] = str(redis_server.ports["redis"])
    done = local("up")
    assert done.returncode == 1 and done.stdout.count("export") == 2 and "CIFT_REDIS_URL" not in done.stdout
    assert f"something else listens on 127.0.0.1:{redis_server.ports['redis']}. Stop that, or set INFRA_REDIS_PORT" in done.stderr
    assert "eval" not in done.stderr and redis_server.answers()


def test_a_number_that_went_to_another_process_is_left_alone(local: Local, tmp_path: Path) -> None:
    place = local.home / "servers" / "valkey"
    place.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            (place / "up.json").write_text(json.dumps({"pid": other.pid, "ports": {"redis": 1}}))
            down = local("down")
            assert "valkey     is not up" in down.stderr and other.poll() is None and not (place / "up.json").exists()
        finally:
            other.kill()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ONLINE": "memcached"}, "expected redis or valkey"),
        ({"INFRA_QUESTDB_PORT": "none"}, "must be numbers"),
        ({"CIFT_HOEM": "x"}, "Did you mean CIFT_HOME"),
    ],
)
def test_what_is_asked_wrongly_starts_nothing(more: dict[str, str], says: str, local: Local) -> None:
    local.more |= more
    done = local("up")
    assert done.returncode == 1 and says in done.stderr and done.stdout == "" and not (local.home / "servers").exists()
    local.more = {"ONLINE": "valkey"}


def test_what_is_up_is_written_down_whole_or_not_at_all(tmp_path: Path) -> None:
    """A process that dies while it writes leaves no half of a file: nobody could find, or stop, the server then."""
    code = (
        "import os, sys, pathlib\nfrom scripts import up_local\nreplace = os.replace\n"
        "def shown(source, target):\n"
        "    print(target, os.path.exists(target), open(source).read())\n"
        "    replace(source, target)\n"
        "os.replace = shown\n"
        "sys.exit(up_local.up(pathlib.Path(sys.argv[1]), ['valkey'], {'valkey': int(sys.argv[2])}))\n"
    )
    port, place = free_port(), tmp_path / "valkey"
    command = [sys.executable, "-c", code, str(tmp_path), str(port)]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    try:
        known = (place / "up.json").read_text()
        assert done.returncode == 0 and done.stdout.splitlines()[0] == f"{place / 'up.json'} False {known}"
        assert json.loads(known)["ports"] == {"redis": port}
    finally:
        up_local.down(tmp_path)
    assert not (place / "up.json").exists()
