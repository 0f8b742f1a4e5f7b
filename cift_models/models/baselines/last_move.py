"""The next second goes like the last."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cift_models.models.baselines.slope import Slope


class LastMove(Slope):
    """mean_bps = b times the mid's move over the last second, in bps of the mid."""

    kind: ClassVar[str] = "last_move"
    names: ClassVar[tuple[str, ...]] = ("move_1000ms", "mid")

    @staticmethod
    def signal(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1e4 * x[:, 0] / x[:, 1]
