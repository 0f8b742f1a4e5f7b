"""Who is told how far a step is: a terminal's bars, or a log line every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

Listener = Callable[[str, str, float], None]
"""Called with (step, what it is doing, share of the work done in 0..1); 1.0 ends the step."""

LOG_EVERY_S = 10.0

_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Send progress to `listener` (of this process), or back to the log with None."""
    global _listener
    _listener = listener


def tell(step: str, what: str, share: float) -> None:
    """Pass on what another process reported."""
    if _listener is not None:
        _listener(step, what, share)


def reporter(step: str) -> Callable[[str, float], None]:
    """The `progress` callback of one step."""
    last = time.monotonic()

    def report(what: str, share: float) -> None:
        nonlocal last
        if _listener is not None:
            _listener(step, what, share)
        elif time.monotonic() - last > LOG_EVERY_S:
            last = time.monotonic()
            logging.getLogger("cift").info("%s: %s, %.0f %%", step, what, 100 * share)

    return report
