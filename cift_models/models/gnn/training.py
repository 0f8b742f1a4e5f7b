"""Training of the network, and the gate that lets in as much of it as held-out rows support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.instruments import SECOND
from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.graph import Graph
from cift_models.models.gnn.network import Batches, network
from cift_models.models.gnn.rows import Rows
from cift_models.models.protocol import FitContext

if TYPE_CHECKING:
    import torch

BLOCK_NS = 60 * SECOND
"""Loss differences are averaged in blocks of this before their standard error is taken."""


class Scaling(NamedTuple):
    """center, scale[S, L + 1, F] of the features over training rows where present; unit[S]: root mean square of the residual, bps."""

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    unit: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trained:
    """net; status as in FitReport; loss of training and judged rows by epoch, as shares of the base's."""

    net: torch.nn.ModuleDict
    status: str
    curves: dict[str, list[float]]


def scaling(rows: Rows) -> Scaling:
    """A symbol that is never present has scale 0: its features are 0."""
    assets = rows.x.shape[1]
    center, scale, unit = np.zeros(rows.x.shape[1:]), np.zeros(rows.x.shape[1:]), np.zeros(assets)
    for s in range(assets):
        seen = rows.x[rows.present[:, s], s].astype(np.float64)
        if len(seen):
            center[s], scale[s] = seen.mean(axis=0), seen.std(axis=0)
        residual = rows.residual[rows.label[:, s], s]
        if len(residual):
            unit[s] = np.sqrt(np.mean(residual**2))
    return Scaling(center, scale, unit)


def scaled_features(rows: Rows, scale: Scaling, clip: float) -> NDArray[np.float32]:
    """kernel.normalise on many rows at once."""
    ratio = np.divide(rows.x - scale.center, scale.scale, out=np.zeros(rows.x.shape), where=scale.scale > 0)
    return np.clip(ratio, -clip, clip).astype(np.float32)


def scaled_target(rows: Rows, scale: Scaling) -> NDArray[np.float32]:
    return np.divide(rows.residual, scale.unit, out=np.zeros_like(rows.residual), where=scale.unit > 0).astype(np.float32)


def train(config: LeadLagConfig, graph: Graph, learn: Rows, judge: Rows, scale: Scaling, ctx: FitContext) -> Trained:
    """AdamW on the squared error of the scaled residual, cosine rate.

    The weights with the least judged loss are kept; those of the start, f = 0, are among them. Without rows to learn from or to judge
    on they are what is returned.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(ctx.threads)
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if ctx.device == "cuda" else []):
            torch.manual_seed(ctx.seed)
            net = network(config, graph.attributes.shape[-1]).to(ctx.device)
            return _descend(net, config, graph, learn, judge, scale, ctx)
    finally:
        torch.set_num_threads(before)


def _descend(
    net: torch.nn.ModuleDict, config: LeadLagConfig, graph: Graph, learn: Rows, judge: Rows, scale: Scaling, ctx: FitContext
) -> Trained:
    import torch

    batches = Batches(graph, config.batch, ctx.device)
    x, present, label, target = (
        torch.from_numpy(a).to(ctx.device)
        for a in (scaled_features(learn, scale, config.clip), learn.present, learn.label, scaled_target(learn, scale))
    )
    draws = torch.Generator().manual_seed(ctx.seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * config.epoch_steps)
    curves: dict[str, list[float]] = {"train": [], "valid": []}
    best, best_loss, best_epoch = {k: v.clone() for k, v in net.state_dict().items()}, 1.0, 0
    if not learn.label.any() or not judge.label.any():
        return Trained(net, "converged", curves)
    order, at = torch.randperm(len(learn), generator=draws), 0
    for epoch in range(config.epochs):
        total, labels = 0.0, 0
        for _ in range(config.epoch_steps):
            if at >= len(order):
                order, at = torch.randperm(len(learn), generator=draws), 0
            rows = order[at : at + config.batch].to(ctx.device)
            at += config.batch
            alone = (torch.rand(len(rows), generator=draws) < config.absent_share).to(ctx.device)
            f, _, _ = batches.forward(net, x[rows], present[rows], alone)
            error = ((f - target[rows]) ** 2)[label[rows]]
            if not len(error):
                continue
            optimiser.zero_grad()
            error.mean().backward()
            optimiser.step()
            rate.step()
            total, labels = total + float(error.detach().sum()), labels + len(error)
        judged = evaluate(net, config, graph, judge, scale, ctx.device)
        curves["train"].append(total / max(labels, 1))
        curves["valid"].append(loss_share(judged, scaled_target(judge, scale), judge.label))
        ctx.progress("gnn", (epoch + 1) / config.epochs)
        if not np.isfinite(curves["train"][-1] + curves["valid"][-1]):
            net.load_state_dict(best)
            return Trained(net, "diverged", {k: [v for v in c if np.isfinite(v)] for k, c in curves.items()})
        if curves["valid"][-1] < best_loss:
            best, best_loss, best_epoch = {k: v.clone() for k, v in net.state_dict().items()}, curves["valid"][-1], epoch
        elif epoch - best_epoch >= config.patience:
            net.load_state_dict(best)
            return Trained(net, "converged", curves)
    net.load_state_dict(best)
    return Trained(net, "max_iter", curves)


def loss_share(f: NDArray, target: NDArray, label: NDArray[np.bool_]) -> float:
    """Squared error of f over that of 0, on labels; 1 where there is none."""
    power = float(np.sum(target[label].astype(np.float64) ** 2))
    return float(np.sum((f - target)[label].astype(np.float64) ** 2)) / power if power > 0 else 1.0


def evaluate(
    net: torch.nn.ModuleDict, config: LeadLagConfig, graph: Graph, rows: Rows, scale: Scaling, device: str, alone: bool = False
) -> NDArray[np.float64]:
    """f[n, S] in units of the scaled residual; 0 where a node is not present. `alone`: every node sees itself only."""
    return _run(net, config, graph, rows, scale, device, alone)[0]


def mean_attention(
    net: torch.nn.ModuleDict, config: LeadLagConfig, graph: Graph, rows: Rows, scale: Scaling, device: str
) -> NDArray[np.float64]:
    """float64[S, S, L] [source, target, lag]: mean attention over rows and heads where the target is present.

    Sums to 1 over (source, lag).
    """
    return _run(net, config, graph, rows, scale, device, False)[1]


def _run(
    net: torch.nn.ModuleDict, config: LeadLagConfig, graph: Graph, rows: Rows, scale: Scaling, device: str, alone: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import torch

    batches = Batches(graph, config.batch, device)
    x = scaled_features(rows, scale, config.clip)
    assets, buckets = batches.assets, batches.buckets
    out = np.zeros((len(rows), assets))
    weight = np.zeros(assets * assets * buckets)
    with torch.no_grad():
        for start in range(0, len(rows), config.batch):
            part = slice(start, start + config.batch)
            present = torch.from_numpy(rows.present[part]).to(device)
            isolated = torch.full((len(present),), alone, device=device)
            f, alpha, kept = batches.forward(net, torch.from_numpy(x[part]).to(device), present, isolated)
            out[part] = f.cpu().numpy()
            node, target = batches.source[kept] % (assets * buckets), batches.target[kept] % assets
            place = ((node // buckets) * assets + target) * buckets + node % buckets
            weight += np.bincount(place.cpu().numpy(), alpha.mean(dim=1).double().cpu().numpy(), minlength=len(weight))
    times = np.maximum(rows.present.sum(axis=0), 1)
    return np.where(rows.present, out, 0.0), weight.reshape(assets, assets, buckets) / times[None, :, None]


class Gate(NamedTuple):
    """share[S]: how much of f is added; fit[S] its least squares value, error[S] that one's standard error over 60-s blocks."""

    share: NDArray[np.float64]
    fit: NDArray[np.float64]
    error: NDArray[np.float64]


def gate(f: NDArray[np.float64], residual: NDArray[np.float64], label: NDArray[np.bool_], as_of: NDArray[np.int64]) -> Gate:
    """Per symbol g = sum r f / sum f^2 on held-out rows, shrunk by 1 - 1/t^2 (t = g over its block error), held within 0 and 1.

    |t| <= 1 or a negative g switches the symbol off: the addition's expected squared error would not pay for its variance. Fewer than
    two blocks: off.
    """
    assets = f.shape[1]
    share, fit, error = np.zeros(assets), np.zeros(assets), np.zeros(assets)
    for s in range(assets):
        rows = label[:, s]
        power = float(np.sum(f[rows, s] ** 2))
        _, block = np.unique(as_of[rows] // BLOCK_NS, return_inverse=True)
        blocks = int(block.max()) + 1 if len(block) else 0
        if power <= 0 or blocks < 2:
            continue
        fit[s] = float(np.sum(residual[rows, s] * f[rows, s])) / power
        score = np.bincount(block, (residual[rows, s] - fit[s] * f[rows, s]) * f[rows, s])
        error[s] = np.sqrt(float(np.sum(score**2)) * blocks / (blocks - 1)) / power
        if fit[s] > error[s]:
            share[s] = min(fit[s], 1.0) * (1.0 - (error[s] / fit[s]) ** 2)
    return Gate(share, fit, error)
