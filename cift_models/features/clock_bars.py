"""The last bar that closed on the tick clock (`tick_bar` trades) and on the volume clock (VOLUME_BAR units): CLOCK = tick, volume.

CLOCK_bar_return_bps     1e4 (close - open) / open; this and the next 0 where the open is not above 0
CLOCK_bar_range_bps      1e4 (high - low) / open
CLOCK_bar_vwap_bps       1e4 (vwap - mid now) / mid now: where the bar's volume stands against the price
CLOCK_bar_imbalance      (bought - sold) / volume, -1..1
CLOCK_bar_s              seconds from its first to its last trade
CLOCK_bar_age_s          seconds since its last trade

All are 0 before the first bar closes, and the age is then the seconds since memory began. A trade that closes a bar of the volume clock
belongs to it whole: its volume is at least VOLUME_BAR. Hidden executions count, with the sign that the feed gives them.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.memory import N_BAR
from cift_models.instruments import Instrument

VOLUME_BAR = {"shares": 1_000, "coins": 10, "contracts": 1_000}
"""Units in one bar of the volume clock, by what the instrument's unit is."""

ANY_UNIT = 1_000
"""Units where it is another one."""

TICK, VOLUME = 0, 1
OPEN, HIGH, LOW, CLOSE, LOTS, TURNOVER, SIGNED, TRADES, FIRST_TS, LAST_TS = range(N_BAR)
"""Columns of a bar in memory: price units and lots; turnover counted from the open."""
N_COLUMNS = 6


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    columns = ("return_bps", "range_bps", "vwap_bps", "imbalance", "s", "age_s")
    return tuple(f"{clock}_bar_{column}" for clock in ("tick", "volume") for column in columns)


def volume_bar(instrument: Instrument) -> int:
    """Lots in one bar of the volume clock."""
    return VOLUME_BAR.get(instrument.unit, ANY_UNIT) * instrument.lot_scale


@kernel
def apply(m, ts, side, px, sz):
    """Take a trade."""
    for clock in range(2):
        run = m.run[clock]
        if run[TRADES] == 0:
            run[OPEN], run[HIGH], run[LOW], run[FIRST_TS] = px, px, px, ts
            run[LOTS], run[TURNOVER], run[SIGNED] = 0, 0, 0
        run[HIGH] = max(run[HIGH], px)
        run[LOW] = min(run[LOW], px)
        run[CLOSE] = px
        run[LOTS] += sz
        run[TURNOVER] += (px - run[OPEN]) * sz
        run[SIGNED] += side * sz
        run[TRADES] += 1
        run[LAST_TS] = ts
        full = run[TRADES] >= m.tick_bar if clock == TICK else run[LOTS] >= m.volume_bar
        if full:
            closed = m.closed[clock]
            for c in range(N_BAR):
                closed[c] = run[c]
            run[TRADES] = 0


@kernel
def forget(m):
    """No bar yet, and none begun."""
    for clock in range(2):
        m.run[clock][TRADES] = 0
        m.closed[clock][TRADES] = 0


@kernel
def row(m, as_of, out, at):
    """Write the family's columns."""
    for clock in range(2):
        bar = m.closed[clock]
        j = at + N_COLUMNS * clock
        if bar[TRADES] == 0:
            for c in range(N_COLUMNS - 1):
                out[j + c] = 0.0
            out[j + 5] = (as_of - m.since) * 1e-9
            continue
        vwap = (bar[OPEN] + bar[TURNOVER] / bar[LOTS]) / m.price_scale
        out[j] = 1e4 * (bar[CLOSE] - bar[OPEN]) / bar[OPEN] if bar[OPEN] > 0 else 0.0
        out[j + 1] = 1e4 * (bar[HIGH] - bar[LOW]) / bar[OPEN] if bar[OPEN] > 0 else 0.0
        out[j + 2] = 1e4 * (vwap - m.mid) / m.mid if m.mid > 0 else 0.0
        out[j + 3] = bar[SIGNED] / bar[LOTS]
        out[j + 4] = (bar[LAST_TS] - bar[FIRST_TS]) * 1e-9
        out[j + 5] = (as_of - bar[LAST_TS]) * 1e-9
