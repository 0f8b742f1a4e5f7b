"""The price goes to the side with the shorter queue."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cift_models.models.baselines.slope import Slope


class QueueImbalance(Slope):
    """mean_bps = b times (bid size - ask size) / (bid size + ask size) at the best level."""

    kind: ClassVar[str] = "queue_imbalance"
    names: ClassVar[tuple[str, ...]] = ("queue_imbalance",)

    @staticmethod
    def signal(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x[:, 0]
