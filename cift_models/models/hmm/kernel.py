"""Bars from steps, emission densities and the filter: arrays in, arrays out.

A bar row is float64[6]: RETURN and LAG (this bar's and the last bar's return), VARIANCE and TRADES (log realised variance, log trades),
all scaled by the symbol's train moments; HAS_LAG and OBSERVED are 0 or 1. A state is float64[7]: the AR(1) x_t = c + phi x_{t-1} + sigma e
of the return and a mean and a deviation for each of the other two. `uses` bool[2] says which of the other two speak.
"""

from __future__ import annotations

import math

import numpy as np

from cift_models.compiled import kernel

RETURN, LAG, VARIANCE, TRADES, HAS_LAG, OBSERVED = range(6)
INTERCEPT, PHI, SIGMA, VARIANCE_MEAN, VARIANCE_SD, TRADES_MEAN, TRADES_SD = range(7)
RETURN_SD, VARIANCE_OFFSET, VARIANCE_LOG_MEAN, VARIANCE_LOG_SD, TRADES_LOG_MEAN, TRADES_LOG_SD = range(6)

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@kernel
def normal_log_density(x, mean, sd):
    """log N(x; mean, sd^2)."""
    z = (x - mean) / sd
    return -0.5 * z * z - math.log(sd) - HALF_LOG_TWO_PI


@kernel
def return_log_density(row, state):
    """log p(x_t | x_{t-1}, s) of the AR(1); the lag must be known."""
    return normal_log_density(row[RETURN], state[INTERCEPT] + state[PHI] * row[LAG], state[SIGMA])


@kernel
def log_density(row, state, uses):
    """log p(row | s): the product of what is known; 0 for a bar that was not observed."""
    if row[OBSERVED] == 0.0:
        return 0.0
    total = 0.0
    if row[HAS_LAG] != 0.0:
        total += return_log_density(row, state)
    if uses[0]:
        total += normal_log_density(row[VARIANCE], state[VARIANCE_MEAN], state[VARIANCE_SD])
    if uses[1]:
        total += normal_log_density(row[TRADES], state[TRADES_MEAN], state[TRADES_SD])
    return total


@kernel
def log_densities(rows, states, uses):
    """log_density of rows float64[N, 6] in states float64[K, 7]: float64[N, K]."""
    out = np.empty((len(rows), len(states)))
    for t in range(len(rows)):
        for k in range(len(states)):
            out[t, k] = log_density(rows[t], states[k], uses)
    return out


@kernel
def filter_bar(row, transition, states, uses, predicted, filtered):
    """One normalised alpha recursion, in place; returns log p(row | F_{t-1}).

    predicted float64[K] comes in as p(s_t|F_{t-1}) and leaves as p(s_{t+1}|F_t) = A' filtered; filtered float64[K] leaves as
    p(s_t|F_t) ~ predicted o b(row) (Hamilton 1989, eqs. 5-9). The largest joint log density is taken out before exp: it cannot underflow.
    """
    n = len(states)
    top = -np.inf
    for k in range(n):
        filtered[k] = math.log(predicted[k]) + log_density(row, states[k], uses) if predicted[k] > 0.0 else -np.inf
        top = max(top, filtered[k])
    total = 0.0
    for k in range(n):
        filtered[k] = math.exp(filtered[k] - top)
        total += filtered[k]
    for k in range(n):
        filtered[k] /= total
    for k in range(n):
        ahead = 0.0
        for j in range(n):
            ahead += transition[j, k] * filtered[j]
        predicted[k] = ahead
    return top + math.log(total)


@kernel
def filter_rows(rows, lengths, start, transition, states, uses):
    """Filter sequences that follow each other in rows float64[N, 6] (int64 lengths), each from `start`.

    Returns p(s_t|F_{t-1}) float64[N, K], p(s_t|F_t) float64[N, K], log p(row_t|F_{t-1}) float64[N]. O(N K^2), forward only.
    """
    n, k = len(rows), len(states)
    ahead, now, gain = np.empty((n, k)), np.empty((n, k)), np.empty(n)
    predicted, filtered = np.empty(k), np.empty(k)
    t = 0
    for length in lengths:
        predicted[:] = start
        for _ in range(length):
            ahead[t] = predicted
            gain[t] = filter_bar(rows[t], transition, states, uses, predicted, filtered)
            now[t] = filtered
            t += 1
    return ahead, now, gain


@kernel
def return_log_likelihoods(rows, weights, states):
    """log sum_s weights[t, s] p(x_t | x_{t-1}, s) of the returns alone, float64[N]; NaN where bar or lag is not known."""
    out = np.full(len(rows), np.nan)
    terms = np.empty(len(states))
    for t in range(len(rows)):
        if rows[t, OBSERVED] == 0.0 or rows[t, HAS_LAG] == 0.0:
            continue
        top = -np.inf
        for k in range(len(states)):
            terms[k] = math.log(weights[t, k]) + return_log_density(rows[t], states[k]) if weights[t, k] > 0.0 else -np.inf
            top = max(top, terms[k])
        total = 0.0
        for k in range(len(states)):
            total += math.exp(terms[k] - top)
        out[t] = top + math.log(total)
    return out


@kernel
def moment_sums(rows, weights, out):
    """Add sum_t weights[t, k] (1, x, l, x^2, x l, l^2 | 1, v, v^2, u, u^2) to out float64[K, 11]: all that the M step needs.

    x, l are the return and its lag, over bars with a lag; v, u the log variance and log trades, over observed bars.
    """
    for t in range(len(rows)):
        if rows[t, OBSERVED] == 0.0:
            continue
        x, lag, v, u = rows[t, RETURN], rows[t, LAG], rows[t, VARIANCE], rows[t, TRADES]
        for k in range(weights.shape[1]):
            w = weights[t, k]
            if rows[t, HAS_LAG] != 0.0:
                out[k, 0] += w
                out[k, 1] += w * x
                out[k, 2] += w * lag
                out[k, 3] += w * x * x
                out[k, 4] += w * x * lag
                out[k, 5] += w * lag * lag
            out[k, 6] += w
            out[k, 7] += w * v
            out[k, 8] += w * v * v
            out[k, 9] += w * u
            out[k, 10] += w * u * u


@kernel
def rows_of_returns(x):
    """Bar rows of one unbroken series of returns: float64[T, 6]; the first has no lag, so it says nothing about the state."""
    rows = np.zeros((len(x), 6))
    rows[:, RETURN] = x
    rows[1:, LAG] = x[:-1]
    rows[1:, HAS_LAG] = 1.0
    rows[:, OBSERVED] = 1.0
    return rows


@kernel
def gather(mid, n_trades, valid, s, last_mid, bar_return, bar_variance, bar_trades, bar_moves):
    """Add one step of symbol s to its open bar, in place.

    A step whose mid or whose last mid is not known adds no move, so that a bar with a gap ends with too few `bar_moves`.
    """
    if not (valid and mid > 0.0):
        last_mid[s] = 0.0
        return
    if last_mid[s] > 0.0:
        move_bps = 1e4 * math.log(mid / last_mid[s])
        bar_return[s] += move_bps
        bar_variance[s] += move_bps * move_bps
        bar_moves[s] += 1
    bar_trades[s] += n_trades
    last_mid[s] = mid


@kernel
def empty_bar(s, bar_return, bar_variance, bar_trades, bar_moves):
    """Open the next bar of symbol s, in place."""
    bar_return[s] = 0.0
    bar_variance[s] = 0.0
    bar_trades[s] = 0.0
    bar_moves[s] = 0


@kernel
def raw_bars(as_of, mid, n_trades, valid, anchor_ns, clock_ns, bar_ns):
    """Every bar of a session that closes at anchor + j bar_ns, unscaled.

    as_of int64[T]; mid, n_trades float64[T, S]; valid bool[T, S]. Returns the steps at which bars close int64[B], raw float64[B, S, 3]
    (return in bps, realised variance in bps^2, trades) and complete bool[B, S]: every step of the bar and the one at its open was valid.
    """
    n_steps, n_symbols = mid.shape
    full = bar_ns // clock_ns
    last_mid, bar_return, bar_variance = np.zeros(n_symbols), np.zeros(n_symbols), np.zeros(n_symbols)
    bar_trades, bar_moves = np.zeros(n_symbols), np.zeros(n_symbols, np.int64)
    closing = np.nonzero((as_of - anchor_ns) % bar_ns == 0)[0]
    raw = np.zeros((len(closing), n_symbols, 3))
    complete = np.zeros((len(closing), n_symbols), np.bool_)
    b = 0
    for t in range(n_steps):
        closes = (as_of[t] - anchor_ns) % bar_ns == 0
        for s in range(n_symbols):
            gather(mid[t, s], n_trades[t, s], valid[t, s], s, last_mid, bar_return, bar_variance, bar_trades, bar_moves)
            if closes:
                complete[b, s] = bar_moves[s] == full
                if complete[b, s]:
                    raw[b, s, 0] = bar_return[s]
                    raw[b, s, 1] = bar_variance[s]
                    raw[b, s, 2] = bar_trades[s]
                empty_bar(s, bar_return, bar_variance, bar_trades, bar_moves)
        if closes:
            b += 1
    return closing, raw, complete


@kernel
def scale_bar(bar_return, bar_variance, bar_trades, scale, row):
    """Write RETURN, VARIANCE and TRADES of one bar into row float64[6], scaled by float64[6] of the symbol."""
    row[RETURN] = bar_return / scale[RETURN_SD]
    row[VARIANCE] = (math.log(bar_variance + scale[VARIANCE_OFFSET]) - scale[VARIANCE_LOG_MEAN]) / scale[VARIANCE_LOG_SD]
    row[TRADES] = (math.log1p(bar_trades) - scale[TRADES_LOG_MEAN]) / scale[TRADES_LOG_SD]


@kernel
def run(
    as_of,
    mid,
    n_trades,
    valid,
    clock_ns,
    bar_ns,
    scales,
    transition,
    states,
    uses,
    anchor_ns,
    last_mid,
    bar_return,
    bar_variance,
    bar_trades,
    bar_moves,
    last_return,
    has_last,
    predicted,
    n_bars,
    observed_ns,
    values,
    ready,
):
    """Take T steps, in place: gather bars, filter where they close, and say p(s_{t+1}|F_t) at every step.

    as_of int64[T]; mid, n_trades float64[T, S]; valid bool[T, S]; scales float64[S, 6]. The third line of arguments is the state:
    anchor_ns int64[1] is the session's open (one clock before the first step; -1 before it is known). values float64[T, S, K] and
    ready bool[T, S] are the output.
    A bar with a gap takes the prediction step alone, and the next bar has no lag. O(T S), and O(K^2) a symbol at each close.
    """
    n_steps, n_symbols = mid.shape
    n_states = len(states)
    full = bar_ns // clock_ns
    row = np.zeros(6)
    filtered = np.empty(n_states)
    for t in range(n_steps):
        if anchor_ns[0] < 0:
            anchor_ns[0] = as_of[t] - clock_ns
        closes = (as_of[t] - anchor_ns[0]) % bar_ns == 0
        for s in range(n_symbols):
            gather(mid[t, s], n_trades[t, s], valid[t, s], s, last_mid, bar_return, bar_variance, bar_trades, bar_moves)
            if closes:
                row[:] = 0.0
                if bar_moves[s] == full:
                    scale_bar(bar_return[s], bar_variance[s], bar_trades[s], scales[s], row)
                    row[OBSERVED] = 1.0
                    if has_last[s]:
                        row[LAG] = last_return[s]
                        row[HAS_LAG] = 1.0
                    n_bars[s] += 1
                    observed_ns[s] = as_of[t]
                last_return[s] = row[RETURN]
                has_last[s] = row[OBSERVED] == 1.0
                filter_bar(row, transition, states, uses, predicted[s], filtered)
                empty_bar(s, bar_return, bar_variance, bar_trades, bar_moves)
            ready[t, s] = valid[t, s] and n_bars[s] > 0
            for k in range(n_states):
                values[t, s, k] = predicted[s, k] if ready[t, s] else 0.0
