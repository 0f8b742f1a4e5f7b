"""The rows that a fit may learn from, out of panels that are opened one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FitError
from cift_models.features.feature_set import FeatureSet
from cift_models.models.columns import Columns
from cift_models.models.protocol import Panel


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Per symbol: x float64[n_s, K], y float64[n_s] (bps), base[name] float64[n_s, C] of each of `needs` (0 where not ready)."""

    symbols: tuple[str, ...]
    columns: Columns
    x: list[NDArray[np.float64]]
    y: list[NDArray[np.float64]]
    base: list[dict[str, NDArray[np.float64]]]
    max_train_t1: int

    @property
    def n_rows(self) -> int:
        return sum(len(y) for y in self.y)

    def counts(self) -> dict[str, int]:
        """Rows by symbol."""
        return {symbol: len(y) for symbol, y in zip(self.symbols, self.y, strict=True)}

    def sd_bps(self) -> NDArray[np.float64]:
        """sd of y by symbol, float64[S]; 1 where it would be 0."""
        sd = np.array([float(y.std()) if len(y) else 0.0 for y in self.y])
        return np.where(sd > 0, sd, 1.0)


def usable(panel: Panel, needs: Sequence[str] = (), optional: Sequence[str] = ()) -> NDArray[np.bool_]:
    """Which rows of a panel may teach: bool[T, S]: marked, valid, and for a model with needs out of fold with every base ready.

    A base named in `optional` need not be ready. Raises FitError where the panel has no labels or lacks a base.
    """
    if panel.rows is None or panel.y is None or panel.label_end is None:
        raise FitError(f"Session {panel.session} has no labels.", hint="Pass panels with y, rows and label_end.")
    use = panel.rows[:, None] & panel.valid
    if needs:
        missing = [name for name in needs if name not in panel.base]
        if missing or panel.base_oof is None:
            raise FitError(
                f"Session {panel.session} lacks {'out-of-fold marks' if panel.base_oof is None else missing[0]}.",
                hint="Fill base and base_oof with outputs of fits on the past alone.",
            )
        use &= panel.base_oof[:, None]
        for name in needs:
            if name not in optional:
                use &= panel.base_ready[name]
    return use


def gather(
    train: Sequence[Panel], column_names: Callable[[FeatureSet], Sequence[str]], needs: Sequence[str] = (), optional: Sequence[str] = ()
) -> TrainingRows:
    """Copy the usable rows of the named columns, one panel in memory at a time. Raises FitError where there is no panel or no row."""
    symbols: tuple[str, ...] = ()
    columns: Columns | None = None
    x: list[list[NDArray]] = []
    y: list[list[NDArray]] = []
    base: list[dict[str, list[NDArray]]] = []
    latest = None
    for panel in train:
        if columns is None:
            symbols = panel.universe.symbols
            columns = Columns.of(panel.features, column_names(panel.features))
            x, y = ([[] for _ in symbols] for _ in range(2))
            base = [{name: [] for name in needs} for _ in symbols]
        if panel.universe.symbols != symbols:
            raise FitError(
                f"Session {panel.session} has the symbols {panel.universe.symbols}; expected {symbols}.", hint="Fit one universe at a time."
            )
        columns.check(panel.features)
        use = usable(panel, needs, optional)
        assert panel.y is not None and panel.label_end is not None
        for s in range(len(symbols)):
            own = np.flatnonzero(use[:, s])
            x[s].append(panel.x[own, s][:, columns.places])
            y[s].append(panel.y[own, s])
            for name in needs:
                base[s][name].append(np.where(panel.base_ready[name][own, s, None], panel.base[name][own, s], 0.0))
        if use.any():
            end = int(panel.label_end[use.any(axis=1)].max())
            latest = end if latest is None else max(latest, end)
    if columns is None or latest is None:
        raise FitError("No training row is usable.", hint="Widen the training range, or look at why rows are not valid or not ready.")
    return TrainingRows(
        symbols,
        columns,
        [np.concatenate(parts) for parts in x],
        [np.concatenate(parts) for parts in y],
        [{name: np.concatenate(parts) for name, parts in own.items()} for own in base],
        latest,
    )


def gather_stop(
    valid: Sequence[Panel], column_names: Callable[[FeatureSet], Sequence[str]], needs: Sequence[str] = (), optional: Sequence[str] = ()
) -> TrainingRows | None:
    """Rows for early stopping: like `gather`, and None where no row is usable (the fit then makes its fixed number of rounds)."""
    if not any(usable(panel, needs, optional).any() for panel in valid):
        return None
    return gather(valid, column_names, needs, optional)
