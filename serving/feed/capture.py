"""Capture files on disk, as `cift ingest binance` reads them: one a symbol and UTC day, `<receive ns> <json>` a line, gzip.

A flush appends one whole gzip member, so a recorder that is killed leaves a file that reads to its end; one that is killed in the middle of
a write leaves a torn last member, which the next opening cuts off. A member's length stands in its header (as in BGZF), so that opening a
file walks from member to member and unpacks only the last.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cift_models.errors import FeedError, InputError, StoreError
from cift_models.instruments import SECOND
from serving.feed.backlog import Item, Source
from serving.feed.venue import SNAPSHOT, break_line

_HEAD = struct.Struct("<4BI2BH2sHI")
"""gzip's magic, method, flags (an extra field), no time, no extra flags, no system, 8 bytes of extra field: "CF", 4 bytes, the member's
length."""
_TAIL = struct.Struct("<II")
FLUSH_BYTES = 4 << 20
"""Text that is kept before a member is written in any case."""
FLUSH_S = 1.0
"""How often what came is written: what a kill costs."""
LEVEL = 6


def file_name(source: Source, day: int) -> str:
    """spot_btcusdt_20240808.gz"""
    return f"{source.market}_{source.symbol.lower()}_{day}.gz"


def day_of(recv: int) -> int:
    """UTC date of a receive time, yyyymmdd."""
    return int(datetime.fromtimestamp(recv // SECOND, UTC).strftime("%Y%m%d"))


def member(text: bytes) -> bytes:
    """One gzip member whose header says its length."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(text) + packer.flush()
    size = _HEAD.size + len(body) + _TAIL.size
    head = _HEAD.pack(0x1F, 0x8B, 8, 4, 0, 0, 255, 8, b"CF", 4, size)
    return head + body + _TAIL.pack(zlib.crc32(text), len(text) & 0xFFFFFFFF)


class CaptureFile:
    """One capture, for this process alone. Lines are kept until `flush`.

    bytes           of the file, all members whole
    lines, written  lines and bytes that this object wrote
    """

    def __init__(self, path: Path, source: Source) -> None:
        """Open or make it. Where lines are there already, a declared gap follows them: nothing was received since the last one.

        Raises InputError where another process writes it or it is no capture of ours, StoreError where it cannot be written.
        """
        self.path = path
        self.lines = self.written = 0
        self._lines: list[bytes] = []
        self._size = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}.", hint="Expected a folder that can be written to: --out DIR.") from error
        try:
            self._lock()
            self.bytes, last = self._end()
            os.ftruncate(self._file, self.bytes)
            if last:
                self.add(last, break_line(*source, "recorder restarted"))
                self.flush()
        except BaseException:
            os.close(self._file)
            raise

    def add(self, recv: int, text: bytes) -> None:
        """Keep a line for the next flush."""
        line = b"%d %s\n" % (recv, text)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what was kept to the operating system as one member: it survives a kill of this process (not a loss of power).

        Raises StoreError where the disk takes it not, or not whole; what stood before stands.
        """
        if not self._lines:
            return
        packed = memoryview(member(b"".join(self._lines)))
        written = 0
        try:
            while written < len(packed):
                written += os.pwrite(self._file, packed[written:], self.bytes + written)
        except OSError as error:
            os.ftruncate(self._file, self.bytes)
            raise StoreError(
                f"{self.path}: {error.strerror}; {len(self._lines):,} lines are not written.",
                hint="What was written before is whole. Make room and start again: the recorder goes on in the same file.",
            ) from error
        self.bytes += len(packed)
        self.written += len(packed)
        self.lines += len(self._lines)
        self._lines.clear()
        self._size = 0

    def close(self) -> None:
        """Flush, and let go."""
        try:
            self.flush()
        finally:
            os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"Another recorder writes {self.path}.", hint="Stop it, or record elsewhere: --out DIR.") from None

    def _end(self) -> tuple[int, int]:
        """(byte behind the last whole member, receive time of its last line; 0 where there is none)."""
        whole, at, last = os.fstat(self._file).st_size, 0, 0
        while at + _HEAD.size <= whole:
            head = os.pread(self._file, _HEAD.size, at)
            *magic, _, _, _, extra, tag, four, size = _HEAD.unpack(head)
            if magic != [0x1F, 0x8B, 8, 4] or (extra, tag, four) != (8, b"CF", 4):
                raise InputError(
                    f"{self.path} is no file of this recorder (byte {at:,}).", hint="It is left as it is: move it, or record elsewhere."
                )
            if at + size > whole:
                break
            last, at = at, at + size
        return at, self._last_time(last, at)

    def _last_time(self, begin: int, end: int) -> int:
        if begin == end:
            return 0
        try:
            text = zlib.decompress(os.pread(self._file, end - begin, begin), zlib.MAX_WBITS + 16)
            return int(text[text.rstrip(b"\n").rfind(b"\n") + 1 :].partition(b" ")[0])
        except (zlib.error, ValueError) as error:
            raise FeedError(
                f"{self.path} is damaged before its end (byte {begin:,}).", hint="Move it: a new file begins.", path=self.path
            ) from error


@dataclass(slots=True)
class Captures:
    """The captures of some symbols below a folder: a line goes to the file of its symbol and the UTC day on which it was received.

    lines, bytes  written by this process
    The day only goes on: a clock that steps back over midnight leaves its lines in the new day's file.
    """

    folder: Path
    _bare: dict[Source, None] = field(default_factory=dict)
    _open: dict[Source, tuple[int, CaptureFile]] = field(default_factory=dict)
    _lines: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: {error.strerror}.", hint="Expected a folder that can be written to: --out DIR.") from error

    def write(self, items: Sequence[Item]) -> list[Source]:
        """Keep lines for the next flush; returns the symbols whose file of a new day has no snapshot yet: alone it could not be read."""
        for item in items:
            if item.source is None:
                continue
            day, file = self._open.get(item.source, (0, None))
            here = day_of(item.recv)
            if file is None or here > day:
                if file is not None:
                    self._close(file)
                    self._bare[item.source] = None
                file = CaptureFile(self.folder / file_name(item.source, here), item.source)
                self._open[item.source] = here, file
            file.add(item.recv, item.text)
            if item.kind == SNAPSHOT:
                self._bare.pop(item.source, None)
        return list(self._bare)

    def flush(self) -> None:
        """Write what is kept."""
        for _, file in self._open.values():
            file.flush()

    def close(self) -> None:
        """Write what is kept and let go of the files. Raises StoreError, once every file that can be written is."""
        failed: StoreError | None = None
        while self._open:
            try:
                self._close(self._open.popitem()[1][1])
            except StoreError as error:
                failed = error
        if failed is not None:
            raise failed

    @property
    def lines(self) -> int:
        return self._lines + sum(file.lines for _, file in self._open.values())

    @property
    def bytes(self) -> int:
        return self._bytes + sum(file.written for _, file in self._open.values())

    @property
    def files(self) -> list[Path]:
        """The files that are being written."""
        return sorted(file.path for _, file in self._open.values())

    def _close(self, file: CaptureFile) -> None:
        file.close()
        self._lines += file.lines
        self._bytes += file.written
