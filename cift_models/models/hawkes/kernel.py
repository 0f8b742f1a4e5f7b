"""The arithmetic of a Hawkes process with exponential mixtures: arrays in, arrays out.

    lambda_i(t) = sum_k nu_ik B_k(t) + sum_jm alpha_ijm beta_m R_jm(t),     R_jm(t) = sum_{t_k < t, side k = j} exp(-beta_m (t - t_k))

D sides, M decays, K baseline functions. The parameters of side i are one row theta_i = (nu_i1 .. nu_iK, alpha_i11 .. alpha_iDM) of length
P = K + D M, and lambda_i is linear in them: lambda_i(t) = phi(t) . theta_i. The process is from Hawkes (1971), the recursion from Ozaki
(1979, eq. 7).
"""

from __future__ import annotations

import numpy as np

from cift_models.compiled import kernel
from cift_models.events import HIDDEN, TRADE

NO_MORE = 60.0
"""exp(-60) = 9e-27 of an arrival is nothing beside 1; skipping the exponential there halves a pass and keeps subnormal numbers out."""
ROWS = 8
"""Outer products that are added to a Hessian at once."""


@kernel
def fade(rate_gap):
    """exp(-rate_gap), 0 beyond NO_MORE."""
    if rate_gap > NO_MORE:
        return 0.0
    return np.exp(-rate_gap)


@kernel
def place(share, last_share, intervals):
    """(k, w): interval of a share of the session among `intervals` even ones over [0, last_share], and the share of it passed; clamped."""
    x = share / last_share * intervals
    k = min(max(int(x), 0), intervals - 1)
    return k, min(max(x - k, 0.0), 1.0)


@kernel
def place_all(share, last_share, intervals):
    """`place` of each of n shares: int64[n], float64[n]."""
    knot = np.empty(len(share), np.int64)
    weight = np.empty(len(share))
    for n in range(len(share)):
        knot[n], weight[n] = place(share[n], last_share, intervals)
    return knot, weight


@kernel
def first_of_clusters(t_ns, side, session, within_ns):
    """bool[N]: the arrivals that are more than `within_ns` after the first of the running cluster of their side. O(N)."""
    keep = np.ones(len(t_ns), np.bool_)
    first = np.zeros(2, np.int64)
    open_cluster = np.zeros(2, np.bool_)
    for n in range(len(t_ns)):
        if n == 0 or session[n] != session[n - 1]:
            open_cluster[:] = False
        i = side[n]
        if open_cluster[i] and t_ns[n] - first[i] <= within_ns:
            keep[n] = False
        else:
            first[i] = t_ns[n]
            open_cluster[i] = True
    return keep


@kernel
def advance(gap_s, decays_hz, sums, pending):
    """Carry the sums R over a gap: what arrived at its beginning (`pending`, float64[D]) joins them, then all fade. In place.

    A gap of 0 changes nothing, so that a buy and a sell of the same nanosecond do not excite each other; a negative one restarts at zero.
    """
    if gap_s < 0.0:
        sums[:] = 0.0
        pending[:] = 0.0
    elif gap_s > 0.0:
        for m in range(len(decays_hz)):
            left = fade(decays_hz[m] * gap_s)
            for j in range(len(pending)):
                sums[j, m] = (sums[j, m] + pending[j]) * left
        pending[:] = 0.0


@kernel
def add_outer_products(rows, total):
    """total[a, e] += sum of rows[., a] rows[., e] for e >= a; rows is [ROWS, E]. Eight at once touch `total` an eighth as often."""
    E = rows.shape[1]
    r0, r1, r2, r3, r4, r5, r6, r7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for a in range(E):
        out = total[a]
        for e in range(a, E):
            out[e] += (
                (r0[a] * r0[e] + r1[a] * r1[e]) + (r2[a] * r2[e] + r3[a] * r3[e])
                + ((r4[a] * r4[e] + r5[a] * r5[e]) + (r6[a] * r6[e] + r7[a] * r7[e]))
            )  # fmt: skip


@kernel
def likelihood_pass(gap_s, side, knot, weight, decays_hz, theta, with_hessian):
    """One pass over the arrivals: what the events add to likelihood, gradient and Hessian. O(N D M), with the Hessian O(N (D M)^2).

    gap_s float64[N] (negative at a session's first arrival), side int8[N], knot and weight [N] of `place`, decays_hz[M], theta[D, P].
    Returns (sum log lambda [D], its gradient sum phi / lambda [D, P], -Hessian sum phi phi' / lambda^2 [D, P, P]). The sum of a side is
    -inf where one of its intensities is not positive; the other side does not notice. The compensator is linear in theta and not in here
    (`excitation_exposure`).
    """
    D, P = theta.shape
    M = len(decays_hz)
    E = D * M
    K = P - E
    value = np.zeros(D)
    gradient = np.zeros((D, P))
    hessian = np.zeros((D, P if with_hessian else 0, P if with_hessian else 0))
    sums = np.zeros((D, M))
    pending = np.zeros(D)
    phi = np.empty(E)
    rows = np.empty((D, ROWS, E))
    filled = np.zeros(D, np.int64)
    mixed = np.zeros((D, K, E))
    excited = np.zeros((D, E, E))
    for n in range(len(gap_s)):
        advance(gap_s[n], decays_hz, sums, pending)
        i = side[n]
        k = knot[n]
        right = min(k + 1, K - 1)
        w = weight[n]
        intensity = (1.0 - w) * theta[i, k] + w * theta[i, right]
        for j in range(D):
            for m in range(M):
                phi[j * M + m] = decays_hz[m] * sums[j, m]
        for e in range(E):
            intensity += phi[e] * theta[i, K + e]
        if not intensity > 0.0:
            value[i] = -np.inf
            pending[i] += 1.0
            continue
        value[i] += np.log(intensity)
        inverse = 1.0 / intensity
        gradient[i, k] += (1.0 - w) * inverse
        gradient[i, right] += w * inverse
        for e in range(E):
            gradient[i, K + e] += phi[e] * inverse
        if with_hessian:
            square = inverse * inverse
            hessian[i, k, k] += (1.0 - w) ** 2 * square
            hessian[i, k, right] += (1.0 - w) * w * square
            hessian[i, right, right] += w * w * square
            here, there = mixed[i, k], mixed[i, right]
            row = rows[i, filled[i]]
            for e in range(E):
                row[e] = phi[e] * inverse
                here[e] += (1.0 - w) * inverse * row[e]
                there[e] += w * inverse * row[e]
            filled[i] += 1
            if filled[i] == ROWS:
                add_outer_products(rows[i], excited[i])
                filled[i] = 0
        pending[i] += 1.0
    if with_hessian:
        for i in range(D):
            rows[i, filled[i] :] = 0.0
            add_outer_products(rows[i], excited[i])
            hessian[i, :K, K:] = mixed[i]
            hessian[i, K:, K:] = excited[i]
            for a in range(P):
                for e in range(a):
                    hessian[i, a, e] = hessian[i, e, a]
    return value, gradient, hessian


@kernel
def excitation_exposure(to_end_s, side, decays_hz, sides):
    """Compensator of a unit of alpha: sum over the arrivals of side j of 1 - exp(-beta_m (T - t_k)), float64[D, M]. O(N M)."""
    out = np.zeros((sides, len(decays_hz)))
    for n in range(len(to_end_s)):
        for m in range(len(decays_hz)):
            out[side[n], m] -= np.expm1(-decays_hz[m] * to_end_s[n])
    return out


@kernel
def residual_pass(gap_s, side, baseline_integral, decays_hz, alpha, residual):
    """Time-rescaling residuals: the integral of lambda_i between neighbouring arrivals of side i, written to residual[N] at the later one.

    baseline_integral float64[D, N]: integral of mu_i from the session's open to each arrival; alpha[D, D, M]. The first arrival of a side
    in a session has the integral from the open (the sums are zero there, so it is exact). Standard exponentials if the model is true (Brown
    et al. 2002).
    """
    D = alpha.shape[0]
    M = len(decays_hz)
    sums = np.zeros((D, M))
    pending = np.zeros(D)
    running = np.zeros(D)
    base_before = np.zeros(D)
    for n in range(len(gap_s)):
        if gap_s[n] < 0.0:
            running[:] = 0.0
            base_before[:] = 0.0
        elif gap_s[n] > 0.0:
            for m in range(M):
                spent = -np.expm1(-decays_hz[m] * gap_s[n])
                for j in range(D):
                    mass = (sums[j, m] + pending[j]) * spent
                    for i in range(D):
                        running[i] += alpha[i, j, m] * mass
        advance(gap_s[n], decays_hz, sums, pending)
        i = side[n]
        residual[n] = running[i] + baseline_integral[i, n] - base_before[i]
        running[i] = 0.0
        base_before[i] = baseline_integral[i, n]
        pending[i] += 1.0


@kernel
def forecast_steps(
    as_of, share, valid, offsets, ts, symbol, kind, side, decays_hz, nu_hz, last_share, horizon_share, map_sums, map_now, map_next, slope,
    sums, last_ns, seen, values, ready,
):  # fmt: skip
    """Take T steps: apply each one's events to the running sums, then forecast. The live step (T = 1) and the batch pass are this function.

    as_of int64[T], share float64[T, S] of the session passed, valid bool[T, S], offsets int64[T + 1] into the event columns ts, symbol,
    kind, side. Parameters: decays_hz[M], nu_hz[S, D, K] on even knots over [0, last_share], the linear map of `forecast_map` per symbol
    (map_sums[S, D, D, M], map_now and map_next [S, D, D]) and slope[S], bps per arrival of imbalance.
    State, changed in place: sums[S, D, M] at last_ns[S] with the arrivals of last_ns in, seen[S, D]: sides that have arrived at last_ns.
    Writes values[T, S, 3] = (mean_bps, n_buy, n_sell) and ready[T, S]. O(events x M + T S D^2 M); uses events with ts <= as_of alone.
    """
    S, D, M = sums.shape
    K = nu_hz.shape[2]
    faded = np.empty((D, M))
    for t in range(len(as_of)):
        for n in range(offsets[t], offsets[t + 1]):
            if (kind[n] & (TRADE | HIDDEN)) != TRADE or side[n] == 0:
                continue
            s = symbol[n]
            j = 0 if side[n] > 0 else 1
            if ts[n] > last_ns[s]:
                gap = (ts[n] - last_ns[s]) * 1e-9
                for m in range(M):
                    left = fade(decays_hz[m] * gap)
                    for d in range(D):
                        sums[s, d, m] *= left
                last_ns[s] = ts[n]
                seen[s, :] = False
            if not seen[s, j]:
                seen[s, j] = True
                for m in range(M):
                    sums[s, j, m] += 1.0
        for s in range(S):
            ready[t, s] = valid[t, s]
            values[t, s, :] = 0.0
            if not valid[t, s]:
                continue
            gap = (as_of[t] - last_ns[s]) * 1e-9
            for m in range(M):
                left = fade(decays_hz[m] * gap)
                for d in range(D):
                    faded[d, m] = sums[s, d, m] * left
            k, w = place(share[t, s], last_share, K - 1)
            k_next, w_next = place(share[t, s] + horizon_share, last_share, K - 1)
            for i in range(D):
                count = 0.0
                for j in range(D):
                    count += map_now[s, i, j] * ((1.0 - w) * nu_hz[s, j, k] + w * nu_hz[s, j, k + 1])
                    count += map_next[s, i, j] * ((1.0 - w_next) * nu_hz[s, j, k_next] + w_next * nu_hz[s, j, k_next + 1])
                    for m in range(M):
                        count += map_sums[s, i, j, m] * faded[j, m]
                values[t, s, 1 + i] = count
            values[t, s, 0] = slope[s] * (values[t, s, 1] - values[t, s, 2])
