"""The online store: the latest row of each symbol, for readers beside the live path. It never decides anything."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cift_models.errors import SettingsError

if TYPE_CHECKING:
    from cift_models.settings import Settings


class Row(NamedTuple):
    """What is stored of a symbol: the bytes, and the order by which they were accepted."""

    payload: bytes
    sequence: int
    time: int


class OnlineStore(Protocol):
    """The latest row of each symbol: memory of the process here, Redis or Dragonfly on a server. Writes may be repeated.

    Rows are ordered by (sequence, time): `sequence` counts writers (a new release takes over from an old one even where its clock is
    behind), `time` is the row's, ns UTC. An older row never replaces a newer one, in whatever order they arrive; an equal one does,
    so that a repeated write is harmless.
    """

    def put(self, symbol: str, payload: bytes, sequence: int, time: int) -> bool:
        """Store a row unless a newer one is there; says whether it was stored. Raises StoreUnavailable (retryable)."""
        ...

    def get(self, symbol: str) -> Row | None:
        """The latest row, None if there is none."""
        ...

    def get_many(self, symbols: Sequence[str]) -> list[Row | None]:
        """The latest rows, in the order asked, in one round trip."""
        ...


class MemoryOnline:
    """The online store of one process; safe between threads."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()

    def put(self, symbol: str, payload: bytes, sequence: int, time: int) -> bool:
        with self._lock:
            there = self._rows.get(symbol)
            if there is not None and (sequence, time) < (there.sequence, there.time):
                return False
            self._rows[symbol] = Row(bytes(payload), sequence, time)
            return True

    def get(self, symbol: str) -> Row | None:
        return self._rows.get(symbol)

    def get_many(self, symbols: Sequence[str]) -> list[Row | None]:
        with self._lock:
            return [self._rows.get(symbol) for symbol in symbols]


def open_online(settings: Settings) -> OnlineStore:
    """The online store that the settings name."""
    if settings.redis_url:
        raise SettingsError("This version has no Redis store.", hint="Unset CIFT_REDIS_URL: live rows are then kept in memory.")
    return MemoryOnline()
