"""Whether the release's models live on the round second: their final fits at ten moments of the second, under a key of its own."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models.engine import Pipeline
from cift_models.evaluation.offsets import KINDS, by_offset
from cift_models.files import canonical_json
from cift_models.models import model_class
from cift_models.signals import SignalRule
from cift_models.splits import TEST
from cift_models.stacking import needed
from tasks.dataset import Dataset, open_panel
from tasks.fit import Fits
from tasks.step import Room, StepRef, step


@task(persist_result=False, cache_policy=NO_CACHE)
def judge_offsets(dataset: Dataset, built: dict[int, StepRef], fits: Fits, every: bool = False) -> StepRef:
    """offsets.json: R2 of the final fits on the test blocks, moved by tenths of a second: of KINDS, or of all that forecast."""
    asked = [kind for kind in fits if "mean_bps" in fits[kind]["final"].facts["outputs"] and (every or kind in KINDS)]
    used = needed(asked)

    def run(room: Room) -> dict[str, Any]:
        models = {kind: model_class(kind).load(fits[kind]["final"].directory / "model") for kind in used}
        found: dict[str, Any] = {}
        if asked:
            pipeline = Pipeline(dataset.get_universe(), dataset.get_features(), models, {}, SignalRule(), asked[-1])
            calendar = dataset.get_calendar()
            days = calendar.sessions(TEST)
            sessions = ((dataset.session(day), open_panel(dataset, built, day)) for day in days)
            found = by_offset(pipeline, sessions, calendar, asked, latency_ns=dataset.latency_ns)
        (room.out / "offsets.json").write_bytes(canonical_json(found))
        return {"text": {symbol: {kind: row["text"] for kind, row in by_kind.items()} for symbol, by_kind in found.items()}}

    inputs = {
        "kinds": asked,
        "fits": {kind: fits[kind]["final"] for kind in used},
        "sessions": {str(day): ref for day, ref in built.items()},
        "calendar": dataset.calendar,
        "latency_ns": dataset.latency_ns,
    }
    return step("offsets", inputs, run)
