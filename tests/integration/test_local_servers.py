"""The servers of the tests: they start on ports of their own, die, come back with what they had, ask for passwords, refuse writes."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from scripts import local_servers
from tests import servers
from tests.processes import ROOT

pytestmark = pytest.mark.slow


def ask_questdb(server: servers.Server, query: str, password: str = "") -> str:
    request = urllib.request.Request(f"{server.url}/exec?query={urllib.parse.quote(query)}")
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{server.user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"


def ask_clickhouse(server: servers.Server, query: str, password: str = "") -> str:
    user = urllib.parse.urlencode({"user": server.user, "password": password})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['http']}/?{user}", query.encode(), timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"


def ask_redis(server: servers.Server, *lines: str, password: str = "") -> str:
    with socket.create_connection(("127.0.0.1", server.ports["redis"]), 10) as asked:
        answer = ""
        for line in [*([f'AUTH "{password}"'] if password else []), *lines]:
            asked.sendall(line.encode() + b"\r\n")
            answer = asked.recv(4096).decode()
        return answer


def ask(server: servers.Server, question: str, password: str = "") -> str:
    how = {"questdb": ask_questdb, "clickhouse": ask_clickhouse}.get(server.name, ask_redis)
    return how(server, question, password=password)


WRITES = {
    "questdb": ["create table kept as (select 7 x from long_sequence(1))"],
    "clickhouse": ["create table kept (x Int64) engine = MergeTree order by x", "insert into kept values (7)"],
    "redis": ["SET kept 7"],
    "valkey": ["SET kept 7"],
}
READ = {"questdb": "select x from kept", "clickhouse": "select x from kept", "redis": "GET kept", "valkey": "GET kept"}
REFUSAL = {"questdb": "permission", "clickhouse": "readonly", "redis": "readonly", "valkey": "readonly"}
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def durable(name: str) -> dict[str, str]:
    return DURABLE if name in ("redis", "valkey") else {}


@pytest.mark.parametrize("name", WRITES)
def test_a_killed_server_comes_back_on_its_ports_with_what_it_had(name: str, tmp_path: Path) -> None:
    with getattr(servers, name)(tmp_path / name, options=durable(name)) as server:
        url, first = server.url, server.process
        for write in WRITES[name]:
            ask(server, write)
        server.kill()
        assert first.poll() == -9 and not server.answers()
        server.start()
        assert server.url == url and server.process is not first
        until = time.monotonic() + 10
        while "7" not in (found := ask(server, READ[name])) and time.monotonic() < until:
            time.sleep(0.05)
        assert "7" in found
    assert server.process.poll() is not None and not server.answers()


@pytest.mark.parametrize("name", WRITES)
def test_a_password_is_asked_for(name: str, tmp_path: Path) -> None:
    with getattr(servers, name)(tmp_path / name, password="let me in") as server:
        question, answer = ("PING", "PONG") if name in ("redis", "valkey") else ("select 1", "1")
        for wrong in ("", "let me out"):
            refused = ask(server, question, wrong)
            assert answer not in refused.split() and any(w in refused for w in ("401", "NOAUTH", "assword")), refused
        assert answer in ask(server, question, "let me in")
        assert "let me in" not in " ".join(map(str, server.process.args)) and "let me in" not in server.log.read_text()


@pytest.mark.parametrize("name", WRITES)
def test_a_read_only_server_refuses_writes(name: str, tmp_path: Path) -> None:
    with getattr(servers, name)(tmp_path / name, read_only=True) as server:
        refused = ask(server, WRITES[name][0]).lower()
        assert REFUSAL[name] in refused, refused
        assert ask(server, "PING" if name in ("redis", "valkey") else "select 1")


def test_the_fixtures_answer(questdb_server, clickhouse_server, redis_server, valkey_server) -> None:
    for server in (questdb_server, clickhouse_server, redis_server, valkey_server):
        assert server.answers() and server.process.poll() is None


def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        servers.redis(tmp_path / "first") as taken,
        pytest.raises(local_servers.NotStarted, match=r"something else listens on 127\.0\.0\.1:"),
    ):
        servers.Redis(tmp_path / "second", taken.ports).start()
    wrong = servers.Redis(tmp_path / "third", taken.ports, options={"no-such-directive": "1"})
    with pytest.raises(local_servers.NotStarted, match=r"(?s)redis ended with 1.*no-such-directive"):
        wrong.start()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_server_ends_with_a_test_run_that_is_killed(restarted: bool, tmp_path: Path) -> None:
    code = f"""
import sys, time
from tests import servers
from tests.processes import ROOT
with servers.redis({str(tmp_path / "redis")!r}) as server:
    if {restarted}:
        server.kill()
        server.start()
    print(server.ports["redis"], flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        server = servers.Redis(tmp_path / "redis", {"redis": int(run.stdout.readline())})
        assert server.answers()
        run.kill()
    until = time.monotonic() + 10
    while server.answers() and time.monotonic() < until:
        time.sleep(0.02)
    left = server.answers()
    if left:
        with socket.create_connection(("127.0.0.1", server.ports["redis"]), 5) as asked:
            asked.sendall(b"SHUTDOWN NOSAVE\r\n")
    assert not left


def test_a_jar_that_is_not_the_one_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged jar in the cache is fetched again; what Maven brings is checked before it is put there."""
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text('#!/bin/sh\nfor a in "$@"; do case $a in -DoutputDirectory=*) echo other > "${a#*=}/questdb-9.3.4.jar";; esac; done\n')
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jar = tmp_path / "cache" / "cift" / "jars" / "questdb-9.3.4.jar"
    jar.parent.mkdir(parents=True)
    jar.write_text("damaged")
    with pytest.raises(local_servers.Missing, match="expected 939bc53ab22f"):
        local_servers.questdb_jar()
    assert jar.read_text() == "damaged" and sorted(p.name for p in jar.parent.iterdir()) == [".lock", jar.name]
