"""What the service says back."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import orjson

from cift_models.errors import InputError, StoreError
from serving.feed.client import Clock, WallClock

LAGS = 100_000
"""Decisions whose lag is kept: a day and four hours of seconds, under a megabyte."""


class Decisions:
    """What the service says: counted, timed against its instant, written down where a file is given.

    count    decisions, all of them
    actions  actions by name, over all symbols
    lag_ms   how long behind its instant each was heard, of the newest LAGS
    """

    def __init__(self, path: Path | None) -> None:
        self.count = 0
        self.actions: Counter[str] = Counter()
        self.lag_ms: deque[float] = deque(maxlen=LAGS)
        self.clock: Clock = WallClock()
        self._file: IO[bytes] | None = None
        if path is not None:
            try:
                self._file = open(path, "ab")  # noqa: SIM115 (closed by `close`)
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}.", hint="Expected a file that can be written: --decisions FILE.") from error

    def __call__(self, said: dict[str, Any]) -> None:
        self.count += 1
        self.lag_ms.append((self.clock.now() - said["as_of"]) / 1e6)
        self.actions.update(one["action"] for one in said["symbols"].values())
        if self._file is not None:
            try:
                self._file.write(orjson.dumps(said) + b"\n")
                self._file.flush()
            except OSError as error:
                # An OSError would pass for a connection that broke. What could not be written is tried again by closing: not a second time.
                with suppress(OSError):
                    self.close()
                raise StoreError(
                    f"{self._file.name}: {error.strerror}; a decision is not written.", hint="Make room: --decisions."
                ) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
