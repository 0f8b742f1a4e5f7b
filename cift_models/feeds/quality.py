"""Rows that no model may see: counted by reason, and kept apart with the reason, never repaired or dropped in silence.

    off_session    ts_recv outside the session's open and close, or ts_event in a feed without a receive clock
    out_of_order   the sequence goes back or repeats; or time goes back in a feed without a receive clock
    non_positive   a price or size that is not above zero (a negative size where a level is empty)
    crossed        best bid above best ask, or a book whose levels are not in order. Locked (bid = ask) is kept: venues do lock

A feed with a receive clock may deliver late: that is not an error, the running maximum of `ts_recv` says when a row could be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.instruments import Session

if TYPE_CHECKING:
    import polars

REASONS = ("off_session", "out_of_order", "non_positive", "crossed")
"""Why a row is kept apart; the first that holds is the one that is counted."""


@dataclass(frozen=True, slots=True)
class Checked:
    """`rows` that may be used, `quarantined` with a column `reason`, and how many rows each reason took (zeros left out)."""

    rows: polars.DataFrame
    quarantined: polars.DataFrame
    counts: dict[str, int]


def check(frame: polars.DataFrame, session: Session, receive_clock: bool) -> Checked:
    """Sort one table's rows of one symbol and session into usable and quarantined. O(rows x columns), columns decide what is looked at."""
    import polars as pl

    reason = np.full(len(frame), len(REASONS), np.int8)
    usable = _mark(reason, "off_session", _off_session(frame, session, receive_clock))
    usable = _mark(reason, "out_of_order", _out_of_order(frame, usable, receive_clock))
    _mark(reason, "non_positive", _non_positive(frame))
    _mark(reason, "crossed", _crossed(frame))
    bad = reason < len(REASONS)
    counts = {r: int((reason == i).sum()) for i, r in enumerate(REASONS) if (reason == i).any()}
    if not counts:
        return Checked(frame, frame.clear().with_columns(reason=pl.lit("", pl.String)), {})
    named = frame.with_columns(reason=pl.Series(np.array([*REASONS, ""])[reason], dtype=pl.String))
    return Checked(frame.filter(pl.Series(~bad)), named.filter(pl.Series(bad)), counts)


def check_tables(tables: Mapping[str, polars.DataFrame], session: Session, receive_clock: bool) -> dict[str, Checked]:
    """`check` for each table of a session; a row that is kept apart in one table says nothing about the others."""
    return {name: check(frame, session, receive_clock) for name, frame in tables.items()}


def _mark(reason: NDArray[np.int8], what: str, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give rows without a reason this one; returns which rows still have none."""
    free = reason == len(REASONS)
    reason[free & bad] = REASONS.index(what)
    return free & ~bad


def _off_session(frame: polars.DataFrame, session: Session, receive_clock: bool) -> NDArray[np.bool_]:
    """By the clock that says what may be used when: the exchange's may run ahead of the receiver's at either end."""
    recv = frame["ts_recv"].to_numpy()
    event = recv if receive_clock else frame["ts_event"].to_numpy()
    return (np.minimum(event, recv) < session.open) | (np.maximum(event, recv) > session.close)


def _out_of_order(frame: polars.DataFrame, usable: NDArray[np.bool_], receive_clock: bool) -> NDArray[np.bool_]:
    """Rows behind the greatest that came before them. Rows off session do not count: one wild time may not condemn all that follow."""
    bad = np.zeros(len(frame), bool)
    for column, strict in (("sequence", True), ("ts_event", False)):
        if column == "ts_event" and receive_clock:
            continue
        at = np.flatnonzero(usable & ~bad)
        values = frame[column].to_numpy()[at]
        if len(values) > 1:
            greatest = np.maximum.accumulate(values)[:-1]
            bad[at[1:]] |= values[1:] <= greatest if strict else values[1:] < greatest
    return bad


def _non_positive(frame: polars.DataFrame) -> NDArray[np.bool_]:
    bad = np.zeros(len(frame), bool)
    if "action" in frame.columns:
        trades = frame["action"].to_numpy() <= 6
        return trades & ((frame["price"].to_numpy() <= 0) | (frame["size"].to_numpy() <= 0))
    for name in frame.columns:
        if name in ("price", "size"):
            bad |= frame[name].to_numpy() <= 0
        elif name.startswith(("bid_px", "ask_px")):
            price, size = frame[name].to_numpy(), frame[name.replace("_px", "_sz")].to_numpy()
            empty = price == (EMPTY_BID if name.startswith("bid") else EMPTY_ASK)
            bad |= np.where(empty, size != 0, (price <= 0) | (size <= 0))
    return bad


def _crossed(frame: polars.DataFrame) -> NDArray[np.bool_]:
    bad = np.zeros(len(frame), bool)
    bids = [frame[c].to_numpy() for c in frame.columns if c.startswith("bid_px")]
    asks = [frame[c].to_numpy() for c in frame.columns if c.startswith("ask_px")]
    if bids:
        bad |= bids[0] > asks[0]
    for above, below in pairwise(bids):
        bad |= (below >= above) & (below != EMPTY_BID)
    for below, above in pairwise(asks):
        bad |= (above <= below) & (above != EMPTY_ASK)
    return bad
