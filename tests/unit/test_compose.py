"""infra/: what `make up` starts is pinned, watched, limited and shut to other machines, and holds no secret."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from cift_models.settings import describe
from tests.processes import ROOT

INFRA = ROOT / "infra"
FILES = {name: yaml.safe_load((INFRA / name).read_text()) for name in ("docker-compose.yml", "docker-compose.redis.yml")}
SERVICES = {service: content for file in FILES.values() for service, content in file["services"].items() if content.keys() != {"profiles"}}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:?[-+?])((?:[^{}]|\$\{[^{}]*\})*))?\}")


def resolved(text: str, **variables: str) -> str:
    """As Compose reads it with these variables and no others."""

    def value(match: re.Match[str]) -> str:
        name, operator, other = match[1], match[2] or ":-", match[3] or ""
        present = bool(variables.get(name)) if operator.startswith(":") else name in variables
        if operator.endswith("+"):
            return resolved(other, **variables) if present else ""
        return variables[name] if present else resolved(other, **variables)

    return VARIABLE.sub(value, text).replace("$$", "$")


def bytes_of(size: str) -> int:
    """4g, 1536m, 1gb."""
    number, unit = re.fullmatch(r"(\d+)([mg])b?", size).groups()
    return int(number) * {"m": 2**20, "g": 2**30}[unit]


def command_of(service: str) -> str:
    return " ".join(SERVICES[service].get("command", []))


def environment_of(service: str) -> dict[str, str]:
    return SERVICES[service].get("environment", {})


every_service = pytest.mark.parametrize("service", SERVICES)


def test_there_is_a_server_for_each_store():
    assert set(FILES["docker-compose.yml"]["services"]) == {"questdb", "clickhouse", "dragonfly"}
    assert set(SERVICES) == {"questdb", "clickhouse", "dragonfly", "redis"}
    # The override puts Dragonfly aside, so that both together start one of the two.
    assert FILES["docker-compose.redis.yml"]["services"]["dragonfly"] == {"profiles": ["dragonfly"]}


@every_service
def test_image_is_pinned_to_a_version(service):
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)+", SERVICES[service]["image"])


@every_service
def test_health_check_asks_a_question(service):
    check = SERVICES[service]["healthcheck"]
    kind, *words = check["test"]
    assert kind in ("CMD", "CMD-SHELL")
    assert re.search(r"query=select|query=SELECT|-cli [^|]*\bset ", words[-1]), "an open port is not an answer"
    assert subprocess.run(["bash", "-n", "-c", resolved(words[-1])], capture_output=True).returncode == 0
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
    assert not check.get("disable")


@every_service
def test_ports_are_bound_to_this_machine(service):
    ports = SERVICES[service]["ports"]
    assert ports
    for port in ports:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", resolved(port))
        assert re.fullmatch(r"0\.0\.0\.0:\d+:\d+", resolved(port, INFRA_BIND="0.0.0.0"))
    assert "network_mode" not in SERVICES[service]


def test_servers_that_run_together_have_ports_of_their_own():
    ports = [resolved(port).split(":")[1] for s in ("questdb", "clickhouse", "dragonfly") for port in SERVICES[s]["ports"]]
    assert len(set(ports)) == len(ports)
    assert SERVICES["redis"]["ports"] == SERVICES["dragonfly"]["ports"]


@every_service
def test_a_password_comes_from_outside(service):
    secrets = {k: v for k, v in environment_of(service).items() if re.search(r"pass|auth|secret|token|key$", k, re.IGNORECASE)}
    assert secrets
    for name, value in secrets.items():
        assert re.fullmatch(r"\$\{CIFT_[A-Z]+_PASSWORD:-\}", value), name


def test_no_file_holds_a_password():
    users = ET.parse(INFRA / "clickhouse/users.xml").getroot()
    passwords = [e for e in users.iter() if e.tag.startswith("password")]
    assert [(e.tag, e.text, e.get("from_env")) for e in passwords] == [("password", None, "CIFT_CLICKHOUSE_PASSWORD")]
    assert environment_of("clickhouse")["CIFT_CLICKHOUSE_PASSWORD"]
    example = (INFRA / ".env.example").read_text().splitlines()
    assert not [line for line in example if re.match(r"[A-Z]", line) or re.match(r"#\w+PASSWORD=.", line)]
    assert ".env" in (INFRA / ".gitignore").read_text().split()


@every_service
def test_no_command_line_holds_a_password(service):
    # Everybody on the machine sees command lines.
    words = resolved(command_of(service) + " ".join(SERVICES[service]["healthcheck"]["test"]))
    assert not re.search(r"--\w*pass| -a ", words)
    assert re.findall(r"requirepass (\S+)", words) == (['"$REDISCLI_AUTH"'] if service == "redis" else [])


def test_one_without_the_other_is_not_given_to_questdb():
    # It does not start with a user and no password.
    user = environment_of("questdb")["QDB_HTTP_USER"]
    assert resolved(user) == resolved(user, CIFT_QUESTDB_USER="me") == ""
    assert resolved(user, CIFT_QUESTDB_PASSWORD="p") == "admin"
    assert resolved(user, CIFT_QUESTDB_PASSWORD="p", CIFT_QUESTDB_USER="me") == "me"


@every_service
def test_what_it_takes_is_limited(service):
    limits = SERVICES[service]["deploy"]["resources"]["limits"]
    assert bytes_of(resolved(limits["memory"])) <= 4 * 2**30
    assert float(resolved(limits["cpus"])) <= 2
    assert 0 < limits["pids"] <= 2**14
    assert int(resolved(str(SERVICES[service]["ulimits"]["nofile"]))) >= 2**16
    logging = SERVICES[service]["logging"]
    assert (logging["driver"], logging["options"]) == ("json-file", {"max-size": "10m", "max-file": "3"})


@pytest.mark.parametrize("service", ["dragonfly", "redis"])
def test_online_store_refuses_before_it_is_killed(service):
    command = resolved(command_of(service))
    most = bytes_of(re.search(r"maxmemory[ =](\w+)", command)[1])
    assert bytes_of(resolved(SERVICES[service]["deploy"]["resources"]["limits"]["memory"])) >= 1.5 * most
    if service == "dragonfly":
        assert "--cache_mode=false" in command
        assert most >= int(re.search(r"--proactor_threads=(\d+)", command)[1]) * 256 * 2**20
    else:
        assert "maxmemory-policy noeviction" in command


@every_service
def test_it_comes_back_by_itself_and_stops_in_its_own_time(service):
    assert SERVICES[service]["restart"] == "unless-stopped"
    assert int(SERVICES[service]["stop_grace_period"].removesuffix("s")) >= 30


@every_service
def test_it_has_no_rights_to_lose(service):
    content = SERVICES[service]
    assert content["read_only"] is True
    assert content["cap_drop"] == ["ALL"] and "cap_add" not in content and "privileged" not in content
    assert content["security_opt"] == ["no-new-privileges:true"]
    assert int(content["user"].split(":")[0]) > 0


@every_service
def test_its_data_lies_in_a_volume_of_its_own(service):
    mounts = [mount.split(":") for mount in SERVICES[service]["volumes"]]
    named = [mount for mount in mounts if not mount[0].startswith(".")]
    assert [mount[0] for mount in named] == [service]
    assert any(service in (file.get("volumes") or {}) for file in FILES.values())
    for source, _, mode in (mount for mount in mounts if mount not in named):
        assert mode == "ro" and (INFRA / source).is_file()


def test_questdb_calls_nobody_and_has_no_side_door():
    assert {k: v for k, v in environment_of("questdb").items() if v == "false"} == {
        "QDB_TELEMETRY_ENABLED": "false",
        "QDB_LINE_TCP_ENABLED": "false",
        "QDB_PG_ENABLED": "false",
        "QDB_LINE_AUTO_CREATE_NEW_TABLES": "false",
        "QDB_LINE_AUTO_CREATE_NEW_COLUMNS": "false",
    }


def test_dragonfly_calls_nobody_and_has_no_side_door():
    assert {"--version_check=false", "--primary_port_http_enabled=false"} <= set(command_of("dragonfly").split())


def test_clickhouse_takes_our_user_and_listens_in_its_container():
    config = ET.parse(INFRA / "clickhouse/config.xml").getroot()
    assert [e.text for e in config.iter("listen_host")] == ["0.0.0.0"]
    assert {e.tag for e in config if e.tag.endswith("_port") and e.get("remove")} == {
        "mysql_port",
        "postgresql_port",
        "interserver_http_port",
    }
    assert {e.tag: e.text for e in config if e.tag.endswith("_port") and not e.get("remove")} == {"tcp_port": "9000", "http_port": "8123"}
    user = ET.parse(INFRA / "clickhouse/users.xml").getroot().find("users/default")
    assert user is not None and user.get("replace") == "replace"
    assert environment_of("clickhouse")["CLICKHOUSE_SKIP_USER_SETUP"] == "1"
    mounted = {m.split(":")[0]: m.split(":")[1] for m in SERVICES["clickhouse"]["volumes"]}
    assert mounted["./clickhouse/users.xml"].startswith("/etc/clickhouse-server/users.d/")
    assert mounted["./clickhouse/config.xml"] == "/etc/clickhouse-server/config.d/docker_related_config.xml"


def test_example_shows_every_variable_with_its_default():
    used: dict[str, str] = {}
    for name in FILES:
        for variable, operator, default in VARIABLE.findall((INFRA / name).read_text()):
            if operator == ":-":
                assert used.setdefault(variable, default) == default, f"{variable} has two defaults"
            for inner, _, inner_default in VARIABLE.findall(default):
                used.setdefault(inner, inner_default)
    shown = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (INFRA / ".env.example").read_text(), re.MULTILINE))
    assert shown == used
    # cift refuses a CIFT_ variable that it does not know, and these files are made to be given to both.
    assert {v for v in used if v.startswith("CIFT_")} <= {setting.name for setting in describe()}


class Answer(BaseHTTPRequestHandler):
    """Answers every request alike, and keeps its headers."""

    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b""
    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, dict(self.headers)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


QUESTION = {
    # What the server answers when it is well; QuestDB 9.3.4 and ClickHouse 18.16 answered so.
    "questdb": (9000, b'{"query":"select count() from tables()","timestamp":-1,"dataset":[[7]],"count":1}'),
    "clickhouse": (8123, b"tables:32\n"),
}
FAILURES = [
    (200, b'{"query":"select","error":"table does not exist","position":1}'),
    (401, b"Unauthorized"),
    (500, b"Code: 194, e.displayText() = DB::Exception: Wrong password for user default"),
    (200, b"Ok.\n"),
]


def health(service: str, status: int, body: bytes) -> tuple[int, tuple[str, dict[str, str]]]:
    """The health check's exit code against a server that answers so, and what it asked."""
    kind = type("Kind", (Answer,), {"status": status, "body": body, "seen": []})
    server = HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    port = QUESTION[service][0]
    script = resolved(SERVICES[service]["healthcheck"]["test"][-1])
    assert f"/{port} " in script
    given = {"QDB_HTTP_USER": "admin", "QDB_HTTP_PASSWORD": "p-w_1", "CIFT_CLICKHOUSE_PASSWORD": "p-w_1"}
    try:
        done = subprocess.run(
            ["bash", "-c", script.replace(f"/{port} ", f"/{server.server_port} ")],
            env={**os.environ, **given},
            capture_output=True,
            timeout=10,
        )
    finally:
        thread.join(5)
        server.server_close()
    return done.returncode, kind.seen[0]


@pytest.mark.parametrize("service", QUESTION)
def test_health_check_is_content_with_an_answer(service):
    code, (path, headers) = health(service, 200, QUESTION[service][1])
    assert code == 0
    assert "tables" in path
    if service == "questdb":
        assert headers["Authorization"] == "Basic " + base64.b64encode(b"admin:p-w_1").decode()
    else:
        assert (headers["X-ClickHouse-User"], headers["X-ClickHouse-Key"]) == ("default", "p-w_1")


@pytest.mark.parametrize("status, body", FAILURES, ids=["error", "unauthorized", "exception", "ping"])
@pytest.mark.parametrize("service", QUESTION)
def test_health_check_sees_a_failure(service, status, body):
    assert health(service, status, body)[0] != 0


DOCKER = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *" ps -q -a redis") {running} ;;
  *" ps -a --format "*) echo questdb unhealthy; echo clickhouse healthy ;;
  *" rm "*) echo Going to remove cift-redis-1 ;;
  *" up "*) echo "cpus ${{INFRA_CPUS-}}" >> {calls}; exit {up} ;;
  "compose version") exit {compose} ;;
  version) [ {engine} = 0 ] || {{ echo "Cannot connect to the Docker daemon." >&2; exit 1; }} ;;
  info*) echo {cpus} ;;
  *" config") cat {config} ;;
  *" port questdb 9000") echo 127.0.0.1:9000 ;;
  *" port clickhouse 9000") echo 127.0.0.1:9001 ;;
  *" port "*" 6379") echo 0.0.0.0:6379 ;;
esac
"""


def stack(folder: Path, *arguments: str, docker: bool = True, config: str = "", more: dict[str, str] | None = None, **state: int | str):
    """Run stack.sh with a docker that keeps what it was asked; returns the process and those calls."""
    (folder / "config").write_text(config)
    calls = folder / "calls"
    calls.write_text("")
    programs = folder / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "grep", "sed", "sort", "tail", "cat"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    if docker:
        script = DOCKER.format(
            calls=calls, config=folder / "config", **{"compose": 0, "engine": 0, "cpus": 8, "up": 0, "running": ":", **state}
        )
        (programs / "docker").write_text(script)
        (programs / "docker").chmod(0o755)
    done = subprocess.run(
        [INFRA / "stack.sh", *arguments], env={"PATH": str(programs), **(more or {})}, capture_output=True, text=True, timeout=20
    )
    return done, calls.read_text().splitlines()


def compose_config(bind: str = "127.0.0.1", password: str = '""', user: str = '""') -> str:
    """The lines of `docker compose config` that stack.sh reads."""
    secrets = "".join(f"      {name}: {password}\n" for name in ("QDB_HTTP_PASSWORD", "CIFT_CLICKHOUSE_PASSWORD", "REDISCLI_AUTH"))
    return f"services:\n{secrets}      QDB_HTTP_USER: {user}\n    ports:\n      - mode: ingress\n        host_ip: {bind}\n"


URLS = [
    "export CIFT_QUESTDB_URL=http://127.0.0.1:9000",
    "export CIFT_CLICKHOUSE_URL=clickhouse://127.0.0.1:9001",
    "export CIFT_REDIS_URL=redis://127.0.0.1:6379/0",
]


def test_up_waits_and_prints_settings_alone(tmp_path):
    done, calls = stack(tmp_path, "up", config=compose_config())
    assert done.returncode == 0
    assert done.stdout.splitlines() == URLS
    assert "No password is set (CIFT_QUESTDB_PASSWORD CIFT_CLICKHOUSE_PASSWORD CIFT_REDIS_PASSWORD)" in done.stderr
    assert "compose -f docker-compose.yml up -d --wait --wait-timeout 180" in calls
    assert {line.split("=")[0].removeprefix("export ") for line in URLS} <= {setting.name for setting in describe()}


def test_up_says_the_user_but_no_password(tmp_path):
    done, _ = stack(tmp_path, "up", config=compose_config(password="a-secret", user="admin"))
    assert done.stdout.splitlines() == [URLS[0], "export CIFT_QUESTDB_USER=admin", *URLS[1:]]
    assert "No password" not in done.stderr and "a-secret" not in done.stdout + done.stderr


def test_up_starts_valkey_where_redis_is_asked_for(tmp_path):
    done, calls = stack(tmp_path, "up", config=compose_config(), more={"ONLINE": "redis"})
    assert done.returncode == 0
    assert any(call.startswith("compose -f docker-compose.yml -f docker-compose.redis.yml up -d --wait") for call in calls)


def test_up_puts_the_other_online_store_away_first(tmp_path):
    done, calls = stack(tmp_path, "up", config=compose_config(), running="echo 1f2e")
    assert done.stdout.splitlines() == URLS
    orders = [call.split("dragonfly ")[-1] for call in calls if " rm " in call or " up " in call]
    assert orders[0] == "rm -s -f redis" and " up " in orders[1]


def test_up_shows_what_the_sick_ones_said(tmp_path):
    done, calls = stack(tmp_path, "up", config=compose_config(), up=1)
    assert done.returncode != 0 and done.stdout == ""
    assert [call.split()[-1] for call in calls if " logs " in call] == ["questdb"]
    assert "make up-local" in done.stderr


@pytest.mark.parametrize("cpus, given, limit", [(8, {}, ""), (1, {}, "1"), (1, {"INFRA_CPUS": "0.5"}, "0.5")])
def test_up_asks_for_no_more_cores_than_there_are(tmp_path, cpus, given, limit):
    _, calls = stack(tmp_path, "up", config=compose_config(), cpus=cpus, more=given)
    assert [call for call in calls if call.startswith("cpus")] == [f"cpus {limit}"]


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.168.7.2", "'::'"])
def test_up_opens_nothing_without_passwords(tmp_path, bind):
    done, calls = stack(tmp_path, "up", config=compose_config(bind))
    assert done.returncode != 0 and done.stdout == ""
    assert "INFRA_BIND" in done.stderr and "CIFT_REDIS_PASSWORD" in done.stderr
    assert not [call for call in calls if " up " in call]


def test_up_opens_with_passwords(tmp_path):
    done, calls = stack(tmp_path, "up", config=compose_config("0.0.0.0", "a-secret", "admin"))
    assert done.returncode == 0 and [call for call in calls if " up " in call]


def test_without_an_engine_it_names_the_other_way(tmp_path):
    for number, (state, said) in enumerate(
        [({"docker": False}, "no docker in PATH"), ({"compose": 1}, "no Compose"), ({"engine": 1}, "Cannot connect to the Docker daemon")]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        for target in ("up", "down"):
            done, calls = stack(place, target, **state)
            assert done.returncode != 0 and done.stdout == ""
            assert said in done.stderr and "make up-local" in done.stderr
            assert not [call for call in calls if " up " in call or call.endswith(" down")]
            shutil.rmtree(place / "bin")


def test_down_reaches_every_service_and_keeps_the_volumes(tmp_path):
    done, calls = stack(tmp_path, "down")
    assert done.returncode == 0
    assert calls[-1] == "compose -f docker-compose.yml -f docker-compose.redis.yml --profile dragonfly down"


def test_make_calls_it():
    # Without what a make that runs this test would tell the one that it starts.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    for target in ("up", "down"):
        made = subprocess.run(["make", "-n", target], cwd=ROOT, env=env, capture_output=True, text=True, timeout=20)
        assert made.stdout.split() == ["infra/stack.sh", target]
