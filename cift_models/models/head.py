"""The head: what a forecast in bps says about down, flat and up. One head for all models that give `mean_bps`.

A multinomial logit per symbol on yhat/sd, |yhat|/sd, the logits of the activity over 60 and 600 s, and log spread in ticks, fitted on
out-of-fold rows (on a thin in-sample slice the direction slope falls to a half; methods.md section 1). A model whose outputs hold
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
from cift_models.models.logit import fit_logit
from cift_models.models.protocol import Config, FitContext, FitReport, Panel, refuse_nan
from cift_models.models.row_kernel import weighted_sum
from cift_models.models.training import usable
from cift_models.models.weight_files import read_config, read_weights, write_weights

PROBABILITIES = ("p_down", "p_flat", "p_up")
"""Outputs of a model that needs no head; also the order of the last axis of every p."""

N_INPUTS = 2 + len(CONTEXT)


def has_own_probabilities(outputs: tuple[str, ...]) -> bool:
    """Whether a model with these outputs says its probabilities itself."""
    return all(name in outputs for name in PROBABILITIES)


class HeadConfig(Config):
    """`c` is the inverse penalty of the logit, as in scikit-learn."""

    c: float = Field(default=1.0, gt=0)
    max_iter: int = Field(default=1000, ge=1)


@kernel
def inputs_row(mean_bps, sd_bps, x, columns, out):
    """Fill out float64[5]: yhat/sd, |yhat|/sd, then the context of the row."""
    out[0] = mean_bps / sd_bps
    out[1] = abs(out[0])
    context_row(x, columns, out, 2)


@kernel
def inputs(mean_bps, ready, x, columns, sd_bps):
    """inputs_row for every ready row: float64[T, S, 5], 0 elsewhere."""
    out = np.zeros((*mean_bps.shape, 2 + columns.shape[0]))
    for t in range(mean_bps.shape[0]):
        for s in range(mean_bps.shape[1]):
            if ready[t, s]:
                inputs_row(mean_bps[t, s], sd_bps[s], x[t, s], columns, out[t, s])
    return out


@kernel
def probabilities(mean_bps, ready, x, columns, sd_bps, weights, bias):
    """Softmax of three weighted sums for every ready row: float64[T, S, 3], 0 elsewhere. weights float64[S, 3, 5], bias float64[S, 3]."""
    steps, symbols = mean_bps.shape
    p = np.zeros((steps, symbols, 3))
    u = np.empty(weights.shape[2])
    for t in range(steps):
        for s in range(symbols):
            if not ready[t, s]:
                continue
            inputs_row(mean_bps[t, s], sd_bps[s], x[t, s], columns, u)
            highest = -math.inf
            for c in range(3):
                p[t, s, c] = weighted_sum(u, weights[s, c], bias[s, c])
                highest = max(highest, p[t, s, c])
            total = 0.0
            for c in range(3):
                p[t, s, c] = math.exp(p[t, s, c] - highest)
                total += p[t, s, c]
            for c in range(3):
                p[t, s, c] /= total
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

        Uses panel.rows & panel.valid & ready. sd is that of y over a symbol's rows: against that of yhat the penalty then bites, and the
        direction slope on the real day's test blocks comes nearer to 1 (1.01/.91/.86 against .97/.72/.80, `ridge_reference`).
        facts["max_train_t1"] is when the last label was known, ns. Raises FitError where no row is usable.
        """
        config, ctx = config or HeadConfig(), ctx or FitContext()
        columns: Columns | None = None
        symbols: tuple[str, ...] = ()
        parts: list[tuple[NDArray, NDArray, NDArray, NDArray]] = []
        latest = 0
        for panel, mean_bps, ready in rows:
            if columns is None:
                symbols, columns = panel.universe.symbols, Columns.of(panel.features, CONTEXT)
            columns.check(panel.features)
            use = usable(panel) & ready
            assert panel.y is not None and panel.label_end is not None
            kept = use.any(axis=1)
            latest = max(latest, int(panel.label_end[kept].max(initial=0)))
            parts.append((panel.x[kept][:, :, columns.places], mean_bps[kept], use[kept], panel.y[kept]))
        if columns is None or not any(use.any() for _, _, use, _ in parts):
            raise FitError("head: no row is usable.", hint="Pass out-of-fold rows on which the model was ready.")
        x, mean, use, y = (np.concatenate(column) for column in zip(*parts, strict=True))
        n_symbols = len(symbols)
        sd, weights, bias = np.ones(n_symbols), np.zeros((n_symbols, 3, N_INPUTS)), np.zeros((n_symbols, 3))
        for s in range(n_symbols):
            spread = float(y[use[:, s], s].std()) if use[:, s].any() else 0.0
            sd[s] = spread if spread > 0 else 1.0
        u = inputs(np.ascontiguousarray(mean), use, x, np.arange(len(CONTEXT)), sd)
        counts, converged = {}, True
        for s, symbol in enumerate(symbols):
            own = use[:, s]
            counts[symbol] = int(own.sum())
            if counts[symbol]:
                classes = np.sign(y[own, s]).astype(np.int64) + 1
                weights[s], bias[s], ok = fit_logit(u[own, s], classes, 3, config.c, config.max_iter, ctx.threads)
                converged &= ok
        head = cls(config, symbols, columns, {"sd_bps": sd, "weights": weights, "bias": bias})
        slopes = {n: float(weights[s, 2, 0] - weights[s, 0, 0]) for s, n in enumerate(symbols)}
        facts = {"max_train_t1": latest, "rows": counts, "direction_slope": slopes}
        return head, FitReport("converged" if converged else "max_iter", sum(counts.values()), facts=facts)

    def predict(self, mean_bps: NDArray[np.float64], x: NDArray[np.float64], ready: NDArray[np.bool_]) -> NDArray[np.float64]:
        """p[T, S, 3] of down, flat, up; 0 where not ready. mean_bps float64[T, S], x float64[T, S, F]; live: T = 1. Each row alone."""
        self.columns.check_width(x.shape[-1])
        refuse_nan(np.concatenate([x[..., self.columns.places], mean_bps[..., None]], axis=-1), ready, self.kind)
        w = self.weights
        return probabilities(np.ascontiguousarray(mean_bps), ready, x, self.columns.places, w["sd_bps"], w["weights"], w["bias"])

    def save(self, directory: Path) -> None:
        config = {"kind": self.kind, "config": self.config.model_dump(), "symbols": list(self.symbols), "columns": self.columns.as_json()}
        write_weights(directory, config, self.weights)

    @classmethod
    def load(cls, directory: Path) -> Self:
        saved = read_config(directory, cls.kind)
        symbols, columns = tuple(saved["symbols"]), Columns.from_json(saved["columns"])
        s = len(symbols)
        weights = read_weights(directory, {"sd_bps": (s,), "weights": (s, 3, N_INPUTS), "bias": (s, 3)})
        return cls(HeadConfig(**saved["config"]), symbols, columns, weights)
