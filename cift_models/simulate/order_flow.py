"""Trades: buys and sells, each a Hawkes process with a power-law kernel over a smooth U-shaped baseline."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.instruments import SECOND
from cift_models.simulate.config import SimulateConfig


def baseline(share: NDArray[np.float64], depth: float) -> NDArray[np.float64]:
    """The U over a session, mean 1: 1 + depth ((2 x - 1)^2 - 1/3) at share x of the session in 0..1."""
    return 1.0 + depth * ((2.0 * share - 1.0) ** 2 - 1.0 / 3.0)


def trade_times(config: SimulateConfig, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Nanoseconds from the open int64[n] in (0, close], sorted, and sides int8[n]: an exact draw with no history before the open.

    By clusters (Hawkes and Oakes 1974): immigrants by thinning the baseline, then generation after generation a Poisson(n) number of
    children, each a Lomax time tau0 (U^(-1/theta) - 1) after its parent. O(n).
    """
    length_s = float(config.seconds)
    times, sides = [], []
    peak = max(baseline(np.array([0.0, 0.5]), config.baseline_depth))
    for side in (1, -1):
        rate_hz = config.trades_hz / 2 * (1.0 - config.branching_total)
        born = rng.random(rng.poisson(rate_hz * peak * length_s)) * length_s
        born = born[rng.random(len(born)) * peak < baseline(born / length_s, config.baseline_depth)]
        while len(born):
            times.append(born)
            sides.append(np.full(len(born), side, np.int8))
            parents = np.repeat(born, rng.poisson(config.branching_total, len(born)))
            waits_s = config.kernel_scale_s * ((1.0 - rng.random(len(parents))) ** (-1.0 / config.kernel_exponent) - 1.0)
            born = (parents + waits_s)[parents + waits_s < length_s]
    if not times:
        return np.zeros(0, np.int64), np.zeros(0, np.int8)
    at = np.clip(np.ceil(np.concatenate(times) * SECOND), 1, config.seconds * SECOND).astype(np.int64)
    order = np.argsort(at, kind="stable")
    return at[order], np.concatenate(sides)[order]


def exponentials(n: float, theta: float, tau0_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and rates (1/s) float64[M] that make the Lomax kernel a sum w_k exp(-beta_k t).

    The kernel is a mixture of exponentials with Gamma(theta, tau0) rates; trapezoid in x = log(rate tau0) with step .5. Nodes down to
    x = -20 (2e8 tau0) and up to 3 (the Gamma law beyond holds 2e-9): relative error below 1e-5 for t in 0 .. 10 h.
    """
    x = np.arange(-20.0, 3.01, 0.5)
    share = 0.5 * np.exp(theta * x - np.exp(x)) / math.gamma(theta)
    rates_hz = np.exp(x) / tau0_s
    return n * share * rates_hz, rates_hz


@lru_cache(maxsize=16)
def forecast_weights(n: float, theta: float, tau0_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and rates (1/s) float64[M]: a trade of age a >= 0 adds sum_k w_k exp(-beta_k a) trades of its side to the next second.

    That is int_0^1 phi(a + u) R(1 - u) du, where R(x) = 1 + int_0^x phi(v) R(x - v) dv counts a trade and its descendants within x.
    Trapezoids of 1 ms.
    """
    weights, rates_hz = exponentials(n, theta, tau0_s)
    step = 1e-3
    u = np.arange(1001) * step
    phi = n * theta / tau0_s * (1.0 + u / tau0_s) ** (-1.0 - theta)
    family = np.ones(len(u))
    for i in range(1, len(u)):
        inner = np.sum(phi[1:i] * family[i - 1 : 0 : -1]) + phi[i] * family[0] / 2
        family[i] = (1.0 + step * inner) / (1.0 - step * phi[0] / 2)
    trapezoid = np.full(len(u), step)
    trapezoid[[0, -1]] /= 2
    return weights * np.sum(np.exp(-np.outer(rates_hz, u)) * (trapezoid * family[::-1]), axis=1), rates_hz


def expected_signed_count(config: SimulateConfig, at_ns: NDArray[np.int64], sides: NDArray[np.int8]) -> NDArray[np.float64]:
    """E[buys - sells in (j s, j + 1 s] | trades until j s], float64[seconds + 1], under the true parameters.

    The baselines of the two sides cancel. O((n + T) M).
    """
    weights, rates_hz = forecast_weights(config.branching_total, config.kernel_exponent, config.kernel_scale_s)
    return _sum_of_exponentials(at_ns, sides, weights, rates_hz, config.seconds)


@kernel
def _sum_of_exponentials(at_ns, sides, weights, rates_hz, seconds):
    """sum over trades until j s of side_i sum_k weights_k exp(-rates_k (j s - t_i)), float64[seconds + 1]."""
    out = np.zeros(seconds + 1)
    sums = np.zeros(len(rates_hz))
    decay = np.exp(-rates_hz)
    i = 0
    for j in range(seconds + 1):
        if j > 0:
            sums *= decay
        while i < len(at_ns) and at_ns[i] <= j * SECOND:
            age_s = (j * SECOND - at_ns[i]) / SECOND
            for k in range(len(rates_hz)):
                sums[k] += sides[i] * np.exp(-rates_hz[k] * age_s)
            i += 1
        total = 0.0
        for k in range(len(rates_hz)):
            total += weights[k] * sums[k]
        out[j] = total
    return out
