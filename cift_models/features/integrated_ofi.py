"""One order flow imbalance out of those of all levels: their first principal component, fitted on the past.

The levels of a book say nearly the same; the component that carries most of their variance says it with less noise (Cont, Cucuringu and
Zhang 2023, eq. 5: ofi_I = w . ofi / |w|_1). The weights are fitted, so this is no family of a feature set: a family has nothing to fit. Fit
it inside a fold, on training rows alone, and apply it anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError, FitError


@dataclass(frozen=True, slots=True)
class IntegratedOFI:
    """weights float64[L], |weights| sum to 1 and their sum is not negative; explained: share of the variance that they carry, 0..1."""

    weights: NDArray[np.float64]
    explained: float

    @classmethod
    def fit(cls, ofi: NDArray[np.float64]) -> Self:
        """From training rows float64[N, L], units or lots, of one symbol and one window.

        Raises FitError where nothing varies, DataError where a value is not finite. O(N L^2).
        """
        if ofi.ndim != 2 or not np.isfinite(ofi).all():
            raise DataError(
                f"Expected finite order flow of shape [rows, levels], was {ofi.shape}.", hint="Leave rows out that are not valid."
            )
        centred = ofi - ofi.mean(axis=0)
        variances, vectors = np.linalg.eigh(centred.T @ centred)
        if not variances[-1] > 0:
            raise FitError(f"The order flow of {len(ofi):,} rows does not vary.", hint="Train on a longer range.")
        first = vectors[:, -1]
        first = first / np.abs(first).sum()
        return cls(first if first.sum() >= 0 else -first, float(variances[-1] / variances.sum()))

    def apply(self, ofi: NDArray[np.float64], log: bool = False) -> NDArray[np.float64]:
        """w . ofi of rows [..., L], in their unit; `log`: sign(v) log1p(|v|) of it. A scalar sum a row: one row or many, the same bits."""
        rows = np.ascontiguousarray(ofi, np.float64).reshape(-1, len(self.weights))
        value = _weigh(rows, self.weights).reshape(ofi.shape[:-1])
        return np.copysign(np.log1p(np.abs(value)), value) if log else value

    def as_json(self) -> dict[str, Any]:
        return {"weights": self.weights.tolist(), "explained": self.explained}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(np.array(value["weights"], np.float64), float(value["explained"]))


@kernel
def _weigh(rows, weights):
    out = np.empty(len(rows))
    for n in range(len(rows)):
        total = 0.0
        for k in range(len(weights)):
            total += weights[k] * rows[n, k]
        out[n] = total
    return out
