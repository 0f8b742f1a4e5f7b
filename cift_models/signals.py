"""From a forecast to an order: one rule, called by the backtest and by the live service alike.

A signal is an order of one unit: Buy (+1), Sell (-1) or Hold (0). The rule's memory is the position that its own signals have built,
so it is a value that goes in and comes out, as a model's state does. The fold over an array and the live step call the same kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cift_models.compiled import kernel
from cift_models.errors import InputError

Position = NDArray[np.int64]


class Signal(IntEnum):
    """What the rule says at one instant for one symbol."""

    SELL = -1
    HOLD = 0
    BUY = 1


class SignalRule(BaseModel):
    """Trade when the expected move, net of cost, passes a threshold; leave when the forecast no longer supports the position.

    threshold_bps   entry: |mean| - cost must exceed it. One number, or one a symbol in the universe's order
    exit_bps        hysteresis: a position is reduced once the forecast in its favour is below this. Entry lies above it (see `decide`),
                    so a forecast that hovers at the threshold does not trade to and fro
    cap             the greatest |position| in units; an order never takes the position beyond it

    A threshold below 0 is allowed: it trades at an expected loss, so that the costs of trading can be measured (see `choose_threshold`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold_bps: float | tuple[float, ...] = 0.0
    exit_bps: float = 0.0
    cap: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if not (np.isfinite(self.exit_bps) and np.isfinite(self.threshold_bps).all()):
            raise ValueError(f"thresholds must be finite; were {self.threshold_bps} and {self.exit_bps}")
        return self

    def thresholds(self, symbols: int) -> NDArray[np.float64]:
        """Entry thresholds float64[S]. Raises InputError where the rule was made for another number of symbols."""
        values = np.atleast_1d(np.asarray(self.threshold_bps, np.float64))
        if len(values) not in (1, symbols):
            raise InputError(
                f"The signal rule has {len(values)} thresholds. Expected 1, or one for each of {symbols} symbols.",
                hint="Use the rule of the release that made the forecasts.",
            )
        return np.ascontiguousarray(np.broadcast_to(values, (symbols,)))

    def start(self, symbols: int) -> Position:
        """Flat: int64[S] of 0, at a session's open."""
        return np.zeros(symbols, np.int64)

    def decide(
        self, state: Position, mean_bps: NDArray[np.float64], cost_bps: NDArray[np.float64], ready: NDArray[np.bool_]
    ) -> tuple[Position, NDArray[np.int8]]:
        """One instant. mean_bps, cost_bps float64[S], ready bool[S] -> (state, signal int8[S]). Consumes `state`.

        Buy where mean - cost > threshold and mean > exit, below the cap; Sell mirrored. Else a long position is reduced by one (Sell)
        where mean < exit, a short one (Buy) where -mean < exit. Else, and wherever not ready or not finite, Hold. O(S).
        """
        signal = np.zeros(len(state), np.int8)
        _decide(state, mean_bps, cost_bps, ready, self.thresholds(len(state)), self.exit_bps, self.cap, signal)
        return state, signal


def signals(rule: SignalRule, mean_bps: NDArray[np.float64], cost_bps: NDArray[np.float64], ready: NDArray[np.bool_]) -> NDArray[np.int8]:
    """The fold of `decide` from flat over one session: [T, S] arrays -> int8[T, S], equal to the live signals to the bit. O(T S)."""
    steps, symbols = mean_bps.shape
    out = np.zeros((steps, symbols), np.int8)
    _fold(rule.start(symbols), mean_bps, cost_bps, ready, rule.thresholds(symbols), rule.exit_bps, rule.cap, out)
    return out


@kernel
def _decide(position, mean_bps, cost_bps, ready, threshold_bps, exit_bps, cap, signal):
    for s in range(len(position)):
        signal[s] = 0
        mean, cost = mean_bps[s], cost_bps[s]
        if not (ready[s] and np.isfinite(mean) and np.isfinite(cost)):
            continue
        buy = mean - cost > threshold_bps[s] and mean > exit_bps and position[s] < cap
        sell = -mean - cost > threshold_bps[s] and -mean > exit_bps and position[s] > -cap
        if not buy and not sell:
            buy = position[s] < 0 and -mean < exit_bps
            sell = position[s] > 0 and mean < exit_bps
        # With a threshold and an exit below 0 both sides can ask at once: the sign of the forecast decides, and 0 holds.
        if buy and (not sell or mean > 0):
            signal[s] = 1
        elif sell and (not buy or mean < 0):
            signal[s] = -1
        position[s] += signal[s]


@kernel
def _fold(position, mean_bps, cost_bps, ready, threshold_bps, exit_bps, cap, out):
    for t in range(len(out)):
        _decide(position, mean_bps[t], cost_bps[t], ready[t], threshold_bps, exit_bps, cap, out[t])


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """What one symbol's signals did, a round trip a row, units matched first in, first out; a position left at the end is closed there.

    entry, exit    int64[k]    rows
    side           int8[k]     +1 long, -1 short
    gross_bps      float64[k]  mid to mid, over the mid at entry
    net_bps        float64[k]  bid and ask and fees paid at both ends, over the mid at entry
    """

    entry: NDArray[np.int64]
    exit: NDArray[np.int64]
    side: NDArray[np.int8]
    gross_bps: NDArray[np.float64]
    net_bps: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.entry)


def round_trips(signal: NDArray[np.int8], bid: NDArray[np.float64], ask: NDArray[np.float64], fee_bps: float = 0.0) -> RoundTrips:
    """Trade one symbol's signals of one session at the touch: buys at `ask`, sells at `bid`, float64[n] at the moment of each fill. O(n).

    An order on a row without a positive, finite bid and ask cannot fill and is dropped; a last position closes at the last good row.
    """
    return RoundTrips(*_round_trips(signal, bid, ask, fee_bps))


@kernel
def _round_trips(signal, bid, ask, fee_bps):
    n = len(signal)
    queue = np.zeros(n, np.int64)
    head = tail = 0
    held = 0
    k = 0
    entry, leave, side = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int8)
    last = -1
    for t in range(n):
        if not (bid[t] > 0 and np.isfinite(bid[t]) and ask[t] > 0 and np.isfinite(ask[t])):
            continue
        last = t
        order = int(signal[t])
        if order == 0:
            continue
        if order * held >= 0:
            queue[tail] = t
            tail += 1
        else:
            entry[k], leave[k], side[k] = queue[head], t, -order
            head += 1
            k += 1
        held += order
    while head < tail:
        entry[k], leave[k], side[k] = queue[head], last, 1 if held > 0 else -1
        head += 1
        k += 1
    entry, leave, side = entry[:k].copy(), leave[:k].copy(), side[:k].copy()
    gross, net = np.zeros(k), np.zeros(k)
    for j in range(k):
        a, b = entry[j], leave[j]
        mid = (bid[a] + ask[a]) / 2
        gross[j] = 1e4 * side[j] * ((bid[b] + ask[b]) / 2 - mid) / mid
        paid, got = (ask[a], bid[b]) if side[j] > 0 else (ask[b], bid[a])
        net[j] = 1e4 * (got - paid) / mid - 2 * fee_bps
    return entry, leave, side, gross, net


GRID = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
"""Thresholds that are tried: these points of |mean| - cost on the validation rows, from one row in ten to one in two thousand."""

SELDOM = 0.999
"""The fallback: about one row in a thousand asks for an entry, 22 a day at one decision a second."""

FEWEST_TRADES = 10
"""Below this a mean is an anecdote, and its threshold is not a choice."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One symbol's threshold and why.

    tried holds (threshold_bps, round trips, mean net bps a round trip) for each point of the grid; net_bps is None where nothing traded.
    """

    threshold_bps: float
    profitable: bool
    n_trades: int
    net_bps: float | None
    why: str
    tried: tuple[tuple[float, int, float], ...]


def choose_threshold(
    mean_bps: NDArray[np.float64],
    cost_bps: NDArray[np.float64],
    ready: NDArray[np.bool_],
    bid: NDArray[np.float64],
    ask: NDArray[np.float64],
    *,
    fee_bps: float = 0.0,
    exit_bps: float = 0.0,
    cap: int = 1,
    session: NDArray[np.int64] | None = None,
    grid: Sequence[float] = GRID,
) -> Threshold:
    """One symbol's threshold, chosen on its validation rows (block b6) for the greatest total P&L net of spread and fees.

    Arrays [n] on the validation rows of one symbol, in time order; `session` parts them (one session where None). A threshold can win only
    with FEWEST_TRADES round trips and a positive mean. Where none does, the SELDOM point is taken: it may be below 0, that is, trade at an
    expected loss, and `why` says so. Nothing here looks beyond the rows that were given. O(n len(grid)).
    """
    edge = (np.abs(mean_bps) - cost_bps)[ready & np.isfinite(mean_bps) & np.isfinite(cost_bps)]
    if not len(edge):
        return Threshold(0.0, False, 0, None, "no validation row was ready: the threshold is 0, entries pay for their cost alone", ())
    parts = [np.arange(len(mean_bps))] if session is None else [np.flatnonzero(session == s) for s in np.unique(session)]
    seldom = float(np.quantile(edge, SELDOM))

    def trade(threshold: float) -> NDArray[np.float64]:
        rule = SignalRule(threshold_bps=threshold, exit_bps=exit_bps, cap=cap)
        net = []
        for rows in parts:
            signal = signals(rule, mean_bps[rows, None], cost_bps[rows, None], ready[rows, None])[:, 0]
            net.append(round_trips(signal, bid[rows], ask[rows], fee_bps).net_bps)
        return np.concatenate(net)

    def mean(net: NDArray[np.float64]) -> float:
        return float(net.mean()) if len(net) else float("nan")

    results = [(float(t), trade(float(t))) for t in np.unique(np.quantile(edge, grid))]
    tried = tuple((t, len(net), mean(net)) for t, net in results)
    good = [(float(net.sum()), t, net) for t, net in results if len(net) >= FEWEST_TRADES and net.mean() > 0]
    if good:
        _, threshold, net = max(good, key=lambda row: (row[0], row[1]))
        why = f"the best of {len(tried)} on the validation rows: {len(net)} round trips, {mean(net):+.3f} bps each net of cost"
        return Threshold(threshold, True, len(net), mean(net), why, tried)
    net = trade(seldom)
    best = max((row[2] for row in tried if row[1]), default=None)
    why = "no threshold was profitable on the validation rows" + (f" (best {best:+.3f} bps a round trip)" if best is not None else "")
    why += f": the one that one row in {round(1 / (1 - SELDOM)):,} passes is taken"
    if seldom < 0:
        why += ", which trades at an expected loss so that the cost can be measured"
    return Threshold(seldom, False, len(net), mean(net) if len(net) else None, why, tried)
