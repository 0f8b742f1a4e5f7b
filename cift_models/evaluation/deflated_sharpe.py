"""The chance that a Sharpe ratio is more than the best of so many tries would show by luck (Bailey and Lopez de Prado 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.evaluation.backtest import FEWEST_TRIPS
from cift_models.evaluation.trials import Trial, Trials


@dataclass(frozen=True, slots=True)
class Deflated:
    """value: the deflated Sharpe ratio, a probability (None with the reason in `reason`).

    sharpe      per minute, of the trial itself
    benchmark   SR*: what the best of `clusters` independent trials is expected to show by luck
    trials      whose test score was seen on the same test data; clusters: how many independent ones they are
    """

    value: float | None
    sharpe: float | None
    benchmark: float
    trials: int
    clusters: int
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        names = ("value", "sharpe", "benchmark", "trials", "clusters")
        out = {name: getattr(self, name) for name in names}
        return out if self.reason is None else {**out, "reason": self.reason}


def expected_max(trials: int) -> float:
    """Expected greatest of N independent standard normals: (1 - g) z(1 - 1/N) + g z(1 - 1/(N e)), g Euler's constant; 0 for one.

    Eq. 6 of the paper; within 5 % of the truth from N = 10 (2.2 % above it there, .2 % at 1,000).
    """
    from scipy.stats import norm

    if trials <= 1:
        return 0.0
    return float((1 - np.euler_gamma) * norm.isf(1 / trials) + np.euler_gamma * norm.isf(1 / (trials * np.e)))


def probabilistic_sharpe(returns: NDArray[np.float64], benchmark: float) -> float:
    """P(the true Sharpe > benchmark) from returns float64[T], with their skewness and kurtosis (Mertens 2002); nan where undefined."""
    from scipy.stats import kurtosis, norm, skew

    sd = float(returns.std(ddof=1)) if len(returns) > 2 else 0.0
    if not sd > 0:
        return float("nan")
    sharpe = float(returns.mean()) / sd
    variance = 1 - float(skew(returns)) * sharpe + (float(kurtosis(returns, fisher=False)) - 1) / 4 * sharpe**2
    return float(norm.cdf((sharpe - benchmark) * np.sqrt(len(returns) - 1) / np.sqrt(variance))) if variance > 0 else float("nan")


def deflated_sharpe(trial: Trial, trials: Trials) -> Deflated:
    """The deflated Sharpe ratio of one trial among all that were seen on its symbol's same test data (it is counted among them).

    SR* = sd of the clusters' per-minute Sharpes times `expected_max` of their number; 0 where there is one. Null under FEWEST_TRIPS round
    trips, and for a Sharpe that is not above 0: there is no profit to deflate.
    """
    seen = trials.add(trial).on(trial.symbol, trial.data)
    by_cluster = seen.sharpe_by_cluster()
    known = by_cluster[np.isfinite(by_cluster)]
    spread = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    benchmark = spread * expected_max(len(by_cluster))
    sharpe = trial.sharpe if np.isfinite(trial.sharpe) else None
    if trial.trades < FEWEST_TRIPS:
        reason = f"{trial.trades} round trips, {FEWEST_TRIPS} are needed"
    elif sharpe is None or sharpe <= 0:
        reason = "the Sharpe ratio is not above 0: there is no profit to deflate"
    else:
        value = probabilistic_sharpe(trial.net_bps, benchmark)
        if np.isfinite(value):
            return Deflated(value, sharpe, benchmark, len(seen), len(by_cluster))
        reason = "the returns have no defined error"
    return Deflated(None, sharpe, benchmark, len(seen), len(by_cluster), reason)
