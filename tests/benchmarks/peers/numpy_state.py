"""Twenty features of one symbol, updated tick by tick with numpy over windows: what one writes before one writes kernels."""

from __future__ import annotations

import numpy as np

WINDOW = 1000
PROFILE_NS = 60_000_000_000
BINS = 64


class NumpyState:
    """OFI, rolling z of it (1,000 ticks), three exponential averages, a running bar, 2 x 10 Hawkes sums, a volume profile."""

    def __init__(self) -> None:
        self.increments = np.zeros(WINDOW)
        self.n = 0
        self.book = np.zeros(4)
        self.averages = np.zeros(3)
        self.decay = np.array([0.9, 0.99, 0.999])
        self.rates = np.array([0.01 * 5**k for k in range(10)])
        self.sums = np.zeros((2, 10))
        self.bar = np.zeros(5)
        self.bar_s = 0
        self.ts = 0
        self.times, self.prices, self.sizes = np.zeros(256, np.int64), np.zeros(256, np.int64), np.zeros(256)
        self.traded = 0
        self.out = np.zeros(20)

    def update(self, ts: int, side: int, px: int, sz: int, bid: int, bid_sz: int, ask: int, ask_sz: int) -> np.ndarray:
        b, q, a, r = self.book
        ofi = (bid >= b) * bid_sz - (bid <= b) * q - (ask <= a) * ask_sz + (ask >= a) * r
        self.book[:] = bid, bid_sz, ask, ask_sz
        self.increments[self.n % WINDOW] = ofi
        self.n += 1
        window = self.increments[: min(self.n, WINDOW)]
        deviation = window.std()
        mid = (bid + ask) / 2
        self.averages = self.decay * self.averages + (1 - self.decay) * mid
        self.sums *= np.exp(-self.rates * ((ts - self.ts) * 1e-9))
        if side:
            self.sums[0 if side > 0 else 1] += 1
        if ts // 1_000_000_000 != self.bar_s or self.bar[0] == 0:
            self.bar_s = ts // 1_000_000_000
            self.bar[:] = mid, mid, mid, mid, 0
        self.bar[1:4] = max(self.bar[1], mid), min(self.bar[2], mid), mid
        if sz:
            self.bar[4] += sz
            k = self.traded % 256
            self.times[k], self.prices[k], self.sizes[k] = ts, px, sz
            self.traded += 1
        inside = self.times > ts - PROFILE_NS
        profile = np.bincount((self.prices[inside] % BINS).astype(np.int64), self.sizes[inside], BINS)
        self.ts = ts
        out = self.out
        out[0], out[1], out[2:5] = ofi, (ofi - window.mean()) / deviation if deviation > 0 else 0.0, self.averages
        out[5:10], out[10:18] = self.bar, (self.sums[0, :8] - self.sums[1, :8])
        out[18], out[19] = profile.argmax(), profile.sum()
        return out
