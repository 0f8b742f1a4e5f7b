"""The regime-gated ensemble: `w_k(t) = sum_s p(s_{t+1} | F_t) W_sk`, rows of W on the simplex, held to one overall row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import SchemaMismatch
from cift_models.models.ensemble.config import EnsembleConfig
from cift_models.models.ensemble.kernel import blend, fit_weights, gate_gain
from cift_models.models.protocol import FitContext, FitReport, Outputs, Panel
from cift_models.models.row_model import Arrays, RowModel
from cift_models.models.training import gather
from cift_models.models.weight_files import Shape

MEANS = ("linear", "hawkes", "gnn", "transformer", "meta_learner")
"""Models whose first output is a mean_bps that is weighed."""


class Ensemble(RowModel):
    """mean_bps = sum_k w_k(t) mean_k, one W for all symbols. Where the HMM is not ready, or the gate has not paid, the overall row speaks.

    Ready where the five forecasts are. W of one-step-ahead filtered probabilities: nothing smoothed enters.
    """

    kind: ClassVar[str] = "ensemble"
    needs: ClassVar[tuple[str, ...]] = (*MEANS, "hmm")
    Config: ClassVar[type[EnsembleConfig]] = EnsembleConfig

    @classmethod
    def shapes(cls, n_symbols: int, n_columns: int) -> dict[str, Shape]:
        return {"by_regime": (None, len(MEANS)), "overall": (len(MEANS),)}

    @classmethod
    def fit(cls, config: EnsembleConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """Weights on out-of-fold rows; `valid` is not used. Raises FitError where no row is usable."""
        from threadpoolctl import threadpool_limits

        data = gather(train, lambda features: (), cls.needs, optional=("hmm",))
        sd = data.sd_bps()
        means = np.concatenate([np.stack([own[name][:, 0] / sd[s] for name in MEANS], axis=1) for s, own in enumerate(data.base)])
        regimes = np.concatenate([own["hmm"] for own in data.base])
        y = np.concatenate([y / sd[s] for s, y in enumerate(data.y)])
        with threadpool_limits(ctx.threads):
            settings = (config.direction_weight, config.prior_rows, config.max_iter)
            found = fit_weights(means, regimes, y, *settings)
            early = np.concatenate([np.arange(len(own)) < len(own) // 2 for own in data.y])
            gain, t = gate_gain(means, regimes, y, early, *settings)
        gated = bool(t >= config.gate_t)
        by_regime = found.by_regime if gated else np.repeat(found.overall[None], regimes.shape[1], axis=0)
        facts = {
            "overall": dict(zip(MEANS, found.overall.tolist(), strict=True)),
            "by_regime": [dict(zip(MEANS, row.tolist(), strict=True)) for row in by_regime],
            "gate": {"on": gated, "gain": gain, "t": t},
            "direction_slope": found.slope,
            "regime_rows": regimes.sum(axis=0).tolist(),
            "rows": data.counts(),
            "max_train_t1": data.max_train_t1,
        }
        model = cls(config, data.symbols, data.columns, {"by_regime": by_regime, "overall": found.overall})
        return model, FitReport("converged" if found.converged else "max_iter", data.n_rows, facts=facts)

    def rows(self, x: NDArray[np.float64], valid: NDArray[np.bool_], base: Arrays, base_ready: Arrays) -> Outputs:
        n_states = len(self.weights["by_regime"])
        if base["hmm"].shape[-1] != n_states:
            raise SchemaMismatch(
                f"ensemble: the HMM says {base['hmm'].shape[-1]} regimes; the fit had {n_states}.", hint="Run the HMM of the same release."
            )
        ready = valid.copy()
        for name in MEANS:
            ready &= base_ready[name]
        means = np.stack([base[name][..., 0] for name in MEANS], axis=-1)
        regimes = np.ascontiguousarray(base["hmm"])
        values = blend(means, regimes, base_ready["hmm"], ready, self.weights["by_regime"], self.weights["overall"])
        return Outputs(values[..., None], ready)
