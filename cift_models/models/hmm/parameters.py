"""The numbers of a regime model, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hmm.kernel import INTERCEPT, PHI, SIGMA, filter_rows, rows_of_returns

N_STATE_COLUMNS = 7


@dataclass(frozen=True, slots=True)
class Parameters:
    """start float64[K], transition float64[K, K] (row: from), states float64[K, 7] (columns: see kernel), uses bool[2].

    `uses` says whether the log variance and the log trade rate speak beside the return.
    """

    start: NDArray[np.float64]
    transition: NDArray[np.float64]
    states: NDArray[np.float64]
    uses: NDArray[np.bool_]

    @classmethod
    def of_returns(cls, transition: object, intercept: object, phi: object, sigma: object) -> Parameters:
        """A model of returns alone, started from the uniform distribution."""
        matrix = np.array(transition, np.float64)
        k = len(matrix)
        states = neutral_states(k)
        states[:, INTERCEPT] = np.asarray(intercept, np.float64)
        states[:, PHI] = np.asarray(phi, np.float64)
        states[:, SIGMA] = np.asarray(sigma, np.float64)
        return cls(np.full(k, 1.0 / k), matrix, states, np.zeros(2, np.bool_))

    @classmethod
    def uniform(cls, k: int, uses: NDArray[np.bool_]) -> Parameters:
        """States that cannot be told apart: every probability stays 1/K."""
        return cls(np.full(k, 1.0 / k), np.full((k, k), 1.0 / k), neutral_states(k), uses)

    @property
    def n_states(self) -> int:
        return len(self.start)

    @property
    def stationary(self) -> NDArray[np.float64]:
        """Long-run share of each state, float64[K]: pi A = pi."""
        k = self.n_states
        system = np.vstack([self.transition.T - np.eye(k), np.ones(k)])
        share = np.linalg.lstsq(system, np.r_[np.zeros(k), 1.0], rcond=None)[0]
        share = np.maximum(share, 0.0)
        return share / share.sum()

    @property
    def dwell_bars(self) -> NDArray[np.float64]:
        """Mean length of a visit to each state, 1 / (1 - A_ss), float64[K]."""
        return 1.0 / np.maximum(1.0 - np.diag(self.transition), 1e-12)

    def reordered(self, order: NDArray[np.int64]) -> Parameters:
        """The same model with state order[i] as its i-th."""
        return Parameters(
            np.ascontiguousarray(self.start[order]),
            np.ascontiguousarray(self.transition[np.ix_(order, order)]),
            np.ascontiguousarray(self.states[order]),
            self.uses,
        )

    def scaled(self, factor: float) -> Parameters:
        """The same model for returns that are `factor` times as large."""
        states = self.states.copy()
        states[:, INTERCEPT] *= factor
        states[:, SIGMA] *= factor
        return Parameters(self.start, self.transition, states, self.uses)

    def filter_returns(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """One-step-ahead p(s_t|F_{t-1}) and filtered p(s_t|F_t), float64[T, K], and log p(x_t|F_{t-1}), float64[T], of one series."""
        rows = rows_of_returns(np.ascontiguousarray(x, np.float64))
        return filter_rows(rows, np.array([len(rows)], np.int64), self.start, self.transition, self.states, self.uses)


def neutral_states(k: int) -> NDArray[np.float64]:
    """K standard normal states without memory, float64[K, 7]."""
    states = np.zeros((k, N_STATE_COLUMNS))
    states[:, 2::2] = 1.0
    return states
