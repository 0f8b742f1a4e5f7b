"""Feature stores on a test's ClickHouse, each in a database of its own."""

from __future__ import annotations

import secrets
from typing import Any

from clickhouse_driver import Client

from cift_models.stores.clickhouse import ClickHouseFeatures
from tests.servers import ClickHouse


def database() -> str:
    """A name that no test has used."""
    return f"t{secrets.token_hex(8)}"


def url(server: ClickHouse, name: str, port: int | None = None) -> str:
    """What CIFT_CLICKHOUSE_URL would be, straight or by a proxy's port."""
    return f"clickhouse://127.0.0.1:{port or server.ports['native']}/{name}"


def fresh_store(server: ClickHouse, name: str | None = None, port: int | None = None, **how: Any) -> ClickHouseFeatures:
    """An empty store that is ready for use, or the one of a database that is there."""
    store = ClickHouseFeatures(url(server, name or database(), port), **how)
    assert store.migrate()[1] == ()
    return store


def sql(server: ClickHouse, name: str, statement: str, rows: Any = None) -> Any:
    """A statement past the store: what somebody else does to its tables."""
    client = Client("127.0.0.1", server.ports["native"], database=name, user=server.user, password=server.password)
    try:
        return client.execute(statement, rows)
    finally:
        client.disconnect()
