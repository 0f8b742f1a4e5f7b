"""The class shares of the training rows, and no move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.models.protocol import Config, FitContext, FitReport, Outputs, Panel
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import gather
from cift_models.models.weight_files import Shape


class PriorConfig(Config):
    """Nothing to choose."""


class Prior(RowModel):
    """p = (n_c + 1/2) / (n + 3/2) of each symbol's training rows (half a row a class: no share is 0); mean_bps 0."""

    kind: ClassVar[str] = "prior"
    Config: ClassVar[type[PriorConfig]] = PriorConfig
    outputs = ("mean_bps", "p_down", "p_flat", "p_up")

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        s = n_symbols
        return {"shares": (s, 3), "fitted": (s,)}

    @classmethod
    def fit(cls, config: PriorConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """Count. `valid` is not used."""
        data = gather(train, lambda features: ())
        shares = np.array([np.bincount(np.sign(y).astype(np.int64) + 1, minlength=3) + 0.5 for y in data.y])
        shares /= shares.sum(axis=1, keepdims=True)
        fitted = np.array([len(y) > 0 for y in data.y])
        facts = {"shares": dict(zip(data.symbols, shares.tolist(), strict=True)), "max_train_t1": data.max_train_t1}
        return cls(config, data.symbols, data.columns, {"shares": shares, "fitted": fitted}), FitReport(
            "converged", data.n_rows, facts=facts
        )

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        ready = valid & self.weights["fitted"]
        values = np.zeros((*valid.shape, 4))
        values[..., 1:] = np.where(ready[..., None], self.weights["shares"], 0.0)
        return Outputs(values, ready)
