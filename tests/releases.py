"""Releases for tests: a pipeline fitted on the small market, written below a home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cift_models import release
from cift_models.engine import Pipeline
from cift_models.events import Events
from cift_models.features import FeatureSet
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.models.head import Head
from cift_models.models.linear import Linear
from cift_models.models.protocol import FitContext, Panel
from cift_models.signals import SignalRule
from cift_models.splits import decision_rows
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import ParquetTicks
from tests.market import small_market

KINDS = ("prior", "last_move", "queue_imbalance", "trees", "linear", "hmm", "hawkes")
"""Kinds that read no other and need no torch; they fit on the small market in half a second."""

CONFIGS: dict[str, dict[str, Any]] = {"hmm": {"restarts": 2, "bar_s": 10}}


@cache
def training_panel() -> Panel:
    """The first session of the small market, with labels."""
    market = small_market()
    return labelled(market.universe, market.sessions[0], market.stream(0))


def labelled(universe: Universe, session: Session, events: Events) -> Panel:
    """A session's panel as a fit reads it."""
    features = FeatureSet(levels=universe.levels)
    unfitted = Pipeline(universe, features, {"linear": Linear.__new__(Linear)}, {}, SignalRule(), "linear")
    panel = unfitted.panel(session, events)
    y, known, end = labels(events, universe, session, panel.as_of, SECOND)
    rows = np.isin(panel.as_of, decision_rows(session, SECOND, SECOND)) & known.all(axis=1)
    return replace(panel, y=np.where(rows[:, None], y, 0.0), rows=rows, label_end=end, base_oof=rows.copy())


@cache
def pipeline(kinds: Sequence[str] = KINDS, decides: str = "linear", threshold_bps: float = -0.3, seed: int = 0) -> Pipeline:
    """A pipeline fitted on the first session. A rule below 0 trades often, so that signals are worth comparing."""
    return fitted(training_panel(), kinds, decides, threshold_bps, seed)


def fitted(panel: Panel, kinds: Sequence[str], decides: str, threshold_bps: float, seed: int = 0) -> Pipeline:
    """A pipeline fitted on one panel, heads and all in sample."""
    models, heads = {}, {}
    for kind in kinds:
        model, _ = model_class(kind).fit(model_class(kind).Config(**CONFIGS.get(kind, {})), [panel], [], FitContext(seed=seed))
        models[kind] = model
        if "mean_bps" in model.outputs and "p_up" not in model.outputs:
            values, ready = model.predict(panel)
            heads[kind], _ = Head.fit([(panel, values[:, :, model.outputs.index("mean_bps")], ready)])
    return Pipeline(panel.universe, panel.features, models, heads, SignalRule(threshold_bps=threshold_bps), decides)


def write_release(home: Path, made: Pipeline | None = None, panel: Panel | None = None) -> str:
    """Write a release below `home`; returns its name. Everything in it learned from the first session, or from `panel`."""
    made, panel = made or pipeline(), panel or training_panel()
    assert panel.label_end is not None and panel.rows is not None
    last = int(panel.label_end[panel.rows].max())
    directory = release.write(
        home / "releases", made, max_train_t1={**dict.fromkeys(made.models, last), "rule": last}, data={}, code="0" * 64, metrics={}
    )
    return directory.name


def make_home(home: Path, made: Pipeline | None = None) -> str:
    """A home with the small market stored, and one release that is champion and challenger; returns the release's name."""
    market = small_market()
    ticks = ParquetTicks(home)
    for session, by_symbol in zip(market.sessions, market.events, strict=True):
        for instrument in market.universe.instruments:
            ticks.write_events(instrument, session, by_symbol[instrument.symbol], {"feed": "simulated"})
    name = write_release(home, made)
    Releases(home).set_challenger(name)
    Releases(home).compare_and_set(0, name)
    return name


def second_session() -> tuple[Session, Events]:
    """The session that no model has seen."""
    return small_market().sessions[1], small_market().stream(1)
