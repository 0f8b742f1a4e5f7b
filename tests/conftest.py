"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.servers import Server

# A deadline of one example says how busy the machine is, not what the code does.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """With CI=true nothing may be skipped: recorded data and servers must be there, or a green run would say nothing of them."""
    report = (yield).get_result()
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"


def _server(kind: str, factory: pytest.TempPathFactory) -> Iterator[Server]:
    from tests import servers

    with getattr(servers, kind)(factory.mktemp(kind)) as running:
        yield running


@pytest.fixture(scope="session")
def questdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A QuestDB of the whole run; tests name their tables apart."""
    yield from _server("questdb", tmp_path_factory)


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ClickHouse of the whole run; tests name their databases apart."""
    yield from _server("clickhouse", tmp_path_factory)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis of the whole run; a test that wants it empty empties it."""
    yield from _server("redis", tmp_path_factory)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey of the whole run; a test that wants it empty empties it."""
    yield from _server("valkey", tmp_path_factory)


@pytest.fixture(scope="session")
def chdb_session() -> Iterator[Any]:
    """Today's ClickHouse engine in this process; tests name their databases apart."""
    from chdb import session

    with session.Session() as running:
        yield running
