"""What a forecast is worth in money: as a taker's signal, and as a patient order's timing.

A taker pays the half-spread twice and cannot profit from 1-s moves of .2-.3 bp against 1.3-2.8 bp; a mean net above 0 is a bug until
proved. An order that must be done anyway can still choose its second: that is where such forecasts earn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.significance import Blocks, Estimate
from cift_models.instruments import SECOND
from cift_models.scores import Terms
from cift_models.signals import SignalRule, round_trips, signals

FEWEST_TRIPS = 30
"""Under 30 round trips a Sharpe ratio is not given: its error exceeds .18 whatever the trades were."""

DELAY_NS = 100_000_000
"""An order reaches the venue 100 ms after the instant it was decided for."""

WINDOW_NS = 10 * SECOND
"""A parent order must cross within this time."""


@dataclass(frozen=True, slots=True)
class Trades:
    """Round trips of one model on one symbol. entry and exit are rows of the Evaluated; drift_bps is side times the session's drift."""

    entry: NDArray[np.int64]
    exit: NDArray[np.int64]
    side: NDArray[np.int8]
    gross_bps: NDArray[np.float64]
    net_bps: NDArray[np.float64]
    drift_bps: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.entry)


def trade(data: Evaluated, mean_bps: NDArray[np.float64], ready: NDArray[np.bool_], rule: SignalRule, delay_ns: int = 0) -> Trades:
    """Trade the rule's signals at the touch at as_of + delay, flat at each session's first row and closed at its last. O(n).

    drift_bps of a trip is what the same position would have earned from the session's average move alone (last mid over first mid, by
    time): a rule that happens to be long on a day that rises earns it without a forecast.
    """
    bid, ask = data.bid[delay_ns], data.ask[delay_ns]
    sessions = data.sessions
    parts: list[Trades] = []
    for session in np.unique(sessions):
        rows = np.flatnonzero(sessions == session)
        signal = signals(rule, mean_bps[rows, None], data.cost_bps[rows, None], ready[rows, None])[:, 0]
        trips = round_trips(signal, bid[rows], ask[rows], data.fee_bps)
        span_ns = max(int(data.as_of[rows[-1]] - data.as_of[rows[0]]), 1)
        drift_bps_per_ns = 1e4 * float(np.log(data.mid[rows[-1]] / data.mid[rows[0]])) / span_ns
        held_ns = data.as_of[rows[trips.exit]] - data.as_of[rows[trips.entry]]
        drift = (trips.side * held_ns * drift_bps_per_ns).astype(np.float64)
        parts.append(Trades(rows[trips.entry], rows[trips.exit], trips.side, trips.gross_bps, trips.net_bps, drift))
    return Trades(*(np.concatenate([getattr(p, name) for p in parts]) for name in Trades.__slots__)) if parts else _no_trades()


def _no_trades() -> Trades:
    empty = np.zeros(0)
    return Trades(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int8), empty, empty, empty)


def net_per_trade(data: Evaluated, trades: Trades, blocks: Blocks, *, without_drift: bool = False) -> Estimate:
    """Mean net bps a round trip, blocks by entry; with `without_drift`, less side times session drift."""
    if not len(trades):
        return Estimate.absent("no round trip")
    net = trades.net_bps - trades.drift_bps if without_drift else trades.net_bps
    return blocks.ratio(data.as_of[trades.entry], Terms(net, np.ones(len(net))))


def sharpe_net(data: Evaluated, trades: Trades, blocks: Blocks) -> Estimate:
    """Mean over standard deviation of net bps, per round trip, never annualised; absent under FEWEST_TRIPS."""
    if len(trades) < FEWEST_TRIPS:
        return Estimate.absent(f"{len(trades)} round trips, {FEWEST_TRIPS} are needed")
    net = trades.net_bps
    sums = blocks.sums(data.as_of[trades.entry], np.column_stack([np.ones(len(net)), net, net**2]))

    def value(s: NDArray[np.float64]) -> NDArray[np.float64]:
        count = np.where(s[..., 0] > 0, s[..., 0], np.nan)
        mean = s[..., 1] / count
        variance = s[..., 2] / count - mean**2
        return mean / np.sqrt(np.where(variance > 0, variance, np.nan))

    return blocks.interval(sums, value)


@dataclass(frozen=True, slots=True)
class Timing:
    """Parent orders, one a row: `row` where it arrived, `saving_bps` against the TWAP (buy and sell averaged), `waited` rows (averaged).

    buy and sell are the rows at which the two crossed.
    """

    row: NDArray[np.int64]
    saving_bps: NDArray[np.float64]
    waited: NDArray[np.float64]
    buy: NDArray[np.int64]
    sell: NDArray[np.int64]


def execution_timing(data: Evaluated, mean_bps: NDArray[np.float64], ready: NDArray[np.bool_], delay_ns: int = DELAY_NS) -> Timing:
    """Let parent orders wait while the forecast is against them, and price what that saves.

    Every 10 s (WINDOW_NS) a buy and a sell arrive, and must cross within that time. A buy waits while the forecast is below 0 (the price
    is about to fall), a sell while it is above; where the model is not ready nobody waits; the window's last row crosses in any case. Both
    pay the touch at as_of + delay of their row; the yardstick is the mean of that touch over the window's rows (a TWAP). Savings are in bps
    of the mid at arrival; no impact. Windows never span a session, a missing row, or a touch that is not positive and finite.

    For ridge_reference on the real day: AAPL .088 (se .020), AMZN .225 (.038), GOOG .105 (.025) bp. O(n).
    """
    bid, ask = data.bid[delay_ns], data.ask[delay_ns]
    starts, window = _windows(data, (bid > 0) & np.isfinite(bid) & (ask > 0) & np.isfinite(ask))
    if not len(starts):
        return Timing(starts, np.zeros(0), np.zeros(0), starts, starts)
    rows = starts[:, None] + np.arange(window)
    forecast = np.where(ready, mean_bps, 0.0)[rows]
    buys, sells = forecast >= 0, forecast <= 0
    buys[:, -1] = sells[:, -1] = True
    buy, sell = buys.argmax(axis=1), sells.argmax(axis=1)
    asks, bids = ask[rows], bid[rows]
    at = np.arange(len(starts))
    saved = (asks.mean(axis=1) - asks[at, buy]) + (bids[at, sell] - bids.mean(axis=1))
    return Timing(starts, 1e4 * 0.5 * saved / data.mid[starts], (buy + sell) / 2, starts + buy, starts + sell)


def _windows(data: Evaluated, good: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """(first rows, rows a window): runs of good rows one clock apart in one session, cut into whole windows from each run's first row."""
    n = len(data)
    if n < 2:
        return np.zeros(0, np.int64), 1
    gaps = np.diff(data.as_of)
    clock = int(gaps.min())
    window = max(int(WINDOW_NS // clock), 2)
    broken = (gaps != clock) | (np.diff(data.sessions) != 0) | ~good[1:] | ~good[:-1]
    edges = [0, *(np.flatnonzero(broken) + 1).tolist(), n]
    starts = [np.arange(a, b - window + 1, window) for a, b in pairwise(edges) if good[a]]
    return (np.concatenate(starts) if starts else np.zeros(0)).astype(np.int64), window


def touch_size(data: Evaluated, mean_bps: NDArray[np.float64], ready: NDArray[np.bool_], rule: SignalRule | None) -> dict[str, Any]:
    """Lots at the best price of the side that is taken, at the instant of the decision: {"signal", "timing", "always"}.

    signal   where the rule says Buy (the ask's lots) or Sell (the bid's), exits included; null without a rule
    timing   where the patient orders of `execution_timing` cross
    always   both sides on every row where the model speaks: what the other two are compared with

    Each is {fires, mean_lots, median_lots}, or null with its `reason`. What is shown can be gone when the order arrives. O(n).
    """
    if data.bid_lots is None or data.ask_lots is None:
        return {key: {**_NO_LOTS, "reason": "the sizes at the touch were not given"} for key in ("signal", "timing", "always")}
    bid, ask = data.bid_lots, data.ask_lots
    out: dict[str, Any] = {"signal": {**_NO_LOTS, "reason": "no threshold was chosen for it"}}
    if rule is not None:
        taken = []
        for session in np.unique(data.sessions):
            rows = np.flatnonzero(data.sessions == session)
            signal = signals(rule, mean_bps[rows, None], data.cost_bps[rows, None], ready[rows, None])[:, 0]
            taken += [ask[rows[signal > 0]], bid[rows[signal < 0]]]
        out["signal"] = _lots(np.concatenate(taken), "the rule never fired")
    timing = execution_timing(data, mean_bps, ready) if DELAY_NS in data.bid else None
    crossed = np.zeros(0) if timing is None else np.concatenate([ask[timing.buy], bid[timing.sell]])
    out["timing"] = _lots(crossed, "no 10 s without a gap")
    return out | {"always": _lots(np.concatenate([ask[ready], bid[ready]]), "ready on no test row")}


_NO_LOTS = {"fires": 0, "mean_lots": None, "median_lots": None}


def _lots(taken: NDArray[np.float64], empty: str) -> dict[str, Any]:
    """Of the sides that showed anything; a side that was empty has no size to take."""
    shown = taken[taken > 0]
    if not len(shown):
        return {**_NO_LOTS, "reason": empty}
    return {"fires": len(taken), "mean_lots": float(shown.mean()), "median_lots": float(np.median(shown))}


def timing_value(
    data: Evaluated, mean_bps: NDArray[np.float64], ready: NDArray[np.bool_], blocks: Blocks, delay_ns: int = DELAY_NS
) -> Estimate:
    """Mean saving in bps with its interval; absent without the touch at that delay."""
    if delay_ns not in data.bid:
        return Estimate.absent(f"the touch {delay_ns // 1_000_000} ms later was not given")
    timing = execution_timing(data, mean_bps, ready, delay_ns)
    if not len(timing.row):
        return Estimate.absent("no 10 s without a gap")
    return blocks.ratio(data.as_of[timing.row], Terms(timing.saving_bps, np.ones(len(timing.row))))


def shifted_null(data: Evaluated, mean_bps: NDArray[np.float64], ready: NDArray[np.bool_], delay_ns: int = DELAY_NS) -> list[float]:
    """Timing values of the same forecasts shifted in time by 10, 20, ... minutes (circularly): what a forecast without knowledge reaches.

    At most 20 shifts, each at least 10 minutes from 0 on either side; empty under 20 minutes of rows, or without the touch at that delay.
    """
    n = len(data)
    if delay_ns not in data.bid or n < 2:
        return []
    step = max(int(600 * SECOND // max(int(np.diff(data.as_of).min()), 1)), 1)
    shifts = np.arange(step, n - step + 1, step)
    if len(shifts) > 20:
        shifts = shifts[np.linspace(0, len(shifts) - 1, 20).astype(int)]
    values = []
    for shift in shifts:
        timing = execution_timing(data, np.roll(mean_bps, shift), np.roll(ready, shift), delay_ns)
        if len(timing.row):
            values.append(float(timing.saving_bps.mean()))
    return values
