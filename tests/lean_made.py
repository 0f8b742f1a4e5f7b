"""LEAN zips: the recorded ones, and one made by hand that holds every kind of row."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

QUOTES = """\
34199990,0,0,500200,300,Q,1,0
34199995,500000,200,0,0,P,1,0
34199995,0,0,500200,300,Q,1,0
34200000,500000,100,0,0,N,1,0
34200000,0,0,500100,300,Q,1,0
34200007,500100,100,0,0,N,1,0
34200007,0,0,500200,400,K,1,0
34200007,500100,700,0,0,N,1,0
34200008,0,0,500200,500,K,1,0
34200500,499000,100,0,0,N,1,1
34200500,0,0,500300,200,K,1,0
34200600,0,0,0,0,N,2000,0
34200700,500200,0,0,0,N,1,0"""
"""A lone ask; three messages of two rows; two lone rows; a suspicious bid with its ask; no side; a bid of nothing."""
TRADES = """\
34199000,499900,100,P,2000,0
34200000,500200,100,N,20000020,0
34200007,500000,200,D,1,0
34200007,500100,50,D,,0
34200300,500150,10,N,20004a00,0
34200301,510000,10,N,1,1
34200302,500150,10,N,4000000,0
57600000,500000,900,N,80,0"""
"""Before the open; three good ones, the last without condition; out of sequence; suspicious; an official open; at the close."""
NAME = "20131007_abc_{}_Tick.csv"


def recorded(symbol: str, name: str) -> Path:
    """A recorded zip (aig, bac, ibm or spy; 20131007_quote, ...); skips the test where it is not."""
    root = os.environ.get("CIFT_TEST_DATA")
    if not root:
        pytest.skip("CIFT_TEST_DATA is not set: no recorded market data")
    path = Path(root) / "lean_equity_201310" / symbol / f"{name}.zip"
    if not path.is_file():
        pytest.skip(f"{path} is missing: no recorded LEAN ticks")
    return path


def made(folder: Path, kind: str, text: str | None = None, member: str | None = None, zip_name: str | None = None) -> Path:
    """Write a zip of one kind (quote, trade); the rows of this file unless `text` is given."""
    path = folder / (zip_name or f"20131007_{kind}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(member or NAME.format(kind.capitalize()))  # the same bytes whenever it is made
        archive.writestr(info, {"quote": QUOTES, "trade": TRADES}[kind] if text is None else text)
    return path
