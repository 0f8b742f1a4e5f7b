"""Order flow over several look-backs (t - w, t]: exact integer sums, formed into a float once, at the end.

ofi_LL_Wms            order flow imbalance of a level over the window, in units (shares, coins):
                      e = 1[b' >= b] q_b' - 1[b' <= b] q_b - 1[a' <= a] q_a' + 1[a' >= a] q_a  from one event's book to the next
                      (Cont, Kukanov and Stoikov 2014, eq. 3; per level: Xu, Gould and Howison 2019)
signed_volume_Wms     volume bought minus volume sold at the touch (visible executions alone), in units
log_...               sign(v) log1p(|v|) of each of them
log_count_Wms         log1p of the number of events
move_Wms              mid now minus mid w ago, quote currency

A window that reaches back before the session's first event starts there. O(events) whatever the windows: one ring of running
sums per symbol, one tail per window.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, HIDDEN, TRADE, Events
from cift_models.features.feature_set import FeatureSet, flow_names
from cift_models.instruments import SECOND, Universe

MOVES_NS = (SECOND, 5 * SECOND, 30 * SECOND)
"""Look-backs of the mid's move."""

FIRST_CAPACITY = 1024
"""Events per symbol that a ring holds at first; it doubles when the longest window holds more."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    counts = tuple(f"log_count_{w // 1_000_000}ms" for w in features.windows_ns)
    moves = tuple(f"move_{w // 1_000_000}ms" for w in MOVES_NS)
    return (*flow_names(features), *flow_names(features, log=True), *counts, *moves)


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open: empty windows, no book yet."""
    n, levels = len(universe), features.levels
    windows = np.array([*features.windows_ns, *MOVES_NS], np.int64)
    return {
        "windows_ns": windows,
        "bid_px": np.full((n, levels), EMPTY_BID, np.int32),
        "bid_sz": np.zeros((n, levels), np.int64),
        "ask_px": np.full((n, levels), EMPTY_ASK, np.int32),
        "ask_sz": np.zeros((n, levels), np.int64),
        # Running sums after the newest event: OFI per level, signed volume; then the mid in half ticks (0: no two-sided book yet).
        "total": np.zeros((n, levels + 2), np.int64),
        "booked": np.zeros(n, np.bool_),
        "ring_ts": np.zeros((n, FIRST_CAPACITY), np.int64),
        "ring": np.zeros((n, FIRST_CAPACITY, levels + 2), np.int64),
        "pushed": np.zeros(n, np.int64),
        "tail": np.zeros((n, len(windows)), np.int64),
    }


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Apply the events of each step and write columns at.. of x[T, S, F]. Grows the rings in `state` where a window needs it."""
    tick_size = np.array([i.tick_size for i in universe.instruments])
    lot_scale = np.array([i.lot_scale for i in universe.instruments], np.int64)
    done = 0
    while True:
        done = _fold(
            state["windows_ns"], state["bid_px"], state["bid_sz"], state["ask_px"], state["ask_sz"], state["total"], state["booked"],
            state["ring_ts"], state["ring"], state["pushed"], state["tail"],
            events.ts, events.symbol, events.kind, events.side, events.trade_sz, events.bid_px, events.bid_sz, events.ask_px, events.ask_sz,
            offsets, as_of, x, at, tick_size, lot_scale, done,
        )  # fmt: skip
        if done == len(as_of):
            return
        _grow(state)


def _grow(state: dict[str, NDArray]) -> None:
    """Double the rings, each entry at its place modulo the new capacity."""
    old = state["ring_ts"].shape[1]
    for name in ("ring_ts", "ring"):
        ring = state[name]
        wide = np.zeros((ring.shape[0], 2 * old, *ring.shape[2:]), np.int64)
        for s in range(ring.shape[0]):
            index = np.arange(max(0, int(state["pushed"][s]) - old), int(state["pushed"][s]))
            wide[s, index % (2 * old)] = ring[s, index % old]
        state[name] = wide


@njit(cache=True, nogil=True)
def _fold(
    windows_ns, bid_px, bid_sz, ask_px, ask_sz, total, booked, ring_ts, ring, pushed, tail, ts, symbol, kind, side, trade_sz,
    ev_bid_px, ev_bid_sz, ev_ask_px, ev_ask_sz, offsets, as_of, x, at, tick_size, lot_scale, first,
):  # fmt: skip
    """Steps first.. until one whose events a ring cannot hold (returned, nothing of it applied) or the end (T returned)."""
    capacity = ring_ts.shape[1]
    levels = bid_px.shape[1]
    n_windows = len(windows_ns)
    n_flows = n_windows - len(MOVES_NS)
    n_symbols = len(tick_size)
    longest = np.argmax(windows_ns)
    fresh = np.zeros(n_symbols, np.int64)
    for t in range(first, len(as_of)):
        fresh[:] = 0
        for i in range(offsets[t], offsets[t + 1]):
            fresh[symbol[i]] += 1
        for s in range(n_symbols):
            while tail[s, longest] < pushed[s] and ring_ts[s, tail[s, longest] % capacity] <= as_of[t] - windows_ns[longest]:
                tail[s, longest] += 1
            oldest = tail[s, longest] - 1  # the sums just before the window are read too
            if pushed[s] - max(oldest, 0) + fresh[s] > capacity:
                return t
        for i in range(offsets[t], offsets[t + 1]):
            s = symbol[i]
            if kind[i] & BOOK:
                if booked[s]:
                    for level in range(levels):
                        b0, b1 = bid_px[s, level], ev_bid_px[i, level]
                        a0, a1 = ask_px[s, level], ev_ask_px[i, level]
                        e = 0
                        if b1 >= b0:
                            e += ev_bid_sz[i, level]
                        if b1 <= b0:
                            e -= bid_sz[s, level]
                        if a1 <= a0:
                            e -= ev_ask_sz[i, level]
                        if a1 >= a0:
                            e += ask_sz[s, level]
                        total[s, level] += e
                booked[s] = True
                for level in range(levels):
                    bid_px[s, level] = ev_bid_px[i, level]
                    bid_sz[s, level] = ev_bid_sz[i, level]
                    ask_px[s, level] = ev_ask_px[i, level]
                    ask_sz[s, level] = ev_ask_sz[i, level]
                if bid_sz[s, 0] > 0 and ask_sz[s, 0] > 0:
                    total[s, levels + 1] = np.int64(bid_px[s, 0]) + np.int64(ask_px[s, 0])
            if kind[i] & TRADE and not kind[i] & HIDDEN:
                total[s, levels] += side[i] * trade_sz[i]
            place = pushed[s] % capacity
            ring_ts[s, place] = ts[i]
            for c in range(levels + 2):
                ring[s, place, c] = total[s, c]
            pushed[s] += 1
        for s in range(n_symbols):
            row = x[t, s]
            for w in range(n_windows):
                start_ns = as_of[t] - windows_ns[w]
                while tail[s, w] < pushed[s] and ring_ts[s, tail[s, w] % capacity] <= start_ns:
                    tail[s, w] += 1
                k = tail[s, w]
                before = (k - 1) % capacity
                if w < n_flows:
                    for c in range(levels + 1):
                        flow = total[s, c] - (ring[s, before, c] if k > 0 else 0)
                        value = flow / lot_scale[s]
                        j = at + w * (levels + 1) + c
                        row[j] = value
                        row[j + n_flows * (levels + 1)] = math.copysign(math.log1p(abs(value)), value)
                    row[at + 2 * n_flows * (levels + 1) + w] = math.log1p(float(pushed[s] - k))
                else:
                    now = total[s, levels + 1]
                    then = ring[s, before, levels + 1] if k > 0 else 0
                    if then == 0:
                        then = now
                    row[at + 2 * n_flows * (levels + 1) + w] = (now - then) * tick_size[s] / 2
    return len(as_of)
