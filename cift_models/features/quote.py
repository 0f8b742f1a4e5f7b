"""The book as it stands at the decision instant: mid, spread, imbalance, microprice, age.

mid               (best bid + best ask) / 2                                    quote currency
spread            best ask - best bid                                          quote currency
spread_ticks      the same in ticks
half_spread_bps   1e4 spread / 2 / mid
queue_imbalance   (bid size - ask size) / (bid size + ask size) at the best    -1..1
queue_imbalance_x_spread  the product of two of the above                      quote currency
microprice_bps    1e4 (microprice - mid) / mid, microprice = (bid ask_size + ask bid_size) / (bid_size + ask_size)
depth_imbalance   queue imbalance of the sizes summed over all levels          -1..1
age_s             seconds since the symbol's last event

Without a two-sided book all of them are 0, and the row is not valid (absent).
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import ASK_PX, ASK_SZ, BID_PX, BID_SZ


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return (
        "mid",
        "spread",
        "spread_ticks",
        "half_spread_bps",
        "queue_imbalance",
        "queue_imbalance_x_spread",
        "microprice_bps",
        "depth_imbalance",
        "age_s",
    )


@kernel
def mid_of(m, book):
    """(best bid + best ask) / 2 in quote currency, 0 without a two-sided book."""
    if book[BID_SZ, 0] <= 0 or book[ASK_SZ, 0] <= 0:
        return 0.0
    return (book[BID_PX, 0] + book[ASK_PX, 0]) * m.tick_size / 2


@kernel
def row(m, book, as_of, out, at):
    """Write the family's columns."""
    mid = m.mid
    if mid <= 0:
        for c in range(9):
            out[at + c] = 0.0
        return
    bid_size, ask_size = book[BID_SZ, 0], book[ASK_SZ, 0]
    ticks = book[ASK_PX, 0] - book[BID_PX, 0]
    spread = ticks * m.tick_size
    imbalance = (bid_size - ask_size) / (bid_size + ask_size)
    bids, asks = 0, 0
    for k in range(book.shape[1]):
        bids += book[BID_SZ, k]
        asks += book[ASK_SZ, k]
    out[at] = mid
    out[at + 1] = spread
    out[at + 2] = ticks
    out[at + 3] = 1e4 * spread / 2 / mid
    out[at + 4] = imbalance
    out[at + 5] = imbalance * spread
    out[at + 6] = 1e4 * spread / 2 / mid * imbalance  # what the definition above comes to
    out[at + 7] = (bids - asks) / (bids + asks)
    out[at + 8] = (as_of - m.last_ts) * 1e-9
