"""Fit one kind on one fold and let it speak: the model, its report, and what it says of every session that its fold predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models.files import canonical_json
from cift_models.models import model_class
from cift_models.models.protocol import FitContext, Outputs
from cift_models.settings import get_settings
from cift_models.splits import Fold, learned
from cift_models.stacking import Spoken, TrainingPanels, free_from, outputs_below
from tasks.dataset import Dataset, open_panel
from tasks.step import Room, StepRef, step
from tasks.torch_process import in_torch_process

Fits = dict[str, dict[str, StepRef]]
"""Fits by kind and fold name."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One kind on one fold, with what it reads: all that a fit depends on, besides the code and the threads of the settings.

    built      features and labels by session (yyyymmdd)
    below      fits of the models that it reads
    config     what its Config is made of; the rest has defaults
    previous   its fit on the fold before, which keeps the order of hidden states
    """

    kind: str
    fold: Fold
    dataset: Dataset
    built: dict[int, StepRef]
    below: Fits
    config: dict[str, Any]
    seed: int
    previous: StepRef | None = None


@task(persist_result=False, cache_policy=NO_CACHE, task_run_name="fit {given.kind} {given.fold.name}")
def fit(given: Assignment) -> StepRef:
    """Fit a kind on the past of a fold, and predict the fold's blocks. Prefect waits for the fits among what is given, and puts them in."""
    return in_torch_process(given.kind, fit_step, given)


def fit_step(given: Assignment) -> StepRef:
    """The step behind `fit`, in whatever process."""
    kind, fold, dataset = given.kind, given.fold, given.dataset
    threads = get_settings().threads
    inputs = {
        "kind": kind,
        "train": list(fold.train),
        "stop": list(fold.stop),
        "predict": list(fold.predict),
        "dataset": {"calendar": dataset.calendar, "universe": dataset.universe, "latency_ns": dataset.latency_ns},
        "sessions": {str(day): ref for day, ref in given.built.items()},
        "below": given.below,
        "previous": given.previous,
        "config": given.config,
        "seed": given.seed,
        "threads": threads,
    }
    return step(f"{kind} {fold.name}", inputs, lambda room: _run(room, given, threads), under=f"models/checkpoints/{kind}")


def _run(room: Room, given: Assignment, threads: int) -> dict[str, Any]:
    kind, fold, below = given.kind, given.fold, given.below
    cls = model_class(kind)
    calendar = given.dataset.get_calendar()

    def panel(day: int):
        return open_panel(given.dataset, given.built, day)

    def heard(day: int) -> dict[str, dict[str, Spoken]]:
        return {need: spoken(below[need], day) for need in cls.needs}

    train = TrainingPanels(kind, calendar, fold.train, panel, heard)
    stop = TrainingPanels(kind, calendar, fold.stop, panel, heard)
    before = given.previous.directory / "model" if given.previous else None
    ctx = FitContext(
        seed=given.seed, threads=threads, workdir=room.work, previous=before, progress=lambda what, share: room.progress(what, 0.9 * share)
    )
    model, report = cls.fit(cls.Config(**given.config), train, stop, ctx)
    (room.out / "model").mkdir()
    model.save(room.out / "model")
    own = learned(train, bool(cls.needs))
    own_t1 = max(own.max_train_t1, learned(stop, bool(cls.needs)).max_train_t1 if len(stop) else 0)
    free = free_from(kind, own, (below[need][fold.name].facts["free_from"] for need in cls.needs))
    curves = {"status": report.status, "n_rows": report.n_rows, "curves": report.curves, "facts": report.facts}
    (room.out / "fit.json").write_bytes(canonical_json(curves))
    (room.out / "outputs").mkdir()
    sessions = calendar.sessions(fold.predict)
    for i, day in enumerate(sessions):
        room.progress(f"predicting {day}", 0.9 + 0.1 * i / len(sessions))
        said = model.predict(
            outputs_below(kind, {need: load_outputs(below[need][fold.name].directory, day) for need in cls.needs}, panel(day))
        )
        np.savez(room.out / "outputs" / f"{day}.npz", allow_pickle=False, values=said.values, ready=said.ready)
    return {
        "kind": kind, "fold": fold.name, "status": report.status, "n_rows": report.n_rows, "own_t1": own_t1, "free_from": free,
        "sessions": list(sessions), "outputs": list(model.outputs),
    }  # fmt: skip


def load_outputs(directory: Path, day: int) -> Outputs:
    """What a fit said of a session: values[T, S, C], ready[T, S]."""
    with np.load(directory / "outputs" / f"{day}.npz", allow_pickle=False) as arrays:
        return Outputs(arrays["values"], arrays["ready"])


def spoken(fits: dict[str, StepRef], day: int) -> dict[str, Spoken]:
    """What the fits of one kind said of a session, by fold name, each with the first instant that is out of fold for it."""
    found = {name: (load_outputs(ref.directory, day), ref) for name, ref in fits.items() if day in ref.facts["sessions"]}
    return {name: Spoken(said.values, said.ready, ref.facts["free_from"]) for name, (said, ref) in found.items()}
