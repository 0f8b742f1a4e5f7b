"""What CIFT computes of events, as the causality audit asks it: features, labels, the models of a release."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cift_models import engine
from cift_models.engine import Pipeline
from cift_models.evaluation.causality import Folding, Rows, Subject
from cift_models.events import Events
from cift_models.features import FeatureSet, stream
from cift_models.features.stream import FeatureState
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models.protocol import Panel

Labels = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]
"""y float64[T, S], known bool[T, S], label_end int64[T]."""

LABEL_CUTS, MODEL_CUTS = 4, 16
"""One cut in so many: neither can carry a memory from one to the next."""


def features(universe: Universe, features: FeatureSet, session: Session, known: Callable[[int], Events] | None = None) -> Subject:
    """Every column of the feature set, and `valid` and `why`, in batch and with a carried memory."""

    def rows(as_of: NDArray[np.int64], x: NDArray, valid: NDArray, why: NDArray) -> Rows:
        return Rows(as_of, as_of, {features.names: x, ("valid",): valid[:, :, None], ("why",): why[:, :, None]})

    def build(events: Events) -> Rows:
        as_of, _, x, valid, why = stream.build(universe, features, session, events)
        return rows(as_of, x, valid, why)

    def fold(memory: FeatureState, events: Events, offsets: NDArray[np.int64], as_of: NDArray[np.int64]) -> Rows:
        return rows(as_of, *stream.fold(memory, universe, features, events, offsets, as_of))

    folding = Folding(
        start=lambda: stream.start(universe, features, session),
        fold=fold,
        save=FeatureState.to_bytes,
        restore=lambda data: FeatureState.from_bytes(universe, features, data),
    )
    return Subject("features", build, folding, known)


def targets(universe: Universe, clock_ns: int, session: Session, horizon_ns: int = SECOND, latency_ns: int = 0) -> Subject:
    """The label and whether it is known: they read from the state at as_of + latency on, to the horizon behind it, and nothing else."""
    as_of = np.array(session.instants(clock_ns), np.int64)

    def build(events: Events) -> Rows:
        y, known, end = labels(events, universe, session, as_of, horizon_ns, latency_ns)
        return Rows(as_of, end, {("y",): y[:, :, None], ("known",): known[:, :, None]})

    name = "labels" if latency_ns == 0 else f"labels after {latency_ns / 1e6:g} ms"
    return Subject(name, build, reach_ns=latency_ns + horizon_ns, one_in=LABEL_CUTS, anchor_ns=latency_ns)


def models(pipeline: Pipeline, session: Session) -> Subject:
    """What every model of a pipeline says, its probabilities, the costs and the signal."""

    def build(events: Events) -> Rows:
        decided = engine.fold(pipeline, pipeline.panel(session, events))
        blocks: dict[tuple[str, ...], NDArray] = {}
        for kind, values in decided.values.items():
            blocks[tuple(f"{kind}.{name}" for name in pipeline.models[kind].outputs)] = values
            blocks[f"{kind}.ready",] = decided.ready[kind][:, :, None]
            if kind in decided.p:
                blocks[tuple(f"{kind}.head.{name}" for name in ("p_down", "p_flat", "p_up"))] = decided.p[kind]
        blocks["cost_bps",] = decided.cost_bps[:, :, None]
        blocks["signal",] = decided.signal[:, :, None]
        return Rows(decided.as_of, decided.as_of, blocks)

    return Subject("models", build, one_in=MODEL_CUTS)


def panel_rows(panel: Panel) -> Rows:
    """What a panel says of its features: every column, and `valid` and `why`."""
    blocks: dict[tuple[str, ...], NDArray] = {panel.features.names: panel.x, ("valid",): panel.valid[:, :, None]}
    return Rows(panel.as_of, panel.as_of, {**blocks, ("why",): panel.why[:, :, None]})


def label_rows(as_of: NDArray[np.int64], told: Mapping[int, Labels]) -> Rows:
    """Labels at some latencies (ns), as `labels` gives them: (y, known, label_end) each."""
    blocks: dict[tuple[str, ...], NDArray] = {}
    for latency, (y, known, _) in told.items():
        blocks[(f"y after {latency / 1e6:g} ms",)], blocks[(f"known after {latency / 1e6:g} ms",)] = y[:, :, None], known[:, :, None]
    return Rows(as_of, as_of, blocks)
