"""Boosting a forest with XGBoost: squared error, histograms, fixed rounds or early stopping."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Boosted(NamedTuple):
    """`model` the XGBoost JSON bytes, `rounds` its number of trees, `curve` the early-stopping rmse of every round (empty without)."""

    model: bytes
    rounds: int
    curve: list[float]


class Rows(NamedTuple):
    """x float64[n, K], y float64[n], margin float64[n] (None: 0)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    margin: NDArray[np.float64] | None = None


def boost(parameters: dict[str, Any], train: Rows, stop: Rows | None, rounds: int, patience: int, seed: int, threads: int) -> Boosted:
    """At most `rounds` trees; with `stop` rows, those up to the least rmse there (0 trees where the first makes it worse).

    The same rows, seed and threads give the same bytes.
    """
    import xgboost

    def matrix(rows: Rows) -> Any:
        return xgboost.DMatrix(rows.x, rows.y, base_margin=rows.margin, nthread=threads)

    chosen = {
        "objective": "reg:squarederror",
        "tree_method": "hist",
        "base_score": 0.0,
        "seed": seed,
        "nthread": threads,
        "verbosity": 0,
        **parameters,
    }
    if stop is None or len(stop.y) == 0:
        return Boosted(bytes(xgboost.train(chosen, matrix(train), rounds).save_raw("json")), rounds, [])
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        chosen,
        matrix(train),
        rounds,
        evals=[(matrix(stop), "stop")],
        early_stopping_rounds=patience,
        evals_result=history,
        verbose_eval=False,
    )
    curve = [float(v) for v in history["stop"]["rmse"]]
    before = float(np.sqrt(np.mean((stop.y - (stop.margin if stop.margin is not None else 0.0)) ** 2)))
    best = int(np.argmin(curve)) + 1 if min(curve) < before else 0
    # A slice of no trees is not to be had; one trained for no rounds is.
    booster = booster[:best] if best else xgboost.train(chosen, matrix(train), 0)
    booster.set_attr(best_iteration=None, best_score=None)
    return Boosted(bytes(booster.save_raw("json")), best, curve)
