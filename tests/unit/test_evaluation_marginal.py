"""What a model adds over the stack without it: certain where it knows something, exactly nothing where it does not, and said in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cift_models import scores
from cift_models.evaluation import metrics
from cift_models.evaluation.marginal import STACK, Cost, OutOfFold, Stack, blend_weights, marginal, reads, switches, verdict, without
from cift_models.evaluation.significance import Blocks
from tests.evaluated import forecast, market, with_forecasts

MEMBERS = ("linear", "hawkes", "transformer")
BASE = {"transformer": {"S0": (0.7, 0.2)}}


def made(seed: int, rows: int, knows: float):
    """y = move (a + b + noise): linear knows a, Hawkes b, the Transformer its base .7 linear + .2 hawkes and `knows` of a third part."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=(3, rows))
    moved = rng.uniform(size=rows) > 0.6
    y = moved * (0.3 * a + 0.3 * b + 0.3 * c + rng.normal(size=rows))
    linear, hawkes = 0.12 * a, 0.12 * b
    return y, {"linear": linear, "hawkes": hawkes, "transformer": 0.7 * linear + 0.2 * hawkes + knows * c}


def table(knows: float, noise: float = 0.0, costs=None, line: float | None = 0.0):
    """`line`: what the strong line knows of the third part, beside linear's; None: it is not part of the run."""
    past_y, past = made(1, 6000, knows)
    y, means = made(2, 6000, knows)
    if line is not None:
        means["strong_linear"] = made(2, 6000, line)[1]["transformer"]
    rng = np.random.default_rng(9)
    if noise:
        past["gnn"], means["gnn"] = noise * rng.normal(size=6000), noise * rng.normal(size=6000)
    data, _ = market(2, 6000)
    data = with_forecasts(replace(data, y=y), {name: forecast(mean) for name, mean in means.items()})
    stack = Stack({"S0": OutOfFold(past_y, past)}, costs or {}, {}, BASE)
    return data, stack, marginal([data], Blocks([data.as_of], draws=400), stack)["S0"]


def test_a_model_that_knows_something_adds_it_and_its_gain_is_the_difference_of_two_stacks():
    data, stack, rows = table(knows=0.1)
    row = rows["transformer"]
    assert row["over"] == ["linear", "hawkes"] and row["text"].startswith("adds: R2 gain in [+")
    full = sum(w * data.forecasts[m].mean_bps for w, m in zip(blend_weights(stack.past, MEMBERS), MEMBERS, strict=True))
    less = sum(w * data.forecasts[m].mean_bps for w, m in zip(blend_weights(stack.past, MEMBERS[:2]), MEMBERS[:2], strict=True))
    assert row["r2_gain"]["value"] == pytest.approx(scores.r2(data.y, full) - scores.r2(data.y, less))
    assert row["r2_gain"]["lo"] > 0 and row["direction_gain"]["lo"] > 0 and row["dm_60s"]["t"] > 3
    assert row["over_base"]["lo"] > 0


def test_weights_are_learned_on_the_past_alone():
    data, stack, rows = table(knows=0.1)
    other = replace(data, y=-data.y)
    again = marginal([other], Blocks([data.as_of], draws=400), stack)["S0"]
    assert again["transformer"]["r2_gain"]["hi"] < 0 and again["transformer"]["text"].startswith("takes away")
    # A logit that had seen the test rows would turn round with them, and gain.
    assert rows["transformer"]["direction_gain"]["lo"] > 0 > again["transformer"]["direction_gain"]["hi"]


def test_a_network_that_says_what_its_base_says_adds_exactly_nothing_to_it():
    _, _, rows = table(knows=0.0)
    assert rows["transformer"]["over_base"] == {"value": 0.0, "lo": 0.0, "hi": 0.0}
    assert not rows["transformer"]["text"].startswith("adds:")


def test_noise_adds_nothing_and_the_words_say_so():
    _, _, rows = table(knows=0.1, noise=0.3)
    assert rows["gnn"]["text"].startswith("adds nothing") and "gain in [" in rows["gnn"]["text"]
    assert abs(rows["gnn"]["r2_gain"]["value"]) < 0.002


def test_the_stack_without_a_model_holds_nobody_who_reads_it():
    members = ("linear", "hawkes", "gnn", "transformer", "meta_learner")
    assert without("linear", members) == ["hawkes"] and without("transformer", members) == ["linear", "hawkes", "gnn"]
    assert without("meta_learner", members) == ["linear", "hawkes", "gnn", "transformer"]
    assert {"linear", "hawkes"} < reads("meta_learner") and reads("linear") == set()


def test_the_regimes_are_judged_by_the_ensemble_against_its_overall_row():
    data, stack, _ = table(knows=0.1)
    overall = {"linear": 0.5, "hawkes": 0.5}
    flat = 0.5 * data.forecasts["linear"].mean_bps + 0.5 * data.forecasts["hawkes"].mean_bps
    for said, expected in ((flat, "adds nothing, the stack says the same without it"), (flat + 0.05 * data.y, "adds: ")):
        told = with_forecasts(data, {**data.forecasts, "hmm": replace(forecast(flat), mean_bps=None), "ensemble": forecast(said)})
        row = marginal([told], Blocks([data.as_of], draws=400), replace(stack, overall=overall))["S0"]["hmm"]
        assert row["text"].startswith(expected) and row["over"] == ["linear", "hawkes"]


def test_costs_stand_beside_the_gain_or_say_why_not():
    _, _, rows = table(knows=0.1, costs={"transformer": Cost(0.4, 12.0)})
    assert (rows["transformer"]["live_ms"], rows["transformer"]["fit_minutes"]) == (0.4, 12.0)
    assert rows["linear"]["live_ms"] is None and rows["linear"]["cost_reason"]
    assert "cost_reason" not in rows["transformer"]


def test_what_is_not_there_is_null_with_its_reason():
    data, _, rows = table(knows=0.1)
    assert list(rows) == list(STACK) and "not part of this run" in rows["meta_learner"]["text"]
    bare = marginal([data], Blocks([data.as_of], draws=10))["S0"]
    assert all(row["r2_gain"]["value"] is None and "not given" in row["text"] for row in bare.values())


def test_the_table_is_part_of_a_valid_file():
    data, stack, _ = table(knows=0.1)
    built = metrics.build([data], stack=stack, draws=100)
    metrics.validate(built)
    assert built["marginal"]["S0"]["transformer"]["r2_gain"]["value"] > 0


@pytest.mark.parametrize(
    ("r2", "direction", "starts"),
    [
        ((0.01, 0.02), (-0.01, 0.01), "adds:"),
        ((-0.01, 0.02), (-0.01, 0.01), "adds nothing that shows"),
        ((-0.02, -0.01), (0.01, 0.02), "takes"),
    ],
)
def test_the_verdict_follows_the_intervals(r2, direction, starts):
    figures = [{"value": sum(pair) / 2, "lo": pair[0], "hi": pair[1]} for pair in (r2, direction)]
    assert verdict({"r2_gain": figures[0], "direction_gain": figures[1]}).startswith(starts)


def two_symbols(knows: float, other: float, line: float | None = 0.0):
    """The table of two symbols: the Transformer knows more than its base on each, or less."""
    return {"S0": table(knows, line=line)[2], "S1": table(other, line=line)[2]}


def test_a_model_that_adds_on_one_symbol_and_harms_none_is_on_and_says_what():
    found = switches(two_symbols(0.1, 0.0), MEMBERS)
    one = found["transformer"]
    assert list(found) == ["linear", "hawkes", "transformer"] and one.switch == "on" and one.reason.startswith("adds (p ")
    assert one.p_value is not None and one.p_value < 1e-6 and "S1 R2 gain in [" in one.reason and "direction gain in [" in one.reason


def test_a_model_that_is_its_base_is_off_and_the_reason_has_its_intervals():
    one = switches(two_symbols(0.0, 0.0), MEMBERS)["transformer"]
    assert one.switch == "off" and one.reason.startswith("adds nothing") and one.reason.count("gain in [") == 6


def test_a_model_that_takes_away_on_one_symbol_is_off_though_it_adds_on_another():
    tables = two_symbols(0.1, 0.1)
    below = {**tables["S1"]["transformer"], "direction_gain": {"value": -0.02, "lo": -0.03, "hi": -0.01}}
    tables["S1"] = {**tables["S1"], "transformer": below}
    one = switches(tables, MEMBERS)["transformer"]
    assert one.switch == "off" and one.reason.startswith("takes away on S1 (p ") and (one.p_value or 1) < 1e-6


def test_what_cannot_be_tested_is_off():
    data, _, _ = table(0.1)
    bare = switches({"S0": marginal([data], Blocks([data.as_of], draws=10))["S0"]}, MEMBERS)["linear"]
    assert (bare.switch, bare.p_value) == ("off", None) and bare.reason.startswith("not known to add anything: S0 the out-of-fold rows")
    few = {**table(0.1)[2]["transformer"]}
    few |= {name: {**few[name], "blocks": 29} for name in ("dm_60s", "direction_dm_60s")}
    assert switches({"S0": {"transformer": few}}, ["transformer"])["transformer"].switch == "off"


def test_noise_is_credited_once_in_forty_at_most():
    """Holm over two symbols and two measures: t of 2.2 alone (p .016 one-sided) is no credit, of 3 it is."""
    row = table(0.0)[2]["transformer"]
    for t, on in ((2.2, False), (3.0, True)):
        lucky = {**row, "dm_60s": {"t": t, "p_value": 0.0, "blocks": 100}, "dm_strong_60s": {"t": 3.0, "p_value": 0.0, "blocks": 100}}
        found = switches({"S0": {"transformer": lucky}, "S1": {"transformer": row}}, ["transformer"])["transformer"]
        assert (found.switch == "on") is on, found


def test_a_network_that_says_no_more_than_a_strong_line_is_not_credited():
    """It adds to a stack that has no such line, beyond doubt; a line with a longer memory says the same."""
    for line, on in ((0.0, True), (0.1, False), (None, False)):
        found = switches(two_symbols(0.1, 0.1, line), MEMBERS)["transformer"]
        assert (found.switch == "on") is on and (found.p_value or 1) < 1e-6, found
        assert found.reason.count("R2 over strong_linear: S0 gain ") == 1
        if not on:
            assert found.reason.startswith("adds, but is not known to be above strong_linear (p ")
    assert "S1 gain unknown, strong_linear is not part of this run" in found.reason
    rows = table(0.1)[2]
    data = table(0.1)[0]
    own, line = (scores.r2(data.y, data.forecasts[m].mean_bps) for m in ("transformer", "strong_linear"))
    assert rows["transformer"]["over_strong"]["value"] == pytest.approx(own - line) and rows["transformer"]["dm_strong_60s"]["t"] > 3
    assert rows["linear"]["over_strong"]["reason"] == "not a network"


def test_the_strong_line_is_no_network_and_needs_none_to_be_credited_against():
    found = switches(two_symbols(0.1, 0.1, None), MEMBERS)
    assert found["linear"].switch == "on" and "strong_linear" not in found["linear"].reason
