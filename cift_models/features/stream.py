"""The one computation of features: events in, rows out, memory carried. Batch is one call over a session, live one call an instant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.events import Events
from cift_models.features.families import FAMILIES
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Session, Universe

WARM_UP = 1  # models.protocol.Why.WARM_UP

FeatureState = dict[str, dict[str, NDArray]]
"""Memory of every family, by the family's name: plain arrays, per-symbol ones with leading axis S."""


def start(universe: Universe, features: FeatureSet, session: Session) -> FeatureState:
    """Memory at a session's open."""
    state = {family.__name__.rpartition(".")[2]: family.start(universe, features) for family in FAMILIES}
    state["clock"]["span"][:] = session.open, session.close
    return state


def fold(
    state: FeatureState, universe: Universe, features: FeatureSet, events: Events, offsets: NDArray[np.int64], as_of: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int8]]:
    """x float64[T, S, F], valid bool[T, S], why int8[T, S] of the instants as_of int64[T]; changes `state` in place.

    The events of instant t are events[offsets[t] : offsets[t + 1]], all with ts <= as_of[t]. Splitting the instants over several
    calls anywhere gives the same bits. x is 0 where there is no book. Raises DataError where events have other levels than `features`.
    O(events + T S F); uses nothing later than as_of[t] for row t.
    """
    if events.levels != features.levels:
        raise DataError(
            f"Events have {events.levels} book levels, the feature set {features.levels}.",
            hint="Merge the events to the universe's levels.",
        )
    x = np.zeros((len(as_of), len(universe), len(features.names)))
    why = np.zeros(x.shape[:2], np.int8)
    at = 0
    for family in FAMILIES:
        family.fold(state[family.__name__.rpartition(".")[2]], events, offsets, as_of, x, why, at, universe)
        at += len(family.names(features))
    opened = int(state["clock"]["span"][0])
    why[(as_of < opened + features.warm_up_ns)[:, None] & (why == 0)] = WARM_UP
    return x, why == 0, why


def step_offsets(events: Events, as_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets int64[T + 1] that give each instant the events after the instant before it (the first: from the stream's start)."""
    return np.concatenate([[0], np.searchsorted(events.ts, as_of, "right")]).astype(np.int64)


def build(
    universe: Universe, features: FeatureSet, session: Session, events: Events
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int8]]:
    """(as_of[T], offsets[T + 1], x[T, S, F], valid[T, S], why[T, S]) of one whole session."""
    as_of = np.array(session.instants(features.clock_ns), np.int64)
    offsets = step_offsets(events, as_of)
    x, valid, why = fold(start(universe, features, session), universe, features, events, offsets, as_of)
    return as_of, offsets, x, valid, why
