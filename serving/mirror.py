"""The online store, behind the path: the latest row of each symbol, written by a thread that a tick never waits for.

Only the newest row of a symbol waits; an older one that was not written yet is replaced (and counted), never queued. What waits is written
together: one round trip an instant, however many symbols it has.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import orjson

from cift_models.stores.online import OnlineStore, Row

log = logging.getLogger("cift.mirror")

RETRY_S = 0.5
"""Pause after a write that failed."""


class Mirror:
    """Copies rows to an OnlineStore.

    `written`, `refused` (a newer one was there) and `replaced` count rows; `failed` counts round trips.
    """

    def __init__(self, store: OnlineStore, retry_s: float = RETRY_S) -> None:
        self.store = store
        self.written = 0
        self.refused = 0
        self.replaced = 0
        self.failed = 0
        self._retry_s = retry_s
        self._waiting: dict[str, tuple[dict[str, Any], int]] = {}
        self._lock = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def offer(self, rows: Mapping[str, dict[str, Any]], sequence: int) -> None:
        """Give the latest row of each symbol, and which move of what is served they come from; returns at once.

        The rows are not copied: nobody may change one afterwards.
        """
        with self._lock:
            self.replaced += sum(symbol in self._waiting for symbol in rows)
            self._waiting.update({symbol: (row, sequence) for symbol, row in rows.items()})
            self._lock.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, once, then stop."""
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
            try:
                said = self.store.put_many({s: Row(orjson.dumps(row), sequence, row["as_of"]) for s, (row, sequence) in rows.items()})
                self.written += sum(said.values())
                self.refused += len(said) - sum(said.values())
            except Exception as error:  # the thread outlives whatever a store's driver raises
                self.failed += 1
                log.warning("the online store did not take %s: %s", ", ".join(rows), error)
                with self._lock:
                    if not self._stopped:
                        self._waiting = rows | self._waiting
                        self._lock.wait(self._retry_s)
