"""The rate of spontaneous arrivals over a session: a linear spline, or steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.models.hawkes.arrivals import Arrivals
from cift_models.models.hawkes.kernel import place_all


@dataclass(frozen=True, slots=True)
class Baseline:
    """A basis B_k over the share of the session that has passed, x in [0, 1]; a rate is sum_k nu_k B_k(x) with nu_k >= 0 in Hz.

    kind         "spline" (hat functions on evenly spaced knots, the first at 0 and the last at `last_share`) or "steps"
    intervals    between 0 and last_share
    last_share   the last share that training saw; beyond it the rate stays what it was there

    The share and not the clock is the coordinate, so that a half day has the shape of a day. Steps are here to show what they cost: on a
    smooth day they hand the slope inside each step to the excitation.
    """

    kind: str
    intervals: int
    last_share: float

    @property
    def size(self) -> int:
        """Number of basis functions K."""
        return self.intervals + (self.kind == "spline")

    def place(self, share: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(k, w) of each share: the rate there is (1 - w) nu_k + w nu_{k+1}."""
        knot, weight = place_all(share, self.last_share, self.intervals)
        return knot, weight if self.kind == "spline" else np.zeros_like(weight)

    def rate(self, nu_hz: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_k nu_k B_k at each share; nu_hz [..., K] gives [..., n]."""
        knot, weight = self.place(np.asarray(share, np.float64))
        return (1 - weight) * nu_hz[..., knot] + weight * nu_hz[..., np.minimum(knot + 1, self.size - 1)]

    def integral(self, share: float, session_s: float) -> NDArray[np.float64]:
        """Integral of each B_k over the session's first `share`, in seconds, float64[K]. Exact: each piece is a parabola."""
        width = self.last_share / self.intervals
        part = np.clip((share - width * np.arange(self.intervals)) / width, 0.0, 1.0)
        out = np.zeros(self.size)
        if self.kind == "spline":
            out[:-1] += part - part**2 / 2
            out[1:] += part**2 / 2
        else:
            out += part
        out *= width
        out[-1] += max(share - self.last_share, 0.0)
        return out * session_s

    def integrated(self, nu_hz: NDArray[np.float64], share: NDArray[np.float64], session_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected spontaneous arrivals from the open to each of n shares of sessions of the given lengths: nu_hz [D, K] gives [D, n]."""
        knot, weight = place_all(share, self.last_share, self.intervals)
        width = self.last_share / self.intervals
        left = nu_hz[:, : self.intervals]
        right = nu_hz[:, 1:] if self.kind == "spline" else left
        whole = np.concatenate([np.zeros((len(nu_hz), 1)), np.cumsum((left + right) / 2, axis=1)], axis=1)
        inside = whole[:, knot] + left[:, knot] * (weight - weight**2 / 2) + right[:, knot] * weight**2 / 2
        return (inside * width + nu_hz[:, -1:] * np.maximum(share - self.last_share, 0.0)) * session_s

    def exposure(self, arrivals: Arrivals) -> NDArray[np.float64]:
        """Integral of each B_k over all that was observed, in seconds, float64[K]."""
        shares = arrivals.windows_s / arrivals.sessions_s
        return np.sum([self.integral(x, s) for x, s in zip(shares, arrivals.sessions_s, strict=True)], axis=0)


def baseline_for(arrivals: Arrivals, knot_s: float, min_intervals: int, kind: str = "spline") -> Baseline:
    """Knots about `knot_s` apart over the longest stretch of session that was observed, with at least `min_intervals` intervals.

    The last knot is where training ends: a knot beyond it would rest on a sliver of data and then rule the next block.
    """
    longest = float(arrivals.windows_s.max())
    share = float((arrivals.windows_s / arrivals.sessions_s).max())
    return Baseline(kind, max(min_intervals, round(longest / knot_s)), share)


def decay_grid(arrivals: Arrivals, baseline: Baseline, min_decay_s: float, max_decay_s: float, ratio: float) -> NDArray[np.float64]:
    """Rates beta_m in Hz, fastest first: a geometric grid of mean lives from min_decay_s to max_decay_s, neighbours at most `ratio` apart.

    The longest life is never beyond a tenth of the longest observed stretch or two knots of the baseline.
    """
    longest = float(arrivals.windows_s.max())
    slowest = min(max_decay_s, longest / 10, 2 * longest / baseline.intervals)
    fastest = min(min_decay_s, slowest)
    n = 1 + int(np.ceil(np.log(slowest / fastest) / np.log(ratio) - 1e-9))
    return 1.0 / np.geomspace(fastest, slowest, n)
