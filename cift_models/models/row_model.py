"""A model without memory: what it says at an instant depends on that instant's row alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import SchemaMismatch
from cift_models.models.columns import Columns
from cift_models.models.finite import check_finite
from cift_models.models.protocol import Config, Output, Outputs, Panel, State, Step
from cift_models.models.weight_files import Shape, read_config, read_weights, write_weights

Arrays = dict[str, NDArray]


class RowModel(ABC):
    """Protocol and files of a model that has `rows`: a step is a panel of one row, so `update` and `predict` give equal bits.

    `weights` are all its fitted numbers, by name; `columns` what it reads of a row.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    Config: ClassVar[type[Config]]
    outputs: tuple[str, ...] = ("mean_bps",)

    def __init__(self, config: Any, symbols: tuple[str, ...], columns: Columns, weights: dict[str, NDArray[Any]]) -> None:
        self.config = config
        self.symbols = symbols
        self.columns = columns
        self.weights = weights

    @classmethod
    @abstractmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        """Shape of every array of `weights`: what a damaged file is held against."""

    @abstractmethod
    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        """Values float64[T, S, C] and ready bool[T, S] of rows x float64[T, S, F], valid bool[T, S]; each row alone."""

    def start(self) -> State:
        return State()

    def update(self, state: State, step: Step) -> tuple[State, Output]:
        base = {name: values[None] for name, values in step.base.items()}
        base_ready = {name: ready[None] for name, ready in step.base_ready.items()}
        values, ready = self._checked_rows(step.x[None], step.valid[None], base, base_ready)
        return state, Output(values[0], ready[0])

    def predict(self, panel: Panel) -> Outputs:
        self.columns.check(panel.features)
        return self._checked_rows(panel.x, panel.valid, panel.base, panel.base_ready)

    def _checked_rows(self, x: NDArray, valid: NDArray, base: Arrays, base_ready: Arrays) -> Outputs:
        self.columns.check_width(x.shape[-1])
        check_finite(x, valid, self.kind)
        for name in self.needs:
            if name not in base or name not in base_ready:
                raise SchemaMismatch(
                    f"{self.kind}: the outputs of {name!r} are missing.", hint=f"It needs {', '.join(self.needs)}: run them first."
                )
            check_finite(base[name], valid & base_ready[name], f"{self.kind}, base {name}")
        return self.rows(x, valid, base, base_ready)

    def save(self, directory: Path) -> None:
        config = {"kind": self.kind, "config": self.config.model_dump(), "symbols": list(self.symbols), "columns": self.columns.as_json()}
        write_weights(directory, config, self.weights)

    @classmethod
    def load(cls, directory: Path) -> Self:
        saved = read_config(directory, cls.kind)
        symbols, columns = tuple(saved["symbols"]), Columns.from_json(saved["columns"])
        weights = read_weights(directory, cls.shapes(len(symbols), len(columns.names)))
        return cls(cls.Config(**saved["config"]), symbols, columns, weights)
