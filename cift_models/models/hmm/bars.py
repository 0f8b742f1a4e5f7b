"""Training bars: from panels to scaled rows that the emission reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hmm.kernel import HAS_LAG, LAG, OBSERVED, RETURN_SD, raw_bars, scale_bar
from cift_models.models.protocol import Panel

COLUMNS = ("mid", "n_trades")
"""What the model reads of a step."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """Bars of one symbol in one session, first to last that training may use.

    close_ns int64[B]; raw float64[B, 3]: return bps, realised variance bps^2, trades (0 where the bar is not whole); used bool[B]: the bar
    is whole and a training row; lagged bool[B]: the bar before it is whole, and lag_bps float64[B] is its return.
    """

    symbol: int
    close_ns: NDArray[np.int64]
    raw: NDArray[np.float64]
    used: NDArray[np.bool_]
    lagged: NDArray[np.bool_]
    lag_bps: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.close_ns)


@dataclass(frozen=True, slots=True)
class Rows:
    """Scaled sequences end to end: values float64[N, 6] (kernel), lengths int64[n], close_ns int64[N], symbol int64[N]."""

    values: NDArray[np.float64]
    lengths: NDArray[np.int64]
    close_ns: NDArray[np.int64]
    symbol: NDArray[np.int64]

    @property
    def n_observed(self) -> int:
        return int(self.values[:, OBSERVED].sum())

    def until(self, close_ns: int, most: int | None = None) -> Rows:
        """The rows that close by an instant, at most the first `most` of them."""
        keep = self.close_ns <= close_ns
        if most is not None:
            keep &= np.cumsum(keep) <= most
        owner = np.repeat(np.arange(len(self.lengths)), self.lengths)
        lengths = np.bincount(owner[keep], minlength=len(self.lengths))
        return Rows(np.ascontiguousarray(self.values[keep]), lengths[lengths > 0].astype(np.int64), self.close_ns[keep], self.symbol[keep])


def sequences_of(panel: Panel, bar_ns: int) -> list[Sequence]:
    """The training bars of one panel, one sequence for each symbol that has any.

    A bar is used if it is whole and closes on a training row (every bar, where the panel marks no rows). The return of the bar before a
    used one is past knowledge and serves as its lag, used or not.
    """
    mid, n_trades = (np.ascontiguousarray(panel.column(name)) for name in COLUMNS)
    closing, raw, complete = raw_bars(panel.as_of, mid, n_trades, panel.valid, panel.open, panel.features.clock_ns, bar_ns)
    marked = np.ones(len(closing), bool) if panel.rows is None else panel.rows[closing]
    out = []
    for s in range(len(panel.universe)):
        used = complete[:, s] & marked
        where = np.nonzero(used)[0]
        if len(where) == 0:
            continue
        lagged = np.r_[False, complete[:-1, s]]
        lag_bps = np.r_[0.0, raw[:-1, s, 0]]
        part = slice(int(where[0]), int(where[-1]) + 1)
        out.append(Sequence(s, panel.as_of[closing[part]], raw[part, s], used[part], lagged[part], lag_bps[part]))
    return out


def scales_of(sequences: Iterable[Sequence], n_symbols: int) -> NDArray[np.float64]:
    """Moments of each symbol's used bars, float64[S, 6] (kernel: RETURN_SD, ...); a symbol without bars gets the mean of the others.

    Returns are divided, not centred, so that the sign of c and phi keeps its meaning. One hundredth of the mean realised variance is added
    before the logarithm: a bar without a move is a low number and not minus infinity.
    """
    pooled: list[list[NDArray[np.float64]]] = [[] for _ in range(n_symbols)]
    for sequence in sequences:
        pooled[sequence.symbol].append(sequence.raw[sequence.used])
    scales = np.full((n_symbols, 6), np.nan)
    for s, parts in enumerate(pooled):
        if not parts:
            continue
        returns, variance, trades = np.concatenate(parts).T
        offset = 0.01 * variance.mean() if variance.mean() > 0 else 1.0
        log_variance, log_trades = np.log(variance + offset), np.log1p(trades)
        scales[s] = (returns.std(), offset, log_variance.mean(), log_variance.std(), log_trades.mean(), log_trades.std())
    deviations = scales[:, (0, 3, 5)]
    # A constant column has no unit of its own; 1e-9 is far below one tick in bps and above rounding.
    deviations[deviations < 1e-9] = 1.0
    scales[:, (0, 3, 5)] = deviations
    present = np.isfinite(scales).all(axis=1)
    scales[~present] = scales[present].mean(axis=0) if present.any() else (1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    return scales


def rows_of(sequences: list[Sequence], scales: NDArray[np.float64]) -> Rows:
    """The sequences as rows of the emission."""
    parts = []
    for sequence in sequences:
        scale = scales[sequence.symbol]
        values = np.zeros((len(sequence), 6))
        for b in np.nonzero(sequence.used)[0]:
            returned, variance, trades = sequence.raw[b]
            scale_bar(returned, variance, trades, scale, values[b])
            values[b, OBSERVED] = 1.0
            if sequence.lagged[b]:
                values[b, LAG] = sequence.lag_bps[b] / scale[RETURN_SD]
                values[b, HAS_LAG] = 1.0
        parts.append(values)
    if not parts:
        return Rows(np.zeros((0, 6)), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Rows(
        np.concatenate(parts),
        np.array([len(p) for p in parts], np.int64),
        np.concatenate([q.close_ns for q in sequences]),
        np.concatenate([np.full(len(q), q.symbol, np.int64) for q in sequences]),
    )
