"""How likely a move is, with no view on its sign: what a log-loss must beat before it says anything about direction.

86/75/63 % of a three-class logit's gain over the prior survives when p_up = p_down: it is activity (methods.md section 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cift_models.compiled import kernel
from cift_models.models.context import CONTEXT, context_row
from cift_models.models.logit import fit_logit
from cift_models.models.protocol import Config, FitContext, FitReport, Outputs, Panel
from cift_models.models.row_kernel import weighted_sum
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import gather
from cift_models.models.weight_files import Shape


class ActivityConfig(Config):
    """`c` is the inverse penalty of the logit, as in scikit-learn."""

    c: float = Field(default=1.0, gt=0)
    max_iter: int = Field(default=1000, ge=1)


@kernel
def move_probabilities(x, ready, columns, weights, bias):
    """Values float64[T, S, 4]: mean 0, then p_down = p/2, 1 - p, p/2 with p the logistic of a weighted sum of the row's context."""
    out = np.zeros((*ready.shape, 4))
    u = np.empty(columns.shape[0])
    for t in range(ready.shape[0]):
        for s in range(ready.shape[1]):
            if ready[t, s]:
                context_row(x[t, s], columns, u, 0)
                move = 1.0 / (1.0 + math.exp(-weighted_sum(u, weights[s], bias[s])))
                out[t, s, 1] = 0.5 * move
                out[t, s, 2] = 1.0 - move
                out[t, s, 3] = 0.5 * move
    return out


class Activity(RowModel):
    """p(move) per symbol from a logit on the activity over 60 and 600 s and log spread, split evenly; mean_bps 0."""

    kind: ClassVar[str] = "activity"
    Config: ClassVar[type[ActivityConfig]] = ActivityConfig
    outputs = ("mean_bps", "p_down", "p_flat", "p_up")

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        s, k = n_symbols, n_columns
        return {"weights": (s, k), "bias": (s,), "fitted": (s,)}

    @classmethod
    def fit(cls, config: ActivityConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """One logit a symbol; `valid` is not used."""
        data = gather(train, lambda features: CONTEXT)
        n_symbols = len(data.symbols)
        weights, bias = np.zeros((n_symbols, len(CONTEXT))), np.zeros(n_symbols)
        fitted, converged = np.array([len(y) > 0 for y in data.y]), True
        places = np.arange(len(CONTEXT))
        for s in np.flatnonzero(fitted):
            u = np.empty((len(data.y[s]), len(CONTEXT)))
            for i, row in enumerate(data.x[s]):
                context_row(row, places, u[i], 0)
            w, b, ok = fit_logit(u, (data.y[s] != 0).astype(np.int64), 2, config.c, config.max_iter, ctx.threads)
            weights[s], bias[s] = w[1], b[1]
            converged &= ok
        model = cls(config, data.symbols, data.columns, {"weights": weights, "bias": bias, "fitted": fitted})
        facts = {"rows": data.counts(), "max_train_t1": data.max_train_t1}
        return model, FitReport("converged" if converged else "max_iter", data.n_rows, facts=facts)

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        ready = valid & self.weights["fitted"]
        return Outputs(move_probabilities(x, ready, self.columns.places, self.weights["weights"], self.weights["bias"]), ready)
