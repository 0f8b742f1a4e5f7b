"""The recorded day of LOBSTER: what three stocks say about each other, against a ridge that hears the same lags on the same base."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

from cift_models.events import Events, merge
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND, Universe
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.model import LeadLagGNN
from cift_models.models.gnn.rows import Rows, gather
from cift_models.models.gnn.training import scaled_features, scaling
from cift_models.models.protocol import FitContext, Panel
from cift_models.models.residual_base import apply_base, fit_base
from cift_models.splits import TEST, BlockCalendar, block_calendar, learned, level0_folds, level1_folds
from cift_models.stacking import Spoken, TrainingPanels, free_from
from tests.appendix_a import lobster_folder

pytestmark = [pytest.mark.real_data, pytest.mark.torch, pytest.mark.proof]
CONFIG = LeadLagConfig()
FINAL = level1_folds()[-1]


@cache
def day() -> tuple[Panel, BlockCalendar, dict]:
    """The three stocks on one clock, and what linear and hawkes said of them, by fold."""
    from cift_models.feeds.canonical import events_of_tables
    from cift_models.feeds.lobster import read_lobster

    days = [read_lobster(path) for path in sorted(lobster_folder().glob("*.zip"))]
    universe, session = Universe(tuple(d.instrument for d in days)), days[0].session
    events = merge([events_of_tables(d.tables, s) for s, d in enumerate(days)], universe.levels)
    features = FeatureSet(levels=universe.levels)
    as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
    y, known, label_end = labels(events, universe, session, as_of, SECOND)
    panel = Panel(
        universe, features, session.day, session.open, session.close, as_of, x, valid, why, events, offsets,
        y=np.where(known, y, 0.0), rows=known.all(axis=1), label_end=label_end, base_oof=np.ones(len(as_of), bool),
    )  # fmt: skip
    calendar = block_calendar([session])
    outputs: dict[str, dict[str, Spoken]] = {"linear": {}, "hawkes": {}}
    for kind, by_fold in outputs.items():
        for fold in level0_folds():
            train = TrainingPanels(kind, calendar, fold.train, lambda _: panel, lambda _: {})
            model, _ = model_class(kind).fit(model_class(kind).Config(), train, [], FitContext())
            by_fold[fold.name] = Spoken(*model.predict(panel), free_from(kind, learned(train)))
    return panel, calendar, outputs


def training(panel: Panel) -> tuple[TrainingPanels, TrainingPanels]:
    _, calendar, outputs = day()
    train, stop = (TrainingPanels("gnn", calendar, blocks, lambda _: panel, lambda _: outputs) for blocks in (FINAL.train, FINAL.stop))
    return train, stop


def released(panel: Panel) -> Panel:
    """The day with what the final fits of linear and hawkes say."""
    outputs = {kind: by_fold["final"] for kind, by_fold in day()[2].items()}
    return replace(panel, base={k: o.values for k, o in outputs.items()}, base_ready={k: o.ready for k, o in outputs.items()})


def network(panel: Panel, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(base, base + f) on the test rows, float64[n, S]."""
    model, _ = LeadLagGNN.fit(CONFIG, *training(panel), FitContext(seed=seed))
    test = day()[1].mask(panel.session, panel.as_of, TEST)
    whole = released(panel)
    return apply_base(model.base_weights, whole.base)[test], model.predict(whole).values[test, :, 0]


@cache
def lag_rows() -> tuple[Rows, Rows, Rows]:
    """Rows of training, early stopping and test with the network's own lag features."""
    panel, calendar, _ = day()
    train, stop = training(panel)
    weights = fit_base(train)
    judged = replace(released(panel), rows=calendar.mask(panel.session, panel.as_of, TEST))
    return gather(train, CONFIG, weights)[0], gather(stop, CONFIG, weights)[0], gather([judged], CONFIG, weights)[0]


def ridge(s: int, neighbours_back: int | None = 0) -> np.ndarray:
    """What a ridge on every (asset, lag) feature adds to the base of symbol s on the test rows; its penalty chosen on b6.

    The others' features come from `neighbours_back` rows earlier in each part (around its circle); None leaves the others out.
    """
    rows = lag_rows()
    scale = scaling(rows[0])
    columns = []
    for part in rows:
        x = scaled_features(part, scale, CONFIG.clip)[:, :, :-1].astype(np.float64)
        others = [] if neighbours_back is None else [np.roll(x[:, j], neighbours_back, axis=0) for j in range(x.shape[1]) if j != s]
        columns.append(np.concatenate([x[:, s], *others], axis=1).reshape(len(x), -1))
    learn, judge, test = columns
    gram, cross = learn.T @ learn, learn.T @ rows[0].residual[:, s]
    fits = [np.linalg.solve(gram + penalty * np.eye(len(gram)), cross) for penalty in np.logspace(1, 6, 11)]
    return test @ min(fits, key=lambda w: float(np.sum((rows[1].residual[:, s] - judge @ w) ** 2)))


def block_t(gain: np.ndarray, as_of: np.ndarray) -> float:
    """t of a mean loss difference over 60-s blocks."""
    sums = np.bincount(np.unique(as_of // (60 * SECOND), return_inverse=True)[1], gain)
    return float(sums.sum() / np.sqrt(len(sums) * sums.var(ddof=1)))


def test_network_is_not_below_a_ridge_that_hears_the_same(record_property):
    """Diebold-Mariano t > -1.65 on every stock and seed, in 60-s blocks: one day and three assets cannot prove it better."""
    panel, calendar, _ = day()
    rows = lag_rows()[2]
    assert len(rows) == calendar.mask(panel.session, panel.as_of, TEST).sum() == 6_660
    linear = np.stack([ridge(s) for s in range(3)], axis=1)
    for seed in range(3):
        base, mean = network(panel, seed)
        np.testing.assert_allclose(rows.y - base, rows.residual, atol=1e-12)
        for s, symbol in enumerate(panel.universe.symbols):
            y = rows.y[:, s]
            r2 = [1 - np.sum((y - v) ** 2) / np.sum(y**2) for v in (base[:, s], base[:, s] + linear[:, s], mean[:, s])]
            loss = (y - mean[:, s]) ** 2
            t = [block_t((y - v) ** 2 - loss, rows.as_of) for v in (base[:, s], base[:, s] + linear[:, s])]
            print(f"seed {seed} {symbol}: R2 base {r2[0]:.4f}, ridge {r2[1]:.4f}, gnn {r2[2]:.4f}; t {t[0]:.2f}, {t[1]:.2f}")
            record_property(f"{symbol}_{seed}", [*r2, *t])
            assert t[1] > -1.65


def test_ridge_with_neighbours_of_another_time(record_property):
    """50 time shifts of 10 minutes or more of the neighbours: what hearing them at the right time is worth, beside what noise is worth."""
    rows = lag_rows()[2]
    back = np.random.default_rng(0).integers(600, 1_600, 50)
    for s, symbol in enumerate(day()[0].universe.symbols):
        y, residual = rows.y[:, s], rows.residual[:, s]

        def gain(f, y=y, residual=residual):
            return float(np.sum(residual**2) - np.sum((residual - f) ** 2)) / float(np.sum(y**2))

        own, both, null = gain(ridge(s, None)), gain(ridge(s)), [gain(ridge(s, int(k))) for k in back]
        print(f"{symbol}: own lags {own:.4f}, with neighbours {both:.4f}, shifted {np.mean(null):.4f} (95 % {np.quantile(null, 0.95):.4f})")
        record_property(symbol, [own, both, float(np.mean(null)), float(np.quantile(null, 0.95))])
        assert both >= np.mean(null)


def test_network_with_neighbours_of_another_time_adds_nothing():
    """AMZN with the others' events half an hour late: a leak through the bins would survive the shift."""
    panel, _, _ = day()
    e = panel.events
    ts, other = e.ts.copy(), e.symbol != 1
    span = panel.close - panel.open
    ts[other] = panel.open + 1 + (ts[other] - panel.open - 1 + 1_800 * SECOND) % span
    order = np.lexsort((e.sequence, e.symbol, ts))
    events = replace(Events(*(getattr(e, f.name)[order] for f in fields(Events))), ts=ts[order])
    moved = replace(panel, events=events, offsets=np.concatenate([[0], np.searchsorted(events.ts, panel.as_of, "right")]))
    rows = lag_rows()[2]
    y = rows.y[:, 1]
    gains = []
    for each in (panel, moved):
        base, mean = network(each, 0)
        gains.append(float(np.sum((y - base[:, 1]) ** 2) - np.sum((y - mean[:, 1]) ** 2)) / float(np.sum(y**2)))
    print(f"AMZN gain in R2: {gains[0]:.4f}, with neighbours of another time {gains[1]:.4f}")
    assert gains[1] < 0.5 * gains[0]
