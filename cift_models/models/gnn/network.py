"""The network in torch, for fitting: one GATv2 layer from (asset, lag) nodes to assets, and a read-out that starts at 0."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.graph import Graph
from cift_models.models.gnn.kernel import FEATURES, SLOPE, Weights

if TYPE_CHECKING:
    import torch


def network(config: LeadLagConfig, attributes: int) -> torch.nn.ModuleDict:
    """conv: GATv2Conv on the bipartite graph; readout: its heads to one number, zero, so that base + f starts at the base.

    `attributes` of an edge end with the prior's strength (graph.py).

    Weights are drawn from torch's global generator: seed it first.
    """
    import torch

    with warnings.catch_warnings():
        # torch_geometric 2.8 compiles classes with torch.jit.script while it is imported, which torch 2.13 calls deprecated; and it reads
        # the types of a layer's arguments with a function of typing that Python 3.13 calls deprecated without an argument.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import GATv2Conv

        conv = GATv2Conv(
            (FEATURES, FEATURES), config.channels, config.heads, negative_slope=SLOPE, add_self_loops=False, edge_dim=attributes
        )  # fmt: skip
    with torch.no_grad():
        # Attention starts where the prior points: the last attribute, its strength, raises every term of the score. From an even start a
        # loud edge (R2 .08) in one hour of data was not found in 100 steps; from here it is found in the first epochs.
        conv.get_parameter("lin_edge.weight")[:, -1] = conv.att.reshape(-1).sign()
    readout = torch.nn.Linear(config.heads * config.channels, 1, bias=False)
    torch.nn.init.zeros_(readout.weight)
    return torch.nn.ModuleDict({"conv": conv, "readout": readout})


class Batches:
    """Graphs of many instants side by side, as torch_geometric wants them: the edges of one instant, repeated with an offset."""

    def __init__(self, graph: Graph, size: int, device: str) -> None:
        import torch

        targets, sources = np.nonzero(graph.adjacency)
        assets, buckets = graph.attributes.shape[1], graph.attributes.shape[2]
        source = (sources[:, None] * buckets + np.arange(buckets)).ravel()
        target = np.repeat(targets, buckets)
        at = np.arange(size)[:, None]
        self.assets, self.buckets, self.edges = assets, buckets, len(target)
        self.source = torch.from_numpy((source + at * assets * buckets).ravel()).to(device)
        self.target = torch.from_numpy((target + at * assets).ravel()).to(device)
        self.own = torch.from_numpy(np.tile(np.repeat(targets == sources, buckets), size)).to(device)
        self.attributes = torch.from_numpy(np.tile(graph.attributes[targets, sources].reshape(len(target), -1), (size, 1))).to(device)

    def forward(
        self, net: torch.nn.ModuleDict, x: torch.Tensor, present: torch.Tensor, alone: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
        """f[G, S] for x[G, S, L + 1, F], present bool[G, S], alone bool[G] (instants whose nodes see themselves only).

        Also the attention of the kept edges, [edges, H], and their places in `source` and `target`. f of a node that is not present
        means nothing. No more than `size` instants.
        """
        graphs = len(x)
        n = graphs * self.edges
        source, target, own = self.source[:n], self.target[:n], self.own[:n]
        keep = present.reshape(-1)[source // self.buckets] & present.reshape(-1)[target]
        keep &= own | ~alone.repeat_interleave(self.edges)
        kept = keep.nonzero()[:, 0]
        left = x[:, :, : self.buckets].reshape(-1, x.shape[-1])
        right = x[:, :, self.buckets].reshape(-1, x.shape[-1])
        import torch

        out, (_, alpha) = net["conv"](
            (left, right), torch.stack([source[kept], target[kept]]), self.attributes[:n][kept], return_attention_weights=True
        )  # fmt: skip
        return net["readout"](out).view(graphs, self.assets), alpha, kept


def exported(
    net: torch.nn.ModuleDict, graph: Graph, center: NDArray[np.float64], scale: NDArray[np.float64], gain: NDArray[np.float64]
) -> Weights:  # fmt: skip
    """The network's numbers for the kernel, as float64; the edge term W_e e is multiplied out once."""
    arrays = {name: value.detach().cpu().double().numpy().copy() for name, value in net.state_dict().items()}
    # einsum rather than @: without BLAS, the sum has one order on every machine.
    edge = np.einsum("ijke,de->ijkd", graph.attributes.astype(np.float64), arrays["conv.lin_edge.weight"])
    return Weights(
        center=center,
        scale=scale,
        adjacency=graph.adjacency,
        left=arrays["conv.lin_l.weight"],
        left_bias=arrays["conv.lin_l.bias"],
        right=arrays["conv.lin_r.weight"],
        right_bias=arrays["conv.lin_r.bias"],
        edge=np.ascontiguousarray(edge),
        attention=arrays["conv.att"][0],
        bias=arrays["conv.bias"],
        readout=arrays["readout.weight"][0],
        gain=gain,
    )
