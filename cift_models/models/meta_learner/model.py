"""The meta-learner: XGBoost on out-of-fold outputs, its margin the non-negative blend of the forecasts.

In-sample stacking turns a test R2 of +.003 into -.086 (methods.md section 6): a fit takes out-of-fold rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import ReleaseError, SchemaMismatch
from cift_models.files import write_atomic
from cift_models.models.boosting import Rows, boost
from cift_models.models.columns import Columns
from cift_models.models.meta_learner.config import MetaLearnerConfig
from cift_models.models.meta_learner.kernel import CONTEXT, fill, n_inputs, non_negative_blend
from cift_models.models.protocol import FitContext, FitReport, Outputs, Panel
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import TrainingRows, gather, gather_stop
from cift_models.models.tree_walk import Forest
from cift_models.models.weight_files import Shape, read_config, read_file, read_weights

MEANS = ("linear", "hawkes", "gnn", "transformer")
"""Models whose first output is a mean_bps that is blended."""


class MetaLearner(RowModel):
    """mean_bps = sd_s (sum_k blend_k mean_k / sd_s + trees), one forest for all symbols, monotone in every mean.

    Ready where the four forecasts are; regimes that are not known count as equally likely.
    """

    kind: ClassVar[str] = "meta_learner"
    needs: ClassVar[tuple[str, ...]] = ("linear", "hawkes", "hmm", "gnn", "transformer")
    Config: ClassVar[type[MetaLearnerConfig]] = MetaLearnerConfig

    def __init__(
        self, config: MetaLearnerConfig, symbols: tuple[str, ...], columns: Columns, weights: dict[str, NDArray[Any]], forest: bytes
    ) -> None:
        super().__init__(config, symbols, columns, weights)
        self.forest_json = forest
        self.forest = Forest.from_json(forest)
        self.n_states = self.forest.n_features - n_inputs(len(MEANS), 0)
        if self.n_states < 1:
            raise ReleaseError(f"meta_learner: its forest reads {self.forest.n_features} inputs.", hint="The release is damaged.")

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        return {"sd_bps": (n_symbols,), "blend": (len(MEANS),), "fitted": (n_symbols,)}

    @classmethod
    def fit(cls, config: MetaLearnerConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """Blend, then trees on what it leaves; `valid` stops the boosting. Raises FitError where no row is usable."""
        from threadpoolctl import threadpool_limits

        data = gather(train, lambda features: CONTEXT, cls.needs, optional=("hmm",))
        stop = gather_stop(valid, lambda features: CONTEXT, cls.needs, optional=("hmm",))
        sd = data.sd_bps()
        means, y = np.concatenate(_means(data, sd)), np.concatenate([y / sd[s] for s, y in enumerate(data.y)])
        with threadpool_limits(ctx.threads):
            blend = non_negative_blend(means, y)
        watch = _rows(stop, sd, blend) if stop is not None else None
        parameters = {
            "max_depth": config.depth,
            "eta": config.eta,
            "min_child_weight": config.min_rows,
            "monotone_constraints": (*(1 for _ in MEANS), *(0 for _ in range(n_inputs(0, data.base[0]["hmm"].shape[1])))),
        }
        rounds = config.rounds if watch is not None else config.rounds_unwatched
        boosted = boost(parameters, _rows(data, sd, blend), watch, rounds, config.patience, ctx.seed, ctx.threads)
        fitted = np.array([len(y) > 0 for y in data.y])
        model = cls(config, data.symbols, data.columns, {"sd_bps": sd, "blend": blend, "fitted": fitted}, boosted.model)
        facts = {
            "blend": dict(zip(MEANS, blend.tolist(), strict=True)),
            "trees": boosted.rounds,
            "rows": data.counts(),
            "max_train_t1": max(data.max_train_t1, stop.max_train_t1 if stop is not None else 0),
        }
        curves = {"stop_rmse_sd": boosted.curve} if boosted.curve else {}
        return model, FitReport("converged", data.n_rows, curves, facts)

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        if base["hmm"].shape[-1] != self.n_states:
            raise SchemaMismatch(
                f"meta_learner: the HMM says {base['hmm'].shape[-1]} regimes; the fit had {self.n_states}.",
                hint="Run the HMM of the same release.",
            )
        ready = valid & self.weights["fitted"]
        for name in MEANS:
            ready = ready & base_ready[name]
        values = np.zeros((*valid.shape, 1))
        t, s = np.nonzero(ready)
        sd = self.weights["sd_bps"][s]
        means = np.stack([base[name][t, s, 0] / sd for name in MEANS], axis=1)
        regimes = np.where(base_ready["hmm"][t, s, None], base["hmm"][t, s], 0.0)
        inputs = np.empty((len(t), self.forest.n_features))
        margin = fill(means, regimes, base["hawkes"][t, s, 1:3], x[t, s][:, self.columns.places], self.weights["blend"], inputs)
        values[t, s, 0] = self.forest.predict(inputs, margin) * sd
        return Outputs(values, ready)

    def save(self, directory: Path) -> None:
        super().save(directory)
        write_atomic(directory / "forest.json", self.forest_json)

    @classmethod
    def load(cls, directory: Path) -> Self:
        saved = read_config(directory, cls.kind)
        symbols, columns = tuple(saved["symbols"]), Columns.from_json(saved["columns"])
        weights = read_weights(directory, cls.shapes(len(symbols), len(columns.names)))
        return cls(MetaLearnerConfig(**saved["config"]), symbols, columns, weights, read_file(directory / "forest.json"))


def _means(data: TrainingRows, sd: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [np.stack([own[name][:, 0] / sd[s] for name in MEANS], axis=1) for s, own in enumerate(data.base)]


def _rows(data: TrainingRows, sd: NDArray[np.float64], blend: NDArray[np.float64]) -> Rows:
    """Inputs, target and margin of all symbols, in sd."""
    x, y, margin = [], [], []
    for s, means in enumerate(_means(data, sd)):
        regimes = data.base[s]["hmm"]
        inputs = np.empty((len(means), n_inputs(len(MEANS), regimes.shape[1])))
        arrivals = np.ascontiguousarray(data.base[s]["hawkes"][:, 1:3])
        margin.append(fill(means, regimes, arrivals, data.x[s], blend, inputs))
        x.append(inputs)
        y.append(data.y[s] / sd[s])
    return Rows(np.concatenate(x), np.concatenate(y), np.concatenate(margin))
