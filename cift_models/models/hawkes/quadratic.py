"""A small quadratic programme with non-negative variables."""

from __future__ import annotations

import numpy as np

from cift_models.compiled import kernel


@kernel
def minimise_nonnegative(hessian, linear, start):
    """z >= 0 that minimises z' H z / 2 - b' z, by active sets from the support of `start` (Lawson and Hanson 1974; Bro and de Jong 1997).

    hessian[P, P] positive definite, linear b[P], start[P] >= 0. A variable enters where its gradient asks for it most and leaves where the
    step to the minimum of the support would cross zero. O(P^3) per change of support; gives the best point found if 6 P changes do not do.
    """
    P = len(linear)
    z = start.copy()
    free = z > 0.0
    enough = 1e-12 * np.max(np.abs(linear))
    for _ in range(6 * P):
        while True:
            index = np.nonzero(free)[0]
            best = solve_positive(hessian, linear, index)
            step = 1.0
            blocking = -1
            for a in range(len(index)):
                here = z[index[a]]
                if best[a] <= 0.0 and (blocking < 0 or here / max(here - best[a], 1e-300) < step):
                    step = here / max(here - best[a], 1e-300)
                    blocking = index[a]
            for a in range(len(index)):
                z[index[a]] = max(z[index[a]] + step * (best[a] - z[index[a]]), 0.0)
            if blocking < 0:
                break
            z[blocking] = 0.0
            free[blocking] = False
        entering = -1
        most = enough
        for p in range(P):
            if not free[p]:
                pull = linear[p]
                for a in range(P):
                    if z[a] != 0.0:
                        pull -= hessian[p, a] * z[a]
                if pull > most:
                    most = pull
                    entering = p
        if entering < 0:
            break
        free[entering] = True
    return z


@kernel
def solve_positive(hessian, linear, index):
    """Solution of H[index, index] s = b[index] by Cholesky; a pivot that rounding made non-positive is taken for infinite (s = 0 there)."""
    n = len(index)
    lower = np.zeros((n, n))
    s = np.empty(n)
    for a in range(n):
        for c in range(a + 1):
            total = hessian[index[a], index[c]]
            for k in range(c):
                total -= lower[a, k] * lower[c, k]
            if a == c:
                lower[a, a] = np.sqrt(total) if total > 0.0 else np.inf
            else:
                lower[a, c] = total / lower[c, c]
        total = linear[index[a]]
        for k in range(a):
            total -= lower[a, k] * s[k]
        s[a] = total / lower[a, a]
    for a in range(n - 1, -1, -1):
        total = s[a]
        for k in range(a + 1, n):
            total -= lower[k, a] * s[k]
        s[a] = total / lower[a, a]
    return s
