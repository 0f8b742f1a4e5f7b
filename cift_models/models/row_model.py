"""A model without memory: what it says at an instant depends on that instant's row alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import SchemaMismatch
from cift_models.models.columns import Columns
from cift_models.models.protocol import Output, Outputs, Panel, State, Step, refuse_nan

Arrays = dict[str, NDArray]


class RowModel(ABC):
    """`update` and `predict` of a model that has `rows`: a step is a panel of one row, so their bits are equal."""

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    outputs: tuple[str, ...] = ("mean_bps",)
    columns: Columns

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
        refuse_nan(x, valid, self.kind)
        for name in self.needs:
            if name not in base or name not in base_ready:
                raise SchemaMismatch(
                    f"{self.kind}: the outputs of {name!r} are missing.", hint=f"It needs {', '.join(self.needs)}: run them first."
                )
            refuse_nan(base[name], valid & base_ready[name], f"{self.kind}, base {name}")
        return self.rows(x, valid, base, base_ready)
