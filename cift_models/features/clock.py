"""Where in the session the instant lies: session_share = (as_of - open) / (close - open), 0..1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.events import Events
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Universe


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return ("session_share",)


def start(universe: Universe, features: FeatureSet) -> dict[str, NDArray]:
    """Memory at a session's open; the stream writes the session's own open and close into it."""
    return {"span": np.zeros(2, np.int64)}


def fold(
    state: dict[str, NDArray], events: Events, offsets: NDArray, as_of: NDArray, x: NDArray, why: NDArray, at: int, universe: Universe
) -> None:
    """Write column `at` of x[T, S, F]."""
    opened, closed = state["span"]
    x[:, :, at] = ((as_of - opened) / (closed - opened))[:, None]
