"""Ridge per symbol on raw and signed-log1p flows over .1 .. 30 s: the base that all models add to.

What looks like non-linearity in order flow is a scale: with `sign(x) log1p|x|` beside x, ridge is above boosted trees on x alone
(methods.md section 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FitError
from cift_models.features.feature_set import FeatureSet, flow_names
from cift_models.models.linear.config import LinearConfig
from cift_models.models.linear.kernel import moments, ridge
from cift_models.models.protocol import FitContext, FitReport, Outputs, Panel
from cift_models.models.row_kernel import standardised_rows
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import gather
from cift_models.models.weight_files import Shape


class Linear(RowModel):
    """mean_bps = bias_s + sum_j clip((x_j - mean_sj) / sd_sj) w_sj. A symbol without training rows is never ready."""

    kind: ClassVar[str] = "linear"
    needs: ClassVar[tuple[str, ...]] = ()
    Config: ClassVar[type[LinearConfig]] = LinearConfig

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        s, k = n_symbols, n_columns
        return {"mean": (s, k), "sd": (s, k), "weights": (s, k), "bias": (s,), "fitted": (s,)}

    @classmethod
    def column_names(cls, features: FeatureSet) -> list[str]:
        """Flows raw and log, book, counts, moves, age."""
        return [*cls.quote_names(), *flow_names(features), *flow_names(features, log=True), *cls.count_names(features), "age_s"]

    @staticmethod
    def quote_names() -> tuple[str, ...]:
        return ("queue_imbalance", "queue_imbalance_x_spread", "spread", "move_1000ms", "move_5000ms", "move_30000ms")

    @staticmethod
    def count_names(features: FeatureSet) -> list[str]:
        return [f"log_count_{window // 1_000_000}ms" for window in features.windows_ns]

    @classmethod
    def fit(cls, config: LinearConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """One ridge a symbol, its penalty by leave-one-out; `valid` is not used. Holds n K floats of all training rows.

        Raises FitError where no symbol has two training rows.
        """
        from threadpoolctl import threadpool_limits

        data = gather(train, cls.column_names)
        n_symbols, k = len(data.symbols), len(data.columns.names)
        mean, sd = np.zeros((n_symbols, k)), np.ones((n_symbols, k))
        weights, bias, fitted = np.zeros((n_symbols, k)), np.zeros(n_symbols), np.zeros(n_symbols, bool)
        alphas: dict[str, float] = {}
        loo_r2: dict[str, float | None] = {}
        with threadpool_limits(ctx.threads):
            for s, symbol in enumerate(data.symbols):
                x, y = data.x[s], data.y[s]
                if len(y) < 2:
                    continue
                mean[s], sd[s] = moments(x)
                z = np.clip((x - mean[s]) / sd[s], -config.clip, config.clip)
                weights[s], bias[s], alphas[symbol], errors = ridge(z, y, config.alphas)
                fitted[s] = True
                power = float(np.mean(y * y))
                loo_r2[symbol] = 1 - float(errors.min()) / power if power > 0 else None
                ctx.progress(cls.kind, (s + 1) / n_symbols)
        if not fitted.any():
            raise FitError(
                f"{cls.kind}: no symbol has two training rows.", hint="Widen the training range, or look at why rows are not valid."
            )
        model = cls(config, data.symbols, data.columns, {"mean": mean, "sd": sd, "weights": weights, "bias": bias, "fitted": fitted})
        facts = {"alpha": alphas, "leave_one_out_r2": loo_r2, "rows": data.counts(), "max_train_t1": data.max_train_t1}
        return model, FitReport("converged", data.n_rows, facts=facts)

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        w = self.weights
        ready = valid & w["fitted"]
        values = standardised_rows(x, ready, self.columns.places, w["mean"], w["sd"], self.config.clip, w["weights"], w["bias"])
        return Outputs(values[..., None], ready)
