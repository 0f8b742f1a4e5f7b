"""Made-up test rows with a known truth, for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.instruments import SECOND
from cift_models.signals import SignalRule

OPEN = 1_700_000_040 * SECOND
"""A whole minute, so that 60 rows fill one block."""


def market(
    seed: int = 0, rows: int = 2400, *, b: float = 0.15, flat: float = 0.6, symbol: str = "S0", half_spread_bps: float = 1.5
) -> tuple[Evaluated, NDArray[np.float64]]:
    """Rows without forecasts, and x float64[rows]: y = move * (b x + noise), a share `flat` of moves 0; E[y | x] = (1 - flat) b x.

    y at 100 ms keeps 70 % of what x knows, y at 1 s none of it. The mid is the sum of the moves.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    moved = rng.uniform(size=rows) > flat
    y = moved * (b * x + rng.normal(size=rows))
    later = {
        0: y,
        100_000_000: moved * (0.7 * b * x + rng.normal(size=rows)),
        SECOND: np.append(y[1:], 0.0),
    }
    mid = 100 * np.exp(np.cumsum(np.append(0.0, y[:-1])) * 1e-4)
    half = np.full(rows, half_spread_bps)
    late = mid * np.exp(1e-5 * y)
    data = Evaluated(
        symbol=symbol,
        as_of=OPEN + SECOND * np.arange(rows),
        y=y,
        half_spread_bps=half,
        mid=mid,
        bid={0: mid * (1 - half * 1e-4), 100_000_000: late * (1 - half * 1e-4)},
        ask={0: mid * (1 + half * 1e-4), 100_000_000: late * (1 + half * 1e-4)},
        forecasts={},
        y_delay=later,
        session=np.full(rows, 20231114),
    )
    return data, x


def chances(mean_bps: NDArray[np.float64], flat: float = 0.6) -> NDArray[np.float64]:
    """p float64[n, 3] of a forecast: flat is constant, the sign a probit of mean / (1 - flat), as in `market`."""
    from scipy.special import ndtr

    up = ndtr(mean_bps / (1 - flat))
    return np.column_stack([(1 - flat) * (1 - up), np.full(len(up), flat), (1 - flat) * up])


def forecast(mean_bps: NDArray[np.float64], ready: NDArray[np.bool_] | None = None, threshold_bps: float = -1.4) -> Forecast:
    """A forecast with its chances and a rule that trades at times."""
    everywhere = np.ones(len(mean_bps), bool)
    return Forecast(everywhere if ready is None else ready, mean_bps, chances(mean_bps), SignalRule(threshold_bps=threshold_bps))


def with_forecasts(data: Evaluated, forecasts: Mapping[str, Forecast]) -> Evaluated:
    return replace(data, forecasts=dict(forecasts))


def honest(seed: int = 0, rows: int = 2400, symbol: str = "S0", b: float = 0.15) -> Evaluated:
    """Models of several qualities on one market: prior and activity have no direction, last_move is noise, the ensemble beats linear.

    With b = 0 they forecast as if it were .1: there is nothing to know, and they speak all the same.
    """
    data, x = market(seed, rows, b=b, symbol=symbol)
    rng = np.random.default_rng(seed + 1000)
    noise = rng.normal(size=(rows, 3))
    truth = 0.4 * (b or 0.1)
    nothing = np.zeros(rows)
    ready = np.arange(rows) >= 30
    return with_forecasts(
        data,
        {
            "prior": replace(forecast(nothing), mean_bps=None, rule=None),
            "activity": replace(forecast(nothing), mean_bps=None, rule=None),
            "last_move": forecast(0.02 * noise[:, 0]),
            "linear": forecast(truth * (0.8 * x + 0.4 * noise[:, 1]), np.arange(rows) >= 10),
            "hmm": Forecast(np.ones(rows, bool)),
            "transformer": forecast(truth * (0.9 * x + 0.35 * noise[:, 2]), ready),
            "ensemble": forecast(truth * (0.9 * x + 0.2 * noise[:, 1]), ready),
        },
    )
