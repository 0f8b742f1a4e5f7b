"""Feature stores on a test's ClickHouse, each in a database of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import polars as pl
from clickhouse_driver import Client

from cift_models.instruments import Session
from cift_models.models.protocol import Panel
from cift_models.refs import PartitionRef
from cift_models.schema import PREDICTIONS
from cift_models.stores.clickhouse import ClickHouseFeatures
from cift_models.stores.clickhouse_server import literal
from cift_models.stores.features import Known
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


class ChdbServer:
    """In the place of clickhouse_server.Server: today's engine (chDB), which Debian's server is eight years behind.

    Statements, tables and rows are the store's own; only the way there is not the native protocol.
    """

    def __init__(self, session: Any, name: str) -> None:
        self.session, self.database = session, name
        session.query(f"CREATE DATABASE IF NOT EXISTS {name}")

    @contextmanager
    def connection(self, writes: bool = False, database: str | None = None) -> Iterator[ChdbServer]:
        self.session.query(f"USE {database or self.database}")
        yield self

    def do(self, statement: str, about: str = "") -> None:
        self.session.query(statement)

    def select(self, statement: str, parameters: Mapping[str, int | str] | None = None, about: str = "") -> pl.DataFrame:
        bound = {k: v if isinstance(v, int) else literal(v) for k, v in (parameters or {}).items()}
        frame = pl.from_arrow(self.session.query(statement % bound if bound else statement, "ArrowTable"))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())  # noqa: F841 - chDB finds it by its name
        names = ", ".join(f"`{name}`" for name in frame.columns)
        self.session.query(f"INSERT INTO {table} ({names}) SELECT {names} FROM Python(rows)")


def chdb_store(session: Any, **how: Any) -> ClickHouseFeatures:
    """An empty store on today's engine."""
    store = ClickHouseFeatures("clickhouse://nowhere", **how)
    store._server = ChdbServer(session, database())  # type: ignore[assignment]
    assert store.migrate()[1] == ()
    return store


def put(store: ClickHouseFeatures, panel: Panel) -> PartitionRef:
    """Write the features of a panel."""
    arrays = {name: getattr(panel, name) for name in ("as_of", "offsets", "x", "valid", "why")}
    return store.write(panel.universe, panel.features, Session(panel.session, panel.open, panel.close), **arrays)


def get(store: ClickHouseFeatures, panel: Panel, ref: PartitionRef):
    return store.read(panel.universe, panel.features, Session(panel.session, panel.open, panel.close), ref.sha256)


def versions(store: ClickHouseFeatures, panel: Panel) -> tuple[PartitionRef, ...]:
    return store.versions(panel.universe, panel.features, Session(panel.session, panel.open, panel.close))


def known(store: ClickHouseFeatures, panel: Panel) -> tuple[Known, ...]:
    return store.known(panel.universe, panel.features, Session(panel.session, panel.open, panel.close))


def same(found, panel: Panel) -> bool:
    return all(getattr(found, name).tobytes() == getattr(panel, name).tobytes() for name in ("as_of", "offsets", "x", "valid", "why"))


def predictions(value: float, n: int = 100) -> pl.DataFrame:
    """n rows that all say `value`."""
    row = {"symbol": "S0", "available_at": 2 * n, "release": "", "model": "linear", "fold": 1, "max_train_t1": -1, "ready": True}
    rows = [{**row, "as_of": t, "mean_bps": value, "p_down": None, "p_flat": None, "p_up": None} for t in range(n)]
    return pl.DataFrame(rows, schema=PREDICTIONS.polars_schema())
