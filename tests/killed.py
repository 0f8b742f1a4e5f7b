"""`python -m tests.killed N WHAT FILE...`: do a piece of work and die by SIGKILL at its Nth point; then, or with 0, print the points.

A point is every step of progress that a person would see, every file that is about to appear under its name, every partition that is about
to be absent, and every question that is about to go to a server. WHAT is `ingest` (of LOBSTER files) or `features` (of what was stored from
them).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx

FIRST, LAST = date(1970, 1, 1), date(2100, 1, 1)


def main(at: int, what: str, files: list[str]) -> None:
    """Run with a death at point `at`."""
    from cift_models.settings import get_settings
    from cift_models.stores.lake import MANIFEST
    from tasks import progress
    from tasks.dataset import build_session, select_data
    from tasks.ingest import ingest_file

    points: list[str] = []

    def reach(name: str) -> None:
        if points and points[-1] == name:
            return  # asked again and again until what was written is visible: how often is chance
        points.append(name)
        if len(points) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(call: Any, name: Callable[..., str]) -> Any:
        def wrapper(*args: Any, **more: Any) -> Any:
            reach(name(*args))
            return call(*args, **more)

        return wrapper

    os.replace, os.rename = (dying(call, lambda _, target: f"rename {Path(target).name}") for call in (os.replace, os.rename))
    unlink = os.unlink

    def dying_unlink(path: Any, **more: Any) -> None:
        if Path(path).name == MANIFEST:  # a partition is about to be absent; other files that go are nobody's
            reach(f"remove {MANIFEST}")
        unlink(path, **more)

    os.unlink = dying_unlink
    settings = get_settings()
    if settings.questdb_url:
        httpx.Client.send = dying(httpx.Client.send, lambda _, request: f"QuestDB {request.url.path}")
    if settings.clickhouse_url:
        from clickhouse_driver import Client

        Client.execute = dying(Client.execute, lambda _, query, *rest: f"ClickHouse {query.split()[0]}")
    progress.listen(lambda step, said, share: reach(f"{step}: {said}"))
    for file in files:
        if what == "ingest":
            ingest_file("lobster", Path(file), {})
        else:
            dataset = select_data.fn([Path(file).stem], FIRST, LAST, None, 0)
            for day in dataset.days:
                build_session.fn(dataset, day)
    print("\n".join(points))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
