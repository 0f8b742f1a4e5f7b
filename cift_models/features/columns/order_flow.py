"""Order flow imbalance of one level, summed by bar: exact integers.

The increment from one row's book to the next is the one that features are made of live (features/order_flow.py). The first row of a
stream has no book before it: 0. A row that repeats the book gives 0.

A kernel takes one level: a single pass over the forty columns of ten levels has more streams than the hardware follows and is ten times
slower. The increments of a block never leave L1: there they are summed by bar and, at the best level, scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.features.columns.chunk import EMPTY_OFFSET, MAX_LOTS, Level, refuse_lots
from cift_models.features.columns.clocks import State
from cift_models.features.columns.z_score import BLOCK, RollingZ, roll
from cift_models.features.order_flow import increment

GROUP = 4
"""Increments added up before bars are looked at. A bar's sum is the difference of two running sums over groups and at most three single
increments at each end, so it costs no unpredictable branch however many rows it has (a loop over each bar's rows takes twice as long)."""


AHEAD = 16_384
"""Rows of a level that are brought to L2 before they are worked on: column after column, each as one stream, at the bandwidth of memory.
Four columns (and four that lag them by a row) read at once while working come at half of it."""


def start() -> State:
    """Memory of one level before the first row: its book, the open bar's sum, and [rows seen, all bits of any size, of any price]."""
    return {"book": np.zeros(4, np.int64), "open": np.zeros(1, np.int64), "seen": np.zeros(3, np.int64)}


def fold(state: State, level: Level, best: Level, ends: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """ofi int64[K], lots, of the bars that end at rows `ends` of the chunk that `level` is of; changes `state` in place. O(n).

    `best` is level 0 of the same chunk (read where the prices are distances from it); `name` names the level in errors.

    Raises DataError for a size that is negative or beyond MAX_LOTS of its type and for an int16 distance below 0. The state may not be used
    afterwards.
    """
    ofi, kind = np.empty(len(ends), np.int64), level.bid_sz.dtype
    book = (level.bid_px, level.bid_sz, level.ask_px, level.ask_sz)
    memory = (np.zeros(BLOCK + GROUP, kind), state["book"], state["open"], state["seen"], MAX_LOTS[kind])
    found = _near(best.bid_px, best.ask_px, *book, ends, ofi, *memory) if level.is_near else _plain(*book, ends, ofi, *memory)
    if found:
        raise _refusal(found, level, name, int(state["seen"][0]))
    return ofi


def fold_scored(
    state: State, level: Level, ends: NDArray[np.int64], name: str, score: RollingZ, score_state: State, z: NDArray[np.float64]
) -> NDArray[np.int64]:
    """`fold` of a level of prices in ticks; z float64[n] receives the rolling z-score of its increments, row by row.

    Raises DataError as `fold` does, and for an increment beyond what `score` takes.
    """
    ofi, kind = np.empty(len(ends), np.int64), level.bid_sz.dtype
    found, value = _scored(
        level.bid_px, level.bid_sz, level.ask_px, level.ask_sz, ends, ofi, np.zeros(score.window + BLOCK + GROUP, kind),
        state["book"], state["open"], state["seen"], MAX_LOTS[kind], score_state["history"], score_state["sums"], score.max_abs, z,
    )  # fmt: skip
    if found == BEYOND:
        raise score.refuse(f"An order-flow increment of level {name}", int(value))
    if found:
        raise _refusal(found, level, name, int(state["seen"][0]))
    return ofi


def check_exact(state: State, rows: int, name: str) -> None:
    """Raise DataError where a bar of so many rows may have wrapped: |e| is at most twice the largest size seen."""
    if 2 * rows * int(state["seen"][1]) >= 2**62:
        raise DataError(
            f"A bar of {rows:,} rows, level {name}: sizes of up to {int(state['seen'][1]):,} lots. Expected rows x size below 2^61.",
            hint="Take shorter bars, or count in larger lots.",
        )


def _refusal(found: int, level: Level, name: str, rows_before: int) -> DataError:
    """What to raise for what a kernel found."""
    if found == BAD_LOTS:
        side = "bid" if ((level.bid_sz < 0) | (level.bid_sz > MAX_LOTS[level.bid_sz.dtype])).any() else "ask"
        return refuse_lots(f"{side}_sz_{name}", getattr(level, f"{side}_sz"), rows_before)
    row = int(np.argmax((level.bid_px < 0) | (level.ask_px < 0)))
    return DataError(
        f"Level {name}: row {rows_before + row:,} lies ({level.bid_px[row]}, {level.ask_px[row]}) ticks from the best of its side. "
        f"Expected distances of 0 to {EMPTY_OFFSET - 1:,}, {EMPTY_OFFSET:,} where no order rests.",
        hint="An int16 price is ticks below the best bid, or above the best ask.",
        row=rows_before + row,
    )


OK, BAD_LOTS, BAD_DISTANCE, BEYOND = 0, 1, 2, 3
"""What a kernel found."""


@kernel
def _increments(b0, q0, a0, r0, b1, q1, a1, r1, e):
    """e of many rows, from (bid price, bid size, ask price, ask size) of the rows before to theirs. LLVM makes it a loop of vectors."""
    for i in range(e.shape[0]):
        e[i] = increment(b0[i], q0[i], a0[i], r0[i], b1[i], q1[i], a1[i], r1[i])


@kernel
def _bits(x):
    """All bits that any value has: negative if one is, below 2^k if all are."""
    bits = x.dtype.type(0)
    for i in range(x.shape[0]):
        bits |= x[i]
    return bits


@kernel
def _ahead(bid_px, bid_sz, ask_px, ask_sz, at, seen, max_lots):
    """Read rows at .. at + AHEAD - 1 of a level, so that they lie in L2; whether every size is one that stays exact."""
    to = min(at + AHEAD, bid_px.shape[0])
    bits = np.int64(_bits(bid_sz[at:to]) | _bits(ask_sz[at:to]))
    seen[1] |= bits
    seen[2] |= _bits(bid_px[at:to]) | _bits(ask_px[at:to])
    return 0 <= bits <= max_lots


@kernel
def _groups(e, groups):
    """Sums of GROUP increments; in one expression, which LLVM turns into shuffled vectors (a loop of four it would unroll)."""
    for j in range(groups.shape[0]):
        groups[j] = (e[4 * j] + e[4 * j + 1]) + (e[4 * j + 2] + e[4 * j + 3])


@kernel
def _share(e, n, at, ends, k, ofi, left, groups, running):
    """Share n increments from row `at` on out among the bars k, k + 1, ...; `left` is the sum of the open bar. Returns both anew.

    `e` has room for a whole group after its n values; groups and running are room for the sums. Places are unsigned: a signed one would be
    looked at for being negative.
    """
    m = n // GROUP
    _groups(e, groups[:m])
    total = np.int64(0)
    for j in range(m):
        running[j] = total
        total += groups[j]
    running[m] = total
    before = np.int64(0)
    while k < ends.shape[0]:
        end = ends[np.uint64(k)]
        if end > at + n:
            break
        g = np.uint64(end - at) >> np.uint64(2)
        first = g << np.uint64(2)
        more = np.uint64(end - at) - first
        until = running[g]
        until += np.int64(e[first]) * np.int64(more > 0)
        until += np.int64(e[first + np.uint64(1)]) * np.int64(more > 1)
        until += np.int64(e[first + np.uint64(2)]) * np.int64(more > 2)
        ofi[np.uint64(k)] = left + until - before
        left = np.int64(0)
        before = until
        k += 1
    for j in range(m * GROUP, n):
        total += e[j]
    return k, left + total - before


@kernel
def _block(bid_px, bid_sz, ask_px, ask_sz, at, n, e, book, seen):
    """Increments of rows at .. at + n - 1 of a chunk into e[:n]."""
    first = 0
    if at == 0:
        first = 1
        e[0] = increment(book[0], book[1], book[2], book[3], bid_px[0], bid_sz[0], ask_px[0], ask_sz[0]) if seen[0] else 0
    a, b = at + first, at + n
    _increments(
        bid_px[a - 1 : b - 1], bid_sz[a - 1 : b - 1], ask_px[a - 1 : b - 1], ask_sz[a - 1 : b - 1],
        bid_px[a:b], bid_sz[a:b], ask_px[a:b], ask_sz[a:b], e[first:n],
    )  # fmt: skip


@kernel
def _remember(bid_px, bid_sz, ask_px, ask_sz, book, seen):
    n = bid_px.shape[0]
    if n:
        book[0], book[1], book[2], book[3] = bid_px[n - 1], bid_sz[n - 1], ask_px[n - 1], ask_sz[n - 1]
        seen[0] += n


@kernel
def _plain(bid_px, bid_sz, ask_px, ask_sz, ends, ofi, e, book, left, seen, max_lots):
    """One level of prices in ticks. Returns what was found."""
    k, total = 0, left[0]
    groups, adding = np.empty(BLOCK // GROUP, e.dtype), np.empty(BLOCK // GROUP + 1, np.int64)
    for at in range(0, bid_px.shape[0], BLOCK):
        n = min(BLOCK, bid_px.shape[0] - at)
        if at % AHEAD == 0 and not _ahead(bid_px, bid_sz, ask_px, ask_sz, at, seen, max_lots):
            return BAD_LOTS
        _block(bid_px, bid_sz, ask_px, ask_sz, at, n, e, book, seen)
        k, total = _share(e, n, at, ends, k, ofi, total, groups, adding)
    left[0] = total
    _remember(bid_px, bid_sz, ask_px, ask_sz, book, seen)
    return OK


@kernel
def _scored(bid_px, bid_sz, ask_px, ask_sz, ends, ofi, e, book, left, seen, max_lots, history, sums, max_abs, z):
    """`_plain` with the rolling z-score of the increments, while they are in L1. e is [window, block, room for a group].

    Returns (what was found, the increment where it is BEYOND).
    """
    k, total = 0, left[0]
    groups, adding = np.empty(BLOCK // GROUP, e.dtype), np.empty(BLOCK // GROUP + 1, np.int64)
    window = history.shape[0]
    running, squares = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    for i in range(window):
        e[i] = history[i]
    for at in range(0, bid_px.shape[0], BLOCK):
        n = min(BLOCK, bid_px.shape[0] - at)
        if at % AHEAD == 0 and not _ahead(bid_px, bid_sz, ask_px, ask_sz, at, seen, max_lots):
            return BAD_LOTS, 0
        _block(bid_px, bid_sz, ask_px, ask_sz, at, n, e[window:], book, seen)
        k, total = _share(e[window:], n, at, ends, k, ofi, total, groups, adding)
        bad = roll(e, n, window, sums, max_abs, running, squares, z[at : at + n])
        if bad >= 0:
            return BEYOND, np.int64(e[window + bad])
    for i in range(window):
        history[i] = e[i]
    left[0] = total
    _remember(bid_px, bid_sz, ask_px, ask_sz, book, seen)
    return OK, 0


@kernel
def _near(best_bid, best_ask, bid_px, bid_sz, ask_px, ask_sz, ends, ofi, e, book, left, seen, max_lots):
    """`_plain` for prices that are distances from the best: they are made prices a block at a time, in L1."""
    k, total = 0, left[0]
    groups, adding = np.empty(BLOCK // GROUP, e.dtype), np.empty(BLOCK // GROUP + 1, np.int64)
    bid, ask = np.empty(BLOCK + 1, np.int32), np.empty(BLOCK + 1, np.int32)
    bid[0], ask[0] = book[0], book[2]
    for at in range(0, bid_px.shape[0], BLOCK):
        n = min(BLOCK, bid_px.shape[0] - at)
        if at % AHEAD == 0:
            if not _ahead(bid_px, bid_sz, ask_px, ask_sz, at, seen, max_lots):
                return BAD_LOTS
            if seen[2] < 0:
                return BAD_DISTANCE
        _prices(best_bid[at : at + n], bid_px[at : at + n], -1, EMPTY_BID, bid[1 : n + 1])
        _prices(best_ask[at : at + n], ask_px[at : at + n], 1, EMPTY_ASK, ask[1 : n + 1])
        first = 0
        if at == 0:
            first = 1
            e[0] = increment(book[0], book[1], book[2], book[3], bid[1], bid_sz[0], ask[1], ask_sz[0]) if seen[0] else 0
        a, b = at + first, at + n
        _increments(
            bid[first:n], bid_sz[a - 1 : b - 1], ask[first:n], ask_sz[a - 1 : b - 1],
            bid[first + 1 : n + 1], bid_sz[a:b], ask[first + 1 : n + 1], ask_sz[a:b], e[first:n],
        )  # fmt: skip
        bid[0], ask[0] = bid[n], ask[n]
        k, total = _share(e, n, at, ends, k, ofi, total, groups, adding)
    left[0] = total
    n = bid_px.shape[0]
    if n:
        book[0], book[1], book[2], book[3] = bid[0], bid_sz[n - 1], ask[0], ask_sz[n - 1]
        seen[0] += n
    return OK


@kernel
def _prices(best, distance, away, empty, px):
    for i in range(px.shape[0]):
        px[i] = empty if distance[i] == EMPTY_OFFSET else best[i] + away * distance[i]
