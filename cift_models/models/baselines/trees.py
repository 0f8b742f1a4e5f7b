"""Boosted trees on the raw columns: what a default of the trade does without a thought about scales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cift_models.errors import ReleaseError
from cift_models.files import write_atomic
from cift_models.models.baselines.ridge_reference import RidgeReference
from cift_models.models.boosting import Rows, boost
from cift_models.models.columns import Columns
from cift_models.models.protocol import Config, FitContext, FitReport, Outputs, Panel
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import gather, gather_stop
from cift_models.models.tree_walk import Forest
from cift_models.models.weight_files import Shape, read_config, read_file, read_weights


class TreesConfig(Config):
    """`min_rows` is the least number of rows in a leaf; `patience` rounds without gain on the early-stopping rows end a fit."""

    depth: int = Field(default=3, ge=1, le=8)
    eta: float = Field(default=0.05, gt=0, le=1)
    rounds: int = Field(default=150, ge=1)
    min_rows: int = Field(default=100, ge=1)
    patience: int = Field(default=30, ge=1)


class Trees(RowModel):
    """One forest a symbol on the columns of ridge_reference. A symbol without training rows is never ready."""

    kind: ClassVar[str] = "trees"
    Config: ClassVar[type[TreesConfig]] = TreesConfig

    def __init__(
        self, config: TreesConfig, symbols: tuple[str, ...], columns: Columns, models: list[bytes], fitted: NDArray[np.bool_]
    ) -> None:
        super().__init__(config, symbols, columns, {"fitted": fitted})
        self.models = models
        self.forests = [Forest.from_json(model) for model in models]
        if any(forest.n_features != len(columns.names) for forest in self.forests):
            raise ReleaseError(f"trees: a forest does not read {len(columns.names)} columns.", hint="The release is damaged.")

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        return {"fitted": (n_symbols,)}

    @classmethod
    def fit(cls, config: TreesConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """`valid` stops the boosting; without it `rounds` trees are made."""
        data = gather(train, RidgeReference.column_names)
        stop = gather_stop(valid, RidgeReference.column_names)
        parameters = {"max_depth": config.depth, "eta": config.eta, "min_child_weight": config.min_rows}
        models, rounds, curves = [], {}, {}
        fitted = np.array([len(y) > 0 for y in data.y])
        for s, symbol in enumerate(data.symbols):
            x, y = (data.x[s], data.y[s]) if fitted[s] else (np.zeros((1, len(data.columns.names))), np.zeros(1))
            own = Rows(stop.x[s], stop.y[s]) if stop is not None else None
            boosted = boost(parameters, Rows(x, y), own, config.rounds, config.patience, ctx.seed, ctx.threads)
            models.append(boosted.model)
            rounds[symbol] = boosted.rounds
            if boosted.curve:
                curves[f"{symbol}_stop_rmse_bps"] = boosted.curve
            ctx.progress(cls.kind, (s + 1) / len(data.symbols))
        facts = {"trees": rounds, "rows": data.counts(), "max_train_t1": max(data.max_train_t1, stop.max_train_t1 if stop else 0)}
        return cls(config, data.symbols, data.columns, models, fitted), FitReport("converged", data.n_rows, curves, facts)

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        ready = valid & self.weights["fitted"]
        values = np.zeros((*valid.shape, 1))
        for s, forest in enumerate(self.forests):
            own = ready[:, s]
            values[own, s, 0] = forest.predict(x[own, s][:, self.columns.places])
        return Outputs(values, ready)

    def save(self, directory: Path) -> None:
        super().save(directory)
        for s, model in enumerate(self.models):
            write_atomic(directory / f"forest_{s:03d}.json", model)

    @classmethod
    def load(cls, directory: Path) -> Self:
        saved = read_config(directory, cls.kind)
        symbols, columns = tuple(saved["symbols"]), Columns.from_json(saved["columns"])
        fitted = read_weights(directory, cls.shapes(len(symbols), len(columns.names)))["fitted"]
        models = [read_file(directory / f"forest_{s:03d}.json") for s in range(len(symbols))]
        return cls(TreesConfig(**saved["config"]), symbols, columns, models, fitted)
