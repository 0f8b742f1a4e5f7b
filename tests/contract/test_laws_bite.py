"""Every law goes red for a model that breaks it: a linear model with one thing wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models.models.linear import Linear
from cift_models.models.protocol import Output, Outputs, State
from tests.contract import laws
from tests.contract.law_market import LawMarket


class OneUlpLive(Linear):
    def update(self, state, step):
        state, output = super().update(state, step)
        return state, Output(np.nextafter(output.values, 1), output.ready)


class OneColumnTooMany(Linear):
    outputs = ("mean_bps", "sd_bps")


class ReportsAnArray(Linear):
    @classmethod
    def fit(cls, config, train, valid, ctx):
        model, report = super().fit(config, train, valid, ctx)
        return model, replace(report, facts=report.facts | {"bias": model.weights["bias"]})


class SpeaksWhereNotValid(Linear):
    def predict(self, panel):
        values, ready = super().predict(panel)
        return Outputs(np.where(ready[..., None], values, 1.0), ready)


class ForgetsItsBias(Linear):
    @classmethod
    def load(cls, directory):
        model = super().load(directory)
        model.weights["bias"] = np.nextafter(model.weights["bias"], 9)
        return model


class LearnsFromEveryLabel(Linear):
    @classmethod
    def fit(cls, config, train, valid, ctx):
        return super().fit(config, [replace(panel, rows=np.ones_like(panel.rows)) for panel in train], valid, ctx)


class KnowsTheLastMid(Linear):
    def predict(self, panel):
        values, ready = super().predict(panel)
        return Outputs(np.where(ready[..., None], values + 1e-9 * panel.column("mid")[-1, 0], 0.0), ready)


class TakesNaN(Linear):
    def predict(self, panel):
        return super().predict(replace(panel, x=np.nan_to_num(panel.x, posinf=0, neginf=0)))


class CountsInItself(Linear):
    calls = 0

    def update(self, state, step):
        self.calls += 1
        state, output = super().update(state, step)
        return state, Output(np.where(output.ready[:, None], output.values + 1e-12 * self.calls, 0.0), output.ready)


class KeepsAList(Linear):
    def start(self):
        return State(seen=[])


class WritesWhereItReads(Linear):
    def predict(self, panel):
        panel.x[-1, 0, 0] += 1
        return super().predict(panel)


class NeedsThreeSymbols(Linear):
    @classmethod
    def fit(cls, config, train, valid, ctx):
        assert len(train[0].universe) == 3
        return super().fit(config, train, valid, ctx)


BREAKS = {
    "stream_equals_batch": OneUlpLive,
    "outputs_have_their_names_and_shapes": OneColumnTooMany,
    "report_is_json": ReportsAnArray,
    "silent_where_not_valid": SpeaksWhereNotValid,
    "saved_model_predicts_the_same_bytes": ForgetsItsBias,
    "same_rows_and_seed_same_fit": LearnsFromEveryLabel,
    "future_changes_no_past": KnowsTheLastMid,
    "refuses_nan": TakesNaN,
    "state_survives_bytes": KeepsAList,
    "a_copy_is_a_fork": CountsInItself,
    "inputs_are_left_alone": WritesWhereItReads,
    "one_symbol_and_few_rows_are_enough": NeedsThreeSymbols,
}


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_a_law_that_is_broken_goes_red(law, monkeypatch):
    broken = BREAKS[law.__name__]
    for module in ("laws", "law_market"):
        monkeypatch.setattr(f"tests.contract.{module}.model_class", lambda kind: broken)
    monkeypatch.setattr(laws, "TINY", LawMarket(symbols=1, seconds=260))
    with pytest.raises((AssertionError, TypeError, pytest.fail.Exception)):
        law(LawMarket().case("linear"))
