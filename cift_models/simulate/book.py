"""The book of one symbol through one session: integer prices and queues that move by news, trades, repetitions and quotes."""

from __future__ import annotations

import numpy as np

from cift_models.compiled import kernel
from cift_models.events import BOOK, TRADE
from cift_models.instruments import SECOND
from cift_models.simulate.regimes import BAR_S

QUOTE, NEWS, TRADED, REPEATED = 0, 1, 2, 3
"""What happens at an event: a queue changes size; news moves the price; a trade, with its impact; another symbol's move is repeated."""

FLOW_WINDOW_S = 10
"""Look-back of the signed volume under the interaction, seconds."""

ROUND_LOT = 100

WIDE = (0.2, 0.2, 0.5)
"""Probability that a move leaves the wider of the two spreads of its parity, by regime."""

BEST_SHARE = 0.7
"""Share of quotes that change a queue at the best price; the imbalance has a half-life near a second."""


@kernel
def _lots(exponential, mean):
    """A size of at least one round lot and of about the given mean, from a unit exponential."""
    return ROUND_LOT * (1 + np.int64(exponential * (mean - 0.5 * ROUND_LOT) / ROUND_LOT))


@kernel
def walk(
    at_ns, what, value, uniforms, exponentials, regime, opening, spread_ticks, queue_lots, trade_lots, wide, ar, news_hz,
    noise_bps, scales, drifts, impact_bps, kind, side, trade_ticks, trade_sz, bid_px, bid_sz, ask_px, ask_sz,
):  # fmt: skip
    """Run the book over n events; fill the rows 0 (the book at the open) .. n of the event columns.

    at_ns         int64[n]      from the open, strictly rising
    what, value   int8[n], float64[n]   QUOTE; NEWS and a standard normal; TRADED and a side; REPEATED and a move in bps
    uniforms      float64[n + 1, 3]     of rounding, of the spread, of the choice of a queue
    exponentials  float64[n + 1, 1 + 2 L]   of a trade's size and of the queues
    regime        int8[T]       by second
    opening       twice the mid at the open, ticks (a mid may lie between ticks)
    news_hz, noise_bps    float64[3]    by regime: rate of news and standard deviation of one piece of it
    scales        (bps per unit of queue imbalance, bps per unit of the sign product, mean of the sign product)
    drifts        False: measure the components but do not let them move the price (the pilot of calibration.py)

    Returns doubled mids int64[T + 1] at whole seconds, moves float64[n] in bps of every event, and the components float64[T + 1, 3] in bps
    of the next second's move: linear, interaction, autoregressive. What is planted for (j, j + 1] is settled by the book at j alone; the
    news of that second, a Poisson number at random times, carries it: drift / rate each, so its expectation is exact. Prices are rounded at
    random to half ticks of the mid, floor(x + U), so that E[move] is exact too and the rounding leaves no memory. O(n L + T).
    """
    n, levels, seconds = len(at_ns), bid_px.shape[1], len(regime)
    doubled = np.zeros(seconds + 1, np.int64)
    moved_bps = np.zeros(n)
    components = np.zeros((seconds + 1, 3))
    flow = np.zeros(n, np.int64)
    mid2, bar2 = opening, opening
    spread = spread_ticks + (opening - spread_ticks) % 2
    bids, asks = np.zeros(levels, np.int64), np.zeros(levels, np.int64)
    for level in range(levels):
        bids[level] = _lots(exponentials[0, 1 + level], queue_lots)
        asks[level] = _lots(exponentials[0, 1 + levels + level], queue_lots)
    kind[0] = BOOK
    for level in range(levels):
        bid_px[0, level] = (mid2 - spread) // 2 - level
        ask_px[0, level] = (mid2 + spread) // 2 + level
        bid_sz[0, level], ask_sz[0, level] = bids[level], asks[level]

    last_bar_bps, drift_bps, signed, oldest, j = 0.0, 0.0, 0, 0, 0
    for i in range(n + 1):
        now = at_ns[i] if i < n else (seconds + 1) * SECOND
        while j <= seconds and now > j * SECOND:
            doubled[j] = mid2
            if j % BAR_S == 0:
                last_bar_bps = 1e4 * (mid2 - bar2) / bar2
                bar2 = mid2
            while oldest < i and at_ns[oldest] <= (j - FLOW_WINDOW_S) * SECOND:
                signed -= flow[oldest]
                oldest += 1
            imbalance = (bids[0] - asks[0]) / (bids[0] + asks[0])
            components[j, 0] = scales[0] * imbalance
            components[j, 1] = scales[1] * (np.sign(imbalance) * np.sign(signed) - scales[2])
            components[j, 2] = ar[regime[min(j, seconds - 1)]] * last_bar_bps / BAR_S
            drift_bps = components[j].sum() if drifts else 0.0
            j += 1
        if i == n:
            break
        row, state = i + 1, regime[j - 1]
        bps = 0.0
        if what[i] == QUOTE:
            choice = uniforms[row, 2]
            level = 0
            if levels > 1 and choice >= BEST_SHARE:
                choice = (choice - BEST_SHARE) / (1.0 - BEST_SHARE)
                level = 1 + min(int(choice * (levels - 1)), levels - 2)
                choice = choice * (levels - 1) - (level - 1)
            elif levels > 1:
                choice /= BEST_SHARE
            if choice < 0.5:
                bids[level] = _lots(exponentials[row, 1 + level], queue_lots)
            else:
                asks[level] = _lots(exponentials[row, 1 + levels + level], queue_lots)
        elif what[i] == NEWS:
            bps = noise_bps[state] * value[i] + drift_bps / news_hz[state]
        elif what[i] == REPEATED:
            bps = value[i]
        else:
            side[row] = np.int8(value[i])
            bps = impact_bps * value[i]
            size = _lots(exponentials[row, 0], trade_lots)
            if side[row] > 0:
                size = min(size, asks[0])
                trade_ticks[row] = (mid2 + spread) // 2
                asks[0] -= size
                if asks[0] == 0:
                    asks[0] = _lots(exponentials[row, 1 + levels], queue_lots)
            else:
                size = min(size, bids[0])
                trade_ticks[row] = (mid2 - spread) // 2
                bids[0] -= size
                if bids[0] == 0:
                    bids[0] = _lots(exponentials[row, 1], queue_lots)
            trade_sz[row] = size
            flow[i] = side[row] * size
            signed += flow[i]
        if bps != 0.0:
            step = np.int64(np.floor(bps * mid2 / 1e4 + uniforms[row, 0]))
            if step != 0:
                moved_bps[i] = 1e4 * step / mid2
                mid2 += step
                # Another price is another queue: sizes that know neither the side nor the size of the move.
                spread = spread_ticks - (mid2 - spread_ticks) % 2
                if uniforms[row, 1] < wide[state]:
                    spread += 2
                for level in range(levels):
                    bids[level] = _lots(exponentials[row, 1 + level], queue_lots)
                    asks[level] = _lots(exponentials[row, 1 + levels + level], queue_lots)
        kind[row] = BOOK | TRADE if what[i] == TRADED else BOOK
        for level in range(levels):
            bid_px[row, level] = (mid2 - spread) // 2 - level
            ask_px[row, level] = (mid2 + spread) // 2 + level
            bid_sz[row, level], ask_sz[row, level] = bids[level], asks[level]
    return doubled, moved_bps, components
