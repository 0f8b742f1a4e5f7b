"""The graph that the network attends over: which sources a target hears, and what is known of each edge before training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.models.gnn.lead_lag import LeadLagResult

# Prior strength is held within this many thresholds: a planted edge of 1.5 % of variance over four hours stands at three.
STRENGTH_CLIP = 3.0


class Graph(NamedTuple):
    """adjacency bool[S, S] [target, source], its diagonal true; attributes float32[S, S, L, L + 3] of [target, source, lag].

    Attributes of an edge: its lag one-hot, whether it comes from the target itself, the prior's signed strength and its size.
    """

    adjacency: NDArray[np.bool_]
    attributes: NDArray[np.float32]


def bucket_strength(prior: LeadLagResult, bucket_bins: tuple[int, ...], horizon: int) -> NDArray[np.float64]:
    """float64[S, S, L] [source, target, bucket]: the t of a bucket's move for the target's move over the next `horizon` bins.

    A source bin that ended b bins ago meets the h-th of the next bins at lag b + h, so lag l counts c_l = #{(b, h): b + h = l}
    times; for independent t's of unit variance, sum c_l t_l / sqrt(sum c_l^2) has unit variance too. Lags the prior lacks are left out.
    """
    starts = (0, *bucket_bins[:-1])
    out = np.zeros((*prior.t.shape[:2], len(bucket_bins)))
    for k, (start, end) in enumerate(zip(starts, bucket_bins, strict=True)):
        counts = np.convolve(np.ones(end - start), np.ones(horizon))[: max(prior.t.shape[2] - start, 0)]
        lags = prior.t[:, :, start : start + len(counts)]
        if lags.shape[2]:
            out[:, :, k] = lags @ counts / np.sqrt(np.sum(counts**2))
    return out


def graph(prior: LeadLagResult, bucket_bins: tuple[int, ...], horizon: int, neighbours: int) -> Graph:
    """Each target hears itself and the `neighbours` sources whose strongest bucket is largest; ties go to the earlier place."""
    strength = bucket_strength(prior, bucket_bins, horizon)
    assets, buckets = strength.shape[0], len(bucket_bins)
    adjacency = np.eye(assets, dtype=bool)
    peak = np.abs(strength).max(axis=2)
    for target in range(assets):
        others = [j for j in np.argsort(-peak[:, target], kind="stable") if j != target]
        adjacency[target, others[:neighbours]] = True
    scaled = np.clip(strength / prior.threshold, -STRENGTH_CLIP, STRENGTH_CLIP).transpose(1, 0, 2)
    attributes = np.zeros((assets, assets, buckets, buckets + 3), np.float32)
    attributes[..., :buckets] = np.eye(buckets)
    attributes[..., buckets] = np.eye(assets)[:, :, None]
    attributes[..., buckets + 1] = scaled
    attributes[..., buckets + 2] = np.abs(scaled)
    return Graph(adjacency, attributes)
