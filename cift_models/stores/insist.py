"""Asking a server that does not answer again, for as long as patience lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cift_models.errors import StoreUnavailable

T = TypeVar("T")


def insist(call: Callable[[], T], patience_s: float) -> T:
    """Call until it does not raise StoreUnavailable, after 0.05, 0.1, 0.2, ... 2 s, for `patience_s` in all; then raise what it raised.

    Only for what may be done twice: reads, and rows that the server deduplicates.
    """
    until = time.monotonic() + patience_s
    pause_s = 0.05
    while True:
        try:
            return call()
        except StoreUnavailable:
            if time.monotonic() + pause_s > until:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)
