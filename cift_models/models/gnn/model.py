"""The lead-lag GNN: what the other assets of a universe say about the next move of each, on top of its own forecast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import ReleaseError, SchemaMismatch
from cift_models.models.gnn import kernel
from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.kernel import FEATURES, Memory, Weights, memory
from cift_models.models.protocol import FitContext, FitReport, Output, Outputs, Panel, State, Step, refuse_nan
from cift_models.models.residual_base import apply_base, base_is_ready
from cift_models.models.weight_files import read_config, read_weights, write_weights


class LeadLagGNN:
    """mean_bps = base + gain f: f from one GATv2 layer over (asset, lag) nodes; gain 0 where held-out rows did not support it.

    Reads the events of a step, in bins that end at the instant; no feature of the row. Symbols stand where they stood at the fit. A symbol
    that is not valid is absent: no target, no source.
    """

    kind: ClassVar[str] = "gnn"
    needs: ClassVar[tuple[str, ...]] = ("linear", "hawkes")
    Config: ClassVar[type[LeadLagConfig]] = LeadLagConfig
    outputs: tuple[str, ...] = ("mean_bps",)

    def __init__(
        self, config: LeadLagConfig, symbols: tuple[str, ...], base_weights: NDArray[np.float64], weights: Weights
    ) -> None:  # fmt: skip
        self.config = config
        self.symbols = symbols
        self.base_weights = base_weights
        self.weights = weights
        self._bucket_bins = np.array(config.bucket_bins, np.int64)

    @classmethod
    def fit(cls, config: LeadLagConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """Base, prior, network and gate. The last tenth of the training rows stands in for an empty `valid`: held from prior and network.

        Too few rows: switched off, and the report says so. Raises FitError where there is no panel, or the decision clock is no
        multiple of the bin; DataError for panels without labels or out-of-fold base.
        """
        from cift_models.models.gnn.fit import fit_parts

        parts = fit_parts(config, train, valid, ctx)
        return cls(config, parts.symbols, parts.base_weights, parts.weights), parts.report

    def start(self) -> State:
        return State(memory(len(self.symbols), self.config.bucket_bins[-1])._asdict())

    def update(self, state: State, step: Step) -> tuple[State, Output]:
        if len(step.valid) != len(self.symbols):
            raise SchemaMismatch(
                f"{self.kind}: a step of {len(step.valid)} symbols; the fit had {len(self.symbols)}.",
                hint="Run the universe of the release.",
            )
        refuse_nan(step.x, step.valid, self.kind)
        e = step.events
        out = np.empty(len(step.valid))
        kernel.step(
            Memory(**state), self.weights, self.config.bin_ns, self._bucket_bins, self.config.clip, step.as_of, step.valid, step.why,
            e.ts, e.symbol, e.kind, e.side, e.trade_sz, e.bid_px, e.bid_sz, e.ask_px, e.ask_sz, out,
        )  # fmt: skip
        return state, Output(*self._added(out, step.valid, step.base, step.base_ready))

    def predict(self, panel: Panel) -> Outputs:
        if panel.universe.symbols != self.symbols:
            raise SchemaMismatch(
                f"{self.kind}: the panel has {panel.universe.symbols}; the fit had {self.symbols}.", hint="Run the universe of the release."
            )
        refuse_nan(panel.x, panel.valid, self.kind)
        e = panel.events
        out = np.empty(panel.valid.shape)
        kernel.session(
            memory(len(self.symbols), self.config.bucket_bins[-1]), self.weights, self.config.bin_ns, self._bucket_bins, self.config.clip,
            panel.as_of, panel.valid, panel.why, panel.offsets,
            e.ts, e.symbol, e.kind, e.side, e.trade_sz, e.bid_px, e.bid_sz, e.ask_px, e.ask_sz, out,
        )  # fmt: skip
        return Outputs(*self._added(out, panel.valid, panel.base, panel.base_ready))

    def _added(self, f: NDArray, valid: NDArray, base: dict[str, NDArray], base_ready: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
        """(values, ready) of a Step or a Panel."""
        own = apply_base(self.base_weights, base)
        ready = valid & base_is_ready(base_ready)
        return np.where(ready, own + f, 0.0)[..., None], ready

    def save(self, directory: Path) -> None:
        config = {"kind": self.kind, "config": self.config.model_dump(), "symbols": list(self.symbols)}
        write_weights(directory, config, {"base_weights": self.base_weights, **self.weights._asdict()})

    @classmethod
    def load(cls, directory: Path) -> Self:
        saved = read_config(directory, cls.kind)
        try:
            config, symbols = LeadLagConfig(**saved["config"]), tuple(saved["symbols"])
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(
                f"{directory / 'config.json'} does not describe a {cls.kind}: {error}.", hint="Expected what save() wrote."
            ) from error
        arrays = read_weights(directory, shapes(config, len(symbols)))
        for name, array in arrays.items():
            want = np.dtype(bool if name == "adjacency" else np.float64)
            if array.dtype != want:
                raise ReleaseError(f"{directory}: {name} is {array.dtype}; expected {want}.", hint="The release is damaged.")
        return cls(config, symbols, arrays.pop("base_weights"), Weights(**arrays))


def shapes(config: LeadLagConfig, assets: int) -> dict[str, tuple[int | None, ...]]:
    """Shape of every stored array."""
    buckets, width = len(config.bucket_bins), config.heads * config.channels
    summary: dict[str, Any] = {
        "base_weights": (assets, 2),
        "center": (assets, buckets + 1, FEATURES),
        "scale": (assets, buckets + 1, FEATURES),
        "adjacency": (assets, assets),
        "left": (width, FEATURES),
        "left_bias": (width,),
        "right": (width, FEATURES),
        "right_bias": (width,),
        "edge": (assets, assets, buckets, width),
        "attention": (config.heads, config.channels),
        "bias": (width,),
        "readout": (width,),
        "gain": (assets,),
    }
    return summary
