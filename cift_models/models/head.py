"""The head: what a forecast in bps says about down, flat and up. One head for all models that give `mean_bps`.

Two questions, apart: does the mid move, and if it does, which way?

    P(move)      = 1 / (1 + exp(-(a_s + b_s . context + c_s (|z| - mean_s |z|))))      z = yhat / sd_s
    P(up | move) = 1 / (1 + exp(-(d_s + g_1 z + g_2 z' + h_s z)))                      z' = yhat / sigma_t

a logit per symbol of the activity, and one logit of the direction for all symbols with an intercept each: z and z' have no unit, so that a
symbol's slope need not be learned from its own few moves. Where the moves say that symbols differ, and not by chance, each has an h_s of
its own (models/logit.py). sigma_t is the realised volatility of the last five minutes: where moves grow and the forecast does not, it says
less. Nothing but the forecast and the intercept says which way: a single logit of three classes lets spread and activity do it too, and
they then carry the drift of the training hours (docs/decisions.md has the figures of both).

Fitted on out-of-fold rows (on a thin in-sample slice the direction slope falls to a half; methods.md section 1). A model whose outputs hold
p_down, p_flat and p_up says them itself and has no head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cift_models.compiled import kernel
from cift_models.errors import FitError
from cift_models.models.columns import Columns
from cift_models.models.context import CONTEXT, context_row
from cift_models.models.logit import fit_logit, fit_shared_logit
from cift_models.models.protocol import Config, FitContext, FitReport, Panel, refuse_nan
from cift_models.models.row_kernel import weighted_sum
from cift_models.models.training import usable
from cift_models.models.weight_files import Shape, read_config, read_weights, write_weights

PROBABILITIES = ("p_down", "p_flat", "p_up")
"""Outputs of a model that needs no head; also the order of the last axis of every p."""

COLUMNS = (*CONTEXT, "realised_vol_300s")
"""What is read of the feature set: the context of the activity, and the volatility that a forecast is held against."""

LEAST_VOL = 0.25
"""sigma_t is taken to be at least this share of sd_s: five quiet minutes make no forecast certain."""

N_CONTEXT, N_DIRECTION = len(CONTEXT), 2


def has_own_probabilities(outputs: tuple[str, ...]) -> bool:
    """Whether a model with these outputs says its probabilities itself."""
    return all(name in outputs for name in PROBABILITIES)


class HeadConfig(Config):
    """`c` is the inverse penalty of both logits, as in scikit-learn."""

    c: float = Field(default=1.0, gt=0)
    max_iter: int = Field(default=1000, ge=1)


@kernel
def inputs_row(mean_bps, sd_bps, x, columns, out):
    """Fill out float64[6]: z, z', |z|, then the context of the row."""
    out[0] = mean_bps / sd_bps
    out[1] = mean_bps / max(x[columns[N_CONTEXT]], LEAST_VOL * sd_bps)
    out[2] = abs(out[0])
    context_row(x, columns, out, 3)


@kernel
def inputs(mean_bps, sd_bps, x, columns):
    """inputs_row for each of n rows of one symbol: float64[n, 6]."""
    out = np.empty((len(mean_bps), N_DIRECTION + 1 + N_CONTEXT))
    for i in range(len(mean_bps)):
        inputs_row(mean_bps[i], sd_bps, x[i], columns, out[i])
    return out


@kernel
def logistic(u):
    """1 / (1 + exp(-u)), without overflow."""
    if u >= 0.0:
        return 1.0 / (1.0 + math.exp(-u))
    e = math.exp(u)
    return e / (1.0 + e)


@kernel
def probabilities(mean_bps, ready, x, columns, sd_bps, size, activity, activity_bias, direction, direction_bias, direction_own, fitted):
    """Down, flat, up of every ready row: float64[T, S, 3], 0 elsewhere; 1/3 each for a symbol that is not fitted.

    sd_bps, size, activity_bias, direction_bias, direction_own float64[S], activity float64[S, 4], direction float64[2], fitted bool[S].
    """
    steps, symbols = mean_bps.shape
    p = np.zeros((steps, symbols, 3))
    u = np.empty(N_DIRECTION + 1 + N_CONTEXT)
    for t in range(steps):
        for s in range(symbols):
            if not ready[t, s]:
                continue
            if not fitted[s]:
                p[t, s, :] = 1.0 / 3.0
                continue
            inputs_row(mean_bps[t, s], sd_bps[s], x[t, s], columns, u)
            u[2] -= size[s]
            up = logistic(weighted_sum(u[:2], direction, direction_bias[s]) + u[0] * direction_own[s])
            move = logistic(weighted_sum(u[2:], activity[s], activity_bias[s]))
            p[t, s, 0] = move * (1.0 - up)
            p[t, s, 1] = 1.0 - move
            p[t, s, 2] = move * up
    return p


class Head:
    """Fitted weights of one model's head. A symbol without rows says (1/3, 1/3, 1/3)."""

    kind: ClassVar[str] = "head"
    Config: ClassVar[type[HeadConfig]] = HeadConfig

    def __init__(self, config: HeadConfig, symbols: tuple[str, ...], columns: Columns, weights: dict[str, NDArray[Any]]) -> None:
        self.config = config
        self.symbols = symbols
        self.columns = columns
        self.weights = weights

    @classmethod
    def fit(
        cls,
        rows: Iterable[tuple[Panel, NDArray[np.float64], NDArray[np.bool_]]],
        config: HeadConfig | None = None,
        ctx: FitContext | None = None,
    ) -> tuple[Self, FitReport]:
        """Learn from (panel with labels, mean_bps float64[T, S], ready bool[T, S]) of each session, all out of fold.

        Uses panel.rows & panel.valid. A row on which the model was not ready teaches how often the mid moves in its context, with the
        forecast's size taken at its mean, and nothing else: a model with few out-of-fold blocks (the ensemble) still knows the activity of
        all of them. sd_s is that of y over the rows that were ready. facts["max_train_t1"] is when the last label was known, ns. Raises
        FitError where no row was ready.
        """
        config, ctx = config or HeadConfig(), ctx or FitContext()
        columns: Columns | None = None
        symbols: tuple[str, ...] = ()
        parts: list[tuple[NDArray, NDArray, NDArray, NDArray, NDArray]] = []
        latest = 0
        for panel, mean_bps, ready in rows:
            if columns is None:
                symbols, columns = panel.universe.symbols, Columns.of(panel.features, COLUMNS)
            columns.check(panel.features)
            use = usable(panel)
            assert panel.y is not None and panel.label_end is not None
            kept = use.any(axis=1)
            latest = max(latest, int(panel.label_end[kept].max(initial=0)))
            parts.append((panel.x[kept][:, :, columns.places], mean_bps[kept], use[kept], use[kept] & ready[kept], panel.y[kept]))
        if columns is None or not any(spoken.any() for _, _, _, spoken, _ in parts):
            raise FitError("head: no row is usable.", hint="Pass out-of-fold rows on which the model was ready.")
        x, mean, use, spoken, y = (np.concatenate(column) for column in zip(*parts, strict=True))
        n_symbols, places = len(symbols), np.arange(len(COLUMNS))
        own = [np.flatnonzero(spoken[:, s]) for s in range(n_symbols)]
        sd = np.array([float(y[rows, s].std()) if len(rows) else 0.0 for s, rows in enumerate(own)])
        sd = np.where(sd > 0, sd, 1.0)
        weights = {
            "sd_bps": sd,
            "size": np.zeros(n_symbols),
            "activity": np.zeros((n_symbols, 1 + N_CONTEXT)),
            "activity_bias": np.zeros(n_symbols),
            "direction": np.zeros(N_DIRECTION),
            "direction_bias": np.zeros(n_symbols),
            "direction_own": np.zeros(n_symbols),
            "fitted": np.array([len(rows) > 0 for rows in own]),
        }
        converged = True
        moves: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = []
        for s, rows in enumerate(own):
            if not len(rows):
                moves.append((np.empty((0, N_DIRECTION)), np.empty(0, bool)))
                continue
            u = inputs(np.ascontiguousarray(np.where(spoken[:, s], mean[:, s], 0.0)), sd[s], np.ascontiguousarray(x[:, s]), places)
            weights["size"][s] = u[rows, 2].mean()
            u[:, 2] = np.where(spoken[:, s], u[:, 2] - weights["size"][s], 0.0)
            taught = use[:, s]
            moved = (y[taught, s] != 0).astype(np.int64)
            w, bias, ok = fit_logit(u[taught, 2:], moved, 2, config.c, config.max_iter, ctx.threads)
            weights["activity"][s], weights["activity_bias"][s] = w[1], bias[1]
            converged &= ok
            rows = rows[y[rows, s] != 0]
            moves.append((u[rows, :2], y[rows, s] > 0))
        shared = fit_shared_logit(moves, config.c, config.max_iter)
        weights["direction"], weights["direction_bias"], weights["direction_own"] = shared.slopes, shared.bias, shared.own
        converged &= shared.converged
        counts = {symbol: len(rows) for symbol, rows in zip(symbols, own, strict=True)}
        facts = {
            "max_train_t1": latest,
            "rows": counts,
            "rows_of_activity": {symbol: int(use[:, s].sum()) for s, symbol in enumerate(symbols)},
            "direction_slope": dict(zip(("by_sd", "by_volatility"), shared.slopes.tolist(), strict=True)),
            "direction_own": dict(zip(symbols, shared.own.tolist(), strict=True)),
        }
        head = cls(config, symbols, columns, weights)
        return head, FitReport("converged" if converged else "max_iter", sum(counts.values()), facts=facts)

    def predict(self, mean_bps: NDArray[np.float64], x: NDArray[np.float64], ready: NDArray[np.bool_]) -> NDArray[np.float64]:
        """p[T, S, 3] of down, flat, up; 0 where not ready. mean_bps float64[T, S], x float64[T, S, F]; live: T = 1. Each row alone."""
        self.columns.check_width(x.shape[-1])
        refuse_nan(np.concatenate([x[..., self.columns.places], mean_bps[..., None]], axis=-1), ready, self.kind)
        w = self.weights
        return probabilities(
            np.ascontiguousarray(mean_bps), ready, x, self.columns.places, w["sd_bps"], w["size"], w["activity"], w["activity_bias"],
            w["direction"], w["direction_bias"], w["direction_own"], w["fitted"],
        )  # fmt: skip

    def save(self, directory: Path) -> None:
        config = {"kind": self.kind, "config": self.config.model_dump(), "symbols": list(self.symbols), "columns": self.columns.as_json()}
        write_weights(directory, config, self.weights)

    @classmethod
    def load(cls, directory: Path) -> Self:
        saved = read_config(directory, cls.kind)
        symbols, columns = tuple(saved["symbols"]), Columns.from_json(saved["columns"])
        s = len(symbols)
        shapes: dict[str, Shape] = dict.fromkeys(("sd_bps", "size", "activity_bias", "direction_bias", "direction_own", "fitted"), (s,))
        weights = read_weights(directory, shapes | {"activity": (s, 1 + N_CONTEXT), "direction": (N_DIRECTION,)})
        return cls(HeadConfig(**saved["config"]), symbols, columns, weights)
