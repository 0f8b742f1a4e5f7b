"""Draw arrivals from a Hawkes process: by clusters (fast, whole sessions) and by thinning (from any state; shares no line with it)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import InputError
from cift_models.models.hawkes.arrivals import SIDES, Arrivals, join, one_session
from cift_models.models.hawkes.likelihood import Parameters


def simulate_clusters(
    parameters: Parameters, window_ns: NDArray[np.int64], session_ns: NDArray[np.int64], rng: np.random.Generator
) -> Arrivals:
    """Sessions of the given lengths, each from an empty past: immigrants, then their children, and so on (Hawkes and Oakes 1974).

    Times are rounded to 1 ns. Raises InputError where the branching ratio is 1 or more: a cluster would not end. O(N), one numpy pass per
    generation.
    """
    if not parameters.branching_ratio() < 1:
        raise InputError(
            f"The branching ratio is {parameters.branching_ratio():.3f}. Expected less than 1.",
            hint="Fit with shorter decays, or on more data.",
        )
    return join([simulate_session(parameters, int(w), int(s), rng) for w, s in zip(window_ns, session_ns, strict=True)])


def simulate_session(parameters: Parameters, window_ns: int, session_ns: int, rng: np.random.Generator) -> Arrivals:
    """One session of `simulate_clusters`."""
    window_s, session_s = window_ns * 1e-9, session_ns * 1e-9
    children = parameters.alpha.sum(axis=2)
    mixture = np.cumsum(parameters.alpha, axis=2) / np.where(children > 0, children, 1.0)[:, :, None]
    times: list[NDArray] = []
    sides: list[NDArray] = []
    t, side = immigrants(parameters, window_s, session_s, rng)
    while len(t):
        times.append(t)
        sides.append(side)
        next_t, next_side = [], []
        for i in range(SIDES):
            parent = np.repeat(np.arange(len(t)), rng.poisson(children[i, side]))
            decay = (rng.random(len(parent))[:, None] > mixture[i, side[parent]]).sum(axis=1) if len(parent) else np.zeros(0, np.int64)
            born = t[parent] + rng.standard_exponential(len(parent)) / parameters.decays_hz[decay]
            born = born[born < window_s]
            next_t.append(born)
            next_side.append(np.full(len(born), i, np.int8))
        t, side = np.concatenate(next_t), np.concatenate(next_side)
    if not times:
        return one_session(np.zeros(0, np.int64), np.zeros(0, np.int8), window_ns, session_ns)
    return one_session(np.round(np.concatenate(times) * 1e9).astype(np.int64), np.concatenate(sides), window_ns, session_ns)


def immigrants(parameters: Parameters, window_s: float, session_s: float, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Spontaneous arrivals of both sides by thinning a constant rate; (seconds since the open, side), unsorted."""
    times, sides = [], []
    for i in range(SIDES):
        most = float(parameters.nu_hz[i].max())
        t = rng.uniform(0, window_s, rng.poisson(most * window_s))
        t = t[rng.uniform(0, most, len(t)) < parameters.baseline.rate(parameters.nu_hz[i], t / session_s)]
        times.append(t)
        sides.append(np.full(len(t), i, np.int8))
    return np.concatenate(times), np.concatenate(sides)


@kernel
def simulate_thinning(mu_hz, decays_hz, alpha, sums, duration_s, rng):
    """Arrivals over (0, duration_s] from the state sums[D, M] (changed in place) under constant mu_hz[D], by Ogata (1981)'s thinning.

    Returns (seconds[n], side[n]). The bound is the intensity just after the last candidate, which only falls until the next arrival.
    """
    D, M = sums.shape
    times = []
    sides = []
    now = 0.0
    intensity = np.empty(D)
    while True:
        bound = 0.0
        for i in range(D):
            bound += mu_hz[i]
            for j in range(D):
                for m in range(M):
                    bound += alpha[i, j, m] * decays_hz[m] * sums[j, m]
        wait = rng.standard_exponential() / bound
        now += wait
        if not now <= duration_s:
            break
        for m in range(M):
            sums[:, m] *= np.exp(-decays_hz[m] * wait)
        draw = rng.random() * bound
        for i in range(D):
            intensity[i] = mu_hz[i]
            for j in range(D):
                for m in range(M):
                    intensity[i] += alpha[i, j, m] * decays_hz[m] * sums[j, m]
            if draw < intensity[i]:
                times.append(now)
                sides.append(i)
                sums[i] += 1.0
                break
            draw -= intensity[i]
    return np.array(times), np.array(sides)
