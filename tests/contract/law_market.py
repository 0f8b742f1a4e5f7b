"""What the laws are run on: every kind fitted once on a simulated session, and another session with holes in it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from cift_models.features import FeatureSet, stream
from cift_models.files import sha256_bytes
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.models.protocol import FitContext, FitReport, Model, Panel, Why
from cift_models.splits import decision_rows
from tests.market import small_market

CONFIGS: dict[str, dict] = {
    "gnn": {"epochs": 2, "shifts": 40},
    "transformer": {"epochs": 2, "width": 8, "heads": 2, "hidden": 8, "layers": 1, "window": 8, "chunk": 64},
    "hmm": {"restarts": 2, "bar_s": 10},
}
"""Smaller than the defaults where those take seconds; a law does not depend on size."""

STAND_INS = ("gnn", "transformer")
"""Kinds whose outputs are stood in for where another kind reads them, so that its laws run without torch."""


@dataclass
class Case:
    """A fitted kind: its model, what it was fitted on, and an unseen panel with the outputs that it needs.

    `untouched` is the digest of both panels from before the fit.
    """

    kind: str
    model: Model
    report: FitReport
    train: Panel
    test: Panel
    untouched: str

    @property
    def config(self):
        return config_of(self.kind)

    def refit(self, train: Panel) -> Model:
        return model_class(self.kind).fit(self.config, [train], [], FitContext(seed=5))[0]


def panel_digest(*panels: Panel) -> str:
    """Hex sha256 over every array of some panels."""
    arrays = []
    for panel in panels:
        own = [panel.as_of, panel.x, panel.valid, panel.why, panel.offsets, panel.y, panel.rows, panel.label_end, panel.base_oof]
        arrays += [*own, *(getattr(panel.events, f.name) for f in fields(panel.events)), *panel.base.values(), *panel.base_ready.values()]
    return sha256_bytes(b"".join(array.tobytes() for array in arrays))


def config_of(kind: str):
    return model_class(kind).Config(**CONFIGS.get(kind, {}))


class LawMarket:
    """Panels of tests/market.py, and fits on them by kind. `symbols` and `seconds` cut the market down."""

    def __init__(self, symbols: int | None = None, seconds: int | None = None) -> None:
        self.symbols = symbols
        self.seconds = seconds
        self._cases: dict[str, Case] = {}

    @cached_property
    def train(self) -> Panel:
        return self.panel(0)

    @cached_property
    def test(self) -> Panel:
        """The second session. Where it is not valid its features are NaN: nothing may be read there."""
        panel = self.panel(1)
        rng = np.random.default_rng(0)
        valid, why, x = panel.valid.copy(), panel.why.copy(), panel.x.copy()
        for begin, length in ((len(panel) // 3, 5), (len(panel) // 2, 37), (3 * len(panel) // 4, 1)):
            valid[begin : begin + length, int(rng.integers(valid.shape[1]))] = False
        valid[len(panel) // 4 : len(panel) // 4 + 3] = False
        why[~valid & (why == 0)] = Why.GAP
        x[~valid] = np.nan
        return replace(panel, valid=valid, why=why, x=x)

    def panel(self, number: int) -> Panel:
        market = small_market()
        instruments = market.universe.instruments[: self.symbols]
        universe, session = Universe(instruments), market.sessions[number]
        events = market.stream(number)
        events = events[events.symbol < len(instruments)]
        if self.seconds is not None:
            session = Session(session.day, session.open, session.open + self.seconds * SECOND)
            events = events[events.ts <= session.close]
        features = FeatureSet(levels=universe.levels)
        as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
        y, known, end = labels(events, universe, session, as_of, SECOND)
        rows = np.isin(as_of, decision_rows(session, SECOND, SECOND)) & known.all(axis=1)
        return Panel(
            universe, features, session.day, session.open, session.close, as_of, x, valid, why, events, offsets,
            y=np.where(rows[:, None], y, 0.0), rows=rows, label_end=end, base_oof=rows.copy(),
        )  # fmt: skip

    def case(self, kind: str) -> Case:
        if kind not in self._cases:
            needs = model_class(kind).needs
            train, test = (self._told(panel, needs) for panel in (self.train, self.test))
            untouched = panel_digest(train, test)
            model, report = model_class(kind).fit(config_of(kind), [train], [], FitContext(seed=5))
            self._cases[kind] = Case(kind, model, report, train, test, untouched)
        return self._cases[kind]

    def _told(self, panel: Panel, needs: tuple[str, ...]) -> Panel:
        outputs = {}
        for need in needs:
            if need in STAND_INS:
                values, ready = self.case("linear").model.predict(panel)
                noise = np.random.default_rng(len(need)).normal(0, 0.1, values.shape)
                outputs[need] = np.where(ready[..., None], values + noise, 0.0), ready
            else:
                outputs[need] = self.case(need).model.predict(self._told(panel, model_class(need).needs))
        base, ready = ({need: out[i] for need, out in outputs.items()} for i in range(2))
        return replace(panel, base=base, base_ready=ready)
