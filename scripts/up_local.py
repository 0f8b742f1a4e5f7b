#!/usr/bin/env python
"""QuestDB, ClickHouse and Redis for work on this machine, as processes without a container engine: `make up-local` and `make down-local`.

They listen on 127.0.0.1 and ask for no password. What they store lies below $CIFT_HOME/servers and is kept when they stop, but for live
rows, which are in memory only. On standard output there are only lines of settings: eval "$(make -s up-local)". INFRA_QUESTDB_PORT,
INFRA_CLICKHOUSE_PORT and INFRA_REDIS_PORT move a server to another port; ONLINE=redis or ONLINE=valkey says which of the two keeps live
rows, otherwise it is Redis where there is one.

python scripts/up_local.py up | down
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.local_servers import (  # noqa: E402
    POLL_S,
    STOP_S,
    ClickHouse,
    Missing,
    NotStarted,
    QuestDB,
    Redis,
    Server,
    Valkey,
    free_port,
    is_free,
)

KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (QuestDB, ClickHouse, Redis, Valkey)}
MOVES = {"questdb": "INFRA_QUESTDB_PORT", "clickhouse": "INFRA_CLICKHOUSE_PORT", "redis": "INFRA_REDIS_PORT", "valkey": "INFRA_REDIS_PORT"}
"""What moves a server to another port; `make up` reads the same."""
QUIET = {"questdb": {"QDB_LOG_W_STDOUT_LEVEL": "ERROR,CRITICAL,ADVISORY"}}
"""Options of servers that run for weeks: QuestDB would log every query."""


def say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def up(folder: Path, names: list[str], ports: Mapping[str, int]) -> int:
    """Start what is not up yet; prints an `export` line for each that answers. Returns 1 where one of them does not.

    ports  by the server's name, where it is not to be its usual one
    """
    from cift_models.files import write_atomic

    failed = 0
    for name in names:
        place = folder / name
        with alone(place):
            found = running(place)
            if found is not None:
                server, pid = found
                say(f"{name:<10} is up already at {server.url} (process {pid})")
            else:
                server = KINDS[name](place, chosen(KINDS[name], ports.get(name)), options=QUIET.get(name, {}))
                begin = time.monotonic()
                say(f"{name:<10} starts ...")
                try:
                    server.start()
                except (Missing, NotStarted) as error:
                    moves = f" Stop that, or set {MOVES[name]}." if "something else listens" in str(error) else ""
                    say(f"{name:<10} is not up. {error}{moves}")
                    failed = 1
                    continue
                except BaseException:
                    # Ctrl-C: a server that nobody knows of would keep its port.
                    server.stop()
                    raise
                # Whole or absent: a server whose number nobody can read would keep its port, and nobody could stop it.
                write_atomic(place / "up.json", json.dumps({"pid": server.process.pid, "ports": dict(server.ports)}).encode())
                say(f"{name:<10} is up after {time.monotonic() - begin:.1f} s at {server.url} (process {server.process.pid}), in {place}")
            print(f"export {server.variable}={server.url}", flush=True)
    return failed


def down(folder: Path) -> int:
    """Stop what `up` started, with SIGTERM and after 15 s with SIGKILL. What they stored is kept."""
    for name in KINDS:
        place = folder / name
        if not place.is_dir():
            continue
        with alone(place):
            found = running(place)
            if found is None:
                say(f"{name:<10} is not up")
            else:
                say(f"{name:<10} stops ...")
                end(found[1], place)
                say(f"{name:<10} is down; what it stored is kept in {place}")
            (place / "up.json").unlink(missing_ok=True)
    return 0


def running(place: Path) -> tuple[Server, int] | None:
    """The server that `up` started in a folder and its process, if it still runs."""
    try:
        known = json.loads((place / "up.json").read_text())
    except FileNotFoundError:
        return None
    server = KINDS[place.name](place, known["ports"])
    return (server, known["pid"]) if is_ours(known["pid"], place) else None


def is_ours(pid: int, place: Path) -> bool:
    """Whether a process is a server of this folder: a number may have gone to another process since."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        command = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
    return str(place) in command


def end(pid: int, place: Path) -> None:
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while is_ours(pid, place):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def chosen(kind: type[Server], port: int | None) -> dict[str, int]:
    """The port that CIFT talks to, as said; of the others the usual ones, or, where they are taken, some that are free."""
    main, *others = kind.default_ports
    ports = {main: port or kind.default_ports[main]}
    for name in others:
        usual = kind.default_ports[name]
        ports[name] = usual if is_free(usual) else free_port()
    return ports


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Two commands at once: the second waits for what the first does."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".up.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def online() -> str:
    """Which server keeps live rows."""
    asked = os.environ.get("ONLINE", "")
    if asked not in ("", "redis", "valkey"):
        sys.exit(f"ONLINE is {asked!r}, expected redis or valkey.")
    try:
        return asked or ("redis" if Redis(Path(), {}).program() else "")
    except Missing:
        return "valkey"


def main() -> int:
    """Do what the argument says."""
    from cift_models.errors import CiftError
    from cift_models.settings import get_settings

    if sys.argv[1:] not in (["up"], ["down"]):
        sys.exit(__doc__)
    try:
        folder = get_settings().home / "servers"
    except CiftError as error:
        sys.exit(str(error))
    if sys.argv[1] == "down":
        return down(folder)
    names = ["questdb", "clickhouse", online()]
    try:
        ports = {name: int(os.environ[MOVES[name]]) for name in names if os.environ.get(MOVES[name])}
    except ValueError as error:
        sys.exit(f"The INFRA_*_PORT must be numbers: {error}.")
    failed = up(folder, names, ports)
    if not failed:
        say('Set these in your shell, or: eval "$(make -s up-local)". `cift doctor` looks at them; make down-local stops them.')
    return failed


if __name__ == "__main__":
    sys.exit(main())
