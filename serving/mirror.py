"""The online store, behind the path: the latest row of each symbol, written by a thread that a tick never waits for.

Only the newest row of a symbol waits; an older one that was not written yet is replaced (and counted), never queued.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import orjson

from cift_models.errors import StoreError
from cift_models.stores.online import OnlineStore


class Mirror:
    """Copies rows to an OnlineStore. `written`, `replaced` and `failed` count what happened."""

    def __init__(self, store: OnlineStore) -> None:
        self.store = store
        self.written = 0
        self.replaced = 0
        self.failed = 0
        self._waiting: dict[str, dict[str, Any]] = {}
        self._lock = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def offer(self, rows: dict[str, dict[str, Any]]) -> None:
        """Give the latest row of each symbol; returns at once."""
        with self._lock:
            self.replaced += sum(symbol in self._waiting for symbol in rows)
            self._waiting.update(rows)
            self._lock.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, then stop."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._stopped:
                    self._lock.wait()
                if not self._waiting:
                    return
                rows, self._waiting = self._waiting, {}
            for symbol, row in rows.items():
                try:
                    self.store.put(symbol, orjson.dumps(row), sequence=row["as_of"], time=row["as_of"])
                    self.written += 1
                except StoreError as error:
                    self.failed += 1
                    logging.getLogger("cift.mirror").warning("the online store did not take %s: %s", symbol, error)
