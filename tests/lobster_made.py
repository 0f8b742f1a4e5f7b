"""A LOBSTER zip made by hand: a dozen rows that hold every kind of message, and what they say."""

from __future__ import annotations

import zipfile
from pathlib import Path

STEM = "TEST_2012-06-21_34200000_57600000"
MESSAGES = """\
34200,1,11,100,1000000,1
34200.5,1,12,200,1000300,-1
34200.500000001,1,13,50,1000100,1
34200.6,1,14,70,1000200,-1
34200.6,4,14,30,1000200,-1
34200.632812672004,4,13,20,1000100,1
34201.1,5,0,10,1000150,-1
34202,2,12,50,1000300,-1
34203,3,13,30,1000100,1
34204,7,0,0,-1,-1
34205,7,0,0,0,-1
34206,7,0,0,1,-1
34207.9999999999,6,-1,500,1000200,-1
"""
BOOK = """\
9999999999,0,1000000,100,9999999999,0,-9999999999,0
1000300,200,1000000,100,9999999999,0,-9999999999,0
1000300,200,1000100,50,9999999999,0,1000000,100
1000200,70,1000100,50,1000300,200,1000000,100
1000200,40,1000100,50,1000300,200,1000000,100
1000200,40,1000100,30,1000300,200,1000000,100
1000200,40,1000100,30,1000300,200,1000000,100
1000200,40,1000100,30,1000300,150,1000000,100
1000200,40,1000000,100,1000300,150,-9999999999,0
1000200,40,1000000,100,1000300,150,-9999999999,0
1000200,40,1000000,100,1000300,150,-9999999999,0
1000200,40,1000000,100,1000300,150,-9999999999,0
1000200,40,1000000,100,1000300,150,-9999999999,0
"""


def lobster_made(path: Path, messages: str = MESSAGES, book: str = BOOK, stem: str = STEM, levels: int = 2, **more: str) -> Path:
    """Write the zip; `more` adds members (name with underscores for dots, text). The same content is the same bytes at any time."""
    members = {f"{stem}_message_{levels}.csv": messages, f"{stem}_orderbook_{levels}.csv": book}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (members | {name.replace("__", "."): text for name, text in more.items()}).items():
            archive.writestr(zipfile.ZipInfo(name), text)  # written by name alone, a member bears the time of day, to two seconds
    return path
