"""Whether everything that will be read is a number, without a temporary array: the live path asks it of every step."""

from __future__ import annotations

import math

from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.models.protocol import refuse_nan


@kernel
def all_finite(x, valid):
    """Whether x [T, S, F] is finite wherever valid [T, S]."""
    for t in range(valid.shape[0]):
        for s in range(valid.shape[1]):
            if valid[t, s]:
                for j in range(x.shape[2]):
                    if not math.isfinite(x[t, s, j]):
                        return False
    return True


def check_finite(x: NDArray, valid: NDArray, kind: str) -> None:
    """refuse_nan of x [T, S, F] and valid [T, S], for the price of one pass."""
    if not all_finite(x, valid):
        refuse_nan(x, valid, kind)
