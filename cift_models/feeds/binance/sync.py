"""One symbol's book out of changes that may begin in the middle, break, and be mended by a snapshot.

Every change says after which update it begins and with which it ends: `after` is `pu` on the futures markets and `U - 1` on spot,
`until` is `u`. The rules are Binance's ("How to manage a local order book correctly"), which come to two:
- a change follows a book that holds everything until `last`, if after == last;
- a change follows a snapshot, or a stored book, of everything until `last`, if after <= last < until: what it says of a price is the amount
  there, not a difference. One with until <= last is in the snapshot already.
The second is U <= lastUpdateId + 1 <= u on spot. On futures Binance asks for U <= lastUpdateId <= u; but there all symbols share the ids,
`pu` may lie far below `U`, and a snapshot taken between two changes would be refused though none is missing.

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
    gaps       how often a book that was whole was lost
    snapshots  how often one was begun from a snapshot
    """

    fate: NDArray[np.int8]
    px: NDArray[np.int32]
    sz: NDArray[np.int64]
    at: NDArray[np.int64]
    halted: NDArray[np.bool_]
    gaps: int
    snapshots: int


@dataclass(slots=True)
class Sync:
    """A book and how it stands to the stream: a value that `follow` changes, and `copy` forks.

    book    whole, or None
    last    id of the last update that it holds
    loose   it is a snapshot that no change has followed yet
    proven  a change has followed it here; a stored book is not proven until then
    lost    that it is not whole has been said
    away    that it is whole is to be said when the next change has followed: something was missed before it
    spare   the newest snapshot that came while the book was known and lay ahead of it; it may hold what then turns out to be lost
    kept    changes since it was lost, as they came, each following the one before; n_kept of them
    """

    book: L2Book | None = None
    last: int = 0
    loose: bool = False
    proven: bool = False
    lost: bool = False
    away: bool = False
    spare: Kept | None = None
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
    wholes = [*np.flatnonzero(told.snapshot).tolist(), m]
    rows = gaps = snapshots = i = 0
    while i < m:
        while wholes[0] < i:
            wholes.pop(0)
        if told.snapshot[i]:
            snapshot = _part(told, slice(i, i + 1), ticks, lots)
            if sync.book is not None:
                fate[i] = SPARE_SNAPSHOT
                if told.until[i] > max(sync.last, sync.spare.until[0] if sync.spare else 0):
                    sync.spare = snapshot
            elif _begin(sync, snapshot):
                _write_top(sync, px, sz, rows)
                halts.append((i, False))
                rows += 1
                snapshots += 1
            else:
                fate[i] = UNCHAINED_SNAPSHOT
            i += 1
            continue
        if sync.book is None:
            if not sync.lost:
                halts.append((i, True))
                sync.lost = True
            stop = i + 1 if sync.spare else wholes[0]
            fate[i:stop] = NO_SNAPSHOT
            _keep(sync, told, i, stop, ticks, lots)
            i = stop
            if sync.spare and _begin(sync, sync.spare):
                sync.lost = sync.away = True
                snapshots += 1
            sync.spare = None
            continue
        if sync.loose and told.until[i] <= sync.last:
            fate[i] = IN_SNAPSHOT
            i += 1
            continue
        if (sync.loose or not sync.proven) and after[i] <= sync.last < told.until[i]:
            after[i] = sync.last
        sync.loose = False
        book = sync.book
        done = fold(
            book.key, book.size, book.used, sync.last, after, told.until, told.first, told.middle, told.end, ticks, lots,
            i, wholes[0], rows, px, sz,
        )  # fmt: skip
        if done > i:
            if sync.away:
                halts.append((i, False))
            sync.last, sync.proven, sync.away, sync.lost = int(told.until[done - 1]), True, False, False
        rows += done - i
        i = done
        if i == wholes[0]:
            continue
        if after[i] == sync.last:
            book.reserve(int(told.end[i] - told.first[i]))
        else:
            gaps += sync.proven
            sync.book, sync.proven, sync.away = None, False, False
    said = np.array([at for at, _ in halts], np.int64), np.array([halted for _, halted in halts], bool)
    return Followed(fate, px[:, :, :rows], sz[:, :, :rows], *said, gaps, snapshots)


def _keep(sync: Sync, told: Told, start: int, stop: int, ticks: NDArray[np.int64], lots: NDArray[np.int64]) -> None:
    """Keep changes for the snapshot to come: the last KEPT or more, back to the last break.

    A snapshot that held what lies before the break would not hold what was lost in it: the changes behind it could not follow.
    """
    breaks = np.flatnonzero(told.after[start + 1 : stop] != told.until[start : stop - 1])
    if len(breaks) or (sync.kept and sync.kept[-1].until[-1] != told.after[start]):
        sync.kept, sync.n_kept = [], 0
        start += int(breaks[-1]) + 1 if len(breaks) else 0
    start = max(start, stop - KEPT)
    sync.kept.append(_part(told, slice(start, stop), ticks, lots))
    sync.n_kept += stop - start
    while sync.n_kept - len(sync.kept[0].until) >= KEPT:
        sync.n_kept -= len(sync.kept.pop(0).until)


def _part(told: Told, part: slice, ticks: NDArray[np.int64], lots: NDArray[np.int64]) -> Kept:
    """Some messages and their numbers, by themselves."""
    bids, asks = told.middle[part] - told.first[part], told.end[part] - told.middle[part]
    # Numbers of other messages (quotes, trades) lie between those of changes.
    sizes = bids + asks
    mine = np.repeat(told.first[part] - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))
    return Kept(told.after[part].copy(), told.until[part].copy(), bids, asks, ticks[mine], lots[mine])


def _begin(sync: Sync, snapshot: Kept) -> bool:
    """Begin a book with a snapshot and the kept changes that follow it; False where there are such and they do not follow it."""
    holds = snapshot.until[0]
    after, until, bids, asks, ticks, lots = (np.concatenate(columns) for columns in zip(snapshot, *sync.kept, strict=True))
    follow_on = np.flatnonzero(until > holds)
    if len(follow_on) and after[follow_on[0]] > holds:
        return False
    after[follow_on[:1]] = holds
    # What the snapshot holds already is passed over; the snapshot is the first message.
    run = np.r_[0, follow_on]
    sizes = bids + asks
    stop = np.cumsum(sizes)
    first = (stop - sizes)[run]
    book = L2Book.empty(2 * int(sizes[run].sum()) + 64)
    none = np.empty((2, 0, 0), np.int32), np.empty((2, 0, 0), np.int64)
    fold(
        book.key, book.size, book.used, int(holds), after[run], until[run], first, first + bids[run], stop[run], ticks, lots,
        0, len(run), 0, *none,
    )  # fmt: skip
    sync.book, sync.last, sync.loose = book, int(until[run[-1]]), len(run) == 1
    sync.proven, sync.lost, sync.away, sync.kept, sync.n_kept = True, False, False, [], 0
    return True


def _write_top(sync: Sync, px: NDArray[np.int32], sz: NDArray[np.int64], row: int) -> None:
    """Write a row of the book as it stands: that of a change that changes nothing."""
    assert sync.book is not None
    book, nothing, one = sync.book, np.zeros(1, np.int64), np.array([sync.last])
    fold(book.key, book.size, book.used, sync.last, one, one, nothing, nothing, nothing, nothing, nothing, 0, 1, row, px, sz)
