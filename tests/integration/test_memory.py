"""Memory is bounded by the partition, not by the range."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.lobster_slice import copy_lobster, lobster_zip, slice_lobster
from tests.processes import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

SYMBOLS = ("AAPL", "AMZN", "GOOG")


def peak(home: Path, files: list[Path]) -> int:
    """kB of resident memory, at most, of one process that ingests the files and builds the features of their days."""
    # One arena: glibc gives each thread its own, and how they fill says more of the allocator than of us.
    env = environment(home, CIFT_WORKERS="2", MALLOC_ARENA_MAX="1", POLARS_MAX_THREADS="2")
    done = subprocess.run([sys.executable, "-m", "tests.memory", *map(str, files)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_many_days_peak_within_a_fifth_of_two(tmp_path: Path) -> None:
    """Two days, since two are worked on side by side; `CIFT_MEMORY_DAYS=30` with whole days is in docs/results.md."""
    days = int(os.environ.get("CIFT_MEMORY_DAYS", "12"))
    whole = days > 12
    files = []
    for symbol in SYMBOLS:
        source = lobster_zip(symbol)
        part = source if whole else slice_lobster(source, tmp_path / f"{symbol}.zip", 34_200_000, 37_800_000)
        files += [copy_lobster(part, tmp_path / "in" / f"{symbol}-{k}.zip", date(2013, 1, 1) + timedelta(k)) for k in range(days)]
    by_day = sorted(files, key=lambda path: (int(path.stem.partition("-")[2]), path.name))
    few, many = (peak(tmp_path / name, chosen) for name, chosen in (("few", by_day[:6]), ("many", by_day)))
    print(f"2 days {few / 1024:.0f} MB, {days} days {many / 1024:.0f} MB")
    assert many <= 1.2 * few
