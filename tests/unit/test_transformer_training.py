"""How the transformer learns: what it must be able to fit, what it must not, and that a killed fit ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cift_models.instruments import SECOND
from cift_models.models.protocol import FitContext, fold
from cift_models.models.residual_base import apply_base
from cift_models.models.transformer import OrderFlowTransformer, TransformerConfig
from cift_models.models.transformer.gate import MIN_BLOCKS, kept_share
from tests.panels import toy_panel

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TINY = TransformerConfig(width=8, heads=2, layers=2, hidden=8, window=8, chunk=32, epochs=4)


def planted_panel(seed: int, signal_of, r2: float, steps: int = 400, **sizes):
    """A toy panel on a day of its own; y is signal_of(panel) with a share r2 of the variance, and noise, each symbol on its scale."""
    panel = toy_panel(seed, steps=steps, rate_hz=0.1, **sizes)
    later = seed * 86_400 * SECOND
    panel = replace(panel, as_of=panel.as_of + later, label_end=panel.label_end + later)
    rng = np.random.default_rng([seed, 1])
    size = np.linspace(0.5, 2.0, panel.x.shape[1])
    signal = np.sqrt(r2) * size * signal_of(panel)
    return replace(panel, y=signal + np.sqrt(1 - r2) * size * rng.normal(size=signal.shape)), signal


def strong(panel):
    return panel.column("queue_imbalance")


def same(a: OrderFlowTransformer, b: OrderFlowTransformer) -> bool:
    return all(a.arrays[name].tobytes() == b.arrays[name].tobytes() for name in a.arrays)


def test_overfits_64_samples():
    """Without selection, decay and noise in its way the network can hold 64 labels that have nothing to do with their inputs."""
    from cift_models.models.transformer.corpus import TRAIN, Corpus
    from cift_models.models.transformer.network import Sizes
    from cift_models.models.transformer.training import fit_network

    rng = np.random.default_rng(0)
    n = 64
    tokens, target = rng.normal(size=(n, 30)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    empty = np.zeros((1, 30))
    place, label = np.arange(float(n)), np.full(n, TRAIN, np.int8)
    corpus = Corpus(tokens, place, target, label, np.zeros(n, np.int64), np.array([[0, n]]), np.ones(1), empty, empty)
    config = TransformerConfig(epochs=200, selection_t=0, weight_decay=0, averaging=0, chunk=64)
    fitted = fit_network(config, Sizes(20, 10, 32, 4, 2, 32, 32), corpus, 0)
    assert fitted.at.train_loss[0] > 0.5 and fitted.at.train_loss[-1] < 0.01


def test_finds_a_strong_signal_and_reports_it():
    train = [planted_panel(seed, strong, 0.3, steps=1200)[0] for seed in (0, 1)]
    test, _ = planted_panel(7, strong, 0.3)
    seen = []
    model, report = OrderFlowTransformer.fit(TINY, train, [], FitContext(progress=lambda what, share: seen.append((what, share))))
    assert report.status == "converged" and not report.facts["switched_off"] and report.facts["gates"][0] > 0.5
    assert next(iter(report.facts["channels"])) == "queue_imbalance"
    assert len(report.curves["train_loss"]) == len(report.curves["valid_loss"]) == len(seen) == 4
    assert seen[-1] == ("transformer", 1.0)
    out = model.predict(test)
    error = ((test.y - out.values[..., 0]) / test.y.std(axis=0))[test.rows]
    base = ((test.y - apply_base(model.arrays["base_weights"], test.base)) / test.y.std(axis=0))[test.rows]
    assert (error**2).mean() < 0.85 * (base**2).mean()
    assert fold(model, test).values.tobytes() == out.values.tobytes()


def test_validation_rows_judge_where_they_are_given():
    """The same training panels, judged on rows that agree with them and on rows that say the opposite."""
    train = [planted_panel(seed, strong, 0.3, steps=1200)[0] for seed in (0, 1)]
    agrees, opposes = planted_panel(2, strong, 0.3)[0], planted_panel(2, lambda p: -strong(p), 0.3)[0]
    kept = OrderFlowTransformer.fit(TINY, train, [agrees], FitContext())[1]
    dropped, report = OrderFlowTransformer.fit(TINY, train, [opposes], FitContext())
    assert kept.facts["gates"][0] > 0.5 and kept.facts["rows_held_out"] == int(agrees.rows.sum()) * 3
    assert report.facts["switched_off"] and report.facts["gates"] == [0.0, 0.0] and "needs" in report.facts["why"]
    assert not dropped.on


def test_held_out_rows_do_not_teach():
    """Other labels in the last tenth, or within 10 s before it, move the gates and nothing else (a base of 0, whose fit sees all rows)."""
    panel = planted_panel(0, strong, 0.3, steps=1500)[0]
    labelled = np.flatnonzero(panel.rows)
    begins = labelled[int(0.9 * len(labelled))]
    y = panel.y.copy()
    y[begins - 10 :] *= -1
    config = TINY.model_copy(update={"epochs": 1})
    base = {k: np.zeros_like(v) for k, v in panel.base.items()}
    first = OrderFlowTransformer.fit(config, [replace(panel, base=base)], [], FitContext())[0]
    second = OrderFlowTransformer.fit(config, [replace(panel, base=base, y=y)], [], FitContext())[0]
    assert all(first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays if name != "gates")
    assert first.arrays["gates"].tobytes() != second.arrays["gates"].tobytes()


def test_only_rows_in_the_fold_teach():
    panel = planted_panel(0, strong, 0.3)[0]
    outside = np.zeros(len(panel), bool)
    outside[60:90] = True
    y = np.where(outside[:, None], 1e3, panel.y)
    masked = [replace(panel, base_oof=panel.base_oof & ~outside), replace(panel, rows=panel.rows & ~outside)]
    for clean in masked:
        assert same(
            OrderFlowTransformer.fit(TINY, [clean], [], FitContext())[0],
            OrderFlowTransformer.fit(TINY, [replace(clean, y=y)], [], FitContext())[0],
        )


def test_same_seed_same_bits_and_another_seed_another_fit():
    train = [planted_panel(0, strong, 0.1)[0]]
    fits = [OrderFlowTransformer.fit(TINY, train, [], FitContext(seed=seed))[0] for seed in (3, 3, 4)]
    assert same(fits[0], fits[1]) and not same(fits[0], fits[2])


def test_networks_of_several_seeds():
    train = [planted_panel(0, strong, 0.3)[0]]
    model, report = OrderFlowTransformer.fit(TINY.model_copy(update={"seeds": 2, "epochs": 2}), train, [], FitContext())
    assert model.arrays["head"].shape == (2, 2, 8) and len(report.facts["best_epochs"]) == 2
    assert {"train_loss_0", "train_loss_1"} <= report.curves.keys()
    assert fold(model, train[0]).values.tobytes() == model.predict(train[0]).values.tobytes()


def test_a_hard_mirror_has_no_even_part():
    train = [planted_panel(0, strong, 0.3, steps=1500)[0]]
    _, report = OrderFlowTransformer.fit(TINY.model_copy(update={"mirror": "hard"}), train, [], FitContext())
    assert report.facts["gates"][1] == 0 and report.facts["gates"][0] > 0


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 3])
def test_killed_and_resumed_ends_in_the_same_weights(tmp_path, epoch):
    train = [planted_panel(0, strong, 0.1)[0]]
    whole, report = OrderFlowTransformer.fit(TINY, train, [], FitContext(seed=5))

    def kill(what, share):
        if share * TINY.epochs == epoch:
            raise KilledError

    with pytest.raises(KilledError):
        OrderFlowTransformer.fit(TINY, train, [], FitContext(seed=5, workdir=tmp_path / "new", progress=kill))
    epochs = []
    resumed, again = OrderFlowTransformer.fit(
        TINY, train, [], FitContext(seed=5, workdir=tmp_path / "new", progress=lambda what, share: epochs.append(share * TINY.epochs))
    )
    assert epochs == [float(e) for e in range(epoch + 1, TINY.epochs + 1)]
    assert same(whole, resumed) and report.curves == again.curves


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_not_taken(tmp_path):
    train, other = [planted_panel(0, strong, 0.1)[0]], [planted_panel(1, strong, 0.1)[0]]
    fresh = OrderFlowTransformer.fit(TINY, train, [], FitContext())[0]
    OrderFlowTransformer.fit(TINY, other, [], FitContext(workdir=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["network_0.safetensors"]
    assert same(OrderFlowTransformer.fit(TINY, train, [], FitContext(workdir=tmp_path))[0], fresh)
    (tmp_path / "network_0.safetensors").write_bytes(b"\x00" * 100)
    assert same(OrderFlowTransformer.fit(TINY, train, [], FitContext(workdir=tmp_path))[0], fresh)


KILL = """
import os, signal, sys
from pathlib import Path
from cift_models.instruments import SECOND
from cift_models.models.protocol import FitContext
from cift_models.models.transformer import OrderFlowTransformer
from tests.unit.test_transformer_training import TINY, planted_panel, strong

def kill(what, share):
    if sys.argv[2] == "kill" and share >= 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

work = Path(sys.argv[1])
model, _ = OrderFlowTransformer.fit(TINY, [planted_panel(0, strong, 0.1)[0]], [], FitContext(seed=5, workdir=work / "work", progress=kill))
model.save(work / "model")
"""


def test_killed_by_the_system_and_resumed_in_another_process(tmp_path):
    (tmp_path / "work").mkdir()
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}

    def run(how: str) -> int:
        return subprocess.run([sys.executable, "-c", KILL, str(tmp_path), how], env=environment, cwd=root, check=False).returncode

    assert run("kill") == -signal.SIGKILL and not (tmp_path / "model").exists()
    assert (tmp_path / "work" / "network_0.safetensors").exists()
    assert run("resume") == 0
    whole = OrderFlowTransformer.fit(TINY, [planted_panel(0, strong, 0.1)[0]], [], FitContext(seed=5))[0]
    assert same(OrderFlowTransformer.load(tmp_path / "model"), whole)


@pytest.mark.parametrize("steps", [25, 60, 120])
@pytest.mark.parametrize("symbols", [1, 3])
def test_little_data_leaves_the_base_alone_or_a_small_fit(steps, symbols):
    panel = toy_panel(0, steps=steps, symbols=symbols)
    model, report = OrderFlowTransformer.fit(TINY, [panel], [], FitContext())
    if report.n_rows < 200:
        assert report.facts["switched_off"] and "too few" in report.facts["why"]
    out = model.predict(panel)
    assert np.isfinite(out.values).all() and fold(model, panel).values.tobytes() == out.values.tobytes()


def test_nothing_labelled_at_all():
    panel = toy_panel(0)
    model, report = OrderFlowTransformer.fit(TINY, [replace(panel, rows=np.zeros(len(panel), bool))], [], FitContext())
    assert report.n_rows == 0 and report.facts["switched_off"]
    np.testing.assert_array_equal(model.arrays["base_weights"], np.tile([1.0, 0.0], (3, 1)))
    assert model.predict(panel).ready.sum() == panel.valid.sum()


def test_a_fit_that_diverges_serves_finite_numbers():
    panel = planted_panel(0, strong, 0.1)[0]
    config = TINY.model_copy(update={"learning_rate": 1e20})
    model, report = OrderFlowTransformer.fit(config, [panel], [], FitContext())
    assert report.status == "diverged" and np.isfinite(model.predict(panel).values).all()


def test_kept_share_is_least_squares_shrunk_by_its_own_error():
    rng = np.random.default_rng(0)
    f = rng.normal(size=4000)
    block = np.arange(4000) // 20
    target = 0.5 * f + rng.normal(size=4000)
    share, t = kept_share(f, target, block, 1.0)
    slope = np.linalg.lstsq(f[:, None], target, rcond=None)[0][0]
    assert share == pytest.approx(slope * (1 - 1 / t**2)) and t == pytest.approx(0.5 * np.sqrt(4000), rel=0.15)
    assert kept_share(f, -target, block, 1.0)[0] == 0.0
    assert kept_share(f, 3 * target, block, 1.0)[0] == 1.0
    assert kept_share(f, target, block % (MIN_BLOCKS - 1), 1.0) == (0.0, 0.0)
    assert kept_share(0 * f, target, block, 1.0) == (0.0, 0.0)
    off = np.mean([kept_share(f, rng.normal(size=4000), block, 1.0)[0] == 0 for _ in range(400)])
    assert 0.80 < off < 0.88  # one-sided t > 1: 16 %
    # Blocks that move as one: the error grows with the square root of their size.
    assert kept_share(np.ones(4000), np.repeat(rng.normal(0.3, 1, 200), 20), block, 1.0)[1] < 10
