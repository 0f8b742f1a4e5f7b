"""The job in pandas: groupby and rolling where pandas has them compiled, whole-column arithmetic else."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.benchmarks.peers.job import BAR_NS, BAR_WINDOW, PROFILE_NS, SIDES, TICK_WINDOW, Columns, Contestant, names, sums_of


def load(columns: Columns, levels: int) -> Contestant:
    frame = pd.DataFrame({name: columns[name] for name in names(levels)}, copy=False)

    def run(window):
        bar = (frame["ts"] - 1) // BAR_NS
        wide = frame["price"] if frame["price"].dtype.kind == "f" else frame["price"].astype(np.int64)
        flows = {f"ofi_{level:02d}": increment(frame, level) for level in range(levels)}
        by_bar = pd.DataFrame({"price": frame["price"], "size": frame["size"], "turnover": wide * frame["size"], **flows}).groupby(bar)
        price = by_bar["price"]
        bars = pd.DataFrame({"open": price.first(), "high": price.max(), "low": price.min(), "close": price.last()})
        bars = pd.concat([bars, by_bar[["size", "turnover", *flows]].sum().rename(columns={"size": "volume"})], axis=1)
        for level, name in enumerate(flows):
            bars[f"z_{level:02d}"] = score(bars[name], BAR_WINDOW, window)
        z_tick = np.abs(score(flows["ofi_00"], TICK_WINDOW, window)).sum()
        by_price = frame["size"].groupby([(frame["ts"] - 1) // PROFILE_NS, frame["price"]], sort=False).sum()
        return bars, z_tick, by_price

    def sums(result):
        bars, z_tick, by_price = result
        return sums_of({name: bars[name].to_numpy() for name in bars}, levels, z_tick, by_price.to_numpy())

    return Contestant({"rolling": lambda: run(rolling), "running": lambda: run(running)}, sums)


def increment(frame: pd.DataFrame, level: int) -> pd.Series:
    b, q, a, r = (frame[f"{side}_{level:02d}"].to_numpy() for side in SIDES)
    e = np.zeros(len(frame), q.dtype)
    e[1:] = (b[1:] >= b[:-1]) * q[1:] - (b[1:] <= b[:-1]) * q[:-1] - (a[1:] <= a[:-1]) * r[1:] + (a[1:] >= a[:-1]) * r[:-1]
    return pd.Series(e, frame.index, copy=False)


def rolling(x: pd.Series, window: int) -> pd.Series:
    return x.rolling(window, min_periods=1).sum()


def running(x: pd.Series, window: int) -> pd.Series:
    total = x.cumsum()
    return total - total.shift(window, fill_value=0)


def score(x: pd.Series, window: int, way) -> np.ndarray:
    x = x.astype(np.float64 if x.dtype.kind == "f" else np.int64)
    s1, s2 = way(x, window).to_numpy(), way(x * x, window).to_numpy()
    n = np.minimum(np.arange(1, len(x) + 1), window)
    spread = n * s2 - s1 * s1
    return np.where(spread > 0, (n * x.to_numpy() - s1) / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)
