"""Fit one kind on one fold and let it speak: the model, its report, and what it says of every session that its fold predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models.files import canonical_json
from cift_models.models import model_class
from cift_models.models.protocol import FitContext, Outputs
from cift_models.settings import get_settings
from cift_models.splits import Fold, max_train_t1
from cift_models.stacking import TrainingPanels, outputs_below
from tasks.dataset import Dataset, open_panel
from tasks.step import Room, StepRef, step
from tasks.torch_process import in_torch_process

Fits = dict[str, dict[str, StepRef]]
"""Fits by kind and fold name."""


@task(persist_result=False, cache_policy=NO_CACHE, task_run_name="fit {kind} {fold.name}")
def fit(
    kind: str,
    fold: Fold,
    dataset: Dataset,
    built: dict[int, StepRef],
    below: Fits,
    config: dict[str, Any],
    seed: int,
    previous: StepRef | None = None,
) -> StepRef:
    """Fit `kind` on the past of a fold, and predict the fold's blocks.

    `below` holds the fits of the models that it reads, `previous` its fit on the fold before (which keeps the order of hidden states).
    """
    return in_torch_process(kind, fit_step, kind, fold, dataset, built, below, config, seed, previous)


def fit_step(
    kind: str,
    fold: Fold,
    dataset: Dataset,
    built: dict[int, StepRef],
    below: Fits,
    config: dict[str, Any],
    seed: int,
    previous: StepRef | None = None,
) -> StepRef:
    """The step behind `fit`, in whatever process."""
    threads = get_settings().threads

    def run(room: Room) -> dict[str, Any]:
        return _run(room, kind, fold, dataset, built, below, config, seed, threads, previous)

    inputs = {
        "kind": kind,
        "train": list(fold.train),
        "stop": list(fold.stop),
        "predict": list(fold.predict),
        "dataset": {"calendar": dataset.calendar, "universe": dataset.universe, "latency_ns": dataset.latency_ns},
        "sessions": {str(day): ref for day, ref in built.items()},
        "below": below,
        "previous": previous,
        "config": config,
        "seed": seed,
        "threads": threads,
    }
    return step(f"{kind} {fold.name}", inputs, run, under=f"models/checkpoints/{kind}")


def _run(
    room: Room,
    kind: str,
    fold: Fold,
    dataset: Dataset,
    built: dict[int, StepRef],
    below: Fits,
    config: dict[str, Any],
    seed: int,
    threads: int,
    previous: StepRef | None,
) -> dict[str, Any]:
    cls = model_class(kind)
    calendar = dataset.get_calendar()

    def panel(day: int):
        return open_panel(dataset, built, day)

    def heard(day: int) -> dict[str, dict[str, Outputs]]:
        return {
            need: {name: load_outputs(ref.directory, day) for name, ref in below[need].items() if day in ref.facts["sessions"]}
            for need in cls.needs
        }

    train = TrainingPanels(kind, calendar, fold.train, panel, heard)
    stop = TrainingPanels(kind, calendar, fold.stop, panel, heard)
    before = previous.directory / "model" if previous else None
    ctx = FitContext(
        seed=seed, threads=threads, workdir=room.work, previous=before, progress=lambda what, share: room.progress(what, 0.9 * share)
    )
    model, report = cls.fit(cls.Config(**config), train, stop, ctx)
    (room.out / "model").mkdir()
    model.save(room.out / "model")
    own_t1 = max(max_train_t1(panels, bool(cls.needs)) for panels in ([train, stop] if len(stop) else [train]))
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
        "kind": kind, "fold": fold.name, "status": report.status, "n_rows": report.n_rows, "own_t1": own_t1,
        "sessions": list(sessions), "outputs": list(model.outputs),
    }  # fmt: skip


def load_outputs(directory: Path, day: int) -> Outputs:
    """What a fit said of a session: values[T, S, C], ready[T, S]."""
    with np.load(directory / "outputs" / f"{day}.npz", allow_pickle=False) as arrays:
        return Outputs(arrays["values"], arrays["ready"])
