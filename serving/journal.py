"""The session's journal: every event that was applied, in order, so that a new engine can stand where the old one stood.

    head      magic, sha256 of the universe whose events these are
    records   (kind, length, crc32) and that many bytes: a session's beginning, events, or a time that was reached

One session a file, append-only; the next session replaces it in one rename. A kill in mid-write leaves a torn last record, which the next
opening cuts off: what was acknowledged had been written before.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from cift_models.errors import StoreError
from cift_models.events import Events
from cift_models.files import canonical_json, write_atomic
from cift_models.instruments import Session, Universe

MAGIC = b"CIFTJ\x00\x00\x01"
RECORD = struct.Struct("<BII")
SESSION, EVENTS, ADVANCE = 1, 2, 3
MAX_RECORD = 256 * 1024 * 1024
START = len(MAGIC) + 32
"""Byte of the first record."""

LOCK_WAIT_S = 10.0
"""How long a predecessor may take to go before the journal is refused."""

Entry = Session | Events | int
"""A session's beginning, events, or a time that was reached (int ns)."""


class Journal:
    """Append entries; read them back from the start. `generation` counts the sessions that began since it was opened."""

    def __init__(self, path: Path, universe: Universe) -> None:
        """Open or make a journal, for this process alone; a torn tail is cut off.

        A journal of another universe is put aside (its events mean nothing here). Raises StoreError where another process writes it, or
        where it is damaged before its end.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.generation = 0
        self._head = MAGIC + hashlib.sha256(canonical_json(universe.as_json())).digest()
        self._lock = _lock(path.with_suffix(".lock"))
        try:
            self._open(self._whole())
        except BaseException:
            os.close(self._lock)
            raise

    def _whole(self) -> int:
        """See that there is a file of this universe; the byte after its last whole record."""
        path = self.path
        if path.exists() and path.stat().st_size >= START:
            with open(path, "rb") as file:
                head = file.read(START)
            if head != self._head:
                aside = path.with_suffix(".aside")
                logging.getLogger("cift.journal").warning("%s is of another universe: kept as %s", path.name, aside.name)
                path.replace(aside)
        if not path.exists() or path.stat().st_size < START:
            write_atomic(path, self._head)
        return START + sum(RECORD.size + len(payload) for _, payload in _records(path, START))

    def _open(self, end: int) -> None:
        self._file = os.open(self.path, os.O_RDWR)
        os.ftruncate(self._file, end)
        os.lseek(self._file, 0, os.SEEK_END)
        self.end = end

    def begin(self, session: Session) -> None:
        """Forget everything and begin a session. The file is the old session's or the new one's, never something between."""
        before = self._file
        write_atomic(self.path, self._head + _record(session))
        self.generation += 1
        self._open(self.path.stat().st_size)
        os.close(before)

    def append(self, entry: Events | int) -> None:
        """Hand one entry to the operating system before returning: it survives a kill of this process (not a loss of power)."""
        record = memoryview(_record(entry))
        while record:
            written = os.write(self._file, record)
            self.end += written
            record = record[written:]

    def entries(self, start: int = START) -> Iterator[tuple[int, Entry]]:
        """Entries from byte `start` on, oldest first, each with the byte after it: where to go on. Safe beside an `append`."""
        at = start
        for kind, payload in _records(self.path, start):
            at += RECORD.size + len(payload)
            if kind == SESSION:
                yield at, Session(*struct.unpack("<3q", payload))
            elif kind == EVENTS:
                yield at, _unpack(payload)
            else:
                yield at, struct.unpack("<q", payload)[0]

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)


def _lock(path: Path) -> int:
    """Hold a file for this process; a predecessor that is stopping gets LOCK_WAIT_S."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() > until:
                os.close(handle)
                raise StoreError(f"Another service writes {path.with_suffix('.bin')}.", hint="Stop it, or use another port.") from None
            time.sleep(0.05)


def _records(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Whole records from byte `start` up to the end, or to a torn last one. Raises StoreError for a whole one that is damaged."""
    with open(path, "rb") as file:
        file.seek(start)
        at = start
        while True:
            head = file.read(RECORD.size)
            if len(head) < RECORD.size:
                return
            kind, length, crc = RECORD.unpack(head)
            payload = file.read(length) if length <= MAX_RECORD else b""
            if len(payload) < length <= MAX_RECORD:
                return
            if kind not in (SESSION, EVENTS, ADVANCE) or length > MAX_RECORD or zlib.crc32(payload) != crc:
                raise StoreError(
                    f"{path} is damaged at byte {at:,} of {path.stat().st_size:,}.",
                    hint="A kill only tears the end. Remove the file: the running session then begins anew.",
                )
            at += RECORD.size + length
            yield kind, payload


def _record(entry: Entry) -> bytes:
    if isinstance(entry, Session):
        kind, payload = SESSION, struct.pack("<3q", entry.day, entry.open, entry.close)
    elif isinstance(entry, Events):
        kind, payload = EVENTS, _pack(entry)
    else:
        kind, payload = ADVANCE, struct.pack("<q", entry)
    return RECORD.pack(kind, len(payload), zlib.crc32(payload)) + payload


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
    return out
