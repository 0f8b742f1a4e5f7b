"""Parameters of the flows: what the form offers, and what it refuses."""

from __future__ import annotations

from datetime import date
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from cift_models.models import REGISTRY
from flows import parameters
from flows.parameters import (
    BackfillParameters,
    IngestParameters,
    Kind,
    NightlyParameters,
    Parameters,
    PredictParameters,
    SeedParameters,
    TrainParameters,
)
from tests.processes import ROOT

RANGE = {"symbols": ["AAPL"], "start": "2012-06-21", "end": "2012-06-21"}
FLOWS = {
    "backfill": BackfillParameters,
    "data_prep": parameters.DataPrepParameters,
    "gate": parameters.GateParameters,
    "ingest": IngestParameters,
    "nightly_retrain": NightlyParameters,
    "predict": PredictParameters,
    "seed": SeedParameters,
    "train": TrainParameters,
}


def test_the_form_offers_every_model_of_the_registry() -> None:
    assert list(get_args(Kind)) == list(REGISTRY)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"end": "2012-06-20"}, "ends before it starts"),
        ({"symbols": []}, "at least 1 item"),
        ({"symbols": ["../AAPL"]}, "match pattern"),
        ({"models": ["lienar"]}, "'prior', 'activity'"),
        ({"epochs": float("nan")}, "finite number"),
        ({"epochs": 1.5}, "fractional part"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"latency_ms": 5}, "0, 1, 10, 100 or 1000"),
        ({"start": "nan"}, "date"),
        ({"epoch": 3}, "Extra inputs are not permitted"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_parameter_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainParameters(**(RANGE | wrong))
    assert TrainParameters(**RANGE).start == date(2012, 6, 21)


@pytest.mark.parametrize("cls", FLOWS.values(), ids=FLOWS)
def test_every_field_of_the_form_says_what_it_is(cls: type[Parameters]) -> None:
    assert cls.model_fields and all(field.description for field in cls.model_fields.values())


@pytest.mark.parametrize("cls", [c for c in FLOWS.values() if "start" in c.model_fields], ids=lambda c: c.__name__)
def test_a_day_has_a_pattern_because_the_server_checks_no_formats(cls: type[Parameters]) -> None:
    for name in ("start", "end"):
        assert cls.model_json_schema()["properties"][name]["pattern"] == r"^\d{4}-\d{2}-\d{2}$"


def test_the_form_asks_first_for_what_it_cannot_guess() -> None:
    assert list(TrainParameters.model_fields)[:3] == ["symbols", "start", "end"]
    assert next(iter(NightlyParameters.model_fields)) == "symbols"


def test_every_deployment_names_its_flow_by_module_and_gives_it_parameters_that_it_takes() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert sorted(d["name"] for d in deployments) == sorted(FLOWS)
    for one in deployments:
        assert one["entrypoint"] == f"flows.{one['name']}.{one['name']}"
        assert one["enforce_parameter_schema"] is True
        if "parameters" in one:
            FLOWS[one["name"]](**one["parameters"]["params"])
    (nightly,) = (d for d in deployments if d.get("schedules"))
    assert nightly["name"] == "nightly_retrain"
    # A date frozen into a deployment would train on the same sessions every night.
    assert not {"start", "end"} & set(nightly["parameters"]["params"])
