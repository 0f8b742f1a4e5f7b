"""The whole DAG: features and labels, out-of-fold fits level by level, judgement, release, verdict."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from cift_models.models import model_class
from cift_models.settings import get_settings
from cift_models.stacking import folds, needed
from flows.parameters import ModelParameters, TrainParameters
from tasks.dataset import Dataset, build_session, select_data
from tasks.fit import Assignment, Fits, fit
from tasks.gate import gate, publish
from tasks.ingest import find_truth
from tasks.judge import assemble, fit_heads, judge
from tasks.offsets import judge_offsets
from tasks.record import record_run
from tasks.release import register, write_release
from tasks.runs import Run, going_on
from tasks.step import StepRef
from tasks.threads import limit_threads
from tasks.torch_process import TORCH, torch_process
from tasks.track import track

WORKERS = 10
"""Threads for tasks: up to eight wait for the torch process, two compute."""

BASELINES = ("prior", "activity", "last_move", "queue_imbalance", "ridge_reference", "trees", "strong_linear")
"""What nothing reads and every run has beside its models, where none are named."""

CHAINED = ("hmm",)
"""Kinds whose fit keeps the order of hidden states of the fold before."""


@flow(name="train", task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))  # pyright: ignore[reportCallIssue, reportArgumentType]
def train(params: TrainParameters) -> Run:
    """Train, judge and release every model on a range of stored sessions.

    Args:
        params: The range, the models, the seed.
    """
    with going_on():
        dataset = select_data(params.symbols, params.start, params.end, params.test_from, params.latency_ms)
        return run_dag("train", dataset, params)


def run_dag(name: str, dataset: Dataset, params: ModelParameters, newest: StepRef | None = None) -> Run:
    """Steps in the order of the README's drawing. Called by a flow, in its run.

    newest: the audit of the last session, where the flow made one.
    """
    kinds = needed(params.models or [*BASELINES, "ensemble"])
    limit_threads(get_settings().threads)
    with torch_process(any(kind in TORCH for kind in kinds)):
        built = build(dataset)
        fits = fit_all(kinds, dataset, built, params)
    heads = fit_heads(kinds, dataset, built, fits)
    plan = assemble(kinds, dataset, built, fits, heads)
    offsets = judge_offsets(dataset, built, fits, every=params.offsets == "all")
    judged = judge(dataset, built, fits, heads, plan, find_truth(dataset), offsets)
    release = write_release(dataset, fits, heads, plan, judged)
    run = track(name, params.model_dump(mode="json"), dataset, built, fits, judged, release)
    version = register(release, run)
    gated = gate(dataset, built, judged, release, newest)
    publish(gated, run["run_id"], version)
    steps = [*built.values(), heads, plan, offsets, judged, *([newest] if newest else [])]
    return record_run(name, params.model_dump(mode="json"), dataset, steps, fits, judged, gated, release, run, version)


def build(dataset: Dataset, again: bool = False) -> dict:
    """Features and labels, a session a task."""
    futures = {day: build_session.submit(dataset, day, again) for day in dataset.days}
    return {day: future.result() for day, future in futures.items()}


def fit_all(kinds: list[str], dataset: Dataset, built: dict, params: ModelParameters) -> Fits:
    """Every kind on every fold, as soon as the fits that it reads are there."""
    futures: dict[str, dict[str, Any]] = {}
    for kind in fit_order(kinds):
        config = {"epochs": params.epochs} if params.epochs and kind in TORCH else {}
        below = {need: dict(futures[need]) for need in model_class(kind).needs}
        futures[kind] = {}
        previous = None
        for fold in folds(kind, kinds):
            futures[kind][fold.name] = fit.submit(Assignment(kind, fold, dataset, built, below, config, params.seed, previous))
            previous = futures[kind][fold.name] if kind in CHAINED else None
    return {kind: {name: future.result() for name, future in futures[kind].items()} for kind in kinds}


def fit_order(kinds: list[str]) -> list[str]:
    """What the torch process waits for first, then the rest, each after what it reads."""
    first = needed([kind for kind in kinds if kind in TORCH])
    return [*first, *(kind for kind in kinds if kind not in first)]
