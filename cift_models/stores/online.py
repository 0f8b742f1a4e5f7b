"""The online store: the latest row of each symbol, for readers beside the live path. It never decides anything."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cift_models.errors import InputError

if TYPE_CHECKING:
    from cift_models.settings import Settings


class Row(NamedTuple):
    """What is stored of a symbol: the bytes, and the order by which they were accepted."""

    payload: bytes
    sequence: int
    time: int


class Flaw(NamedTuple):
    """What a store that answers lacks, or has set so that it may break its promise."""

    what: str
    do: str


class OnlineStore(Protocol):
    """The latest row of each symbol: memory of the process here, Redis, Valkey or Dragonfly on a server. Writes may be repeated.

    Rows are ordered by (sequence, time): `sequence` counts writers (a new release takes over from an old one even where its clock is
    behind), `time` is the row's, ns UTC. An older row never replaces a newer one, in whatever order they arrive; an equal one does,
    so that a repeated write is harmless.
    """

    def put(self, symbol: str, payload: bytes, sequence: int, time: int) -> bool:
        """Store a row unless a newer one is there; says whether it was stored.

        Raises StoreUnavailable (retryable), StoreError where a person has to do something, InputError for an order out of range.
        """
        ...

    def put_many(self, rows: Mapping[str, Row]) -> dict[str, bool]:
        """Store one row for each symbol as `put` does, in one round trip; says for each whether it was stored.

        Of rows that go together, no reader sees some and not the others. A key that holds something else is a StoreError, raised when the
        others are stored; after any other error, repeat all.
        """
        ...

    def get(self, symbol: str) -> Row | None:
        """The latest row, None if there is none."""
        ...

    def get_many(self, symbols: Sequence[str]) -> list[Row | None]:
        """The latest rows, in the order asked, in one round trip and of one moment."""
        ...

    def flaws(self) -> list[Flaw]:
        """What the store lacks or has set wrongly; for `cift doctor`. Changes nothing. Raises as `put` does."""
        ...


class MemoryOnline:
    """The online store of one process; safe between threads."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()

    def put(self, symbol: str, payload: bytes, sequence: int, time: int) -> bool:
        return self.put_many({symbol: Row(payload, sequence, time)})[symbol]

    def put_many(self, rows: Mapping[str, Row]) -> dict[str, bool]:
        for row in rows.values():
            check_order(row.sequence, row.time)
        with self._lock:
            return {symbol: self._put(symbol, row) for symbol, row in rows.items()}

    def _put(self, symbol: str, row: Row) -> bool:
        there = self._rows.get(symbol)
        if there is not None and row[1:] < there[1:]:
            return False
        self._rows[symbol] = Row(bytes(row.payload), row.sequence, row.time)
        return True

    def get(self, symbol: str) -> Row | None:
        return self._rows.get(symbol)

    def get_many(self, symbols: Sequence[str]) -> list[Row | None]:
        with self._lock:
            return [self._rows.get(symbol) for symbol in symbols]

    def flaws(self) -> list[Flaw]:
        return []


def check_order(sequence: int, time: int) -> None:
    """Raise InputError for a row that not every store could order: sequence 0 to 2^53, time 0 to 2^63 ns."""
    if not (0 <= sequence < 2**53 and 0 <= time < 2**63):
        raise InputError(
            f"A row cannot be ordered by sequence {sequence} and time {time}.",
            hint="Expected 0 <= sequence < 2^53, and a time in ns UTC since 1970.",
        )


def open_online(settings: Settings) -> OnlineStore:
    """The online store that the settings name. Nothing is asked of a server until the store is used."""
    if settings.redis_url:
        from cift_models.stores.redis_online import RedisOnline

        return RedisOnline(settings.redis_url, settings.redis_password, settings.tls_ca)
    return MemoryOnline()
