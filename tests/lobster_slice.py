"""A short session cut from a recorded LOBSTER day: real rows, small enough for a unit test."""

from __future__ import annotations

import os
import zipfile
from datetime import date
from pathlib import Path

import pytest

from cift_models.feeds.lobster import NAME


def lobster_folder() -> Path:
    """The recorded LOBSTER files; skips the test where they are not."""
    root = os.environ.get("CIFT_TEST_DATA")
    if not root:
        pytest.skip("CIFT_TEST_DATA is not set: no recorded market data")
    folder = Path(root) / "lobster_20120621"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: no recorded LOBSTER day")
    return folder


def lobster_zip(symbol: str) -> Path:
    """The recorded day of one symbol (AAPL, AMZN, GOOG)."""
    return next(lobster_folder().glob(f"*_{symbol}_*.zip"))


def slice_lobster(source: Path, target: Path, start_ms: int, end_ms: int) -> Path:
    """Write the rows of `source` with start <= time < end (ms after midnight, New York) as a LOBSTER zip of that session.

    Returns `target`. The rows' text is copied as it is; the names inside say the new start and end.
    """
    with zipfile.ZipFile(source) as archive:
        names = {m["what"]: m for m in map(NAME.match, archive.namelist()) if m}
        messages, book = (archive.read(names[what].string).splitlines(keepends=True) for what in ("message", "orderbook"))
    times = [float(line.split(b",", 1)[0]) * 1000 for line in messages]
    rows = [i for i, ms in enumerate(times) if start_ms <= ms < end_ms]
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for what, lines in (("message", messages), ("orderbook", book)):
            m = names[what]
            name = f"{m['symbol']}_{m['day']}_{start_ms}_{end_ms}_{what}_{m['levels']}.csv"
            archive.writestr(zipfile.ZipInfo(name), b"".join(lines[i] for i in rows), zipfile.ZIP_DEFLATED)
    return target


def copy_lobster(source: Path, target: Path, day: date) -> Path:
    """Write the rows of `source` as those of another day. Returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for m in filter(None, map(NAME.match, archive.namelist())):
            name = f"{m['symbol']}_{day.isoformat()}_{m['start']}_{m['end']}_{m['what']}_{m['levels']}.csv"
            copy.writestr(zipfile.ZipInfo(name), archive.read(m.string), zipfile.ZIP_DEFLATED, compresslevel=1)
    return target
