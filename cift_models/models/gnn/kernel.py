"""Bins, lag buckets and GATv2 attention as loops: the one path of the live step and of the batch pass. numpy and numba only.

Axes: S assets, B bins of the ring, L lag buckets, F features of a bucket, H heads, D channels of a head.
What is summed over events are integers (half ticks and lots), so a sum has the same bits in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, HALT, RESUME, TRADE
from cift_models.models.protocol import Why

MOVE, FLOW, VOLUME = 0, 1, 2
"""Channels of a bin: move of the mid (half ticks), order flow imbalance at the best level (lots), signed volume of trades (lots)."""
CHANNELS = 3
FEATURES = 4
"""Features of a bucket: move (half ticks), signed log1p of flow and of volume, log1p of the age of the last update in bins."""
SLOPE = 0.2
"""Slope of the leaky ReLU below 0 (Brody, Alon and Yahav 2022)."""

_EMPTY_BID, _EMPTY_ASK = int(EMPTY_BID), int(EMPTY_ASK)
_GAP, _HALTED, _ABSENT = int(Why.GAP), int(Why.HALTED), int(Why.ABSENT)


class Memory(NamedTuple):
    """Running memory, all int64, leading axis S.

    book[S, 5]     best bid ticks, lots, best ask ticks, lots, and 1 where known
    mid[S, 2]      last two-sided bid + ask in ticks (the mid in half ticks), and 1 where known
    bins[S, B, 3]  sums of a bin (MOVE, FLOW, VOLUME)
    last[S, B]     ns of the last event in the bin
    index[S, B]    which bin the slot holds: it covers (index bin_ns, (index + 1) bin_ns]; -1 none
    """

    book: NDArray[np.int64]
    mid: NDArray[np.int64]
    bins: NDArray[np.int64]
    last: NDArray[np.int64]
    index: NDArray[np.int64]


class Weights(NamedTuple):
    """What the network learnt, float64: bucket scaling, graph, GATv2Conv, read-out.

    center, scale[S, L + 1, F]   of the features; place L is the whole window, which describes a target
    adjacency bool[S, S]         [target, source]: who is listened to (a node always listens to itself)
    left[H D, F], left_bias      W_l of the sources, right[H D, F], right_bias W_r of the targets
    edge[S, S, L, H D]           W_e e of [target, source, lag]
    attention[H, D], bias[H D]
    readout[H D]                 of the node's new vector
    gain[S]                      bps per unit of read-out; 0 is switched off
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    adjacency: NDArray[np.bool_]
    left: NDArray[np.float64]
    left_bias: NDArray[np.float64]
    right: NDArray[np.float64]
    right_bias: NDArray[np.float64]
    edge: NDArray[np.float64]
    attention: NDArray[np.float64]
    bias: NDArray[np.float64]
    readout: NDArray[np.float64]
    gain: NDArray[np.float64]


def memory(symbols: int, bins: int) -> Memory:
    """Memory at a session's open: no book, empty bins."""
    return Memory(
        np.zeros((symbols, 5), np.int64),
        np.zeros((symbols, 2), np.int64),
        np.zeros((symbols, bins, CHANNELS), np.int64),
        np.zeros((symbols, bins), np.int64),
        np.full((symbols, bins), -1, np.int64),
    )


@kernel
def flow_and_move(book: NDArray, mid: NDArray, bid_px: int, bid_sz: int, ask_px: int, ask_sz: int) -> tuple[int, int]:
    """Replace the book of one asset; the order flow imbalance (lots) and move of the mid (half ticks) that the new one makes.

    e_n = 1{P_b >= P_b'} q_b - 1{P_b <= P_b'} q_b' - 1{P_a <= P_a'} q_a + 1{P_a >= P_a'} q_a' (Cont, Kukanov and Stoikov 2014).
    The first book makes 0 and 0. A side that is empty moves no mid: the move counts from the last two-sided book.
    """
    flow, move = 0, 0
    if book[4] == 1:
        if bid_px >= book[0]:
            flow += bid_sz
        if bid_px <= book[0]:
            flow -= book[1]
        if ask_px <= book[2]:
            flow -= ask_sz
        if ask_px >= book[2]:
            flow += book[3]
    book[0], book[1], book[2], book[3], book[4] = bid_px, bid_sz, ask_px, ask_sz, 1
    if bid_px != _EMPTY_BID and ask_px != _EMPTY_ASK:
        if mid[1] == 1:
            move = np.int64(bid_px) + np.int64(ask_px) - mid[0]
        mid[0], mid[1] = np.int64(bid_px) + np.int64(ask_px), 1
    return flow, move


@kernel
def absorb(
    memory: Memory, bin_ns: int, as_of: int, why: NDArray, ts: NDArray, symbol: NDArray, kind: NDArray, side: NDArray, trade_sz: NDArray,
    bid_px: NDArray, bid_sz: NDArray, ask_px: NDArray, ask_sz: NDArray,
) -> None:  # fmt: skip
    """Put the events of one step into the bins. Bins end at `as_of` - k `bin_ns`, so an event at `as_of` is in the newest.

    A halt, a gap or an absence (`why`) forgets the book and the bins of its asset: nothing is computed across it. O(events).
    """
    size = memory.index.shape[1]
    head = as_of // bin_ns
    for e in range(len(ts)):
        s = symbol[e]
        if kind[e] & (HALT | RESUME):
            memory.book[s, 4], memory.mid[s, 1] = 0, 0
        place = head - 1 - (as_of - ts[e]) // bin_ns
        slot = place % size
        if memory.index[s, slot] != place:
            memory.index[s, slot] = place
            for c in range(CHANNELS):
                memory.bins[s, slot, c] = 0
        if kind[e] & BOOK:
            flow, move = flow_and_move(memory.book[s], memory.mid[s], bid_px[e, 0], bid_sz[e, 0], ask_px[e, 0], ask_sz[e, 0])
            memory.bins[s, slot, FLOW] += flow
            memory.bins[s, slot, MOVE] += move
        if kind[e] & TRADE:
            memory.bins[s, slot, VOLUME] += side[e] * trade_sz[e]
        memory.last[s, slot] = ts[e]
    for s in range(len(why)):
        if why[s] == _GAP or why[s] == _HALTED or why[s] == _ABSENT:
            memory.book[s, 4], memory.mid[s, 1] = 0, 0
            memory.index[s] = -1


@kernel
def signed_log1p(value: int) -> float:
    """sign(v) log(1 + |v|)."""
    return np.log1p(np.float64(value)) if value >= 0 else -np.log1p(-np.float64(value))


@kernel
def describe(memory: Memory, bin_ns: int, as_of: int, bucket_bins: NDArray, out: NDArray) -> None:
    """Raw features out[S, L + 1, F] of each asset's lag buckets, newest first, and of the whole window in place L.

    Bucket k covers the bins [bucket_bins[k - 1], bucket_bins[k]) back from `as_of` (from 0 for the first). Its age is the time from
    the last event inside the window to the bucket's recent end, in bins; the window's length where there was none. O(S B).
    """
    size = memory.index.shape[1]
    head = as_of // bin_ns
    buckets = len(bucket_bins)
    window = bucket_bins[buckets - 1]
    for s in range(memory.index.shape[0]):
        last = np.int64(-1)
        total = np.zeros(CHANNELS, np.int64)
        for k in range(buckets - 1, -1, -1):
            recent = bucket_bins[k - 1] if k > 0 else 0
            part = np.zeros(CHANNELS, np.int64)
            for back in range(bucket_bins[k] - 1, recent - 1, -1):
                place = head - 1 - back
                slot = place % size
                if memory.index[s, slot] == place:
                    last = memory.last[s, slot]
                    for c in range(CHANNELS):
                        part[c] += memory.bins[s, slot, c]
            age = (as_of - recent * bin_ns - last) / bin_ns if last >= 0 else np.float64(window)
            out[s, k, 0] = part[MOVE]
            out[s, k, 1] = signed_log1p(part[FLOW])
            out[s, k, 2] = signed_log1p(part[VOLUME])
            out[s, k, 3] = np.log1p(age)
            for c in range(CHANNELS):
                total[c] += part[c]
        out[s, buckets, 0] = total[MOVE]
        out[s, buckets, 1] = signed_log1p(total[FLOW])
        out[s, buckets, 2] = signed_log1p(total[VOLUME])
        out[s, buckets, 3] = out[s, 0, 3]


@kernel
def normalise(raw: NDArray, center: NDArray, scale: NDArray, clip: float) -> None:
    """(raw - center) / scale within +-clip, in place; 0 where the scale is 0. All [S, L + 1, F]."""
    for s in range(raw.shape[0]):
        for k in range(raw.shape[1]):
            for f in range(raw.shape[2]):
                if scale[s, k, f] > 0:
                    raw[s, k, f] = min(max((raw[s, k, f] - center[s, k, f]) / scale[s, k, f], -clip), clip)
                else:
                    raw[s, k, f] = 0.0


@kernel
def attend(x: NDArray, present: NDArray, weights: Weights, out: NDArray, alpha: NDArray) -> None:
    """The read-out out[S] of one GATv2 layer over (asset, lag) nodes, and its attention alpha[target, source, lag, H].

    For a target i: s_e = a . LeakyReLU(W_l x_e + W_r x_i + W_e e), alpha = softmax_e s_e, v_i = sum_e alpha_e W_l x_e + b, out_i = r . v_i,
    over the present sources of its row of the adjacency (Brody, Alon and Yahav 2022, eq. 7). A node that is not present is no source
    and gets 0. Weighs sources in the order (asset, lag). O(S^2 L H D).
    """
    assets, buckets = x.shape[0], x.shape[1] - 1
    heads, channels = weights.attention.shape
    width = heads * channels
    left = np.empty((assets, buckets, width))
    for j in range(assets):
        if present[j]:
            for k in range(buckets):
                for d in range(width):
                    total = 0.0
                    for f in range(x.shape[2]):
                        total += weights.left[d, f] * x[j, k, f]
                    left[j, k, d] = total + weights.left_bias[d]
    right = np.empty(width)
    for i in range(assets):
        out[i] = 0.0
        alpha[i] = 0.0
        if not present[i]:
            continue
        for d in range(width):
            total = 0.0
            for f in range(x.shape[2]):
                total += weights.right[d, f] * x[i, buckets, f]
            right[d] = total + weights.right_bias[d]
        value = 0.0
        for h in range(heads):
            largest = -np.inf
            for j in range(assets):
                if present[j] and weights.adjacency[i, j]:
                    for k in range(buckets):
                        score = 0.0
                        for d in range(channels):
                            at = h * channels + d
                            mixed = left[j, k, at] + right[at] + weights.edge[i, j, k, at]
                            score += weights.attention[h, d] * (mixed if mixed > 0 else SLOPE * mixed)
                        alpha[i, j, k, h] = score
                        largest = max(largest, score)
            total = 0.0
            for j in range(assets):
                if present[j] and weights.adjacency[i, j]:
                    for k in range(buckets):
                        alpha[i, j, k, h] = np.exp(alpha[i, j, k, h] - largest)
                        total += alpha[i, j, k, h]
            for d in range(channels):
                at = h * channels + d
                mean = 0.0
                for j in range(assets):
                    if present[j] and weights.adjacency[i, j]:
                        for k in range(buckets):
                            mean += alpha[i, j, k, h] * left[j, k, at]
                value += weights.readout[at] * (mean / total + weights.bias[at])
            for j in range(assets):
                for k in range(buckets):
                    alpha[i, j, k, h] /= total
        out[i] = value


@kernel
def step(
    memory: Memory, weights: Weights, bin_ns: int, bucket_bins: NDArray, clip: float, as_of: int, valid: NDArray, why: NDArray,
    ts: NDArray, symbol: NDArray, kind: NDArray, side: NDArray, trade_sz: NDArray, bid_px: NDArray, bid_sz: NDArray, ask_px: NDArray,
    ask_sz: NDArray, out: NDArray,
) -> None:  # fmt: skip
    """One instant: take its events, write the addition to the base out[S] in bps. The network runs only where it is not switched off."""
    absorb(memory, bin_ns, as_of, why, ts, symbol, kind, side, trade_sz, bid_px, bid_sz, ask_px, ask_sz)
    out[:] = 0.0
    if np.any(weights.gain != 0.0):
        assets, buckets = len(valid), len(bucket_bins)
        x = np.empty((assets, buckets + 1, FEATURES))
        describe(memory, bin_ns, as_of, bucket_bins, x)
        normalise(x, weights.center, weights.scale, clip)
        alpha = np.empty((assets, assets, buckets, weights.attention.shape[0]))
        attend(x, valid, weights, out, alpha)
        for s in range(assets):
            out[s] *= weights.gain[s]


@kernel
def session(
    memory: Memory, weights: Weights, bin_ns: int, bucket_bins: NDArray, clip: float, as_of: NDArray, valid: NDArray, why: NDArray,
    offsets: NDArray, ts: NDArray, symbol: NDArray, kind: NDArray, side: NDArray, trade_sz: NDArray, bid_px: NDArray, bid_sz: NDArray,
    ask_px: NDArray, ask_sz: NDArray, out: NDArray,
) -> None:  # fmt: skip
    """`step` over the steps of a session, out[T, S]."""
    for t in range(len(as_of)):
        a, b = offsets[t], offsets[t + 1]
        step(
            memory, weights, bin_ns, bucket_bins, clip, as_of[t], valid[t], why[t],
            ts[a:b], symbol[a:b], kind[a:b], side[a:b], trade_sz[a:b], bid_px[a:b], bid_sz[a:b], ask_px[a:b], ask_sz[a:b], out[t],
        )  # fmt: skip


@kernel
def describe_session(
    memory: Memory, bin_ns: int, bucket_bins: NDArray, as_of: NDArray, why: NDArray, offsets: NDArray, ts: NDArray, symbol: NDArray,
    kind: NDArray, side: NDArray, trade_sz: NDArray, bid_px: NDArray, bid_sz: NDArray, ask_px: NDArray, ask_sz: NDArray, keep: NDArray,
    out: NDArray,
) -> None:  # fmt: skip
    """Raw features of the steps in `keep` (bool[T]), out[sum(keep), S, L + 1, F]: what a fit learns from."""
    n = 0
    for t in range(len(as_of)):
        a, b = offsets[t], offsets[t + 1]
        absorb(
            memory, bin_ns, as_of[t], why[t], ts[a:b], symbol[a:b], kind[a:b], side[a:b], trade_sz[a:b],
            bid_px[a:b], bid_sz[a:b], ask_px[a:b], ask_sz[a:b],
        )  # fmt: skip
        if keep[t]:
            describe(memory, bin_ns, as_of[t], bucket_bins, out[n])
            n += 1


@kernel
def bin_session(
    memory: Memory, open_ns: int, bin_ns: int, ts: NDArray, symbol: NDArray, kind: NDArray, side: NDArray, trade_sz: NDArray,
    bid_px: NDArray, bid_sz: NDArray, ask_px: NDArray, ask_sz: NDArray, out: NDArray,
) -> None:  # fmt: skip
    """Every bin of a session, out[n, S, 3] (MOVE, FLOW, VOLUME); bin b covers (open + b bin_ns, open + (b + 1) bin_ns]. O(events)."""
    for e in range(len(ts)):
        s = symbol[e]
        b = max((ts[e] - open_ns - 1) // bin_ns, 0)
        if b >= out.shape[0]:
            break
        if kind[e] & (HALT | RESUME):
            memory.book[s, 4], memory.mid[s, 1] = 0, 0
        if kind[e] & BOOK:
            flow, move = flow_and_move(memory.book[s], memory.mid[s], bid_px[e, 0], bid_sz[e, 0], ask_px[e, 0], ask_sz[e, 0])
            out[b, s, FLOW] += flow
            out[b, s, MOVE] += move
        if kind[e] & TRADE:
            out[b, s, VOLUME] += side[e] * trade_sz[e]
