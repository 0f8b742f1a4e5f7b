"""metrics.json: whole, valid, the same twice, and refused when damaged."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from cift_models import scores
from cift_models.errors import DataError, SchemaMismatch
from cift_models.evaluation import metrics
from cift_models.files import canonical_json
from tests.evaluated import chances, forecast, honest, with_forecasts


@pytest.fixture(scope="module")
def data():
    return [honest(0), honest(1, rows=2200, symbol="S1")]


@pytest.fixture(scope="module")
def built(data):
    return metrics.build(data, draws=400)


def test_it_is_valid_and_survives_json(built):
    metrics.validate(built)
    metrics.validate(json.loads(canonical_json(built)))


def test_the_same_rows_and_seed_give_the_same_bytes(data, built):
    assert canonical_json(metrics.build(data, draws=400)) == canonical_json(built)


def test_every_model_has_every_metric(built):
    for symbol in ("S0", "S1"):
        assert list(built["symbols"][symbol])[: len(metrics.MODELS)] == list(metrics.MODELS)
        for figures in built["symbols"][symbol].values():
            assert list(figures) == list(metrics.METRICS)
    assert built["rows"] == {"S0": 2400, "S1": 2200}


def test_values_are_those_of_scores(data, built):
    forecast = data[0].forecasts["transformer"]
    y, p, m = data[0].y[30:], forecast.p[30:], forecast.mean_bps[30:]
    found = built["symbols"]["S0"]["transformer"]
    expected = {
        "r2": scores.r2(y, m),
        "hit_rate": scores.hit_rate(y, m),
        **{name: getattr(scores, name)(y, p) for name in metrics.METRICS[2:10]},
    }
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected)
    assert all(found[name]["lo"] < found[name]["value"] < found[name]["hi"] for name in ("r2", "hit_rate", "log_loss", "brier"))


def test_what_does_not_apply_is_null_with_its_reason(built):
    figures = built["symbols"]["S0"]
    assert "no forecast" in figures["hmm"]["r2"]["reason"] and "no chances" in figures["hmm"]["log_loss"]["reason"]
    assert "not part of this run" in figures["hawkes"]["r2"]["reason"]
    assert figures["prior"]["r2"]["value"] is None and figures["prior"]["log_loss"]["value"] > 0
    assert figures["prior"]["calibration_slope"]["value"] is None


def test_common_rows_are_those_where_everyone_speaks(data, built):
    assert built["common_rows"]["S0"] == 2370
    linear = data[0].forecasts["linear"]
    assert built["common"]["S0"]["linear"]["r2"]["value"] == pytest.approx(scores.r2(data[0].y[30:], linear.mean_bps[30:]))
    assert built["common"]["S0"]["linear"]["r2"]["value"] != built["symbols"]["S0"]["linear"]["r2"]["value"]


def test_pairs_are_on_the_rows_of_both(data, built):
    pair = built["paired"]["S0"]["ensemble"]
    y = data[0].y[30:]
    gain = scores.r2(y, data[0].forecasts["ensemble"].mean_bps[30:]) - scores.r2(y, data[0].forecasts["linear"].mean_bps[30:])
    assert pair["rows"] == 2370 and pair["r2_gain"]["value"] == pytest.approx(gain)
    assert np.sign(pair["dm_60s"]["t"]) == np.sign(gain) and pair["dm_60s"]["blocks"] == 40 and pair["dm_300s"]["blocks"] == 9
    assert "R2 gain in [" in pair["text"] and built["paired"]["S0"]["last_move"]["rows"] == 2390
    assert pair["clark_west_60s"]["t"] is None and built["paired"]["S0"]["transformer"]["clark_west_60s"]["t"] > 0
    assert pair["log_loss_gain_over_activity"]["value"] > 0
    assert "not part of this run" in built["paired"]["S0"]["hawkes"]["text"] and "linear" not in built["paired"]["S0"]


def test_a_gain_that_is_certain_is_called_better():
    data = honest(3, rows=6000, b=0.5)
    weak = 0.2 * data.forecasts["linear"].mean_bps
    built = metrics.build([with_forecasts(data, {"linear": forecast(weak), "trees": data.forecasts["ensemble"]})], draws=400)
    assert built["paired"]["S0"]["trees"]["text"].startswith("better than linear")


def test_skill_by_delay_starts_with_none(built):
    delays = built["delays"]["S0"]["linear"]
    assert [row["delay_ms"] for row in delays] == [0, 100, 1000]
    assert delays[0]["value"] == built["symbols"]["S0"]["linear"]["r2"]["value"]


def test_calibration_passes_true_chances_and_fails_stretched_ones():
    data = honest(5, rows=6000, b=0.5)
    mean = data.forecasts["ensemble"].mean_bps
    sure = forecast(mean)
    stretched = {f"{k}": replace(sure, p=chances(k * mean)) for k in (1, 1.25, 3)}
    found = metrics.build([with_forecasts(data, stretched)], draws=400)["calibration"]["S0"]
    assert [found[k]["passes"] for k in stretched] == [True, False, False]
    assert found["1.25"]["p_holm"] > metrics.ECE_SIZE and found["1.25"]["slope"]["hi"] < 1


def test_economics_names_its_null_and_its_rule(built):
    facts = built["economics"]["S0"]["linear"]
    assert facts["timing_null"]["shifts"] == 3 and facts["rule"]["threshold_bps"] == -1.4
    assert [row["delay_ms"] for row in facts["net_by_delay"]] == [0, 100]
    assert built["economics"]["S0"]["hmm"] == {}


def test_an_alarm_reaches_the_file(data):
    told = with_forecasts(data[0], {**data[0].forecasts, "trees": forecast(data[0].y)})
    assert [a["model"] for a in metrics.build([told], draws=100)["alarms"]] == ["trees"]


def test_a_short_run_has_figures_without_intervals():
    built = metrics.build([honest(rows=300)], draws=100)
    metrics.validate(built)
    r2 = built["symbols"]["S0"]["linear"]["r2"]
    assert r2["value"] is not None and r2["lo"] is None and "blocks" in r2["reason"]


def damaged(change):
    def apply(built):
        built = copy.deepcopy(built)
        change(built)
        return built

    return apply


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["symbols"]["S0"]["linear"].pop("r2"),
        lambda m: m["symbols"]["S0"].pop("hmm"),
        lambda m: m["symbols"]["S0"]["linear"]["r2"].update(value=float("nan")),
        lambda m: m["symbols"]["S0"]["linear"]["r2"].update(lo=1.0, hi=0.0),
        lambda m: m["symbols"]["S0"]["hmm"]["r2"].pop("reason"),
        lambda m: m["rows"].pop("S1"),
        lambda m: m.update(schema=2),
        lambda m: m.update(verdict="good"),
        lambda m: m["rows"].update(S0="many"),
    ],
    ids=["metric", "model", "nan", "upside down", "no reason", "symbol", "version", "extra", "type"],
)
def test_a_damaged_file_is_refused(built, change):
    with pytest.raises(SchemaMismatch, match=r"metrics\.json"):
        metrics.validate(damaged(change)(built))


def test_evaluation_refuses_rows_that_make_no_sense(data):
    one = data[0]
    nan = np.full(len(one), np.nan)
    for bad, match in [
        ({"y": nan}, "finite"),
        ({"as_of": one.as_of[::-1].copy()}, "increasing"),
        ({"mid": one.mid[:-1]}, "shape"),
        ({"bid": {5: one.mid}}, "delays"),
        ({"forecasts": {"linear": replace(one.forecasts["linear"], mean_bps=nan)}}, "wherever ready"),
    ]:
        with pytest.raises(DataError, match=match):
            replace(one, **bad)
    with pytest.raises(DataError, match="one part a symbol"):
        metrics.build([one, one])


def test_the_document_names_everything_in_the_file(built):
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    names = {*built, *metrics.METRICS, *metrics.MODELS, *built["settings"], *built["paired"]["S0"]["ensemble"], "hit_excess"}
    names |= {
        *built["marginal"]["S0"]["linear"],
        *built["concentration"]["S0"]["linear"],
        *built["economics"]["S0"]["linear"]["touch_size"],
    }
    names |= {"rises_with_delay", "skill_on_random_signs", *built["economics"]["S0"]["linear"], *built["calibration"]["S0"]["linear"]}
    assert {name for name in names if name not in text} == set()
