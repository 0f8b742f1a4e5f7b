"""What the transformer finds where truth is known, that it finds nothing in noise, and what it adds on the recorded day."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from cift_models.events import Events, merge
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.models.protocol import FitContext, Panel
from cift_models.models.residual_base import apply_base
from cift_models.models.transformer import OrderFlowTransformer, TransformerConfig
from cift_models.splits import TEST, BlockCalendar, Fold, block_calendar, learned, level0_folds, level1_folds
from cift_models.stacking import Spoken, TrainingPanels, free_from, outputs_below
from tests.unit.test_transformer_training import planted_panel

FOLDER = Path(os.environ.get("CIFT_TEST_DATA", "../shared/data")) / "lobster_20120621"
FINAL = level1_folds()[-1]
pytestmark = [pytest.mark.torch, pytest.mark.proof]


@dataclass(frozen=True)
class Stacked:
    """A market with its out-of-fold linear and Hawkes forecasts, as a run of the whole system makes them."""

    calendar: BlockCalendar
    panels: dict[int, Panel]
    outputs: dict[str, dict[str, dict[int, Spoken]]]

    @classmethod
    def of(cls, universe: Universe, sessions: list[Session], streams: list[Events]) -> Stacked:
        features, calendar, panels = FeatureSet(levels=universe.levels), block_calendar(sessions), {}
        for session, events in zip(sessions, streams, strict=True):
            as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
            y, known, end = labels(events, universe, session, as_of, SECOND)
            own = universe, features, session.day, session.open, session.close, as_of, x, valid, why, events, offsets
            panels[session.day] = Panel(*own, y=y, rows=known.all(axis=1), label_end=end)
        outputs: dict = {"linear": {}, "hawkes": {}}
        for kind, by_fold in outputs.items():
            for fold in level0_folds():
                train, stop = (TrainingPanels(kind, calendar, b, panels.__getitem__, lambda day: {}) for b in (fold.train, fold.stop))
                model, _ = model_class(kind).fit(model_class(kind).Config(), train, stop, FitContext())
                free = free_from(kind, learned(train))
                by_fold[fold.name] = {day: Spoken(*model.predict(panels[day]), free) for day in calendar.sessions(fold.predict)}
        return cls(calendar, panels, outputs)

    def training(self, blocks: tuple[int, ...]) -> TrainingPanels:
        def heard(day: int):
            return {kind: {name: out[day] for name, out in folds.items() if day in out} for kind, folds in self.outputs.items()}

        return TrainingPanels("transformer", self.calendar, blocks, self.panels.__getitem__, heard)

    def test(self) -> list[tuple[int, Panel, np.ndarray]]:
        """Session, panel with the final base, and which steps are test rows."""
        found = []
        for day in self.calendar.sessions(TEST):
            panel = outputs_below("transformer", {k: self.outputs[k][FINAL.name][day] for k in self.outputs}, self.panels[day])
            found.append((day, panel, self.calendar.mask(day, panel.as_of, TEST) & panel.rows))
        return found


def fit(market: Stacked, config: TransformerConfig, fold: Fold = FINAL, seed: int = 0):
    return OrderFlowTransformer.fit(config, market.training(fold.train), market.training(fold.stop), FitContext(seed=seed))


def gains(market: Stacked, model: OrderFlowTransformer) -> tuple[np.ndarray, np.ndarray]:
    """Over b7-b9: squared error of the base less that of base + f as means of 60-s blocks, [blocks, S], and sum of y^2, [S]."""
    blocks, square = [], 0.0
    for _, panel, rows in market.test():
        base, said = apply_base(model.arrays["base_weights"], panel.base), model.predict(panel).values[..., 0]
        gain = ((panel.y - base) ** 2 - (panel.y - said) ** 2)[rows]
        square = square + (panel.y[rows] ** 2).sum(axis=0)
        minute = panel.as_of[rows] // (60 * SECOND)
        blocks += [gain[minute == m].mean(axis=0) for m in np.unique(minute)]
    return np.array(blocks), np.asarray(square)


def t_of(blocks: np.ndarray) -> np.ndarray:
    return blocks.mean(axis=0) / (blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks)))


@lru_cache(maxsize=1)
def planted_market():
    from cift_models.simulate import SimulateConfig, simulate

    market = simulate(SimulateConfig(sessions=5))
    return market, Stacked.of(market.universe, market.sessions, [market.stream(i) for i in range(5)])


def test_planted_interaction_that_the_base_cannot_see():
    """At least half of the interaction's realised oracle R2, on the test rows of the documented market (.99 reached)."""
    truth, market = planted_market()
    model, report = fit(market, TransformerConfig())
    assert report.n_rows >= 60_000
    found = oracle = seen_by_base = rows_tested = 0.0
    for day, panel, rows in market.test():
        planted = truth.paths[list(market.panels).index(day)]["interaction"][rows]
        base, said = apply_base(model.arrays["base_weights"], panel.base)[rows], model.predict(panel).values[rows, :, 0]
        y = panel.y[rows]
        found += ((y - base) ** 2 - (y - said) ** 2).sum()
        oracle += (y**2 - (y - planted) ** 2).sum()
        seen_by_base += (base * planted).sum() / np.sqrt((base**2).sum() * (planted**2).sum())
        rows_tested += rows.sum() * y.shape[1]
    print(f"share of the planted interaction {found / oracle:.3f}, gates {report.facts['gates']}, rows {report.n_rows}, {rows_tested}")
    assert rows_tested >= 20_000 and abs(seen_by_base) < 0.1
    assert found >= 0.5 * oracle
    assert list(report.facts["channels"])[:2] == ["log_signed_volume_10000ms", "queue_imbalance"]


def test_a_hard_mirror_cannot_hold_a_market_that_is_not_symmetric():
    """The same market: the planted product of two signs is even, so that a network that must flip finds almost none of it."""
    _, market = planted_market()
    learned, hard = (gains(market, fit(market, TransformerConfig(mirror=mirror))[0])[0].mean() for mirror in ("learned", "hard"))
    assert learned > 0 and hard < 0.25 * learned


def test_signs_at_random_leave_nothing():
    """Labels times one random sign a second: the model is switched off, and with its gates forced open f helps on no symbol."""
    _, market = planted_market()
    rng = np.random.default_rng(1)
    panels = {day: replace(p, y=p.y * rng.choice([-1.0, 1.0], (len(p), 1))) for day, p in market.panels.items()}
    shuffled = replace(market, panels=panels)
    model, report = fit(shuffled, TransformerConfig())
    forced = OrderFlowTransformer(model.config, model.symbols, model.channels, model.clock_ns, model.arrays | {"gates": np.ones(2)})
    t = t_of(gains(shuffled, forced)[0])
    print(f"{report.facts['why']}; t of the gain with open gates {t}")
    assert report.facts["switched_off"] and (t < 1.98).all()


@pytest.mark.parametrize(
    ("signal", "mirror", "share"),
    [
        (lambda p: p.column("queue_imbalance"), "learned", 0.9),
        (lambda p: np.sign(p.column("queue_imbalance")) * np.sign(p.column("log_count_1000ms")), "hard", 0.5),
        (lambda p: np.sign(p.column("queue_imbalance")) * np.sign(p.column("log_signed_volume_10000ms")), "learned", 0.5),
    ],
    ids=["linear", "odd_product", "even_product"],
)
def test_planted_among_columns_of_noise(signal, mirror, share):
    """2 % of signal in one or two of 47 independent columns: 53,500 labels to learn from, 29,800 to test on."""
    train = [planted_panel(seed, signal, 0.02, steps=5000)[0] for seed in range(4)]
    model, _ = OrderFlowTransformer.fit(TransformerConfig(mirror=mirror), train, [], FitContext())
    found = oracle = 0.0
    for seed in (10, 11):
        panel, truth = planted_panel(seed, signal, 0.02, steps=5000)
        size, rows = np.linspace(0.5, 2.0, 3), panel.rows
        base, said = apply_base(model.arrays["base_weights"], panel.base), model.predict(panel).values[..., 0]
        found += ((((panel.y - base) ** 2 - (panel.y - said) ** 2) / size**2)[rows]).sum()
        oracle += (((panel.y**2 - (panel.y - truth) ** 2) / size**2)[rows]).sum()
    print(f"share of the planted signal {found / oracle:.3f}")
    assert found >= share * oracle


@pytest.mark.real_data
@pytest.mark.skipif(not FOLDER.exists(), reason=f"no recorded day at {FOLDER} (set CIFT_TEST_DATA)")
def test_recorded_day():
    """The mean of five seeds against the base on b7-b9: t above 1.65 on two of three, never below -1.65 (methods: section 4)."""
    from cift_models.feeds.canonical import events_of_tables
    from cift_models.feeds.lobster import read_lobster
    from cift_models.feeds.quality import check_tables

    days = [
        read_lobster(FOLDER / f"LOBSTER_SampleFile_{s}_2012-06-21_{levels}.zip") for s, levels in (("AAPL", 1), ("AMZN", 5), ("GOOG", 5))
    ]
    universe = Universe(tuple(day.instrument for day in days))
    good = [{name: checked.rows for name, checked in check_tables(day.tables, day.session, False).items()} for day in days]
    events = merge([events_of_tables(tables, s) for s, tables in enumerate(good)], universe.levels)
    market = Stacked.of(universe, [days[0].session], [events])
    model, report = fit(market, TransformerConfig(seeds=5))
    blocks, square = gains(market, model)
    t, gain = t_of(blocks), 60 * blocks.sum(axis=0) / square
    print(f"gain in R2 {gain}, t {t}, gates {report.facts['gates']}")
    assert (t > 1.65).sum() >= 2 and (t > -1.65).all()
