"""The compiled bins, buckets and attention against slow loops and against torch_geometric."""

import math

import numpy as np
import pytest

from cift_models.events import BOOK, EMPTY_BID, HALT, TRADE
from cift_models.models.gnn import kernel
from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.graph import graph
from cift_models.models.gnn.lead_lag import LeadLagResult, binned_moves
from cift_models.models.protocol import Why
from tests.panels import OPEN, toy_panel

BIN = 50_000_000
BUCKETS = (1, 3, 8, 20)


def slow_flow(before, after):
    """Cont, Kukanov and Stoikov's e_n from two (bid, bid size, ask, ask size)."""
    (b0, qb0, a0, qa0), (b, qb, a, qa) = before, after
    return (b >= b0) * qb - (b <= b0) * qb0 - (a <= a0) * qa + (a >= a0) * qa0


def slow_buckets(panel, t, s):
    """Raw features of asset s at step t, from the list of its events: [L + 1][F]. No ring, no carried state."""
    e, now = panel.events, int(panel.as_of[t])
    effects, book, mid = [], None, None
    for i in range(int(panel.offsets[t + 1])):
        if e.symbol[i] != s:
            continue
        move = flow = volume = 0
        if e.kind[i] & HALT:
            book = mid = None
        if e.kind[i] & BOOK:
            after = (int(e.bid_px[i, 0]), int(e.bid_sz[i, 0]), int(e.ask_px[i, 0]), int(e.ask_sz[i, 0]))
            flow = slow_flow(book, after) if book else 0
            book = after
            if after[0] != EMPTY_BID:
                move = after[0] + after[2] - mid if mid is not None else 0
                mid = after[0] + after[2]
        if e.kind[i] & TRADE:
            volume = int(e.side[i]) * int(e.trade_sz[i])
        effects.append((int(e.ts[i]), move, flow, volume))
    rows = []
    for start, end in zip((0, *BUCKETS[:-1], 0), (*BUCKETS, BUCKETS[-1]), strict=True):
        inside = [x for x in effects if now - end * BIN < x[0] <= now - start * BIN]
        seen = [x[0] for x in effects if now - BUCKETS[-1] * BIN < x[0] <= now - start * BIN]
        age = (now - start * BIN - seen[-1]) / BIN if seen else BUCKETS[-1]
        move, flow, volume = (sum(x[c] for x in inside) for c in (1, 2, 3))
        rows.append([move, math.copysign(math.log1p(abs(flow)), flow), math.copysign(math.log1p(abs(volume)), volume), math.log1p(age)])
    return rows


def described(panel):
    e = panel.events
    out = np.zeros((len(panel), len(panel.universe), len(BUCKETS) + 1, kernel.FEATURES))
    kernel.describe_session(
        kernel.memory(len(panel.universe), BUCKETS[-1]), BIN, np.array(BUCKETS), panel.as_of, panel.why, panel.offsets, e.ts, e.symbol,
        e.kind, e.side, e.trade_sz, e.bid_px, e.bid_sz, e.ask_px, e.ask_sz, np.ones(len(panel), bool), out,
    )  # fmt: skip
    return out


def test_buckets_equal_a_list_of_events():
    """Times on the edge of a bin, an empty side and a halt included."""
    panel = toy_panel(seed=3, steps=40, rate_hz=8.0)
    e = panel.events
    e.ts[::3] -= e.ts[::3] % BIN  # on the edge: the bin that ends there
    e.ts[:] = np.sort(np.maximum(e.ts, OPEN))
    panel.offsets[1:] = np.searchsorted(e.ts, panel.as_of, "right")
    e.bid_px[100::37, 0], e.bid_sz[100::37, 0] = EMPTY_BID, 0
    e.kind[300] = HALT
    fast = described(panel)
    for t in range(0, 40, 3):
        for s in range(3):
            np.testing.assert_allclose(fast[t, s], slow_buckets(panel, t, s), rtol=0, atol=1e-12)
    assert np.abs(fast[:, :, :, :3]).max() > 0


def test_first_book_makes_no_flow_and_a_quiet_asset_is_as_old_as_the_window():
    panel = toy_panel(seed=1, steps=5, symbols=2)
    panel.events.symbol[:] = 0
    panel.events.symbol[0] = 1
    fast = described(panel)
    assert np.all(fast[:, 1, :, :2] == 0)
    assert fast[-1, 1, 0, 3] == math.log1p(BUCKETS[-1])


@pytest.mark.parametrize("why", [Why.GAP, Why.HALTED, Why.ABSENT])
def test_nothing_is_computed_across_a_gap(why):
    panel = toy_panel(seed=2, steps=30)
    panel.why[12, 1] = why
    after = described(panel)[13:, 1]
    fresh = toy_panel(seed=2, steps=30)
    begin = int(fresh.offsets[13])
    fresh.events.kind[:begin][fresh.events.symbol[:begin] == 1] = 0
    fresh.events.ts[:begin][fresh.events.symbol[:begin] == 1] = OPEN  # outside every later window
    np.testing.assert_array_equal(after, described(fresh)[13:, 1])


def test_bins_of_the_prior_add_up_to_the_newest_bucket():
    panel = toy_panel(seed=4, steps=30)
    moves = binned_moves(panel, BIN)
    assert len(moves) == 30 * 20
    np.testing.assert_array_equal(moves[19::20], described(panel)[:, :, 0, 0])


def random_prior(rng, assets, lags=24):
    t = rng.normal(0, 3, (assets, assets, lags))
    t[np.arange(assets), np.arange(assets)] = 0
    return LeadLagResult((), 0.0, 4.0, np.zeros(0), t, t / 100, BIN, 10_000)


def random_network(rng, assets, config):
    """A network whose every number is far from 0, its graph, and the kernel's weights."""
    import torch

    from cift_models.models.gnn.network import exported, network

    tied = graph(random_prior(rng, assets), config.bucket_bins, 4, config.neighbours)
    torch.manual_seed(int(rng.integers(1 << 30)))
    net = network(config, tied.attributes.shape[-1])
    for parameter in (net["readout"].weight, net["conv"].bias, net["conv"].lin_l.bias, net["conv"].lin_r.bias):
        torch.nn.init.normal_(parameter)
    shape = (assets, len(config.bucket_bins) + 1, kernel.FEATURES)
    return net, tied, exported(net, tied, np.zeros(shape), np.ones(shape), np.ones(assets))


def attended(x, present, weights):
    out = np.zeros(len(x))
    alpha = np.zeros((len(x), len(x), x.shape[1] - 1, len(weights.attention)))
    kernel.attend(x, present, weights, out, alpha)
    return out, alpha


@pytest.mark.torch
@pytest.mark.parametrize(("assets", "neighbours"), [(1, 4), (3, 4), (6, 2)])
def test_attention_equals_torch_geometric(assets, neighbours):
    import torch

    from cift_models.models.gnn.network import Batches

    rng = np.random.default_rng(assets)
    config = LeadLagConfig(bucket_bins=BUCKETS, heads=3, channels=5, neighbours=neighbours, batch=64)
    net, tied, weights = random_network(rng, assets, config)
    assert tied.adjacency.sum(axis=1).tolist() == [1 + min(neighbours, assets - 1)] * assets
    x = rng.normal(size=(64, assets, len(BUCKETS) + 1, kernel.FEATURES)).astype(np.float32)
    present = rng.uniform(size=(64, assets)) < 0.7
    batches = Batches(tied, 64, "cpu")
    with torch.no_grad():
        f, weight, _ = batches.forward(net, torch.from_numpy(x), torch.from_numpy(present), torch.zeros(64, dtype=bool))
    total = 0.0
    for t in range(64):
        out, alpha = attended(x[t].astype(np.float64), present[t], weights)
        np.testing.assert_allclose(out[present[t]], f[t].numpy()[present[t]], rtol=0, atol=1e-5)
        assert np.all(out[~present[t]] == 0)
        assert np.all(alpha[:, ~present[t]] == 0)
        np.testing.assert_allclose(alpha.sum(axis=(1, 2))[present[t]], 1.0, atol=1e-12)
        total += alpha.sum()
    assert total == pytest.approx(float(weight.sum()), rel=1e-5)


@pytest.mark.torch
def test_renaming_the_assets_renames_the_outputs():
    """Permutation equivariance: data, scaling and edges permuted together permute the output."""
    rng = np.random.default_rng(5)
    config = LeadLagConfig(bucket_bins=BUCKETS, neighbours=3)
    _, _, weights = random_network(rng, 6, config)
    x, present = rng.normal(size=(6, len(BUCKETS) + 1, kernel.FEATURES)), np.array([1, 1, 0, 1, 1, 1], bool)
    order = rng.permutation(6)
    renamed = weights._replace(adjacency=weights.adjacency[order][:, order], edge=np.ascontiguousarray(weights.edge[order][:, order]))
    out, _ = attended(x, present, weights)
    np.testing.assert_allclose(attended(x[order], present[order], renamed)[0], out[order], atol=1e-12)
    assert np.ptp(out) > 0.1


@pytest.mark.torch
def test_an_absent_asset_is_no_node_and_not_a_zero():
    """Without asset 1 the others get what a universe without it gives; a node of zeros would be heard."""
    rng = np.random.default_rng(6)
    _, _, weights = random_network(rng, 3, LeadLagConfig(bucket_bins=BUCKETS))
    x = rng.normal(size=(3, len(BUCKETS) + 1, kernel.FEATURES))
    keep = np.array([0, 2])
    smaller = weights._replace(adjacency=weights.adjacency[keep][:, keep], edge=np.ascontiguousarray(weights.edge[keep][:, keep]))
    without, _ = attended(x, np.array([True, False, True]), weights)
    np.testing.assert_array_equal(without[keep], attended(x[keep], np.ones(2, bool), smaller)[0])
    silent = x.copy()
    silent[1] = 0.0
    assert np.abs(attended(silent, np.ones(3, bool), weights)[0] - without)[keep].min() > 1e-3


@pytest.mark.torch
def test_an_isolated_node_is_the_single_asset_model():
    rng = np.random.default_rng(7)
    _, _, weights = random_network(rng, 4, LeadLagConfig(bucket_bins=BUCKETS))
    x = rng.normal(size=(4, len(BUCKETS) + 1, kernel.FEATURES))
    for s in range(4):
        own = weights._replace(adjacency=np.ones((1, 1), bool), edge=np.ascontiguousarray(weights.edge[s : s + 1, s : s + 1]))
        single, _ = attended(x[s : s + 1], np.ones(1, bool), own)
        assert attended(x, np.arange(4) == s, weights)[0][s] == single[0]
