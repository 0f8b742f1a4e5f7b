"""Which state is called what, and in which order they stand: by rule, never by luck of a restart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hmm.kernel import INTERCEPT, PHI, SIGMA, TRADES_MEAN, TRADES_SD, VARIANCE_MEAN, VARIANCE_SD

VOLATILE, TRENDING, MEAN_REVERTING, QUIET = "volatile", "trending", "mean_reverting", "quiet"

SIGMA_TIE = 0.1
"""Sigmas closer than this, relative, count as equal: at 2,000 bars the error of a sigma is some per cent."""


def order_by_rule(states: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order of states float64[K, 7]: by falling sigma, and by falling phi where neighbours' sigmas differ by less than SIGMA_TIE."""
    by_sigma = np.lexsort((-states[:, PHI], -states[:, SIGMA]))
    order: list[int] = []
    tied: list[int] = []
    for k in by_sigma:
        if tied and states[k, SIGMA] < (1 - SIGMA_TIE) * states[tied[-1], SIGMA]:
            order += sorted(tied, key=lambda i: -states[i, PHI])
            tied = []
        tied.append(int(k))
    return np.array(order + sorted(tied, key=lambda i: -states[i, PHI]), np.int64)


def order_like(states: NDArray[np.float64], previous: NDArray[np.float64], uses: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Order of `states` in which each stands where the nearest of `previous` stood (Hungarian assignment), int64[K].

    Distance: squared differences of c, phi and log sigma, and of mean and log deviation of the emissions in use; all are scaled numbers.
    """
    from scipy.optimize import linear_sum_assignment

    def described(value: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = [value[:, INTERCEPT], value[:, PHI], np.log(value[:, SIGMA])]
        if uses[0]:
            columns += [value[:, VARIANCE_MEAN], np.log(value[:, VARIANCE_SD])]
        if uses[1]:
            columns += [value[:, TRADES_MEAN], np.log(value[:, TRADES_SD])]
        return np.column_stack(columns)

    cost = ((described(previous)[:, None] - described(states)[None]) ** 2).sum(axis=2)
    return linear_sum_assignment(cost)[1].astype(np.int64)


def name_states(
    sigma: NDArray[np.float64],
    phi: NDArray[np.float64],
    phi_se: NDArray[np.float64],
    held_out_phi: NDArray[np.float64],
    lasts: NDArray[np.bool_],
) -> tuple[str, ...]:
    """A name for each state.

    volatile: the largest sigma (of two states or more). trending, mean_reverting: phi above or below 0, if its 95 % interval excludes 0,
    held_out_phi, measured on bars that the fit had not seen, has the same sign (NaN: not measured, so it has not), and the state `lasts`.
    Otherwise quiet.
    """
    names = []
    for k in range(len(sigma)):
        certain = lasts[k] and abs(phi[k]) > 1.96 * phi_se[k] and phi[k] * held_out_phi[k] > 0
        if len(sigma) > 1 and k == int(np.argmax(sigma)):
            names.append(VOLATILE)
        elif certain:
            names.append(TRENDING if phi[k] > 0 else MEAN_REVERTING)
        else:
            names.append(QUIET)
    return tuple(names)
