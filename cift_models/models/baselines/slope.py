"""One number times one signal: the simplest forecasts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.models.protocol import Config, FitContext, FitReport, Outputs, Panel
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import gather
from cift_models.models.weight_files import Shape


class SlopeConfig(Config):
    """Nothing to choose."""


class Slope(RowModel):
    """mean_bps = b_s u, b by least squares through 0 over the symbol's training rows (0 where u is always 0)."""

    Config: ClassVar[type[SlopeConfig]] = SlopeConfig
    names: ClassVar[tuple[str, ...]]

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        s = n_symbols
        return {"slope": (s,), "fitted": (s,)}

    @staticmethod
    @abstractmethod
    def signal(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """u of rows x float64[n, K] that hold the columns `names`; each row alone, one rounding an operation."""

    @classmethod
    def fit(cls, config: SlopeConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """b = sum(u y) / sum(u u). `valid` is not used."""
        data = gather(train, lambda features: cls.names)
        slope = np.zeros(len(data.symbols))
        for s in range(len(data.symbols)):
            u = cls.signal(data.x[s])
            power = float(np.sum(u * u))
            slope[s] = float(np.sum(u * data.y[s])) / power if power > 0 else 0.0
        fitted = np.array([len(y) > 0 for y in data.y])
        facts = {"slope": dict(zip(data.symbols, slope.tolist(), strict=True)), "max_train_t1": data.max_train_t1}
        return cls(config, data.symbols, data.columns, {"slope": slope, "fitted": fitted}), FitReport("converged", data.n_rows, facts=facts)

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        ready = valid & self.weights["fitted"]
        values = np.zeros(valid.shape)
        values[ready] = self.signal(x[ready][:, self.columns.places])
        # `+ 0.0` turns the -0 of a negative slope times 0 into 0.
        return Outputs((values * self.weights["slope"] + 0.0)[..., None], ready)
