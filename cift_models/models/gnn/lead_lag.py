"""Who leads whom, and by how much time: a prior from the training data alone, with an honest threshold.

For each ordered pair and lag: the correlation of the target's move with the source's earlier move, both cleaned of their own past, as a
heteroskedasticity-robust t. The statistic is the largest over all pairs and lags; its null comes from circular time shifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.models.gnn.kernel import CHANNELS, MOVE, bin_session, memory
from cift_models.models.protocol import Panel

INTERVAL = 1.959964
"""Standard errors in half a pointwise 95 % interval."""
# A t whose robust variance is below this share of what independence would give rests on a handful of bins where both moved.
VARIANCE_FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` leads `target` (places on the axis S) by `lag_ns`; t and partial correlation at that lag."""

    source: int
    target: int
    lag_ns: int
    t: float
    correlation: float


@dataclass(frozen=True, slots=True)
class LeadLagResult:
    """What the prior found; axes [source, target, lag], lag k is (k + 1) bins.

    edges        pairs whose largest |t| exceeds the threshold, strongest first
    statistic    the largest |t| over all pairs and lags; 0 where there is no pair or too little data
    threshold    its quantile under time shifts; inf where it could not be made
    null         float64[shifts], the largest |t| of each shift
    t            float64[S, S, K] robust t; 0 on the diagonal
    correlation  float64[S, S, K] partial correlation
    bin_ns       width of a bin
    n_bins       bins with data
    """

    edges: tuple[Edge, ...]
    statistic: float
    threshold: float
    null: NDArray[np.float64]
    t: NDArray[np.float64]
    correlation: NDArray[np.float64]
    bin_ns: int
    n_bins: int

    @property
    def best_lag(self) -> NDArray[np.int64]:
        """int64[S, S]: place of the lag with the largest |t| of each pair."""
        return np.argmax(np.abs(self.t), axis=2)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """float64[S, S]: the t at the best lag of each [source, target]."""
        return np.take_along_axis(self.t, self.best_lag[:, :, None], axis=2)[:, :, 0]

    def has_edge(self, source: int, target: int) -> bool:
        return any(e.source == source and e.target == target for e in self.edges)

    def as_json(self) -> dict[str, Any]:
        """JSON lists: edges, threshold, matrices [source][target] of t, lag, partial correlation and its pointwise 95 % interval."""
        best = self.best_lag
        correlation = np.take_along_axis(self.correlation, best[:, :, None], axis=2)[:, :, 0]
        error = np.divide(np.abs(correlation), np.abs(self.matrix), out=np.zeros_like(correlation), where=self.matrix != 0)
        return {
            "edges": [
                {
                    "source": e.source,
                    "target": e.target,
                    "lag_s": e.lag_ns / 1e9,
                    "t": e.t,
                    "partial_correlation": e.correlation,
                    "profile_t": self.t[e.source, e.target].tolist(),
                }
                for e in self.edges
            ],
            "statistic": self.statistic,
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            "shifts": len(self.null),
            "bins": self.n_bins,
            "bin_s": self.bin_ns / 1e9,
            "t": self.matrix.tolist(),
            "lag_s": ((best + 1) * self.bin_ns / 1e9).tolist(),
            "partial_correlation": correlation.tolist(),
            "low": (correlation - INTERVAL * error).tolist(),
            "high": (correlation + INTERVAL * error).tolist(),
        }


def edges(
    panels: Iterable[Panel], *, bin_ns: int = 50_000_000, max_lag: int = 60, shifts: int = 400, level: float = 0.95, seed: int = 0,
    max_bins: int = 2_000_000,
) -> LeadLagResult:  # fmt: skip
    """The prior of some sessions: moves of the mid in bins of `bin_ns`, lags of 1 to `max_lag` bins.

    Uses every event of the panels (the most recent `max_bins` bins), so cut them first (`panel.until`). Deterministic in `seed`.
    O(S events + S^2 N log N): about 0.2 s for 3 assets and two sessions of 3 hours.
    """
    parts = [binned_moves(panel, bin_ns) for panel in panels]
    return search(parts, max_lag, bin_ns=bin_ns, shifts=shifts, level=level, seed=seed, max_bins=max_bins)


def binned_moves(panel: Panel, bin_ns: int) -> NDArray[np.float64]:
    """Moves of the mid in half ticks, float64[n, S], up to the last instant; bin b covers (open + b bin_ns, open + (b + 1) bin_ns]."""
    n = int((panel.as_of[-1] - panel.open) // bin_ns) if len(panel) else 0
    out = np.zeros((n, len(panel.universe), CHANNELS), np.int64)
    e = panel.events
    bin_session(
        memory(len(panel.universe), 1), panel.open, bin_ns, e.ts, e.symbol, e.kind, e.side, e.trade_sz,
        e.bid_px, e.bid_sz, e.ask_px, e.ask_sz, out,
    )  # fmt: skip
    return out[:, :, MOVE].astype(np.float64)


def most_recent(parts: Sequence[NDArray[np.float64]], max_bins: int) -> list[NDArray[np.float64]]:
    """The last `max_bins` bins of some sessions; a session that was cut short keeps its end, and empty ones are left out."""
    out: list[NDArray[np.float64]] = []
    for part in reversed(parts):
        room = max_bins - sum(len(p) for p in out)
        if room > 0 and len(part):
            out.append(part[-room:])
    return out[::-1]


def innovations(parts: Sequence[NDArray[np.float64]], order: int) -> list[NDArray[np.float64]]:
    """Each series less its projection on its own last `order` values (Yule-Walker, pooled over the parts), unit variance.

    Parts are float64[n, S]. The first `order` (>= 1) bins of a part are 0, and so is a series that never moves. Correlating two series
    cleaned of their own past is Haugh's (1976) test of independence: neither inherits autocorrelation (bounce) from the other. O(N log N).
    """
    from scipy.linalg import solve_toeplitz
    from scipy.signal import fftconvolve

    ridge = np.zeros(order)
    ridge[:1] = 1e-6  # a series with a near-deterministic pattern would have a singular Toeplitz matrix
    out = [np.zeros_like(p) for p in parts]
    for s in range(parts[0].shape[1]):
        covariance = np.zeros(order + 1)
        for part in parts:
            x = part[:, s]
            covariance += fftconvolve(x, x[::-1])[len(x) - 1 :][: order + 1] if len(x) > order else 0.0
        if covariance[0] <= 0:
            continue
        weights = solve_toeplitz(covariance[:-1] + ridge * covariance[0], covariance[1:])
        square, n = 0.0, 0
        for part, clean in zip(parts, out, strict=True):
            clean[order:, s] = np.convolve(part[:, s], np.r_[1.0, -weights])[order : len(part)]
            square += float(np.sum(clean[:, s] ** 2))
            n += max(len(part) - order, 0)
        for clean in out:
            clean[:, s] *= np.sqrt(n / square) if square > 0 else 0.0
    return out


def search(
    parts: Sequence[NDArray[np.float64]], max_lag: int, *, bin_ns: int, shifts: int, level: float, seed: int, max_bins: int = 2_000_000
) -> LeadLagResult:  # fmt: skip
    """The maximum statistic of series in parts (sessions) float64[n, S], and its threshold.

    With u the innovations, t_ji(k) = sum_t u_i(t) u_j(t - k) / sqrt(sum_t u_i(t)^2 u_j(t - k)^2), k = 1..max_lag: White's (1980) t of a
    univariate regression, right where both assets are wild at once. Shifting the source around the circle by s only moves k to k + s, so
    one transform of the cross-correlation holds every shift. Each draw gives each asset a shift of its own, more than 2 max_lag from
    every other's, and takes the maximum over all pairs and lags: the `level` quantile holds all of them at once. Parts are joined
    by max_lag zeros, so no lag crosses a session; of more than `max_bins` bins the most recent count. Too little data for the shifts:
    no edges, and an infinite threshold.
    """
    import scipy.fft

    fft: Any = scipy.fft  # its annotations name the dispatcher's wrapper, not the arrays
    assets = parts[0].shape[1] if parts else 0
    parts = most_recent(parts, max_bins)
    empty = np.zeros((assets, assets, max_lag))
    n_bins = sum(len(p) for p in parts)
    n = fft.next_fast_len(sum(len(p) + max_lag for p in parts), real=True) if parts else 0
    room = n // assets - 2 * max_lag - 1 if assets else 0
    if assets < 2 or room < max_lag or max(len(p) for p in parts) <= 2 * max_lag:
        return LeadLagResult((), 0.0, np.inf, np.zeros(0), empty, empty.copy(), bin_ns, n_bins)
    joined = np.zeros((assets, n))
    at = 0
    for clean in innovations(parts, max_lag):
        joined[:, at : at + len(clean)] = clean.T
        at += len(clean) + max_lag
    rng = np.random.default_rng(seed)
    slots = rng.permuted(np.tile(np.arange(assets), (shifts, 1)), axis=1)
    shift = slots * (n // assets) + rng.integers(0, room, (shifts, assets))
    lags = np.arange(1, max_lag + 1)
    null = np.zeros(shifts)
    t, correlation = empty, empty.copy()
    flat, square = fft.rfft(joined), fft.rfft(joined**2)
    power = np.sum(joined**2, axis=1)
    for i in range(assets):
        for j in range(i):
            if power[i] == 0 or power[j] == 0:
                continue
            cross = fft.irfft(flat[i] * np.conj(flat[j]), n)
            floor = VARIANCE_FLOOR * power[i] * power[j] / n_bins
            ratio = cross / np.sqrt(np.maximum(fft.irfft(square[i] * np.conj(square[j]), n), floor))
            # ratio[k] = sum_t u_i(t) u_j(t - k): at +k source j leads i, at -k source i leads j.
            for source, target, place in ((j, i, lags), (i, j, n - lags)):
                t[source, target] = ratio[place]
                correlation[source, target] = cross[place] / np.sqrt(power[i] * power[j])
            away = (shift[:, j] - shift[:, i])[:, None]
            around = np.concatenate([away + lags, away - lags], axis=1) % n
            np.maximum(null, np.abs(ratio[around]).max(axis=1), out=null)
    threshold = float(np.quantile(null, level, method="higher"))
    found = []
    best = np.argmax(np.abs(t), axis=2)
    for source, target in zip(*np.nonzero(np.abs(t).max(axis=2) > threshold), strict=True):
        k = int(best[source, target])
        found.append(Edge(int(source), int(target), (k + 1) * bin_ns, float(t[source, target, k]), float(correlation[source, target, k])))
    found.sort(key=lambda e: -abs(e.t))
    return LeadLagResult(tuple(found), float(np.abs(t).max()), threshold, null, t, correlation, bin_ns, n_bins)
