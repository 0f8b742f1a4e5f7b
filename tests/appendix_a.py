"""A day of LOBSTER as a panel whose columns are appendix A's, computed the way it does: nothing here is shared with the feature kernels."""

from __future__ import annotations

import os
import zipfile
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cift_models.events import Events
from cift_models.features import FeatureSet
from cift_models.instruments import CALENDARS, SECOND, Instrument, Universe
from cift_models.models.protocol import Panel

LEVELS = {"AAPL": 1, "AMZN": 5, "GOOG": 5}
SESSION = CALENDARS["us_equity"].session(date(2012, 6, 21))


def lobster_folder() -> Path:
    root = os.environ.get("CIFT_TEST_DATA", "")
    if not root or not Path(root, "lobster_20120621").is_dir():
        pytest.skip("CIFT_TEST_DATA names no folder with lobster_20120621")
    return Path(root, "lobster_20120621")


@cache
def real_day(symbol: str) -> Panel:
    """Every second of 2012-06-21 (appendix A's columns, the log flows and the two activities; other columns are 0), y at latency 0."""
    levels = LEVELS[symbol]
    archive = zipfile.ZipFile(lobster_folder() / f"LOBSTER_SampleFile_{symbol}_2012-06-21_{levels}.zip")
    M, O = (np.loadtxt(archive.open(next(q for q in archive.namelist() if k in q)), delimiter=",") for k in ("message", "orderbook"))  # noqa: E741
    t, K, e = M[:, 0], levels, np.zeros((len(M), levels))
    for level in range(K):
        a, qa, b, qb = O[:, 4 * level : 4 * level + 4].T
        e[1:, level] = (b[1:] >= b[:-1]) * qb[1:] - (b[1:] <= b[:-1]) * qb[:-1] - (a[1:] <= a[:-1]) * qa[1:] + (a[1:] >= a[:-1]) * qa[:-1]
    C, V = np.vstack([np.zeros(K), e.cumsum(0)]), np.r_[0, np.where(M[:, 1] == 4, -M[:, 5] * M[:, 3], 0).cumsum()]
    mid, g = (O[:, 0] + O[:, 2]) / 2e4, np.arange(34201, 57600.0)

    def k(x):
        return np.searchsorted(t, x, "right")

    def at(x):
        return mid[np.maximum(k(x) - 1, 0)]

    i = np.maximum(k(g) - 1, 0)
    spread, q = (O[i, 0] - O[i, 2]) / 1e4, (O[i, 3] - O[i, 1]) / (O[i, 3] + O[i, 1])
    columns = {
        "mid": mid[i],
        "spread": spread,
        "spread_ticks": np.round(spread * 100),
        "queue_imbalance": q,
        "queue_imbalance_x_spread": q * spread,
        "move_1000ms": mid[i] - at(g - 1),
        "move_5000ms": mid[i] - at(g - 5),
        "move_30000ms": mid[i] - at(g - 30),
        "age_s": g - t[i],
    }
    for h, ms in ((0.1, 100), (0.5, 500), (1, 1000), (3, 3000), (10, 10_000), (30, 30_000)):
        flows = {f"ofi_{level:02d}_{ms}ms": C[k(g), level] - C[k(g - h), level] for level in range(K)}
        flows[f"signed_volume_{ms}ms"] = V[k(g)] - V[k(g - h)]
        columns |= flows | {f"log_{name}": np.sign(v) * np.log1p(np.abs(v)) for name, v in flows.items()}
        columns[f"log_count_{ms}ms"] = np.log1p(k(g) - k(g - h))
    moved = np.r_[False, np.diff(mid[i]) != 0]
    for half_life in (60, 600):
        decay, top, bottom, share = 0.5 ** (1 / half_life), 0.5, 1.0, np.empty(len(g))
        for n, m in enumerate(moved):
            top, bottom = decay * top + m, decay * bottom + 1
            share[n] = top / bottom
        columns[f"activity_{half_life}s"] = share
    features = FeatureSet(levels=K)
    x = np.zeros((len(g), 1, len(features.names)))
    for name, values in columns.items():
        x[:, 0, features.index([name])[0]] = values
    as_of = SESSION.open + (g.astype(np.int64) - 34_200) * SECOND
    universe = Universe((Instrument(symbol, 10_000, 100, 1, "shares", 0.0, "us_equity", K),))
    valid = np.ones((len(g), 1), bool)
    y = 1e4 * (at(g + 1) - mid[i]) / mid[i]
    nothing = Events.empty(0, K)
    return Panel(
        universe, features, SESSION.day, SESSION.open, SESSION.close, as_of, x, valid, np.zeros(valid.shape, np.int8), nothing,
        np.zeros(len(g) + 1, np.int64), y=y[:, None], rows=np.ones(len(g), bool), label_end=as_of + SECOND, base_oof=np.ones(len(g), bool),
    )  # fmt: skip
