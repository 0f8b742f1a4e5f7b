"""Trades since the last decision instant: open, high, low, close, volume-weighted price, volume, count. Bars on the time clock.

Without a trade since then the five prices stand at the last trade's price, before the first trade at the mid. Prices in quote
currency, volume in units, hidden executions included.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("bar_open", "bar_high", "bar_low", "bar_close", "bar_vwap", "volume", "n_trades")


@kernel
def apply(m, px, sz):
    """Take a trade. Turnover is counted from the bar's open: px x sz of a coin in satoshi would leave int64 within hours."""
    if m.bar_trades == 0:
        m.bar_open, m.bar_high, m.bar_low = px, px, px
    m.bar_high = max(m.bar_high, px)
    m.bar_low = min(m.bar_low, px)
    m.last_px = px
    m.bar_volume += sz
    m.bar_turnover += (px - m.bar_open) * sz
    m.bar_trades += 1


@kernel
def forget(m):
    """No trade yet."""
    m.last_px = 0
    _close(m)


@kernel
def _close(m):
    m.bar_volume, m.bar_turnover, m.bar_trades = 0, 0, 0


@kernel
def row(m, out, at):
    """Write the family's columns and begin the next bar."""
    if m.bar_trades > 0:
        out[at] = m.bar_open / m.price_scale
        out[at + 1] = m.bar_high / m.price_scale
        out[at + 2] = m.bar_low / m.price_scale
        out[at + 3] = m.last_px / m.price_scale
        out[at + 4] = (m.bar_open + m.bar_turnover / m.bar_volume) / m.price_scale
    else:
        price = m.last_px / m.price_scale if m.last_px != 0 else m.mid
        for c in range(5):
            out[at + c] = price
    out[at + 5] = m.bar_volume / m.lot_scale
    out[at + 6] = m.bar_trades
    _close(m)
