"""How a command ends badly: a message of a few lines and an exit code, never a stack trace."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_LINES = 10
"""A message that is longer is not read."""


def guarded(run: Callable[[], Any]) -> None:
    """Run a command and turn what it raises into words.

    Exit 2: what was asked cannot be done as asked, nothing was done. Exit 1: something failed on the way. Exit 130: stopped by the user.
    """
    from cift_models.errors import CiftError, InputError

    try:
        run()
    except CiftError as error:
        print(words(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("\ncift: stopped; the same command goes on where it was.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `cift status | head` is not an error; without this the interpreter complains once more when it flushes.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        print(f"cift: {type(error).__name__}: {_first_line(error)}\n      The full traceback is in {_write_traceback()}.", file=sys.stderr)
        sys.exit(1)


def words(error: Any) -> str:
    """A CiftError as a person reads it, at most MOST_LINES lines: the hint is kept, the message is cut."""
    hint = [f"      {line}" for line in error.hint.splitlines()][:3]
    message = error.message.splitlines()
    room = MOST_LINES - len(hint)
    if len(message) > room:
        message = [*message[: room - 1], f"... and {len(message) - room + 1} lines more."]
    return "\n".join([f"cift: {message[0] if message else type(error).__name__}", *(f"      {line}" for line in message[1:]), *hint])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


def _write_traceback() -> Path:
    """Write the traceback of the exception that is being handled below the home, or where the home cannot be written to, elsewhere."""
    import tempfile
    import traceback
    from datetime import UTC, datetime

    text = f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}"
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.log"
    try:
        from cift_models.settings import get_settings

        path = get_settings().home / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except Exception:
        path = Path(tempfile.gettempdir()) / f"cift-{name}"
        path.write_text(text)
    return path
