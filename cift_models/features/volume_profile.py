"""Where volume traded over the last `profile_ns`, in price bins of one tick.

profile_poc_ticks    bin of the most volume (the lowest of equals), minus the mid, in ticks
profile_low_ticks    lower edge of the value area minus the mid: the bins around it that hold 70 % of the volume, widened each time
profile_high_ticks   on the side whose next traded bin holds more (the lower on equals); upper edge likewise
profile_entropy      -sum p log p of the bins' shares, nats, as log V - (sum v log v) / V

Volumes are integers; hidden executions count, in the bin that holds their price. No trade in the window, or no mid: all four are 0.
The bins are kept in rising order, each with its v log v: O(bins) an instant and a trade, however many trades the window holds.
"""

from __future__ import annotations

import math

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import BIN, BIN_LOTS, TRADE_BIN, TRADE_LOTS, TRADE_TS

VALUE_AREA = 0.7
"""Share of the volume in the value area: the trade's usual figure."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("profile_poc_ticks", "profile_low_ticks", "profile_high_ticks", "profile_entropy")


@kernel
def apply(m, trades, bins, logs, ts, px, sz):
    """Take a trade."""
    expire(m, trades, bins, logs, ts)
    place = m.traded & (trades.shape[0] - 1)
    price_bin = px // m.tick_units
    trades[place, TRADE_TS] = ts
    trades[place, TRADE_BIN] = price_bin
    trades[place, TRADE_LOTS] = sz
    m.traded += 1
    _add(m, bins, logs, price_bin, sz)


@kernel
def expire(m, trades, bins, logs, as_of):
    """Take out the trades that the window (as_of - profile_ns, as_of] no longer holds."""
    mask = trades.shape[0] - 1
    begin = as_of - m.profile_ns
    while m.trade_oldest < m.traded and trades[m.trade_oldest & mask, TRADE_TS] <= begin:
        place = m.trade_oldest & mask
        _add(m, bins, logs, trades[place, TRADE_BIN], -trades[place, TRADE_LOTS])
        m.trade_oldest += 1


@kernel
def forget(m):
    """No trade yet."""
    m.trade_oldest = m.traded
    m.n_bins = 0
    m.profile_lots = 0


@kernel
def _add(m, bins, logs, price_bin, lots):
    """Change a bin's volume; a bin that is new is put in its place, one that is empty is taken out."""
    low, high = 0, m.n_bins
    while low < high:
        middle = (low + high) // 2
        if bins[middle, BIN] < price_bin:
            low = middle + 1
        else:
            high = middle
    if low == m.n_bins or bins[low, BIN] != price_bin:
        for k in range(m.n_bins, low, -1):
            bins[k, BIN], bins[k, BIN_LOTS], logs[k] = bins[k - 1, BIN], bins[k - 1, BIN_LOTS], logs[k - 1]
        bins[low, BIN], bins[low, BIN_LOTS] = price_bin, 0
        m.n_bins += 1
    m.profile_lots += lots
    volume = bins[low, BIN_LOTS] + lots
    if volume > 0:
        bins[low, BIN_LOTS] = volume
        logs[low] = volume * math.log(float(volume))
    else:
        m.n_bins -= 1
        for k in range(low, m.n_bins):
            bins[k, BIN], bins[k, BIN_LOTS], logs[k] = bins[k + 1, BIN], bins[k + 1, BIN_LOTS], logs[k + 1]


@kernel
def row(m, trades, bins, logs, as_of, out, at):
    """Write the family's columns."""
    expire(m, trades, bins, logs, as_of)
    n = m.n_bins
    if n == 0 or m.mid <= 0:
        for c in range(4):
            out[at + c] = 0.0
        return
    poc, sum_logs = 0, 0.0
    for k in range(n):
        sum_logs += logs[k]
        if bins[k, BIN_LOTS] > bins[poc, BIN_LOTS]:
            poc = k
    a, b = poc, poc
    inside = bins[poc, BIN_LOTS]
    while inside < VALUE_AREA * m.profile_lots:
        below = bins[a - 1, BIN_LOTS] if a > 0 else -1
        above = bins[b + 1, BIN_LOTS] if b + 1 < n else -1
        if below >= above:
            a -= 1
            inside += below
        else:
            b += 1
            inside += above
    mid_ticks = m.mid / m.tick_size
    out[at] = bins[poc, BIN] - mid_ticks
    out[at + 1] = bins[a, BIN] - mid_ticks
    out[at + 2] = bins[b, BIN] - mid_ticks
    out[at + 3] = max(math.log(float(m.profile_lots)) - sum_logs / m.profile_lots, 0.0)
