"""Which session a feed began last, on disk: a feed that is started again goes on in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import orjson

from cift_models.errors import InputError, StoreError
from cift_models.files import write_atomic
from cift_models.instruments import Session
from serving import wire


def read_state(path: Path) -> Session | None:
    """The session that a feed of this home began last; None where none did. Raises StoreError for a file that no feed wrote."""
    try:
        said = orjson.loads(path.read_bytes())
        if not isinstance(said, dict) or said.keys() != {"day", "open", "close"}:
            raise ValueError("expected day, open and close")
        return wire.read_session(said["day"], said["open"], said["close"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, InputError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message if isinstance(error, InputError) else str(error)
        raise StoreError(
            f"{path} does not say which session runs: {str(why).rstrip('.')}.",
            hint="Remove it: the feed then begins a new session, and the service forgets the one that runs.",
        ) from error


def write_state(path: Path, session: Session) -> None:
    """Write down the session that runs. Raises StoreError."""
    try:
        write_atomic(path, orjson.dumps(asdict(session)))
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}; the session is not written down.", hint="Make room, and start the feed again."
        ) from error
