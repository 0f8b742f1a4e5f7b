"""Maximum likelihood of the Hawkes process: a concave problem with one optimum, and a certificate that it was reached."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hawkes.arrivals import SIDES, Arrivals
from cift_models.models.hawkes.baseline import Baseline
from cift_models.models.hawkes.kernel import excitation_exposure, likelihood_pass, residual_pass
from cift_models.models.hawkes.quadratic import minimise_nonnegative


@dataclass(frozen=True, slots=True)
class Parameters:
    """A Hawkes process of two sides.

    decays_hz  float64[M]        rates beta_m
    baseline   the basis of mu
    nu_hz      float64[D, K]     mu_i(x) = sum_k nu_ik B_k(x)
    alpha      float64[D, D, M]  arrivals of side i that one of side j brings, by decay m
    """

    decays_hz: NDArray[np.float64]
    baseline: Baseline
    nu_hz: NDArray[np.float64]
    alpha: NDArray[np.float64]

    def branching(self, within_s: float = np.inf) -> NDArray[np.float64]:
        """Integral of each kernel to `within_s`: arrivals of side i within that time that one of side j brings, float64[D, D]."""
        return self.alpha @ -np.expm1(-self.decays_hz * within_s)

    def kernel(self, lag_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Extra arrivals a second of side i at each of n lags after one of side j, float64[D, D, n]."""
        return (self.alpha * self.decays_hz) @ np.exp(-self.decays_hz[:, None] * lag_s)

    def branching_ratio(self, within_s: float = np.inf) -> float:
        """Spectral radius of `branching`; n(60 s) is `branching_ratio(60)`. Equal rows or columns make it the plain row or column sum."""
        return float(np.abs(np.linalg.eigvals(self.branching(within_s))).max())


@dataclass(frozen=True, slots=True)
class HawkesFit:
    """Parameters with where they come from.

    log_likelihood  nats, over what was observed; a rate is in Hz
    n_events        int64[D]
    window_ns, session_ns   int64[n] of the sessions: what a simulation of the same length needs
    status          converged or max_iter, or poisson where excitation was not fitted
    gap             certified distance of log_likelihood from the optimum, nats per event
    curve           nats per event after each accepted pass
    """

    parameters: Parameters
    log_likelihood: float
    n_events: NDArray[np.int64]
    window_ns: NDArray[np.int64]
    session_ns: NDArray[np.int64]
    status: str
    gap: float
    curve: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The likelihood of one sample as a function of theta float64[D, P] = (nu, alpha) by side; what theta does not touch is done once."""

    baseline: Baseline
    decays_hz: NDArray[np.float64]
    gap_s: NDArray[np.float64]
    side: NDArray[np.int8]
    knot: NDArray[np.int64]
    weight: NDArray[np.float64]
    compensator: NDArray[np.float64]

    @classmethod
    def of(cls, arrivals: Arrivals, baseline: Baseline, decays_hz: NDArray[np.float64]) -> Likelihood:
        session_s = arrivals.sessions_s[arrivals.session_of_each()]
        knot, weight = baseline.place(arrivals.t_ns * 1e-9 / session_s)
        excited = excitation_exposure(arrivals.to_end_s(), arrivals.side, decays_hz, SIDES)
        compensator = np.concatenate([baseline.exposure(arrivals), excited.ravel()])
        return cls(baseline, decays_hz, arrivals.gaps_s(), arrivals.side, knot, weight, compensator)

    def events(self, theta: NDArray[np.float64], hessian: bool) -> tuple[NDArray, NDArray, NDArray]:
        """sum log lambda [D], its gradient [D, P] and minus its Hessian [D, P, P] (empty unless asked for)."""
        return likelihood_pass(self.gap_s, self.side, self.knot, self.weight, self.decays_hz, theta, hessian)

    def value_and_gradient(self, theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Log-likelihood in nats and its gradient float64[D, P]. One pass, O(N D M)."""
        value, gradient, _ = self.events(theta, False)
        return float(value.sum() - (theta @ self.compensator).sum()), gradient - self.compensator

    def parameters(self, theta: NDArray[np.float64]) -> Parameters:
        K = self.baseline.size
        return Parameters(self.decays_hz, self.baseline, theta[:, :K].copy(), theta[:, K:].reshape(SIDES, SIDES, -1).copy())


def theta_of(parameters: Parameters) -> NDArray[np.float64]:
    """(nu, alpha) as one row per side, float64[D, P]."""
    return np.concatenate([parameters.nu_hz, parameters.alpha.reshape(SIDES, -1)], axis=1)


def log_likelihood(arrivals: Arrivals, parameters: Parameters) -> float:
    """Log-likelihood of `parameters` in nats. O(N D M)."""
    return Likelihood.of(arrivals, parameters.baseline, parameters.decays_hz).value_and_gradient(theta_of(parameters))[0]


def fit_hawkes(
    arrivals: Arrivals,
    baseline: Baseline,
    decays_hz: NDArray[np.float64],
    *,
    start: Parameters | None = None,
    tolerance: float = 1e-8,
    max_passes: int = 100,
) -> HawkesFit:
    """Maximise the likelihood over (nu, alpha) >= 0 on fixed decays; no decays give the seasonal Poisson process.

    Each side is its own problem: max sum log(phi_n . theta) - c . theta. u_p = c_p theta_p / N is the weight of component p in a mixture,
    and at any u with sum 1 the optimum is at most max_p (sum_n f_np / f_n / N - 1) nats per event away (Lindsay 1983): that bound is the
    stopping rule. Newton steps with the exact Hessian, each a non-negative quadratic programme (Kim et al. 2020), halved until the
    likelihood grows. `start` warms up a refit. A side without arrivals gets zeros. A fit costs 10 to 20 passes, 6 from a warm start.
    """
    problem = Likelihood.of(arrivals, baseline, decays_hz)
    counts = arrivals.counts
    c = problem.compensator
    usable = c > 1e-12 * c.max()
    scale = np.where(usable, 1 / np.where(usable, c, 1.0), 0.0) * counts.astype(np.float64)[:, None]
    sides = counts > 0
    even = np.where(usable, 1 / usable.sum(), 0.0)
    u = np.tile(even, (SIDES, 1))
    if start is not None:
        warm = theta_of(start) * c * usable
        total = warm.sum(axis=1, keepdims=True)
        # A little of everything keeps every intensity positive where the start had a zero.
        u = np.where(total > 0, 0.98 * warm / np.where(total > 0, total, 1.0), 0.98 * even) + 0.02 * even

    gap = np.where(sides, np.inf, 0.0)
    accepted = np.full(SIDES, -np.inf)
    step = np.ones(SIDES)
    origin, direction, slope = u.copy(), np.zeros_like(u), np.zeros(SIDES)
    curve: list[float] = []
    for _ in range(max_passes):
        value, gradient, hessian = problem.events(u * scale, True)
        for i in np.flatnonzero(sides & (gap > tolerance)):
            n = counts[i]
            if not value[i] >= accepted[i] + 1e-4 * step[i] * slope[i] - 1e-12 * abs(accepted[i]):
                step[i] /= 2
                u[i] = origin[i] + step[i] * direction[i]
                continue
            accepted[i] = value[i]
            g = gradient[i] * scale[i]
            gap[i] = max(float(np.max(g[usable])) / n - 1.0, 0.0)
            if gap[i] <= tolerance:
                continue
            h = hessian[i] * scale[i][:, None] * scale[i]
            # The problem on the simplex and the one with the penalty n sum(u) have the same optimum; the second has no equality to keep.
            keep = np.flatnonzero(usable)
            small = h[np.ix_(keep, keep)]
            # Neighbouring decays are nearly collinear: 1e-10 of the diagonal keeps Cholesky alive; the certificate does not depend on it.
            small[np.diag_indices(len(keep))] *= 1 + 1e-10
            z = np.zeros_like(u[i])
            z[keep] = minimise_nonnegative(small, g[keep] - n + small @ u[i, keep], u[i, keep])
            z /= z.sum()
            origin[i], direction[i], step[i] = u[i], z - u[i], 1.0
            slope[i] = max(float(g @ direction[i]), 0.0)
            u[i] = z
        if np.isfinite(accepted[sides]).all():
            curve.append(float(accepted[sides].sum()))
        if not (gap > tolerance).any():
            break
    theta = u * scale
    final = problem.value_and_gradient(theta)[0] if len(arrivals) else 0.0
    worst = float(gap.max())
    total = max(int(counts.sum()), 1)
    return HawkesFit(
        problem.parameters(theta), final, counts, arrivals.window_ns, arrivals.session_ns,
        "converged" if worst <= tolerance else "max_iter", worst, [(x - total) / total for x in curve],
    )  # fmt: skip


def fit_poisson(arrivals: Arrivals, baseline: Baseline, tolerance: float = 1e-8) -> HawkesFit:
    """The seasonal Poisson process: the same baseline without excitation."""
    return fit_hawkes(arrivals, baseline, np.zeros(0), tolerance=tolerance)


def fit_best_single_decay(arrivals: Arrivals, baseline: Baseline, fastest_s: float = 1e-4, slowest_s: float = 60.0) -> HawkesFit:
    """The best process with one decay on the same baseline, over 27 mean lives and a golden section between the neighbours of the best."""
    fits: list[HawkesFit] = []

    def at(log_life: float) -> HawkesFit:
        start = fits[-1].parameters if fits else None
        fits.append(fit_hawkes(arrivals, baseline, np.array([np.exp(-log_life)]), start=start, tolerance=1e-6))
        return fits[-1]

    grid = np.linspace(np.log(fastest_s), np.log(slowest_s), 27)
    best = int(np.argmax([at(x).log_likelihood for x in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, 26)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(8):
        a, b = high - golden * (high - low), low + golden * (high - low)
        left, right = at(a), at(b)
        low, high = (low, b) if left.log_likelihood > right.log_likelihood else (a, high)
    return max(fits, key=lambda f: f.log_likelihood)


def residuals(arrivals: Arrivals, parameters: Parameters) -> NDArray[np.float64]:
    """Time-rescaling residuals of each arrival, float64[N]; standard exponentials, independent within a side, if the process is true."""
    sessions = arrivals.sessions_s[arrivals.session_of_each()]
    spontaneous = parameters.baseline.integrated(parameters.nu_hz, arrivals.t_ns * 1e-9 / sessions, sessions)
    out = np.empty(len(arrivals))
    residual_pass(arrivals.gaps_s(), arrivals.side, spontaneous, parameters.decays_hz, parameters.alpha, out)
    return out
