"""One step of the network in plain loops: a token against a ring of keys and values, the same for a live step and a whole session.

Every product of a vector and a matrix runs over inputs outside and outputs inside: each output is summed in one order, the inner loop is
still a vector operation, and no fast-math licence is needed. float32 throughout, except angles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.models.residual_base import base_rows
from cift_models.models.transformer.channels import channel_row, scaled_row

ONE = np.float32(1.0)


class Weights(NamedTuple):
    """K networks of D numbers a stream, N layers, M hidden units, H heads; matrices are [in, out], leading axes K, N and, of 2, the stream.

    All float32 but the frequencies (radians a step, float64[P], 2P = D / H).
    """

    embed_odd: NDArray[np.float32]  # [K, n_odd, D]
    embed_even: NDArray[np.float32]  # [K, n_even, D]
    embed_bias: NDArray[np.float32]  # [K, D]
    gain_attention: NDArray[np.float32]  # [K, N, 2, D]
    query: NDArray[np.float32]  # [K, N, 2, D, D]
    key: NDArray[np.float32]  # [K, N, 2, D, D]
    value: NDArray[np.float32]  # [K, N, 2, D, D]
    attention_out: NDArray[np.float32]  # [K, N, 2, D, D]
    gain_feed: NDArray[np.float32]  # [K, N, 2, D]
    feed_gate: NDArray[np.float32]  # [K, N, D, 2M]
    feed_value: NDArray[np.float32]  # [K, N, 2, D, M]
    feed_partner: NDArray[np.float32]  # [K, N, D, M]
    odd_out: NDArray[np.float32]  # [K, N, M, D]
    even_out: NDArray[np.float32]  # [K, N, 2M, D]
    head: NDArray[np.float32]  # [K, 2, D]
    frequencies: NDArray[np.float64]  # [P]


@kernel
def add_product(x, matrix, out):
    """out += x @ matrix, inputs in their order, four at a time so that `out` is read and written a quarter as often."""
    inputs = matrix.shape[0]
    whole = inputs - inputs % 4
    for i in range(0, whole, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(matrix.shape[1]):
            out[j] = (((out[j] + a * matrix[i, j]) + b * matrix[i + 1, j]) + c * matrix[i + 2, j]) + d * matrix[i + 3, j]
    for i in range(whole, inputs):
        a = x[i]
        for j in range(matrix.shape[1]):
            out[j] += a * matrix[i, j]


@kernel
def norm_into(x, gain, out):
    """Soft root-mean-square norm of both streams together: x / sqrt(1 + mean x^2) * gain."""
    total = np.float32(0.0)
    for stream in range(2):
        for j in range(x.shape[1]):
            total += x[stream, j] * x[stream, j]
    size = ONE / np.sqrt(ONE + total / np.float32(2 * x.shape[1]))
    for stream in range(2):
        for j in range(x.shape[1]):
            out[stream, j] = x[stream, j] * size * gain[stream, j]


@kernel
def rotate(x, cos, sin, heads):
    """Turn each head's pairs of both streams in place (rotary position)."""
    pairs = cos.shape[0]
    for stream in range(2):
        for head in range(heads):
            first = head * 2 * pairs
            for p in range(pairs):
                a = x[stream, first + p]
                b = x[stream, first + pairs + p]
                x[stream, first + p] = a * cos[p] - b * sin[p]
                x[stream, first + pairs + p] = a * sin[p] + b * cos[p]


@kernel
def attend(query, keys, values, filled, scale, scores, out):
    """One head's weighted mean of values over the first `filled` slots. query [2, E], keys [2, E, W], values [W, 2, E], out [2, E]."""
    for w in range(filled):
        scores[w] = np.float32(0.0)
    for stream in range(2):
        for d in range(query.shape[1]):
            a = query[stream, d] * scale
            row = keys[stream, d]
            for w in range(filled):
                scores[w] += a * row[w]
    top = scores[0]
    for w in range(1, filled):
        top = max(top, scores[w])
    total = np.float32(0.0)
    for w in range(filled):
        scores[w] = np.exp(scores[w] - top)
        total += scores[w]
    out[:] = np.float32(0.0)
    for w in range(filled):
        a = scores[w] / total
        for stream in range(2):
            for d in range(query.shape[1]):
                out[stream, d] += a * values[w, stream, d]


@kernel
def silu(x):
    return x / (ONE + np.exp(-x))


@kernel
def network_step(token, k, weights, keys, values, slot, filled, cos, sin):
    """f of network k, in standard deviations, at one token; its keys and values enter the ring at `slot`.

    keys [N, H, 2, E, W] and values [N, H, W, 2, E] are this symbol's and network's ring.
    """
    n_odd, width = weights.embed_odd.shape[1], weights.embed_odd.shape[2]
    layers, heads, each = keys.shape[0], keys.shape[1], keys.shape[3]
    hidden = weights.odd_out.shape[2]
    scale = ONE / np.sqrt(np.float32(2 * each))
    x = np.zeros((2, width), np.float32)
    add_product(token[:n_odd], weights.embed_odd[k], x[0])
    add_product(token[n_odd:], weights.embed_even[k], x[1])
    for j in range(width):
        x[1, j] += weights.embed_bias[k, j]
    normed = np.empty((2, width), np.float32)
    query = np.empty((2, width), np.float32)
    key = np.empty((2, width), np.float32)
    value = np.empty((2, width), np.float32)
    mixed = np.empty((2, width), np.float32)
    head_query = np.empty((2, each), np.float32)
    head_out = np.empty((2, each), np.float32)
    scores = np.empty(keys.shape[4], np.float32)
    gate = np.empty(2 * hidden, np.float32)
    odd_hidden = np.empty(hidden, np.float32)
    partner = np.empty(hidden, np.float32)
    even_hidden = np.empty(2 * hidden, np.float32)
    for n in range(layers):
        norm_into(x, weights.gain_attention[k, n], normed)
        query[:] = np.float32(0.0)
        key[:] = np.float32(0.0)
        value[:] = np.float32(0.0)
        for stream in range(2):
            add_product(normed[stream], weights.query[k, n, stream], query[stream])
            add_product(normed[stream], weights.key[k, n, stream], key[stream])
            add_product(normed[stream], weights.value[k, n, stream], value[stream])
        rotate(query, cos, sin, heads)
        rotate(key, cos, sin, heads)
        for head in range(heads):
            first = head * each
            for stream in range(2):
                for d in range(each):
                    keys[n, head, stream, d, slot] = key[stream, first + d]
                    values[n, head, slot, stream, d] = value[stream, first + d]
                    head_query[stream, d] = query[stream, first + d]
            attend(head_query, keys[n, head], values[n, head], filled, scale, scores, head_out)
            for stream in range(2):
                for d in range(each):
                    mixed[stream, first + d] = head_out[stream, d]
        for stream in range(2):
            add_product(mixed[stream], weights.attention_out[k, n, stream], x[stream])
        norm_into(x, weights.gain_feed[k, n], normed)
        gate[:] = np.float32(0.0)
        odd_hidden[:] = np.float32(0.0)
        partner[:] = np.float32(0.0)
        even_hidden[:] = np.float32(0.0)
        add_product(normed[1], weights.feed_gate[k, n], gate)
        add_product(normed[0], weights.feed_value[k, n, 0], odd_hidden)
        add_product(normed[1], weights.feed_value[k, n, 1], even_hidden[:hidden])
        add_product(normed[0], weights.feed_partner[k, n], partner)
        for m in range(hidden):
            odd = np.tanh(odd_hidden[m])
            odd_hidden[m] = odd * silu(gate[m])
            even_hidden[m] *= silu(gate[hidden + m])
            even_hidden[hidden + m] = odd * np.tanh(partner[m])
        add_product(odd_hidden, weights.odd_out[k, n], x[0])
        add_product(even_hidden, weights.even_out[k, n], x[1])
    f = np.float32(0.0)
    for stream in range(2):
        for j in range(width):
            f += x[stream, j] * weights.head[k, stream, j]
    return f


@kernel
def advance(
    as_of, x, linear, hawkes, usable, columns, centre, scale, base_weights, size_bps, clock_ns, on, weights, keys, values, seen, origin, out
):
    """Take T steps of S symbols: out float64[T, S] is base + f in bps where usable, 0 elsewhere.

    as_of int64[T]; x float64[T, S, F]; linear, hawkes float64[T, S, C]; usable bool[T, S]; columns, centre, scale: see channels.py;
    size_bps float64[S], one standard deviation of what the base leaves; `on` False skips the networks.
    State, changed in place: keys f32[S, K, N, H, 2, E, W], values f32[S, K, N, H, W, 2, E], seen int64[S] tokens so far, origin int64[S] ns
    of the first. A row that is not usable does not enter the ring. O(T S K N (D^2 + W D)).
    """
    base_rows(base_weights, linear[:, :, 0], hawkes[:, :, 0], out)
    networks, n_odd, window = weights.embed_odd.shape[0], weights.embed_odd.shape[1], keys.shape[6]
    pairs = weights.frequencies.shape[0]
    raw = np.empty(centre.shape[1])
    token = np.empty(centre.shape[1], np.float32)
    cos = np.empty(pairs, np.float32)
    sin = np.empty(pairs, np.float32)
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            if not usable[t, s]:
                out[t, s] = 0.0
                continue
            if not on:
                continue
            if seen[s] == 0:
                origin[s] = as_of[t]
            channel_row(x[t, s], linear[t, s], hawkes[t, s], columns, n_odd, raw)
            scaled_row(raw, centre[s], scale[s], token)
            place = (as_of[t] - origin[s]) / clock_ns
            for p in range(pairs):
                cos[p] = np.float32(np.cos(place * weights.frequencies[p]))
                sin[p] = np.float32(np.sin(place * weights.frequencies[p]))
            slot = seen[s] % window
            filled = min(seen[s] + 1, window)
            total = 0.0
            for k in range(networks):
                total += network_step(token, k, weights, keys[s, k], values[s, k], slot, filled, cos, sin)
            seen[s] += 1
            out[t, s] += size_bps[s] * (total / networks)
