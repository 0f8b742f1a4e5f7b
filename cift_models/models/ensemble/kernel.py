"""The gated blend, and the convex programme that gives its weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.models.row_kernel import weighted_sum


@kernel
def blend(means, regimes, known, ready, by_regime, overall):
    """Forecast of every ready row: float64[T, S] = sum_k w_k mean_k, w_k = sum_s p_s W_sk, or the overall weights where p is not known.

    means float64[T, S, B], regimes float64[T, S, K], known and ready bool[T, S], by_regime float64[K, B] = W, overall float64[B].
    """
    steps, symbols, b = means.shape
    out = np.zeros((steps, symbols))
    w = np.empty(b)
    for t in range(steps):
        for s in range(symbols):
            if not ready[t, s]:
                continue
            if known[t, s]:
                for k in range(b):
                    w[k] = weighted_sum(regimes[t, s], by_regime[:, k], 0.0)
                out[t, s] = weighted_sum(means[t, s], w, 0.0)
            else:
                out[t, s] = weighted_sum(means[t, s], overall, 0.0)
    return out


class Weights(NamedTuple):
    """by_regime float64[K, B] and overall float64[B], rows on the simplex; `slope` of the direction logit (0: not used)."""

    by_regime: NDArray[np.float64]
    overall: NDArray[np.float64]
    slope: float
    converged: bool


def fit_weights(
    means: NDArray[np.float64],
    regimes: NDArray[np.float64],
    y: NDArray[np.float64],
    direction_weight: float,
    prior_rows: float,
    max_iter: int,
) -> Weights:
    """Weights on the simplex with the least loss; means float64[n, B] and y float64[n] in sd of y, regimes float64[n, K] (0: not known).

    With m_i = sum_sk p_is W_sk f_ik the loss is

        mean (y_i - m_i)^2  +  lambda mean_{y_i != 0} log(1 + exp(-sign(y_i) g m_i))  +  (n_0 / n) sum_s (W_s - w)' G (W_s - w)

    where w is the overall row (the same loss with one row), G = F'F/n, so that the last term is the error that n_0 rows under w would make,
    and g the slope of a logit of the sign on the blend with the least squared error (no direction term where g <= 0). Convex;
    O(n K B) a step.
    """
    n, b = means.shape
    k = regimes.shape[1]
    equal = np.full((1, b), 1.0 / b)
    one = np.ones((n, 1))
    squares, ok = _minimise(means, one, y, 0.0, 0.0, equal, equal[0], 0.0, max_iter)
    slope = max(_direction_slope(means @ squares[0], y), 0.0)
    overall, ok_overall = _minimise(means, one, y, direction_weight, slope, squares, equal[0], 0.0, max_iter)
    seen = regimes.sum(axis=1) > 0
    if not seen.any():
        return Weights(np.repeat(overall, k, axis=0), overall[0], slope, ok and ok_overall)
    start = np.repeat(overall, k, axis=0)
    rows, ok_rows = _minimise(means[seen], regimes[seen], y[seen], direction_weight, slope, start, overall[0], prior_rows, max_iter)
    return Weights(rows, overall[0], slope, ok and ok_overall and ok_rows)


def gate_gain(
    means: NDArray[np.float64],
    regimes: NDArray[np.float64],
    y: NDArray[np.float64],
    early: NDArray[np.bool_],
    direction_weight: float,
    prior_rows: float,
    max_iter: int,
) -> tuple[float, float]:
    """What the gate is worth on rows it was not fitted on: mean loss saved against the overall row, and its t-statistic (0, 0: no rows).

    Weights are fitted on `early` bool[n] and compared on the other rows where the regime is known. Rows are taken as independent: labels of
    one second do not overlap.
    """
    late = ~early & (regimes.sum(axis=1) > 0)
    if not early.any() or late.sum() < 2:
        return 0.0, 0.0
    found = fit_weights(means[early], regimes[early], y[early], direction_weight, prior_rows, max_iter)
    f, target, p = means[late], y[late], regimes[late]
    saved = np.zeros(len(target))
    for sign, m in ((1, f @ found.overall), (-1, np.sum((p @ found.by_regime) * f, axis=1))):
        saved += sign * (target - m) ** 2
        if found.slope > 0:
            saved += sign * direction_weight * np.where(target != 0, np.logaddexp(0.0, -found.slope * np.sign(target) * m), 0.0)
    error = float(saved.std(ddof=1)) / len(saved) ** 0.5
    gain = float(saved.mean())
    return gain, gain / error if error > 0 else 0.0


def _direction_slope(m: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """g of p(up | move) = 1 / (1 + exp(-g m)) by Newton's method; 0 where nothing moved or nothing is forecast."""
    moved = y != 0
    m, up = m[moved], (y[moved] > 0).astype(np.float64)
    power = float(np.sum(m * m))
    if power <= 0:
        return 0.0
    slope = 0.0
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * m, -30, 30)))
        # One row's worth of penalty on the logit's scale: m that separates the signs has a finite slope.
        gradient = float(np.sum(m * (up - p))) - slope * power / len(m)
        curvature = float(np.sum(m * m * p * (1 - p))) + power / len(m)
        step = gradient / curvature
        slope += step
        if abs(step) <= 1e-10 * (1 + abs(slope)):
            break
    return slope


def _minimise(
    means: NDArray[np.float64],
    regimes: NDArray[np.float64],
    y: NDArray[np.float64],
    direction_weight: float,
    slope: float,
    start: NDArray[np.float64],
    centre: NDArray[np.float64],
    prior_rows: float,
    max_iter: int,
) -> tuple[NDArray[np.float64], bool]:
    """Rows float64[K, B] on the simplex, and whether the minimum was found (sequential quadratic programming, Kraft 1988)."""
    from scipy.optimize import minimize

    n, b = means.shape
    k = regimes.shape[1]
    design = (regimes[:, :, None] * means[:, None, :]).reshape(n, k * b)
    moments = means.T @ means / n
    signs, moved = np.sign(y), max(int((y != 0).sum()), 1)

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        m = design @ w
        rest = m - y
        away = w.reshape(k, b) - centre
        pulled = away @ moments
        value = float(rest @ rest) / n + prior_rows / n * float(np.sum(pulled * away))
        gradient = 2 * (design.T @ rest) / n + 2 * prior_rows / n * pulled.ravel()
        if slope > 0 and direction_weight > 0:
            u = -slope * signs * m
            value += direction_weight * float(np.sum(np.logaddexp(0.0, u)[signs != 0])) / moved
            pressed = np.where(signs != 0, -slope * signs / (1 + np.exp(-np.clip(u, -30, 30))), 0.0)
            gradient += direction_weight * (design.T @ pressed) / moved
        return value, gradient

    if b == 1:
        return np.ones((k, 1)), True
    ones = np.kron(np.eye(k), np.ones((1, b)))
    found = minimize(
        loss,
        start.ravel(),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * (k * b),
        constraints={"type": "eq", "fun": lambda w: ones @ w - 1, "jac": lambda w: ones},
        options={"maxiter": max_iter, "ftol": 1e-12},
    )
    # A search that ends worse than it began (not a number, say) has found nothing.
    w = found.x if np.isfinite(found.x).all() and loss(found.x)[0] <= loss(start.ravel())[0] else start.ravel()
    rows = np.maximum(w.reshape(k, b), 0.0)
    return rows / rows.sum(axis=1, keepdims=True), bool(found.success)
