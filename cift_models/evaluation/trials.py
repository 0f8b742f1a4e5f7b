"""Every trial whose test score was seen, and how many independent ones they amount to: what the deflated Sharpe ratio is deflated by.

A table that only grows: a trial is added once, and a second look at the same one changes nothing. It is a value; whoever keeps it between
runs writes `rows` and reads them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.evaluation.backtest import Trades, trade
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.significance import BLOCK_NS

SAME = 0.5
"""Trials whose minutes correlate above this are one trial in other clothes (average linkage)."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fit on one set of test rows: who made it (digests), and minute by minute what it earned and lost there.

    model, symbol, config, code   what was tried
    data                          the test data; trials count together where it is the same
    minute   int64[m]             since the epoch, rising: every minute with test rows, traded or not
    net_bps  float64[m]           net P&L of the round trips entered in that minute
    loss     float64[m]           mean squared error of the forecast, bps^2; nan where it said nothing
    trades                        round trips in all
    """

    model: str
    symbol: str
    config: str
    code: str
    data: str
    minute: NDArray[np.int64]
    net_bps: NDArray[np.float64]
    loss: NDArray[np.float64]
    trades: int

    def __post_init__(self) -> None:
        n = len(self.minute)
        if (
            self.net_bps.shape != (n,)
            or self.loss.shape != (n,)
            or not (np.diff(self.minute) > 0).all()
            or not np.isfinite(self.net_bps).all()
        ):
            raise DataError(
                f"Trial {self.model} on {self.symbol}: expected rising minutes with a finite net P&L and a loss each; were {n} minutes, "
                f"{self.net_bps.shape} and {self.loss.shape}.",
                hint="Make trials with `trial_of`.",
            )

    @property
    def key(self) -> tuple[str, ...]:
        return (self.model, self.symbol, self.config, self.code, self.data)

    @property
    def sharpe(self) -> float:
        """Per minute: mean over standard deviation of net_bps; nan where it does not vary."""
        sd = float(self.net_bps.std(ddof=1)) if len(self.net_bps) > 1 else 0.0
        return float(self.net_bps.mean() / sd) if sd > 0 else float("nan")

    def as_row(self) -> dict[str, Any]:
        """JSON values; a loss that is nan is null."""
        loss = [None if np.isnan(v) else v for v in self.loss.tolist()]
        names = ("model", "symbol", "config", "code", "data", "trades")
        return {name: getattr(self, name) for name in names} | {
            "minute": self.minute.tolist(),
            "net_bps": self.net_bps.tolist(),
            "loss": loss,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Trial:
        arrays = {
            "minute": np.array(row["minute"], np.int64),
            "net_bps": np.array(row["net_bps"], np.float64),
            "loss": np.array([np.nan if v is None else v for v in row["loss"]], np.float64),
        }
        return cls(**{**row, **arrays})


def trial_of(
    data: Evaluated, model: str, trades: Trades, rows: NDArray[np.bool_], *, config: str = "", code: str = "", test_data: str = ""
) -> Trial:
    """A model's trial on the common rows bool[n] of one symbol. O(n)."""
    at = data.as_of // BLOCK_NS
    minutes, where = np.unique(at[rows], return_inverse=True)
    own = rows[trades.entry]
    net = np.bincount(np.searchsorted(minutes, at[trades.entry[own]]), trades.net_bps[own], minlength=len(minutes)).astype(np.float64)
    forecast = data.forecasts[model]
    loss = np.full(len(minutes), np.nan)
    if forecast.mean_bps is not None:
        speaks = forecast.ready[rows]
        error = np.where(speaks, (data.y[rows] - np.where(forecast.ready, forecast.mean_bps, 0.0)[rows]) ** 2, 0.0)
        count = np.bincount(where, speaks, minlength=len(minutes))
        np.divide(np.bincount(where, error, minlength=len(minutes)), count, out=loss, where=count > 0)
    return Trial(model, data.symbol, config, code, test_data, minutes, net, loss, int(own.sum()))


def trials_of(data: Sequence[Evaluated], configs: Mapping[str, str] | None = None, code: str = "", test_data: str = "") -> list[Trial]:
    """The trials that a run is: every model with a forecast and a rule, on every symbol, on the rows where all of these speak."""
    out = []
    for part in data:
        models = [m for m, f in part.forecasts.items() if f.mean_bps is not None and f.rule is not None and f.ready.any()]
        rows = part.ready(models)
        for model in models:
            forecast = part.forecasts[model]
            assert forecast.mean_bps is not None and forecast.rule is not None
            trades = trade(part, forecast.mean_bps, forecast.ready, forecast.rule)
            config = (configs or {}).get(model, "")
            out.append(trial_of(part, model, trades, rows, config=config, code=code, test_data=test_data))
    return out


@dataclass(frozen=True, slots=True)
class Trials:
    """The table. `add` gives a longer one; nothing is taken out or changed."""

    table: tuple[Trial, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def add(self, *trials: Trial) -> Trials:
        """With these behind; one that is there already is left out. Raises DataError where the same trial had another outcome."""
        known = {trial.key: trial for trial in self.table}
        new = []
        for trial in trials:
            before = known.get(trial.key)
            if before is None:
                known[trial.key] = trial
                new.append(trial)
            elif not (np.array_equal(before.minute, trial.minute) and np.array_equal(before.net_bps, trial.net_bps)):
                raise DataError(
                    f"Trial {trial.model} on {trial.symbol} is in the table with another outcome. "
                    "Expected the same result of the same config, code and test data.",
                    hint="The table only grows; say in `config`, `code` or `data` what has changed.",
                )
        return Trials((*self.table, *new))

    def rows(self) -> list[dict[str, Any]]:
        return [trial.as_row() for trial in self.table]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Trials:
        return cls().add(*(Trial.from_row(row) for row in rows))

    def on(self, symbol: str, data: str) -> Trials:
        """Those on one symbol's same test data."""
        return Trials(tuple(trial for trial in self.table if trial.symbol == symbol and trial.data == data))

    def clusters(self, at: float = SAME) -> NDArray[np.int64]:
        """Cluster of each trial, 0 .., by average linkage on the correlation of net P&L over the minutes that two share; cut at `at`.

        Trials that never traded have no P&L to correlate: they are told apart by nothing and are one cluster. O(N^2 m).
        """
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        if len(self) < 2:
            return np.zeros(len(self), np.int64)
        minutes = np.unique(np.concatenate([trial.minute for trial in self.table]))
        net = np.full((len(self), len(minutes)), np.nan)
        for i, trial in enumerate(self.table):
            net[i, np.searchsorted(minutes, trial.minute)] = trial.net_bps
        distance = np.zeros((len(self), len(self)))
        for i in range(len(self)):
            for j in range(i):
                distance[i, j] = distance[j, i] = 1 - _correlation(net[i], net[j])
        return fcluster(linkage(squareform(distance, checks=False), "average"), 1 - at, "distance").astype(np.int64) - 1

    def sharpe_by_cluster(self, at: float = SAME) -> NDArray[np.float64]:
        """Mean per-minute Sharpe of each cluster; one that never traded says nothing of the spread of Sharpes and is nan."""
        clusters = self.clusters(at)
        own = np.array([trial.sharpe for trial in self.table])
        out = []
        for k in range(int(clusters.max()) + 1 if len(clusters) else 0):
            known = own[(clusters == k) & np.isfinite(own)]
            out.append(float(known.mean()) if len(known) else np.nan)
        return np.array(out)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2:
        return 0.0
    if a.std() == 0 or b.std() == 0:
        return 1.0 if a.std() == b.std() == 0 else 0.0
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))
