"""The fit from panels to weights: base, rows, prior, graph, network, gate, and what the report says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FitError
from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.graph import graph
from cift_models.models.gnn.kernel import Weights
from cift_models.models.gnn.lead_lag import LeadLagResult, search
from cift_models.models.gnn.network import exported
from cift_models.models.gnn.rows import Rows, gather, split
from cift_models.models.gnn.training import BLOCK_NS, Gate, evaluate, gate, mean_attention, scaling, train
from cift_models.models.protocol import FitContext, FitReport, Panel
from cift_models.models.residual_base import fit_base

JUDGED_SHARE = 0.1
"""Share of the training rows that judges where no validation panels are given."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a fit makes."""

    symbols: tuple[str, ...]
    base_weights: NDArray[np.float64]
    weights: Weights
    report: FitReport


def fit_parts(config: LeadLagConfig, training: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> Parts:
    """See LeadLagGNN.fit."""
    if not len(training):
        raise FitError("gnn: no training panel. Expected at least one.", hint="Load a longer range.")
    first = training[0]
    symbols = first.universe.symbols
    if first.features.clock_ns % config.bin_ns:
        raise FitError(
            f"gnn: the decision clock of {first.features.clock_ns / 1e6:g} ms is no multiple of the bin of {config.bin_ms} ms.",
            hint="Choose bin_ms so that bins end at the instants.",
        )
    base_weights = fit_base(training)
    rows, moves = gather(training, config, base_weights)
    if len(valid):
        learn, judge = rows, gather(valid, config, base_weights)[0]
    else:
        learn, judge = split(rows, JUDGED_SHARE)
    # A panel may go on after its last label: what the prior saw there would be younger than the fit's max_train_t1.
    taught = int(learn.label_end.max()) if len(learn) else 0
    horizon = horizon_bins(rows, config)
    prior = search(
        [m.until(taught, config.bin_ns).moves for m in moves], config.bucket_bins[-1] + horizon,
        bin_ns=config.bin_ns, shifts=config.shifts, level=config.level, seed=ctx.seed, max_bins=config.max_bins,
    )  # fmt: skip
    tied = graph(prior, config.bucket_bins, horizon, config.neighbours)
    scale = scaling(learn)
    trained = train(config, tied, learn, judge, scale, ctx)
    f, alone = (evaluate(trained.net, config, tied, judge, scale, ctx.device, alone=a) for a in (False, True))
    units = np.where(scale.unit > 0, scale.unit, 1.0)
    opened = gate(f, judge.residual / units, judge.label, judge.as_of)
    shut = gate(alone, judge.residual / units, judge.label, judge.as_of)
    attention = mean_attention(trained.net, config, tied, judge, scale, ctx.device)
    facts = report_facts(symbols, config, base_weights, judge, prior, attention, opened)
    facts["gain_with_neighbours"] = gains(judge, f * opened.share * scale.unit, symbols)
    facts["gain_without_neighbours"] = gains(judge, alone * shut.share * scale.unit, symbols)
    facts["max_train_t1"] = max(taught, int(judge.label_end.max()) if len(judge) else 0) or None
    weights = exported(trained.net, tied, scale.center, scale.scale, opened.share * scale.unit)
    report = FitReport(trained.status, int(learn.label.sum()), trained.curves, facts)
    return Parts(symbols, base_weights, weights, report)


def horizon_bins(rows: Rows, config: LeadLagConfig) -> int:
    """How many bins a label looks ahead: the median, no more than the window, at least one."""
    if not len(rows):
        return 1
    return int(np.clip(np.median(rows.label_end - rows.as_of) // config.bin_ns, 1, config.bucket_bins[-1]))


def gains(rows: Rows, added: NDArray[np.float64], symbols: tuple[str, ...]) -> dict[str, Any]:
    """R2 against zero that `added` (bps) puts on top of the base, by symbol, with its standard error over 60-s blocks; None without rows.

    Measured on the rows that chose epoch and gate: optimistic, to be read beside the other, and not as a score.
    """
    out: dict[str, Any] = {}
    for s, symbol in enumerate(symbols):
        keep = rows.label[:, s]
        r, f, power = rows.residual[keep, s], added[keep, s], float(np.sum(rows.y[keep, s] ** 2))
        _, block = np.unique(rows.as_of[keep] // BLOCK_NS, return_inverse=True)
        if power <= 0:
            out[symbol] = None
            continue
        parts = np.bincount(block, r**2 - (r - f) ** 2)
        error = np.sqrt(len(parts) * np.var(parts, ddof=1)) / power if len(parts) > 1 else None
        out[symbol] = {"r2": float(parts.sum()) / power, "standard_error": None if error is None else float(error)}
    return out


def report_facts(
    symbols: tuple[str, ...], config: LeadLagConfig, base_weights: NDArray[np.float64], judge: Rows, prior: LeadLagResult,
    attention: NDArray[np.float64], opened: Gate,
) -> dict[str, Any]:  # fmt: skip
    """JSON values: the gate, the base's weights, the prior, and the attention as [source][target] and by lag."""
    between = attention.copy()
    between[np.arange(len(symbols)), np.arange(len(symbols))] = 0.0
    total = between.sum()
    return {
        "symbols": list(symbols),
        "switched_off": not opened.share.any(),
        "gate": dict(zip(symbols, opened.share.tolist(), strict=True)),
        "gate_least_squares": dict(zip(symbols, opened.fit.tolist(), strict=True)),
        "gate_standard_error": dict(zip(symbols, opened.error.tolist(), strict=True)),
        "base_weights": {s: {"linear": w[0], "hawkes": w[1]} for s, w in zip(symbols, base_weights.tolist(), strict=True)},
        "judged_rows": int(judge.label.sum()),
        "attention": attention.sum(axis=2).tolist(),
        "lag_end_s": [b * config.bin_ns / 1e9 for b in config.bucket_bins],
        "lag_profile": (between.sum(axis=(0, 1)) / total).tolist() if total > 0 else None,
        "own_lag_profile": np.einsum("iik->k", attention).tolist(),
        "prior": prior.as_json(),
    }
