"""The session's journal: every event that was applied, in order, so that a new engine can stand where the old one stood.

One file a session, append-only: a record is (kind, length, crc32) and its bytes. A kill in mid-write leaves a torn last record, which the
next opening cuts off; what was acknowledged was written before.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from cift_models.errors import DataError
from cift_models.events import Events
from cift_models.instruments import Session

HEADER = struct.Struct("<BII")
SESSION, EVENTS, ADVANCE = 1, 2, 3
MAX_RECORD = 256 * 1024 * 1024

Entry = Session | Events | int
"""A session's beginning, events, or a time that was reached (int ns)."""


class Journal:
    """Append entries; read them back from the start."""

    def __init__(self, path: Path) -> None:
        """Open or make a journal; a torn tail is cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        whole = sum(HEADER.size + len(payload) for _, payload in _records(path)) if path.exists() else 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, 0, os.SEEK_END)

    def append(self, entry: Entry) -> None:
        """Hand one entry to the operating system before returning: it survives a kill of this process (not a loss of power)."""
        if isinstance(entry, Session):
            kind, payload = SESSION, struct.pack("<3q", entry.day, entry.open, entry.close)
        elif isinstance(entry, Events):
            kind, payload = EVENTS, _pack(entry)
        else:
            kind, payload = ADVANCE, struct.pack("<q", entry)
        record = HEADER.pack(kind, len(payload), zlib.crc32(payload)) + payload
        while record:
            record = record[os.write(self._file, record) :]

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """Entries from byte `start` on, oldest first, each with the byte after it: where to go on."""
        at = start
        for kind, payload in _records(self.path, start):
            at += HEADER.size + len(payload)
            if kind == SESSION:
                yield at, Session(*struct.unpack("<3q", payload))
            elif kind == EVENTS:
                yield at, _unpack(payload)
            else:
                yield at, struct.unpack("<q", payload)[0]

    def clear(self) -> None:
        """Forget everything: a new session begins."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)

    def close(self) -> None:
        os.close(self._file)


def _records(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Whole records from byte `start` up to the first torn or damaged one."""
    with open(path, "rb") as file:
        file.seek(start)
        while True:
            head = file.read(HEADER.size)
            if len(head) < HEADER.size:
                return
            kind, length, crc = HEADER.unpack(head)
            if kind not in (SESSION, EVENTS, ADVANCE) or length > MAX_RECORD:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != crc:
                return
            yield kind, payload


def _pack(events: Events) -> bytes:
    return struct.pack("<2I", len(events), events.levels) + b"".join(
        np.ascontiguousarray(getattr(events, f.name)).tobytes() for f in fields(Events)
    )


def _unpack(payload: bytes) -> Events:
    n, levels = struct.unpack_from("<2I", payload)
    out = Events.empty(n, levels)
    at = 8
    for f in fields(Events):
        column = getattr(out, f.name)
        column[:] = np.frombuffer(payload, column.dtype, column.size, at).reshape(column.shape)
        at += column.nbytes
    if at != len(payload):
        raise DataError(
            f"A journal record of {len(payload)} bytes holds {n} events of {levels} levels ({at} bytes).", hint="Remove the journal."
        )
    return out
