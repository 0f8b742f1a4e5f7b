"""Order flow over several look-backs (t - w, t]: exact integer sums, formed into a float once, at the end.

ofi_LL_Wms            order flow imbalance of a level over the window (order_flow.increment), in units (shares, coins, contracts)
signed_volume_Wms     volume bought minus volume sold at the touch (visible executions alone), in units
log_...               sign(v) log1p(|v|) of each of them
log_count_Wms         log1p of the number of events
move_Wms              mid now minus mid w ago, quote currency

A window that reaches back before the session's first event, or before a halt or a gap, starts there. O(events) whatever the windows:
one ring of running sums per symbol, one tail per window.
"""

from __future__ import annotations

import math

import numpy as np

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet, flow_names
from cift_models.features.memory import (
    ASK_PX,
    ASK_SZ,
    BID_PX,
    BID_SZ,
    RING_EXTRA,
    RING_MID2,
    RING_OFI,
    RING_SIGNED,
    RING_TS,
    RING_VOLUME,
)  # fmt: skip
from cift_models.features.order_flow import increment
from cift_models.instruments import SECOND

MOVES_NS = (SECOND, 5 * SECOND, 30 * SECOND)
"""Look-backs of the mid's move."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    counts = tuple(f"log_count_{w // 1_000_000}ms" for w in features.windows_ns)
    moves = tuple(f"move_{w // 1_000_000}ms" for w in MOVES_NS)
    return (*flow_names(features), *flow_names(features, log=True), *counts, *moves)


@kernel
def apply(m, book, ring, ts, has_book, shown, side, trade_sz, bid_px, bid_sz, ask_px, ask_sz, i):
    """Push the sums after event i, and let `book` be the one after it; `shown`: it is a trade against an order that the book showed."""
    levels = book.shape[1]
    mask = ring.shape[0] - 1
    place, before = m.pushed & mask, (m.pushed - 1) & mask  # an empty ring holds zeros
    if has_book:
        counts = np.int64(m.booked)
        for k in range(levels):
            bid, bid_size, ask, ask_size = np.int64(bid_px[i, k]), bid_sz[i, k], np.int64(ask_px[i, k]), ask_sz[i, k]
            e = increment(book[BID_PX, k], book[BID_SZ, k], book[ASK_PX, k], book[ASK_SZ, k], bid, bid_size, ask, ask_size)
            ring[place, RING_OFI + k] = ring[before, RING_OFI + k] + counts * e
            book[BID_PX, k] = bid
            book[BID_SZ, k] = bid_size
            book[ASK_PX, k] = ask
            book[ASK_SZ, k] = ask_size
        m.booked = 1
        two_sided = book[BID_SZ, 0] > 0 and book[ASK_SZ, 0] > 0
        ring[place, levels + RING_MID2] = book[BID_PX, 0] + book[ASK_PX, 0] if two_sided else ring[before, levels + RING_MID2]
    else:
        for k in range(levels):
            ring[place, RING_OFI + k] = ring[before, RING_OFI + k]
        ring[place, levels + RING_MID2] = ring[before, levels + RING_MID2]
    ring[place, levels + RING_SIGNED] = ring[before, levels + RING_SIGNED] + (side * trade_sz if shown else 0)
    ring[place, levels + RING_VOLUME] = ring[before, levels + RING_VOLUME] + (trade_sz if shown else 0)
    ring[place, RING_TS] = ts
    m.pushed += 1


@kernel
def forget(m, ring, ts):
    """Begin anew, with an entry that repeats the sums and knows no mid: no window reaches back behind ts.

    No increment is formed from the book before it.
    """
    mask = ring.shape[0] - 1
    place, before = m.pushed & mask, (m.pushed - 1) & mask
    for c in range(1, ring.shape[1]):
        ring[place, c] = ring[before, c]
    ring[place, RING_TS] = ts
    ring[place, ring.shape[1] - RING_EXTRA + RING_MID2] = 0
    m.pushed += 1
    m.booked = 0
    for w in range(m.n_windows):
        m.tail[w] = m.pushed


@kernel
def slide(m, ring, as_of):
    """Move every window's tail to its first entry behind as_of - w."""
    mask = ring.shape[0] - 1
    for w in range(m.n_windows):
        begin = as_of - m.windows_ns[w]
        k = max(m.tail[w], m.oldest)  # what is older than the longest window may be overwritten by now
        while k < m.pushed and ring[k & mask, RING_TS] <= begin:
            k += 1
        m.tail[w] = k


@kernel(inline="always")
def since(m, ring, w, column):
    """Sum of a ring column over window w, as `slide` left it."""
    mask = ring.shape[0] - 1
    return ring[(m.pushed - 1) & mask, column] - ring[(m.tail[w] - 1) & mask, column]


@kernel
def row(m, ring, out, at):
    """Write the family's columns."""
    mask = ring.shape[0] - 1
    levels = ring.shape[1] - RING_EXTRA
    n_flows = m.n_windows - len(MOVES_NS)
    width = levels + 1
    logs = n_flows * width
    for w in range(n_flows):
        for c in range(width):
            value = since(m, ring, w, RING_OFI + c) / m.lot_scale
            j = at + w * width + c
            out[j] = value
            out[j + logs] = math.copysign(math.log1p(abs(value)), value)
        out[at + 2 * logs + w] = math.log1p(float(m.pushed - m.tail[w]))
    mid2 = levels + RING_MID2
    for w in range(n_flows, m.n_windows):
        now = ring[(m.pushed - 1) & mask, mid2]
        then = ring[(m.tail[w] - 1) & mask, mid2]
        if then == 0:
            then = now
        out[at + 2 * logs + w] = (now - then) * m.tick_size / 2
