"""Do the chances mean what they say? Slope with a block interval, ECE against perfect models, and the points of a reliability curve.

All three look at the direction, given a move: q = p_up / (p_up + p_down) against up. A fixed ECE number is no bar: a perfect model has an
ECE above 0 too, so the measured one is compared with those of models that are perfect by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.evaluation.significance import Blocks, Estimate, slope_statistic
from cift_models.scores import direction, equal_mass_bins, fit_logit

PERFECT = 2000
BINS = 10


def slope(as_of: NDArray[np.int64], y: NDArray[np.float64], p: NDArray[np.float64], blocks: Blocks, level: float = 0.95) -> Estimate:
    """Calibration slope (scores.calibration_slope) with its block interval; a model is calibrated if that contains 1.

    Each block draw takes one Newton step from the fitted logit, with the draw's score and Hessian: to first order the refitted slope.
    """
    moved = y != 0
    q = direction(p[moved])
    z, up = np.log(q) - np.log1p(-q), y[moved] > 0
    fit = fit_logit(up, z)
    if not np.isfinite(fit.slope):
        return Estimate.absent(
            "no direction to calibrate: p_up / (p_up + p_down) is constant, or the moves have one sign, or it separates them"
        )
    chance = 0.5 * (1 + np.tanh(0.5 * (fit.intercept + fit.slope * z)))
    left, weight = up - chance, chance * (1 - chance)
    terms = np.column_stack([left, left * z, weight, weight * z, weight * z * z])
    return blocks.interval(blocks.sums(as_of[moved], terms), slope_statistic(fit.slope), level)


@dataclass(frozen=True, slots=True)
class PerfectModels:
    """A measured ECE among those of resampled perfect models."""

    ece: float
    point_99: float
    p_value: float

    def as_json(self) -> dict[str, Any]:
        return {"ece": self.ece, "point_99": self.point_99, "p_value": self.p_value}


def ece_against_perfect(
    y: NDArray[np.float64], p: NDArray[np.float64], *, seed: int = 0, draws: int = PERFECT, bins: int = BINS, slope: float = 1.0
) -> PerfectModels | None:
    """ECE of the direction, and what `draws` models reach whose outcomes are drawn from their own q; None without a move.

    `slope`: of models whose outcomes have the chance 1 / (1 + exp(-slope logit q)); 1 is perfect.
    p_value is the share of perfect models that look at least as bad (the measured one counted among them); `point_99` their 99 % point.
    Memory O(100 moves), time O(draws moves).
    """
    moved = y != 0
    if not moved.any():
        return None
    q = direction(p[moved])
    order = np.argsort(equal_mass_bins(q, bins), kind="stable")
    edges = np.flatnonzero(np.diff(equal_mass_bins(q, bins)[order], prepend=-1))
    q, up = q[order], (y[moved] > 0)[order]
    expected = np.add.reduceat(q, edges)
    measured = float(np.abs(np.add.reduceat(up.astype(np.float64), edges) - expected).sum() / len(q))
    rng = np.random.default_rng(seed)
    chance = (q if slope == 1.0 else 0.5 * (1 + np.tanh(0.5 * slope * (np.log(q) - np.log1p(-q))))).astype(np.float32)
    reached = np.concatenate(
        [
            np.abs(np.add.reduceat((rng.random((count, len(q)), np.float32) < chance).astype(np.float32), edges, axis=1) - expected).sum(
                axis=1
            )
            for count in _chunks(draws, 100)
        ]
    ) / len(q)
    return PerfectModels(measured, float(np.quantile(reached, 0.99)), float((1 + (reached >= measured).sum()) / (1 + draws)))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - done) for done in range(0, total, size)]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Points of a reliability curve, one a bin: mean chance, share of ups, its 95 % interval, moves."""

    chance: NDArray[np.float64]
    share: NDArray[np.float64]
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    moves: NDArray[np.int64]


def reliability(y: NDArray[np.float64], p: NDArray[np.float64], bins: int = BINS) -> Reliability:
    """Equal-mass bins of q on rows with a move; the intervals are Wilson's (1927), of independent moves: for the eye, not for a verdict."""
    moved = y != 0
    q, up = direction(p[moved]), (y[moved] > 0).astype(np.float64)
    where = equal_mass_bins(q, bins)
    moves = np.bincount(where)
    chance = np.bincount(where, q) / np.maximum(moves, 1)
    share = np.bincount(where, up) / np.maximum(moves, 1)
    z2 = 1.959964**2
    centre = (share + z2 / (2 * moves)) / (1 + z2 / moves)
    half = np.sqrt(z2 * (share * (1 - share) / moves + z2 / (4 * moves**2))) / (1 + z2 / moves)
    return Reliability(chance, share, centre - half, centre + half, moves)
