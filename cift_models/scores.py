"""Scores of forecasts: pure functions of arrays, shared by models, ensemble and evaluation.

Two forms of a forecast: `mean_bps` float64[n], the expected move in bps, and `p` float64[n, 3], the chances of (down, flat, up).
The outcome is `y` float64[n], the move of the mid in bps; its class is its sign, and y = 0 is flat (52-75 % of seconds on the real day).

A score that is a mean or a ratio has a `*_terms` function beside it: (numerator[n], denominator[n]), one term a row. The score is the
sum of the one over the sum of the other, and the block intervals resample the same terms, so no formula stands twice.
A score whose denominator is 0 (no rows, no moves, a constant outcome) is nan: undefined, and said so where it is reported.

Every function is O(n log n) or less, and none looks at the order of the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

SMALLEST = 1e-12
"""Chances are clipped to this before a logarithm: one impossible event costs 27.6 nats, not infinity."""

DOWN, FLAT, UP = 0, 1, 2


class Terms(NamedTuple):
    """A ratio by row: the score is sum(numerator) / sum(denominator)."""

    numerator: Rows
    denominator: Rows

    @property
    def ratio(self) -> float:
        """The score; nan where the denominators sum to 0."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else float("nan")


def classes(y: Rows) -> NDArray[np.int64]:
    """0 down, 1 flat, 2 up: the sign of y, plus 1.

    >>> classes(np.array([-0.4, 0.0, 2.0])).tolist()
    [0, 1, 2]
    """
    return np.sign(y).astype(np.int64) + 1


def direction(p: NDArray[np.float64]) -> Rows:
    """Chance of up given a move, p_up / (p_up + p_down), clipped to (1e-12, 1 - 1e-12); .5 where the model excludes any move.

    >>> direction(np.array([[0.1, 0.6, 0.3], [0.0, 1.0, 0.0]])).round(12).tolist()
    [0.75, 0.5]
    """
    moves = p[:, DOWN] + p[:, UP]
    q = np.divide(p[:, UP], moves, out=np.full(len(p), 0.5), where=moves > 0)
    return np.clip(q, SMALLEST, 1 - SMALLEST)


def r2_terms(y: Rows, mean_bps: Rows) -> Terms:
    """Squared error by row over squared move by row; R2 is 1 minus their ratio."""
    return Terms((y - mean_bps) ** 2, y**2)


def r2(y: Rows, mean_bps: Rows) -> float:
    """R2 against zero: 1 - sum (y - m)^2 / sum y^2. The rival is a forecast of no move, not the mean of the test rows.

    >>> r2(np.array([1.0, -1.0, 0.0]), np.array([0.5, -0.5, 0.0]))
    0.75
    """
    return 1.0 - r2_terms(y, mean_bps).ratio


def hit_rate_terms(y: Rows, mean_bps: Rows) -> Terms:
    """1 where the sign was right, over 1 where there was something to hit: rows with y != 0 and a forecast != 0."""
    counts = (y != 0) & (mean_bps != 0)
    return Terms((counts & ((y > 0) == (mean_bps > 0))).astype(np.float64), counts.astype(np.float64))


def hit_rate(y: Rows, mean_bps: Rows) -> float:
    """Share of moves whose sign the forecast had. Ties do not count: neither a move of 0 nor a forecast of 0 is a hit or a miss.

    >>> hit_rate(np.array([1.0, -2.0, 0.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.0]))
    0.5
    """
    return hit_rate_terms(y, mean_bps).ratio


def log_loss_terms(y: Rows, p: NDArray[np.float64]) -> Terms:
    """-log of the chance given to what happened, over 1."""
    chance = np.take_along_axis(p, classes(y)[:, None], axis=1)[:, 0]
    return Terms(-np.log(np.clip(chance, SMALLEST, 1.0)), np.ones(len(y)))


def log_loss(y: Rows, p: NDArray[np.float64]) -> float:
    """Mean -log p of (down, flat, up), in nats. It is the sum of activity and of direction times the share of moves.

    >>> round(log_loss(np.array([1.0]), np.array([[0.25, 0.25, 0.5]])), 4)
    0.6931
    """
    return log_loss_terms(y, p).ratio


def log_loss_activity_terms(y: Rows, p: NDArray[np.float64]) -> Terms:
    """-log of the chance given to move, or to flat, whichever happened, over 1."""
    chance = np.where(y == 0, p[:, FLAT], p[:, DOWN] + p[:, UP])
    return Terms(-np.log(np.clip(chance, SMALLEST, 1.0)), np.ones(len(y)))


def log_loss_activity(y: Rows, p: NDArray[np.float64]) -> float:
    """Log-loss of move or not. 63-86 % of a 3-class logit's gain over the prior is this, and it says nothing about direction.

    >>> round(log_loss_activity(np.array([1.0, 0.0]), np.array([[0.4, 0.5, 0.1], [0.4, 0.5, 0.1]])), 4)
    0.6931
    """
    return log_loss_activity_terms(y, p).ratio


def log_loss_direction_terms(y: Rows, p: NDArray[np.float64]) -> Terms:
    """-log of the chance given to the sign of the move, over 1, on rows with a move; 0 over 0 elsewhere."""
    q = direction(p)
    moved = y != 0
    return Terms(np.where(moved, -np.log(np.where(y > 0, q, 1 - q)), 0.0), moved.astype(np.float64))


def log_loss_direction(y: Rows, p: NDArray[np.float64]) -> float:
    """Log-loss of the sign, given a move; chance is log 2 = .6931.

    >>> round(log_loss_direction(np.array([1.0, -1.0, 0.0]), np.array([[0.2, 0.6, 0.2]] * 3)), 4)
    0.6931
    """
    return log_loss_direction_terms(y, p).ratio


def brier_terms(y: Rows, p: NDArray[np.float64]) -> Terms:
    """Squared distance between p and the outcome's corner, over 1."""
    outcome = np.eye(3)[classes(y)]
    return Terms(((p - outcome) ** 2).sum(axis=1), np.ones(len(y)))


def brier(y: Rows, p: NDArray[np.float64]) -> float:
    """Brier score over three classes (Brier 1950): 0 is perfect, 2/3 is a uniform guess, 2 is certain and wrong.

    >>> round(brier(np.array([1.0]), np.array([[1 / 3, 1 / 3, 1 / 3]])), 4)
    0.6667
    """
    return brier_terms(y, p).ratio


def accuracy_terms(y: Rows, p: NDArray[np.float64]) -> Terms:
    """1 where the likeliest class happened, over 1. Ties go to flat, then down."""
    return Terms((likeliest(p) == classes(y)).astype(np.float64), np.ones(len(y)))


def likeliest(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class with the greatest chance; a tie goes to flat, then down (so a model without a direction says flat or down, never noise).

    >>> likeliest(np.array([[0.4, 0.4, 0.2], [0.4, 0.2, 0.4]])).tolist()
    [1, 0]
    """
    order = np.array([FLAT, DOWN, UP])
    return order[p[:, order].argmax(axis=1)]


def accuracy(y: Rows, p: NDArray[np.float64]) -> float:
    """Share of rows whose likeliest class happened. With 52-75 % flat rows it mostly says how often the market stands still.

    >>> accuracy(np.array([0.0, 1.0]), np.array([[0.2, 0.6, 0.2], [0.2, 0.6, 0.2]]))
    0.5
    """
    return accuracy_terms(y, p).ratio


def confusion_terms(y: Rows, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n, 9]: one 1 a row at 3 * class + likeliest class. Its sum is the confusion matrix, flattened."""
    return np.eye(9)[3 * classes(y) + likeliest(p)]


def mcc_of_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gorodkin's R_K from confusion counts [..., 9] (row: class, column: guess); 0 where one side is constant.

    R_K = (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)) (Gorodkin 2004, eq. 8, with c the trace and s the total).
    """
    table = counts.reshape(*counts.shape[:-1], 3, 3)
    total = table.sum(axis=(-2, -1))
    right = np.trace(table, axis1=-2, axis2=-1)
    truth, guess = table.sum(axis=-1), table.sum(axis=-2)
    top = right * total - (truth * guess).sum(axis=-1)
    bottom = np.sqrt(np.maximum((total**2 - (guess**2).sum(axis=-1)) * (total**2 - (truth**2).sum(axis=-1)), 0.0))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def mcc(y: Rows, p: NDArray[np.float64]) -> float:
    """Matthews correlation of the likeliest class over three classes; 0 is chance, and 0 where a model always says one class.

    >>> mcc(np.array([1.0, -1.0, 0.0]), np.eye(3)[[2, 0, 1]])
    1.0
    """
    if not len(y):
        return float("nan")
    return float(mcc_of_counts(confusion_terms(y, p).sum(axis=0)))


class Logit(NamedTuple):
    """A fitted logit of the sign on log odds: P(up | a move) = expit(intercept + slope z)."""

    intercept: float
    slope: float


def fit_logit(up: NDArray[np.bool_], z: Rows) -> Logit:
    """Maximum likelihood of P(up) = expit(a + b z) by Newton steps; (nan, nan) where it is undefined.

    Undefined: under two rows, a constant z, only one outcome, or outcomes that z separates (no finite optimum).
    """
    undefined = Logit(float("nan"), float("nan"))
    if len(z) < 2 or up.all() or not up.any() or float(np.ptp(z)) < 1e-9:
        return undefined
    scale = float(z.std())
    x = np.column_stack([np.ones(len(z)), z / scale])
    beta = np.zeros(2)
    for _ in range(50):
        fitted = _expit(x @ beta)
        hessian = (x * (fitted * (1 - fitted))[:, None]).T @ x
        if not np.linalg.det(hessian) > 1e-12 * len(z) ** 2:
            return undefined
        step = np.linalg.solve(hessian, x.T @ (up - fitted))
        beta = beta + np.clip(step, -2.0, 2.0)
        if float(np.abs(step).max()) < 1e-10:
            return Logit(float(beta[0]), float(beta[1] / scale))
    return undefined


def calibration_slope(y: Rows, p: NDArray[np.float64]) -> float:
    """Slope b of the logit of (up, given a move) on logit(p_up / (p_up + p_down)), with a free intercept (Cox 1958); 1 is calibrated.

    Below 1 the model is too sure of its direction, above 1 too shy. nan where it has no direction (p_up = p_down in every row).

    >>> rng = np.random.default_rng(0); q = rng.uniform(0.2, 0.8, 40_000)
    >>> y = np.where(rng.uniform(size=q.size) < q, 1.0, -1.0)
    >>> abs(calibration_slope(y, np.column_stack([1 - q, 0 * q, q])) - 1) < 0.06
    True
    """
    moved = y != 0
    q = direction(p[moved])
    return fit_logit(y[moved] > 0, np.log(q) - np.log1p(-q)).slope


def equal_mass_bins(q: Rows, bins: int = 10) -> NDArray[np.int64]:
    """Bin of each row, equal in mass: edges at the quantiles of q. Equal values share a bin, so ties leave fewer bins.

    >>> equal_mass_bins(np.array([0.1, 0.2, 0.3, 0.4]), 2).tolist()
    [0, 0, 1, 1]
    """
    if not len(q):
        return np.zeros(0, np.int64)
    edges = np.unique(np.quantile(q, np.arange(1, bins) / bins, method="lower"))
    return np.unique(np.searchsorted(edges, q, side="left"), return_inverse=True)[1]


def ece(y: Rows, p: NDArray[np.float64], bins: int = 10) -> float:
    """Equal-mass expected calibration error of the direction, given a move: sum over bins of |sum (up - q)| / moves.

    Biased upwards by noise (a perfect model has an ECE above 0), so it is judged against resampled perfect models, never against a number.

    >>> ece(np.array([1.0, 1.0, -1.0, 1.0]), np.array([[0.25, 0.0, 0.75]] * 4))
    0.0
    """
    moved = y != 0
    if not moved.any():
        return float("nan")
    q = direction(p[moved])
    return float(np.abs(np.bincount(equal_mass_bins(q, bins), (y[moved] > 0) - q)).sum() / moved.sum())


def _expit(x: Rows) -> Rows:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
