"""What the level-1 models add to: a ridge of the move on the out-of-fold forecasts of `linear` and `hawkes`, two weights a symbol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError
from cift_models.models.protocol import Panel

NEEDS = ("linear", "hawkes")
# Share of each column's own sum of squares added to the diagonal: enough for a unique solution where the two forecasts are collinear,
# 0.1 % off the weights where they are not.
RIDGE = 1e-3


@kernel
def base_rows(weights: NDArray, linear: NDArray, hawkes: NDArray, out: NDArray) -> None:
    """out[t, s] = weights[s, 0] linear[t, s] + weights[s, 1] hawkes[t, s]; the one place where the sum is written."""
    for t in range(out.shape[0]):
        for s in range(out.shape[1]):
            out[t, s] = weights[s, 0] * linear[t, s] + weights[s, 1] * hawkes[t, s]


def apply_base(weights: NDArray[np.float64], base: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The base forecast, bps: float64[S] from a Step's `base`, float64[T, S] from a Panel's; the same bits in both.

    Raises DataError where `base` lacks `linear` or `hawkes`.
    """
    for kind in NEEDS:
        if kind not in base:
            raise DataError(
                f"The base forecast needs the outputs of {kind!r}. Found {sorted(base)}.",
                hint="Run the models in the order of their needs.",
            )
    linear, hawkes = (np.ascontiguousarray(base[kind][..., 0], np.float64) for kind in NEEDS)
    out = np.empty(linear.shape)
    base_rows(weights, np.atleast_2d(linear), np.atleast_2d(hawkes), out.reshape(-1, linear.shape[-1]))
    return out


def base_is_ready(base_ready: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Where both forecasts speak: bool[S] of a Step, bool[T, S] of a Panel."""
    return base_ready["linear"] & base_ready["hawkes"]


def label_rows(panel: Panel) -> NDArray[np.bool_]:
    """bool[T, S]: rows a level-1 model may learn from: marked, valid, with a base from fits on the past alone.

    Raises DataError for a panel without y, rows or base_oof: an in-sample base has an overfit that is not there later.
    """
    if panel.y is None or panel.rows is None or panel.base_oof is None:
        raise DataError(f"Session {panel.session}: a level-1 fit needs y, rows and base_oof.", hint="Pass panels made for fitting.")
    return (panel.rows & panel.base_oof)[:, None] & panel.valid & base_is_ready(panel.base_ready)


def fit_base(train: Iterable[Panel]) -> NDArray[np.float64]:
    """Ridge without intercept of y on (linear.mean_bps, hawkes.mean_bps): weights float64[S, 2], one pair a symbol.

    Rows are those of `label_rows`. A symbol with none gets (1, 0), the linear forecast as it is; one that is always 0 gets weight 0.
    Raises DataError where `train` is empty. One pass, O(T S), panels opened one at a time.
    """
    gram = cross = None
    for panel in train:
        columns = np.stack([panel.base[kind][..., 0] for kind in NEEDS], axis=-1)
        keep, y_bps = label_rows(panel), np.asarray(panel.y)
        if gram is None or cross is None:
            gram, cross = np.zeros((columns.shape[1], 2, 2)), np.zeros((columns.shape[1], 2))
        for s in range(columns.shape[1]):
            x, y = columns[keep[:, s], s], y_bps[keep[:, s], s]
            for i in range(2):
                cross[s, i] += np.sum(x[:, i] * y)
                for j in range(2):
                    gram[s, i, j] += np.sum(x[:, i] * x[:, j])
    if gram is None or cross is None:
        raise DataError("The base forecast cannot be fitted: no training panel. Expected at least one.", hint="Load a longer range.")
    weights = np.zeros_like(cross)
    for s in range(len(gram)):
        a, b, d = gram[s, 0, 0] * (1 + RIDGE), gram[s, 0, 1], gram[s, 1, 1] * (1 + RIDGE)
        determinant = a * d - b * b
        if determinant > 0:
            weights[s] = (d * cross[s, 0] - b * cross[s, 1]) / determinant, (a * cross[s, 1] - b * cross[s, 0]) / determinant
        elif a > 0:
            weights[s] = cross[s, 0] / a, 0.0
        elif d > 0:
            weights[s] = 0.0, cross[s, 1] / d
        else:
            weights[s] = 1.0, 0.0
    return weights
