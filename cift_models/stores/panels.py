"""Panels out of the stores: one session at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, NotStored
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Session, Universe
from cift_models.models.protocol import Panel
from cift_models.refs import PartitionRef
from cift_models.stores.features import FeatureStore
from cift_models.stores.ticks import TickStore

Labels = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]
"""y float64[T, S] in bps, rows bool[T], label_end int64[T] ns, as a Panel holds them."""


def open_panel(
    ticks: TickStore,
    store: FeatureStore,
    universe: Universe,
    features: FeatureSet,
    session: Session,
    sha256: str,
    labels: Labels | None = None,
    partitions: Sequence[PartitionRef] | None = None,
) -> Panel:
    """A session's panel: events from the tick store, rows from the feature store (the version `sha256`), labels if given.

    The rows are those of the version whatever was written later. The events are those that are stored now: the tick store keeps none that
    were replaced. Where `partitions` says of which they must be, others are refused: a trade that was corrected at the same time gives the
    same offsets.

    Raises as both stores do; NotStored where the events are of other partitions than those; DataError where the offsets are of other events
    (the session was ingested again since).
    """
    events = ticks.events(universe, session)
    # Asked behind the events: whoever replaced them before they were read has changed the answer.
    if partitions is not None and tuple(ticks.event_partitions(universe, session)) != tuple(partitions):
        raise NotStored(
            f"The events of {session.day} are stored anew since they were selected.",
            hint="Select the data again and build its features: start the run anew.",
            session=session.day,
        )
    arrays = store.read(universe, features, session, sha256)
    expected = np.searchsorted(events.ts, arrays.as_of, "right")
    if not np.array_equal(arrays.offsets[1:], expected):
        raise DataError(
            f"The features of {session.day} were built from other events than are stored now.",
            hint="Build the features again.",
            session=session.day,
        )
    y, rows, label_end = labels or (None, None, None)
    return Panel(
        universe=universe,
        features=features,
        session=session.day,
        open=session.open,
        close=session.close,
        as_of=arrays.as_of,
        x=arrays.x,
        valid=arrays.valid,
        why=arrays.why,
        events=events,
        offsets=arrays.offsets,
        y=y,
        rows=rows,
        label_end=label_end,
    )
