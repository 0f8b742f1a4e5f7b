"""One symbol's book out of changes that may begin in the middle, break, and be mended by a snapshot.

Every change says after which update it begins and with which it ends: `after` is `pu` on the futures markets and `U - 1` on spot,
`until` is `u`. The rules are Binance's ("How to manage a local order book correctly"), which come to two:
- a change follows a book that holds everything until `last`, if after == last;
- a change follows a snapshot of everything until `lastUpdateId`, if after <= lastUpdateId < until; one with until <= lastUpdateId is in the
  snapshot already. For spot that is U <= lastUpdateId + 1 <= u. For futures Binance asks for U <= lastUpdateId <= u, but their ids are
  shared by all symbols and `pu` may lie far below `U`: a snapshot taken between two changes would be refused, though none is missing.

The snapshot comes after the first changes, so those are kept until it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.feeds.l2_book import L2Book, fold

ROW, NO_SNAPSHOT, IN_SNAPSHOT, SPARE_SNAPSHOT, UNCHAINED_SNAPSHOT = range(5)
"""What became of a message: a row of the book, or why not (REASONS)."""
REASONS = ("", "no_snapshot", "in_snapshot", "spare_snapshot", "unchained_snapshot")
"""Why a message gave no row: a change to a book that is not known whole; a change that the snapshot before it holds already; a snapshot
while the book is known, which is deeper than any snapshot; a snapshot that is older than the first of the changes kept for it."""
KEPT = 16_384
"""Changes that are kept for a snapshot; minutes of the busiest stream recorded, and a snapshot takes a second."""


class Told(NamedTuple):
    """m messages as columns: int64[m] each, `snapshot` bool[m]; message i says ticks and lots of bids [first:middle], asks [middle:end]."""

    snapshot: NDArray[np.bool_]
    after: NDArray[np.int64]
    until: NDArray[np.int64]
    first: NDArray[np.int64]
    middle: NDArray[np.int64]
    end: NDArray[np.int64]


class Kept(NamedTuple):
    """Changes that follow one another, kept for a snapshot: int64[k] each, and the numbers that they say."""

    after: NDArray[np.int64]
    until: NDArray[np.int64]
    bids: NDArray[np.int64]
    asks: NDArray[np.int64]
    ticks: NDArray[np.int64]
    lots: NDArray[np.int64]


class Followed(NamedTuple):
    """What the messages came to.

    fate    int8[m]: ROW or why not; rows are of the messages with ROW, in their order
    px, sz  int32[2, L, rows] ticks and int64[2, L, rows] lots of bids and asks, best first
    halted  bool[h] and at int64[h]: messages at which the book was lost (True) or became whole (False)
    gaps    how often a book that was whole was lost
    """

    fate: NDArray[np.int8]
    px: NDArray[np.int32]
    sz: NDArray[np.int64]
    at: NDArray[np.int64]
    halted: NDArray[np.bool_]
    gaps: int


@dataclass(slots=True)
class Sync:
    """A book and how it stands to the stream: a value that `follow` changes, and `copy` forks.

    book    whole, or None
    last    id of the last update that it holds
    loose   it is a snapshot that no change has followed yet
    proven  a change has followed it here; a stored book is not proven until then
    lost    that it is not whole has been said
    away    nothing was recorded for a while before a stored book is to go on: that it does is said too
    kept    changes since it was lost, as they came, each following the one before; n_kept of them
    """

    book: L2Book | None = None
    last: int = 0
    loose: bool = False
    proven: bool = False
    lost: bool = False
    away: bool = False
    kept: list[Kept] = field(default_factory=list)
    n_kept: int = 0

    def copy(self) -> Sync:
        return replace(self, book=self.book.copy() if self.book else None, kept=list(self.kept))


def follow(sync: Sync, told: Told, ticks: NDArray[np.int64], lots: NDArray[np.int64], levels: int) -> Followed:
    """Apply messages in the order of the stream; `sync` is changed in place. O(changes log levels + rows L)."""
    m = len(told.after)
    fate = np.zeros(m, np.int8)
    px, sz = np.empty((2, levels, m), np.int32), np.empty((2, levels, m), np.int64)
    after = told.after.copy()
    halts: list[tuple[int, bool]] = []
    snapshots = [*np.flatnonzero(told.snapshot).tolist(), m]
    rows = gaps = i = 0
    while i < m:
        while snapshots[0] < i:
            snapshots.pop(0)
        if told.snapshot[i]:
            if sync.book is not None and sync.proven:
                fate[i] = SPARE_SNAPSHOT
            elif _begin(sync, told, i, ticks, lots, px, sz, rows):
                halts.append((i, False))
                rows += 1
            else:
                fate[i] = UNCHAINED_SNAPSHOT
            i += 1
            continue
        if sync.book is None:
            if not sync.lost:
                halts.append((i, True))
                sync.lost = True
            fate[i : snapshots[0]] = NO_SNAPSHOT
            _keep(sync, told, i, snapshots[0], ticks, lots)
            i = snapshots[0]
            continue
        if sync.loose:
            if told.until[i] <= sync.last:
                fate[i] = IN_SNAPSHOT
                i += 1
                continue
            if after[i] <= sync.last:
                after[i] = sync.last
            sync.loose = False
        book = sync.book
        done = fold(
            book.key, book.size, book.used, sync.last, after, told.until, told.first, told.middle, told.end, ticks, lots,
            i, snapshots[0], rows, px, sz,
        )  # fmt: skip
        if done > i:
            if sync.away:
                halts.append((i, False))
            sync.last, sync.proven, sync.away = int(told.until[done - 1]), True, False
        rows += done - i
        i = done
        if i == snapshots[0]:
            continue
        if after[i] == sync.last:
            book.reserve(int(told.end[i] - told.first[i]))
        else:
            gaps += sync.proven
            sync.book, sync.proven, sync.away = None, False, False
    said = np.array([at for at, _ in halts], np.int64), np.array([halted for _, halted in halts], bool)
    return Followed(fate, px[:, :, :rows], sz[:, :, :rows], *said, gaps)


def _keep(sync: Sync, told: Told, start: int, stop: int, ticks: NDArray[np.int64], lots: NDArray[np.int64]) -> None:
    """Keep changes for the snapshot to come: the last KEPT or more, back to the last break.

    A snapshot that held what lies before the break would not hold what was lost in it: the changes behind it could not follow.
    """
    breaks = np.flatnonzero(told.after[start + 1 : stop] != told.until[start : stop - 1])
    if len(breaks) or (sync.kept and sync.kept[-1].until[-1] != told.after[start]):
        sync.kept, sync.n_kept = [], 0
        start += int(breaks[-1]) + 1 if len(breaks) else 0
    start = max(start, stop - KEPT)
    part = slice(start, stop)
    bids, asks = told.middle[part] - told.first[part], told.end[part] - told.middle[part]
    # Numbers of other messages (quotes, trades) lie between those of changes.
    mine = np.repeat(told.first[part] - np.cumsum(bids + asks) + bids + asks, bids + asks) + np.arange(int((bids + asks).sum()))
    sync.kept.append(Kept(told.after[part].copy(), told.until[part].copy(), bids, asks, ticks[mine], lots[mine]))
    sync.n_kept += stop - start
    while sync.n_kept - len(sync.kept[0].until) >= KEPT:
        sync.n_kept -= len(sync.kept.pop(0).until)


def _begin(
    sync: Sync,
    told: Told,
    i: int,
    ticks: NDArray[np.int64],
    lots: NDArray[np.int64],
    px: NDArray[np.int32],
    sz: NDArray[np.int64],
    row: int,
) -> bool:
    """Begin a book with snapshot i and the kept changes that follow it, and write its row; False where they do not follow."""
    holds = told.until[i : i + 1]
    begin, middle, end = (int(column[i]) for column in (told.first, told.middle, told.end))
    whole = Kept(holds, holds, np.array([middle - begin]), np.array([end - middle]), ticks[begin:end], lots[begin:end])
    after, until, bids, asks, ticks, lots = (np.concatenate(columns) for columns in zip(whole, *sync.kept, strict=True))
    # What the snapshot holds already leaves the run; what it says, and what follows it, stays.
    stop = np.cumsum(bids + asks)
    stays = until > holds[0]
    follow_on = np.flatnonzero(stays)
    if len(follow_on) and after[follow_on[0]] > holds[0]:
        return False
    stays[0] = True
    after[follow_on[:1]] = holds[0]
    run = np.flatnonzero(stays)
    book = L2Book.empty(2 * int((bids + asks)[run].sum()) + 64)
    tops = np.empty((2, px.shape[1], len(run)), np.int32), np.empty((2, px.shape[1], len(run)), np.int64)
    first = (stop - bids - asks)[run]
    fold(
        book.key, book.size, book.used, int(holds[0]), after[run], until[run], first, first + bids[run], stop[run], ticks, lots,
        0, len(run), 0, *tops,
    )  # fmt: skip
    px[:, :, row], sz[:, :, row] = tops[0][:, :, -1], tops[1][:, :, -1]
    sync.book, sync.last, sync.loose = book, int(until[run[-1]]), len(run) == 1
    sync.proven, sync.lost, sync.away, sync.kept, sync.n_kept = True, False, False, [], 0
    return True
