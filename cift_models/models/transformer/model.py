"""The transformer as a model: fitted on what the base leaves, served without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cift_models.errors import DataError, ReleaseError, SchemaMismatch
from cift_models.files import canonical_json, write_atomic
from cift_models.models.protocol import FitContext, FitReport, Output, Outputs, Panel, State, Step
from cift_models.models.residual_base import NEEDS, fit_base
from cift_models.models.transformer.channels import Channels
from cift_models.models.transformer.config import TransformerConfig
from cift_models.models.transformer.corpus import HELD_OUT, TRAIN, Corpus, base_columns, build, usable_rows
from cift_models.models.transformer.gate import EVEN_T, ODD_T, kept_share
from cift_models.models.transformer.kernel import Weights, advance

MIN_LABELS = 200  # fewer cannot tell a forecast that explains 2 % from one that explains nothing: the base then speaks alone


class OrderFlowTransformer:
    """base + f: the ridge of the linear and Hawkes forecasts, and what a network finds beyond it in the last steps of the symbol.

    A row is a token where it is valid and both forecasts of the base are ready; other rows do not enter the window, in a fit as live. The
    forecast is ready on the same rows, from the first token on. f is scaled by `gates` (odd part, even part): 0 where the rows held out do
    not support it, and with both 0 the model is the base, to the bit.
    """

    kind: ClassVar[str] = "transformer"
    needs: ClassVar[tuple[str, ...]] = NEEDS
    Config: ClassVar[type[TransformerConfig]] = TransformerConfig
    outputs: tuple[str, ...] = ("mean_bps",)

    def __init__(
        self, config: TransformerConfig, symbols: tuple[str, ...], channels: Channels, clock_ns: int, arrays: dict[str, NDArray]
    ) -> None:
        """Fitted parameters by name, see `shapes`. Use `fit` or `load`."""
        self.config, self.symbols, self.channels, self.clock_ns, self.arrays = config, symbols, channels, clock_ns, arrays
        self.on = bool(np.any(arrays["gates"] > 0))
        head = (arrays["head"] * arrays["gates"][:, None]).astype(np.float32)
        self.weights = Weights(**{name: np.ascontiguousarray(arrays[name]) for name in Weights._fields if name != "head"}, head=head)

    @classmethod
    def fit(
        cls, config: TransformerConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext
    ) -> tuple[OrderFlowTransformer, FitReport]:
        """Learn from rows & valid & base_oof & base ready. Early stop and gates use the rows of `valid`, else the last tenth of the labels.

        O(epochs * rows). Facts say whether f was kept ("switched_off" and why), the t-statistics behind it and the channels it reads.
        Raises DataError where `train` is empty or a row that is used is not finite.
        """
        base_weights = fit_base(train)
        panel = next(iter(train))
        channels = Channels.of(panel.features)
        corpus = build(train, valid, channels, base_weights, ctx.workdir)
        n_rows = int(np.sum(corpus.label == TRAIN))
        arrays = {
            "base_weights": base_weights,
            "centre": corpus.centre,
            "scale": corpus.scale,
            "size_bps": corpus.size_bps,
            "columns": channels.columns(panel.features),
            "gates": np.zeros(2),
        }
        found, report = fit_networks(config, channels, corpus, n_rows, ctx)
        model = cls(config, panel.universe.symbols, channels, panel.features.clock_ns, arrays | found)
        report.facts["base_weights"] = {symbol: list(map(float, w)) for symbol, w in zip(model.symbols, base_weights, strict=True)}
        return model, report

    def start(self) -> State:
        """Empty rings. Read and written in place by `update`; per symbol a window of keys and values for each network and layer."""
        c, symbols = self.config, len(self.symbols)
        ring = (symbols, c.seeds, c.layers, c.heads)
        each = c.width // c.heads
        return State(
            keys=np.zeros((*ring, 2, each, c.window), np.float32),
            values=np.zeros((*ring, c.window, 2, each), np.float32),
            seen=np.zeros(symbols, np.int64),
            origin=np.zeros(symbols, np.int64),
        )

    def update(self, state: State, step: Step) -> tuple[State, Output]:
        """Take one step; O(layers * (width^2 + window * width)) a symbol and network. Raises DataError for values that are not finite."""
        usable = usable_rows(step)
        linear, hawkes = base_columns(step.base)
        out = np.empty((1, len(usable)))
        self.advance(state, np.array([step.as_of]), step.x[None], linear[None], hawkes[None], usable[None], out)
        return state, Output(out.reshape(-1, 1), usable)

    def predict(self, panel: Panel) -> Outputs:
        """The fold of `update` over the panel, by the same kernel. Raises SchemaMismatch where the panel's columns are others."""
        if not np.array_equal(self.channels.columns(panel.features), self.arrays["columns"]):
            raise SchemaMismatch("The transformer was fitted on another order of columns.", hint="Build the features with its feature set.")
        usable = usable_rows(panel)
        linear, hawkes = base_columns(panel.base)
        out = np.empty(usable.shape)
        self.advance(self.start(), panel.as_of, panel.x, linear, hawkes, usable, out)
        return Outputs(out[..., None], usable)

    def advance(self, state: State, as_of, x, linear, hawkes, usable, out) -> None:
        """The kernel with this model's parameters."""
        a = self.arrays
        fitted = a["columns"], a["centre"], a["scale"], a["base_weights"], a["size_bps"], self.clock_ns, self.on, self.weights
        memory = state["keys"], state["values"], state["seen"], state["origin"]
        advance(as_of, np.ascontiguousarray(x), np.ascontiguousarray(linear), np.ascontiguousarray(hawkes), usable, *fitted, *memory, out)

    def save(self, directory: Path) -> None:
        """config.json and weights.safetensors."""
        from safetensors.numpy import save

        about = {
            "kind": self.kind,
            "config": self.config.model_dump(),
            "symbols": list(self.symbols),
            "odd": [list(pair) for pair in self.channels.odd],
            "even": [list(pair) for pair in self.channels.even],
            "clock_ns": self.clock_ns,
        }
        write_atomic(directory / "config.json", canonical_json(about))
        write_atomic(directory / "weights.safetensors", save({k: np.ascontiguousarray(v) for k, v in sorted(self.arrays.items())}))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote. Raises ReleaseError where a file is missing, damaged, or does not fit its config."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            about = json.loads((directory / "config.json").read_bytes())
            arrays = load((directory / "weights.safetensors").read_bytes())
            config = cls.Config(**about["config"])
            channels = Channels(*(tuple((str(name), int(code)) for name, code in about[group]) for group in ("odd", "even")))
            symbols, clock_ns = tuple(map(str, about["symbols"])), int(about["clock_ns"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, ValidationError) as error:
            raise ReleaseError(f"{directory}: not a transformer: {error}.", hint="Save the model again.") from error
        if about.get("kind") != cls.kind or clock_ns <= 0:
            raise ReleaseError(f"{directory}: expected kind transformer and a clock above 0. Found {about.get('kind')!r}, {clock_ns} ns.")
        expected = shapes(config, len(symbols), channels)
        if arrays.keys() != expected.keys():
            raise ReleaseError(f"{directory}: expected the arrays {sorted(expected)}. Found {sorted(arrays)}.")
        for name, (shape, dtype) in expected.items():
            if arrays[name].shape != shape or arrays[name].dtype != dtype or not np.isfinite(arrays[name]).all():
                found = f"{arrays[name].dtype}{arrays[name].shape}"
                raise ReleaseError(f"{directory}: expected {name} to be {np.dtype(dtype)}{shape}, finite. Found {found}.")
        return cls(config, symbols, channels, clock_ns, arrays)


def shapes(config: TransformerConfig, symbols: int, channels: Channels) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of every fitted array."""
    c, each, f32, f64 = config, config.width // config.heads, np.float32, np.float64
    n, outer, inner = channels.n_odd + channels.n_even, (c.seeds,), (c.seeds, c.layers)
    square = ((*inner, 2, c.width, c.width), f32)
    return {
        "base_weights": ((symbols, 2), f64),
        "centre": ((symbols, n), f64),
        "scale": ((symbols, n), f64),
        "size_bps": ((symbols,), f64),
        "columns": ((1 + len(channels.odd) + len(channels.even), 2), np.int64),
        "gates": ((2,), f64),
        "embed_odd": ((*outer, channels.n_odd, c.width), f32),
        "embed_even": ((*outer, channels.n_even, c.width), f32),
        "embed_bias": ((*outer, c.width), f32),
        "gain_attention": ((*inner, 2, c.width), f32),
        "query": square,
        "key": square,
        "value": square,
        "attention_out": square,
        "gain_feed": ((*inner, 2, c.width), f32),
        "feed_gate": ((*inner, c.width, 2 * c.hidden), f32),
        "feed_value": ((*inner, 2, c.width, c.hidden), f32),
        "feed_partner": ((*inner, c.width, c.hidden), f32),
        "odd_out": ((*inner, c.hidden, c.width), f32),
        "even_out": ((*inner, 2 * c.hidden, c.width), f32),
        "head": ((*outer, 2, c.width), f32),
        "frequencies": ((each // 2,), f64),
    }


def fit_networks(
    config: TransformerConfig, channels: Channels, corpus: Corpus, n_rows: int, ctx: FitContext
) -> tuple[dict[str, NDArray], FitReport]:
    """Train config.seeds networks, one after the other, and weigh their mean on the rows held out. Arrays of the networks and `gates`."""
    from cift_models.models.transformer.network import Network, Sizes, rope_frequencies
    from cift_models.models.transformer.training import fit_network, quiet

    sizes = Sizes(channels.n_odd, channels.n_even, config.width, config.heads, config.layers, config.hidden, config.window)
    held = int(np.sum(corpus.label == HELD_OUT))
    gates, t, curves, statuses, networks = np.zeros(2), np.zeros(2), {}, ["converged"], []
    facts: dict[str, Any] = {"rows_held_out": held}
    if n_rows < MIN_LABELS or held == 0:
        with quiet(ctx.threads, ctx.seed):
            networks = [Network(sizes).arrays()] * config.seeds
        why = f"{n_rows} rows to learn from and {held} held out: too few"
    else:
        total, statuses, epochs = np.zeros((2, held)), [], []
        for k in range(config.seeds):
            fitted = fit_network(
                config,
                sizes,
                corpus,
                ctx.seed + k,
                threads=ctx.threads,
                device=ctx.device,
                file=None if ctx.workdir is None else ctx.workdir / f"network_{k}.safetensors",
                report=lambda share, k=k: ctx.progress("transformer", (k + share) / config.seeds),
            )
            parts, target, index = fitted.judge(fitted.best)
            total = total + parts / config.seeds
            networks.append(fitted.best.arrays())
            suffix = "" if config.seeds == 1 else f"_{k}"
            curves |= {f"train_loss{suffix}": fitted.at.train_loss, f"valid_loss{suffix}": fitted.at.valid_loss}
            statuses.append(fitted.at.status)
            epochs.append(fitted.at.best_epoch)
        for part, threshold in enumerate((ODD_T, EVEN_T)):
            gates[part], t[part] = kept_share(total[part], target, corpus.block[index], threshold)
        left = np.sum(target**2)
        facts["held_out_gain_r2"] = float(1.0 - np.sum((target - gates @ total) ** 2) / left) if left > 0 else 0.0
        facts["best_epochs"] = epochs
        why = f"t of f on the rows held out: odd part {t[0]:.2f} (needs {ODD_T}), even part {t[1]:.2f} (needs {EVEN_T})"
    arrays = {name: np.stack([network[name] for network in networks]) for name in networks[0]}
    arrays |= {"gates": gates, "frequencies": rope_frequencies(sizes).numpy()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError("The transformer's fit left weights that are not finite.", hint="Report this: `best` holds finite epochs only.")
    strength = [np.linalg.norm(arrays[name], axis=2).mean(axis=0) for name in ("embed_odd", "embed_even")]
    reads = {name: round(float(v), 4) for name, v in zip(channels.names, np.concatenate(strength), strict=True) if v > 0.01}
    facts |= {
        "switched_off": not gates.any(),
        "why": why,
        "gates": list(map(float, gates)),
        "gate_t": list(map(float, t)),
        "channels": dict(sorted(reads.items(), key=lambda item: -item[1])),
        "parameters_per_network": int(sum(a[0].size for n, a in arrays.items() if n not in ("gates", "frequencies"))),
    }
    status = "diverged" if "diverged" in statuses else "converged"
    return arrays, FitReport(status, n_rows, curves, facts)
