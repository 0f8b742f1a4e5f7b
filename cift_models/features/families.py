"""The families of features, in the order of their columns, and the two kernels that run through all of them.

A new family is one file (its names, its row, its apply and forget where it remembers) and its lines here; the tests find it in FAMILIES.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, HIDDEN, RESUME, TRADE
from cift_models.features import (
    activity,
    arrivals,
    bars,
    clock,
    clock_bars,
    depth,
    flows,
    quote,
    signed_counts,
    trade_flow,
    volatility,
    volume_profile,
    z_score,
)  # fmt: skip
from cift_models.features.memory import ASK_PX, ASK_SZ, BID_PX, BID_SZ, has_room

FAMILIES = (
    quote, depth, flows, trade_flow, signed_counts, bars, clock_bars, volatility, activity, volume_profile, arrivals, z_score, clock,
)  # fmt: skip

OK, WARM_UP, FEED_GAP, HALTED, ABSENT = 0, 1, 2, 3, 4  # values of models.protocol.Why that features decide


@kernel
def forget(m, ring, ts):
    """A symbol begins anew at ts: nothing is computed across a halt or a gap. What its book shows is kept."""
    m.since = ts
    flows.forget(m, ring, ts)
    signed_counts.forget(m)
    bars.forget(m)
    clock_bars.forget(m)
    volatility.forget(m)
    activity.forget(m)
    volume_profile.forget(m)
    arrivals.forget(m)
    z_score.forget(m, ring)


@kernel
def _interrupt(m, book, ring, ts, kind):
    """A halt or a gap, a resumption, in this order where one event says both."""
    if kind & HALT:
        m.halted = FEED_GAP if kind & GAP else HALTED
        if kind & GAP:  # nobody knows the book
            for k in range(book.shape[1]):
                book[BID_PX, k] = EMPTY_BID
                book[BID_SZ, k] = 0
                book[ASK_PX, k] = EMPTY_ASK
                book[ASK_SZ, k] = 0
    if kind & RESUME:
        m.halted = OK
    forget(m, ring, ts)


@kernel
def apply(m, book, ring, trades, bins, logs, ts, kind, side, trade_px, trade_sz, bid_px, bid_sz, ask_px, ask_sz, i):
    """Take event i of a symbol, whose memory these are. False: a ring is full, and nothing has changed (memory.grown mends it)."""
    if not has_room(m, ring, trades, bins, ts):
        return False
    if kind & (HALT | RESUME):
        _interrupt(m, book, ring, ts, kind)
    traded = kind & TRADE != 0 and trade_sz > 0  # a trade of nothing is none
    shown = traded and kind & HIDDEN == 0
    flows.apply(m, book, ring, ts, kind & BOOK != 0, shown, side, trade_sz, bid_px, bid_sz, ask_px, ask_sz, i)
    arrivals.apply(m, ts, arrivals.EVENT)
    if traded:
        if shown and side != 0:
            signed_counts.apply(m, ts, side)
        bars.apply(m, trade_px, trade_sz)
        clock_bars.apply(m, ts, side, trade_px, trade_sz)
        volume_profile.apply(m, trades, bins, logs, ts, trade_px, trade_sz)
        arrivals.apply(m, ts, arrivals.TRADED)
    m.last_ts = ts
    return True


@kernel
def row(m, book, ring, trades, bins, logs, moves, flows_ring, as_of, out, at):
    """Write a symbol's row of an instant: each family from the column at[its place in FAMILIES] on; returns why (0: valid)."""
    m.mid = quote.mid_of(m, book)
    flows.slide(m, ring, as_of)
    quote.row(m, book, as_of, out, at[0])
    depth.row(m, book, out, at[1])
    flows.row(m, ring, out, at[2])
    trade_flow.row(m, ring, out, at[3])
    signed_counts.row(m, as_of, out, at[4])
    bars.row(m, out, at[5])
    clock_bars.row(m, as_of, out, at[6])
    volatility.row(m, moves, out, at[7])
    activity.row(m, out, at[8])
    volume_profile.row(m, trades, bins, logs, as_of, out, at[9])
    arrivals.row(m, as_of, out, at[10])
    z_score.row(m, ring, flows_ring, out, at[11])
    clock.row(m, as_of, out, at[12])
    if m.halted != OK:
        return m.halted
    if m.mid <= 0:
        return ABSENT
    return WARM_UP if as_of < m.since + m.warm_up_ns else OK
