"""The shape of the book behind the best: imbalance of each level, and how fast depth grows with the distance from the mid.

queue_imbalance_LL   (bid size - ask size) / (bid size + ask size) of level LL >= 1; 0 where both are empty       -1..1
bid_slope            least squares through the origin of cumulated size against distance from the mid:
                     sum d_k Q_k / sum d_k^2 over the levels that stand, d_k in ticks, Q_k in units               units per tick
ask_slope            likewise
slope_imbalance      (bid_slope - ask_slope) / (bid_slope + ask_slope)                                           -1..1

A steep side is one that a large order moves little (the slope of Naes and Skjeltorp 2006, as one least-squares line). Without a two-sided
book all are 0.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import ASK_PX, ASK_SZ, BID_PX, BID_SZ


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    deeper = tuple(f"queue_imbalance_{level:02d}" for level in range(1, features.levels))
    return (*deeper, "bid_slope", "ask_slope", "slope_imbalance")


@kernel
def row(m, book, out, at):
    """Write the family's columns."""
    levels = book.shape[1]
    if m.mid <= 0:
        for c in range(levels + 2):
            out[at + c] = 0.0
        return
    for k in range(1, levels):
        both = book[BID_SZ, k] + book[ASK_SZ, k]
        out[at + k - 1] = (book[BID_SZ, k] - book[ASK_SZ, k]) / both if both > 0 else 0.0
    mid2 = book[BID_PX, 0] + book[ASK_PX, 0]
    bid = _slope(mid2, book, BID_PX, BID_SZ) / m.lot_scale
    ask = _slope(mid2, book, ASK_PX, ASK_SZ) / m.lot_scale
    out[at + levels - 1] = bid
    out[at + levels] = ask
    # Both sides of a crossed book can lie at the mid: no slope then.
    out[at + levels + 1] = (bid - ask) / (bid + ask) if bid + ask > 0 else 0.0


@kernel
def _slope(mid2, book, px, sz):
    """Lots per tick. Distances are formed as integers and squared as floats: a level may stand very far away."""
    depth, above, below = 0, 0.0, 0.0
    for k in range(book.shape[1]):
        if book[sz, k] <= 0:
            continue
        depth += book[sz, k]
        d = abs(mid2 - 2 * book[px, k]) / 2
        above += d * depth
        below += d * d
    return above / below if below > 0 else 0.0
