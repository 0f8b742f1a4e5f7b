"""Volatility of the mid on the decision clock, with and without jumps, bps per square root of a second.

realised_vol_Ws   sqrt(mean of r_k^2)                                     r_k: log return from one instant to the next, bps
bipower_vol_Ws    sqrt(pi / 2 mean of |r_k| |r_{k-1}|)                    a lone jump counts not (Barndorff-Nielsen and Shephard 2004)

Each is one scalar sum from the newest return to the oldest, at every instant again: the same order live and in batch, and no drift. Fewer
returns than the window holds: the mean of those there are; none: 0. An instant without a mid breaks the chain of returns, and two returns
on either side of the break are not multiplied.
"""

from __future__ import annotations

import math

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import SECOND

WINDOWS_S = (10, 60, 300)
"""Look-backs in seconds, rising: the sums of the longest pass through those of the shorter ones."""
N_WINDOWS = len(WINDOWS_S)

BROKEN = 1e300
"""What stands in the ring where the chain of returns broke."""


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return (*(f"realised_vol_{w}s" for w in WINDOWS_S), *(f"bipower_vol_{w}s" for w in WINDOWS_S))


def rows(features: FeatureSet) -> int:
    """Returns that the longest window holds, and as many breaks."""
    return 2 * max(1, WINDOWS_S[-1] * SECOND // features.clock_ns)


@kernel
def forget(m):
    """No return yet."""
    m.row_mid = 0.0
    m.returns = 0


@kernel
def row(m, ring, out, at):
    """Take the instant's mid and write the family's columns."""
    size = len(ring)
    clock_ns, scale = m.clock_ns, m.vol_scale
    if m.mid > 0 and m.row_mid > 0:
        ring[m.returns % size] = 1e4 * math.log(m.mid / m.row_mid)
        m.returns += 1
    elif m.returns > 0 and ring[(m.returns - 1) % size] != BROKEN:
        ring[m.returns % size] = BROKEN
        m.returns += 1
    m.row_mid = m.mid
    n, pairs, squares, products, newer = 0, 0, 0.0, 0.0, -1.0
    w = 0
    steps = max(1, WINDOWS_S[0] * SECOND // clock_ns)
    for k in range(min(m.returns, size)):
        move = ring[(m.returns - 1 - k) % size]
        if move == BROKEN:
            newer = -1.0
            continue
        if n == steps:
            _write(out, at + w, n, pairs, squares, products, scale)
            w += 1
            if w == N_WINDOWS:
                return
            steps = max(1, WINDOWS_S[w] * SECOND // clock_ns)
        size_bps = abs(move)
        squares += size_bps * size_bps
        n += 1
        if newer >= 0:
            products += newer * size_bps
            pairs += 1
        newer = size_bps
    for v in range(w, N_WINDOWS):
        _write(out, at + v, n, pairs, squares, products, scale)


@kernel
def _write(out, at, n, pairs, squares, products, scale):
    out[at] = scale * math.sqrt(squares / n) if n > 0 else 0.0
    out[at + N_WINDOWS] = scale * math.sqrt(math.pi / 2 * products / pairs) if pairs > 0 else 0.0
