"""What every feed gives: canonical tables of one symbol and one stretch of one day, and where they came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from cift_models.instruments import SECOND, Instrument, Session

if TYPE_CHECKING:
    import polars


BookBefore = Callable[[str, int], "polars.DataFrame | None"]
"""(symbol, ns) to the BOOK_STATE that the last stored recording before that instant left; None where there is none."""


class Identity(NamedTuple):
    """Whose recording a file is, and where it begins, before it is read."""

    symbol: str
    day: int
    """yyyymmdd, the venue's date"""
    begins: int
    """ns UTC"""


def utc_day(ns: int) -> int:
    """The UTC date of an instant (ns UTC), as yyyymmdd."""
    return int(f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y%m%d}")


def part_from(ns: int) -> str:
    """What the part of a recording that begins at an instant (ns UTC) is called: its second of the UTC day, so that parts sort by time."""
    return f"t{ns // SECOND % 86_400:05d}"


@dataclass(frozen=True, slots=True)
class FeedDay:
    """One symbol's rows out of one file.

    session  the regular hours of the day, or the stretch that the file covers
    tables   canonical tables by name (schema.TABLES), not yet checked: feeds.quality marks what no model may see
    source   JSON facts about the file: feed, file, sha256, rows, receive_clock; nothing that changes from run to run
    part     where a day comes in several files: which of them (a folder's name); "" where the day is one file. Files of one day have
             different parts and different ranges of `sequence`, so that any of them may be stored alone, again, or in any order
    apart    rows by table that the feed itself cannot use, with a column `reason` (a change to a book that was never sent whole)
    """

    instrument: Instrument
    session: Session
    tables: dict[str, polars.DataFrame]
    source: dict[str, Any]
    part: str = ""
    apart: dict[str, polars.DataFrame] = field(default_factory=dict)
