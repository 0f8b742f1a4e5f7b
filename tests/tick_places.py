"""Where a tick store may keep its partitions, for tests that hold for every one: a fresh store, and what changes when it is written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cift_models.stores.questdb import QuestDBTicks
from cift_models.stores.questdb_send import until_visible
from cift_models.stores.questdb_tables import definitions
from cift_models.stores.ticks import ParquetTicks, TickStore
from tests import servers

TABLES = tuple(d.name for d in definitions())


class Place(Protocol):
    def fresh(self) -> TickStore:
        """A store with nothing in it; what the one before held is gone."""
        ...

    def state(self) -> Any:
        """What is another value after anything was written."""
        ...


class BelowHome:
    """Parquet: a folder for every store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n = 0

    def fresh(self) -> TickStore:
        self._n += 1
        return ParquetTicks(self._folder / str(self._n))

    def state(self) -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (self._folder / str(self._n)).rglob("*") if p.is_file()}


class OnQuestDB:
    """One server, its tables emptied for every store."""

    def __init__(self, url: str, **how: Any) -> None:
        self.url = url
        self.ticks = QuestDBTicks(url, **how)
        self.ticks.migrate()

    def fresh(self) -> QuestDBTicks:
        for name in TABLES:
            self.ticks.http.do(f'TRUNCATE TABLE "{name}"')
        until_visible(self.ticks.http, TABLES)
        return self.ticks

    def state(self) -> list[list[Any]]:
        """How many transactions each table has taken."""
        return sorted(self.ticks.http.rows("select name, sequencerTxn from wal_tables()"))


@contextmanager
def below_home(folder: Path) -> Iterator[BelowHome]:
    yield BelowHome(folder)


@contextmanager
def on_questdb(folder: Path) -> Iterator[OnQuestDB]:
    with servers.questdb(folder) as server:
        yield OnQuestDB(server.url)


PLACES = {"parquet": below_home, "questdb": on_questdb}
