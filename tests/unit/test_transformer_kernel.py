"""The served kernel against the trained network, and the laws that both keep."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import DataError, ReleaseError, SchemaMismatch
from cift_models.models.protocol import FitContext, State, fold
from cift_models.models.residual_base import apply_base, fit_base
from cift_models.models.transformer import OrderFlowTransformer, TransformerConfig
from cift_models.models.transformer.channels import CLIP, Channels, Moments, raw_channels
from cift_models.models.transformer.corpus import build
from tests.panels import toy_panel

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TINY = TransformerConfig(width=8, heads=2, layers=2, hidden=8, window=8, chunk=16, epochs=1)


def random_network(config: TransformerConfig, channels: Channels, seed: int = 0):
    """A network whose every parameter is random, the zeros too: what a fit could end in."""
    from cift_models.models.transformer.network import Network, Sizes

    torch.manual_seed(seed)
    sizes = Sizes(channels.n_odd, channels.n_even, config.width, config.heads, config.layers, config.hidden, config.window)
    network = Network(sizes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def model_of(networks, panel, config: TransformerConfig, gates=(1.0, 1.0)) -> OrderFlowTransformer:
    channels = Channels.of(panel.features)
    weights = fit_base([panel])
    corpus = build([panel], [], channels, weights, None)
    stacked = [network.arrays() for network in networks]
    arrays = {name: np.stack([one[name] for one in stacked]) for name in stacked[0]}
    arrays |= {"base_weights": weights, "centre": corpus.centre, "scale": corpus.scale, "size_bps": corpus.size_bps}
    arrays |= {"columns": channels.columns(panel.features), "gates": np.array(gates), "frequencies": networks[0].frequencies.numpy()}
    return OrderFlowTransformer(config, panel.universe.symbols, channels, panel.features.clock_ns, arrays)


def gappy_panel(seed: int = 0, steps: int = 300):
    """A panel with rows that are not valid, a halt, and a base that is late."""
    panel = toy_panel(seed, steps=steps)
    rng = np.random.default_rng(seed)
    valid = panel.valid & (rng.uniform(size=panel.valid.shape) > 0.1)
    valid[100:140, 1] = False
    x = np.where(valid[..., None], panel.x, np.nan)
    ready = {"linear": valid.copy(), "hawkes": valid & (np.arange(steps) >= 25)[:, None]}
    return replace(panel, x=x, valid=valid, why=np.where(valid, 0, 2).astype(np.int8), base_ready=ready)


def torch_forecast(network, model, panel, dtype) -> np.ndarray:
    """base + size * f by the trained network over whole sequences, [T, S]; 0 where not usable."""
    network = network.to(dtype)
    corpus = build([panel], [], model.channels, model.arrays["base_weights"], None)
    usable = panel.valid & panel.base_ready["linear"] & panel.base_ready["hawkes"]
    window, context = model.config.window, model.config.window * model.config.layers
    out = np.where(usable, apply_base(model.arrays["base_weights"], panel.base), 0.0)
    for s, (first, last) in enumerate(corpus.bounds):
        length = -(-(last - first) // window) * window
        index = torch.arange(-context, length)
        real = (index >= 0) & (index < last - first)
        rows = (first + index).clamp(first, last - 1)
        tokens, place = torch.from_numpy(corpus.tokens)[rows].to(dtype), torch.from_numpy(corpus.place)[rows]
        with torch.no_grad():
            parts = network(tokens[None], place[None], real[None]).double().numpy()[:, 0, : last - first]
        out[usable[:, s], s] += model.arrays["size_bps"][s] * (model.arrays["gates"] @ parts)
    return out


@pytest.mark.parametrize("config", [TINY, TransformerConfig()], ids=["tiny", "default"])
def test_kernel_equals_the_trained_network_over_a_session(config):
    panel = gappy_panel()
    network = random_network(config, Channels.of(panel.features))
    model = model_of([network], panel, config, gates=(0.7, 0.4))
    served = model.predict(panel)
    scale = np.abs(served.values[..., 0] - apply_base(model.arrays["base_weights"], panel.base))[served.ready].max()
    assert scale > 0.1
    for dtype in (torch.float32, torch.float64):
        np.testing.assert_allclose(served.values[..., 0], torch_forecast(network, model, panel, dtype), atol=1e-5 * max(1.0, scale))


def test_forecast_is_the_mean_of_its_networks():
    panel = gappy_panel()
    networks = [random_network(TINY, Channels.of(panel.features), seed) for seed in (1, 2, 3)]
    alone = [model_of([network], panel, TINY).predict(panel).values for network in networks]
    together = model_of(networks, panel, TINY.model_copy(update={"seeds": 3})).predict(panel).values
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)


def test_stream_equals_batch_to_the_bit_and_through_bytes():
    panel = gappy_panel()
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY)
    batch, stream = model.predict(panel), fold(model, panel)
    assert batch.values.tobytes() == stream.values.tobytes() and batch.ready.tobytes() == stream.ready.tobytes()
    state = model.start()
    for t in range(150):
        state, _ = model.update(state, panel.step(t))
    state = State.from_bytes(state.to_bytes())
    for t in range(150, len(panel)):
        state, output = model.update(state, panel.step(t))
        assert output.values.tobytes() == batch.values[t].tobytes()


def test_ready_where_valid_and_the_base_speaks_and_zero_elsewhere():
    panel = gappy_panel()
    out = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY).predict(panel)
    expected = panel.valid & panel.base_ready["hawkes"]
    np.testing.assert_array_equal(out.ready, expected)
    assert (out.values[~expected] == 0).all() and (out.values[expected] != 0).all()


def test_the_future_and_other_symbols_change_nothing():
    panel = gappy_panel()
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY)
    x = panel.x.copy()
    x[150:] = np.where(panel.valid[150:, :, None], np.random.default_rng(9).normal(size=x[150:].shape) + 5, x[150:])
    x[:, 2] += 1.0
    before, after = model.predict(panel).values, model.predict(replace(panel, x=x)).values
    assert before[:150, :2].tobytes() == after[:150, :2].tobytes()
    assert (before[150:][panel.valid[150:]] != after[150:][panel.valid[150:]]).any()


def test_a_token_beyond_every_window_is_forgotten():
    panel = toy_panel(0, steps=120)
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY)
    x = panel.x.copy()
    x[50] += 1.0
    changed = (model.predict(panel).values != model.predict(replace(panel, x=x)).values)[..., 0].any(axis=1)
    reach = 2 * (TINY.window - 1)
    assert not changed[:50].any() and changed[50] and changed[50 + reach] and not changed[50 + reach + 1 :].any()


def test_gradient_of_an_output_to_later_inputs_is_exactly_zero():
    channels = Channels.of(toy_panel(0, steps=30).features)
    network = random_network(TINY, channels)
    length = 5 * TINY.window
    tokens = torch.randn(1, length, channels.n_odd + channels.n_even, requires_grad=True)
    place, real = torch.arange(length, dtype=torch.float64)[None], torch.ones(1, length, dtype=torch.bool)
    f = network(tokens, place, real).sum(dim=0)
    for t in (0, 7, 8, 20):
        (gradient,) = torch.autograd.grad(f[0, t], tokens, retain_graph=True)
        at = t + 2 * TINY.window
        assert (gradient[0, at + 1 :] == 0).all()
        assert (gradient[0, at] != 0).any() and (gradient[0, at - 2 * (TINY.window - 1)] != 0).any()
        assert (gradient[0, : at - 2 * (TINY.window - 1)] == 0).all()


def test_what_padding_holds_does_not_matter():
    channels = Channels.of(toy_panel(0, steps=30).features)
    network = random_network(TINY, channels)
    length = 5 * TINY.window
    tokens, place = torch.randn(1, length, channels.n_odd + channels.n_even), torch.arange(length, dtype=torch.float64)[None]
    real = torch.arange(length)[None] >= 13
    other = torch.where(real[..., None], tokens, 3.0)
    with torch.no_grad():
        assert torch.equal(network(tokens, place, real)[..., 5:], network(other, place, real)[..., 5:])


def mirrored(panel):
    """The panel with bid and ask swapped: odd columns and base forecasts change sign, n_buy and n_sell change places."""
    channels = Channels.of(panel.features)
    x = panel.x.copy()
    x[..., panel.features.index([name for name, _ in channels.odd])] *= -1
    hawkes = panel.base["hawkes"] * np.array([-1.0, 1.0, 1.0])
    return replace(panel, x=x, base={"linear": -panel.base["linear"], "hawkes": hawkes[..., [0, 2, 1]]})


def test_the_mirror_flips_the_odd_part_and_keeps_the_even_part():
    panel = gappy_panel()
    network = random_network(TINY, Channels.of(panel.features))
    parts = {}
    for name, gates in {"odd": (1.0, 0.0), "even": (0.0, 1.0)}.items():
        model = model_of([network], panel, TINY, gates)
        base = [np.where(panel.valid, apply_base(model.arrays["base_weights"], p.base), 0.0) for p in (panel, mirrored(panel))]
        parts[name] = [model.predict(p).values[..., 0] - b for p, b in zip((panel, mirrored(panel)), base, strict=True)]
    ready = model.predict(panel).ready
    assert min(np.abs(part[0][ready]).max() for part in parts.values()) > 0.05
    np.testing.assert_allclose(parts["odd"][1][ready], -parts["odd"][0][ready], atol=1e-12)
    np.testing.assert_allclose(parts["even"][1][ready], parts["even"][0][ready], atol=1e-12)


def test_switched_off_is_the_base_to_the_bit():
    panel = gappy_panel()
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY, gates=(0.0, 0.0))
    out = model.predict(panel)
    assert out.values[..., 0][out.ready].tobytes() == apply_base(model.arrays["base_weights"], panel.base)[out.ready].tobytes()


def test_an_untrained_network_says_exactly_nothing():
    from cift_models.models.transformer.network import Network

    panel = gappy_panel()
    network = Network(random_network(TINY, Channels.of(panel.features)).sizes)
    model = model_of([network], panel, TINY)
    assert model.on
    out = model.predict(panel)
    assert out.values[..., 0][out.ready].tobytes() == apply_base(model.arrays["base_weights"], panel.base)[out.ready].tobytes()


def test_save_and_load(tmp_path):
    panel = gappy_panel()
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY)
    model.save(tmp_path / "a")
    again = OrderFlowTransformer.load(tmp_path / "a")
    assert again.predict(panel).values.tobytes() == model.predict(panel).values.tobytes()
    again.save(tmp_path / "b")
    for name in ("config.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


SERVE = """
import sys
from pathlib import Path
from cift_models.models.transformer import OrderFlowTransformer
from tests.panels import toy_panel

model, panel = OrderFlowTransformer.load(Path(sys.argv[1])), toy_panel(0, steps=40)
model.predict(panel)
model.update(model.start(), panel.step(30))
assert not {"torch", "pytorch_lightning", "polars"} & sys.modules.keys()
"""


def test_serving_needs_no_torch(tmp_path):
    panel = toy_panel(0)
    model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY).save(tmp_path)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", SERVE, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(root)}, cwd=root, check=True)


def test_load_refuses_nonsense(tmp_path):
    panel = gappy_panel()
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY)
    with pytest.raises(ReleaseError, match="not a transformer"):
        OrderFlowTransformer.load(tmp_path)
    model.save(tmp_path)
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ReleaseError, match="not a transformer"):
        OrderFlowTransformer.load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(whole)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"layers": 2', '"layers": 3'))
    with pytest.raises(ReleaseError, match=r"expected .* to be float32\(1, 3, "):
        OrderFlowTransformer.load(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"kind": "transformer"', '"kind": "linear"'))
    with pytest.raises(ReleaseError, match="expected kind transformer"):
        OrderFlowTransformer.load(tmp_path)


def test_refuses_what_is_not_finite_and_other_columns():
    panel = toy_panel(0, steps=60)
    model = model_of([random_network(TINY, Channels.of(panel.features))], panel, TINY)
    x = panel.x.copy()
    x[30, 1, 4] = np.nan
    with pytest.raises(DataError, match="not finite"):
        model.predict(replace(panel, x=x))
    with pytest.raises(DataError, match="not finite"):
        model.update(model.start(), replace(panel, x=x).step(30))
    base = {k: v.copy() for k, v in panel.base.items()}
    base["hawkes"][30, 1, 0] = np.inf
    with pytest.raises(DataError, match="outputs of hawkes"):
        model.predict(replace(panel, base=base))
    from cift_models.features import FeatureSet

    with pytest.raises(SchemaMismatch):
        model.predict(replace(panel, features=FeatureSet(levels=3)))


def test_channels_and_their_scales_against_a_plain_loop():
    panel = gappy_panel()
    channels = Channels.of(panel.features)
    raw = np.zeros((len(panel), 3, channels.n_odd + channels.n_even))
    raw_channels(panel.x, panel.base["linear"], panel.base["hawkes"], panel.valid, channels.columns(panel.features), channels.n_odd, raw)
    expected = {"move_1000ms": 1e4 * panel.column("move_1000ms") / panel.column("mid")}
    expected |= {"queue_imbalance": panel.column("queue_imbalance"), "hawkes.mean_bps": panel.base["hawkes"][..., 0]}
    expected |= {"hawkes.n_buy-n_sell": panel.base["hawkes"][..., 1] - panel.base["hawkes"][..., 2]}
    expected |= {"age_s": np.log1p(np.maximum(panel.column("age_s"), 0)), "session_share": panel.column("session_share")}
    expected |= {"hawkes.log_n": np.log1p(np.maximum(panel.base["hawkes"][..., 1] + panel.base["hawkes"][..., 2], 0))}
    assert len(channels.names) == raw.shape[-1] == len(set(channels.names))
    for name, value in expected.items():
        # One unit in the last place: numpy 2.5 has a log1p of its own, the kernel has libm's.
        np.testing.assert_allclose(raw[..., channels.names.index(name)][panel.valid], value[panel.valid], rtol=2.3e-16, atol=0)
    moments = Moments(3, channels)
    for part in (slice(0, 90), slice(90, 91), slice(91, 300)):
        moments.add(raw[part], panel.valid[part])
    centre, scale = moments.centre_and_scale()
    for s in range(3):
        rows = raw[panel.valid[:, s], s]
        odd, even = rows[:, : channels.n_odd], rows[:, channels.n_odd :]
        np.testing.assert_allclose(1 / scale[s], np.r_[np.sqrt((odd**2).mean(0)), even.std(0)], rtol=1e-9)
        np.testing.assert_allclose(centre[s], np.r_[np.zeros(channels.n_odd), even.mean(0)], atol=1e-12)
    t = 200 + int(np.argmax(panel.valid[200:, 0]))
    panel.x[t, 0, panel.features.index(["microprice_bps"])] = -1e6
    corpus = build([panel], [], channels, fit_base([panel]), None)
    assert corpus.tokens.min() == -CLIP and np.isfinite(corpus.tokens).all()


def test_a_dead_channel_and_a_symbol_without_rows():
    panel = toy_panel(0)
    x, valid = panel.x.copy(), panel.valid.copy()
    x[:, :, panel.features.index(["queue_imbalance"])] = 7.0
    x[:, :, panel.features.index(["session_share"])] = 0.5
    valid[:, 2] = False
    panel = replace(panel, x=x, valid=valid)
    channels = Channels.of(panel.features)
    corpus = build([panel], [], channels, fit_base([panel]), None)
    place = {name: i for i, name in enumerate(channels.names)}
    np.testing.assert_allclose(corpus.scale[:, place["queue_imbalance"]], 1 / 7)
    assert (corpus.scale[:, place["session_share"]] == 0).all() and np.isfinite(corpus.tokens).all()
    assert len(corpus.bounds) == 2 and corpus.size_bps[2] > 0 and (corpus.scale[2] > 0).sum() > 10


def test_fit_context_defaults_do_not_touch_torch_globals():
    panel = toy_panel(0, steps=400)
    before = torch.random.get_rng_state(), torch.get_num_threads()
    OrderFlowTransformer.fit(TINY, [panel], [], FitContext())
    assert torch.equal(before[0], torch.random.get_rng_state()) and torch.get_num_threads() == before[1]
