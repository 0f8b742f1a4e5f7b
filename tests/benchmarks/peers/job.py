"""The job that every contestant does on the same columns, and how two results are compared.

One symbol's rows: ts (int64 ns), price (ticks), size (lots; every row trades), and per level bid_px, bid_sz, ask_px, ask_sz after the row.

- 1 s bars over (t - 1 s, t]: open, high, low, close, volume, turnover, and the sum of the order-flow increments of each level
- the z-score of each level's sum over the last 300 bars, ddof 0, over the bars that there are at first, 0 at variance 0
- the same of the best level's increments over the last 1000 rows; of this column everyone gives the sum of |z|, so that an engine that
  streams need not keep it
- volume by 60 s and tick
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECOND = 1_000_000_000
BAR_NS, PROFILE_NS = SECOND, 60 * SECOND
BAR_WINDOW, TICK_WINDOW = 300, 1000
SIDES = ("bid_px", "bid_sz", "ask_px", "ask_sz")

Columns = dict[str, NDArray[Any]]


def names(levels: int) -> list[str]:
    return ["ts", "price", "size", *(f"{name}_{level:02d}" for level in range(levels) for name in SIDES)]


@dataclass(frozen=True)
class Sums:
    """What two results must agree on: counts and integer sums exactly, scores to 4 decimals."""

    bars: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    turnover: int
    ofi: tuple[int, ...]
    ofi_squares: tuple[int, ...]
    z_ofi: float
    z_tick: float
    profile_rows: int
    profile_volume: int
    profile_squares: int


@dataclass(frozen=True)
class Contestant:
    """A loaded engine: `forms` are ways of writing the job, each giving a result that `sums` reads; `close` frees what was loaded."""

    forms: dict[str, Callable[[], Any]]
    sums: Callable[[Any], Sums]
    close: Callable[[], None] = lambda: None


def sums_of(bars: dict[str, NDArray[Any]], levels: int, z_tick: float, profile: NDArray[Any]) -> Sums:
    """Sums of a table of bars (open .. turnover, ofi_00 .., z_00 ..) and the volumes of a profile."""
    whole = {name: round(float(bars[name].astype(np.float64).sum())) for name in ("open", "high", "low", "close", "volume", "turnover")}
    ofi = [bars[f"ofi_{level:02d}"].astype(np.float64) for level in range(levels)]
    volume = profile.astype(np.float64)
    return Sums(
        len(bars["open"]),
        **whole,
        ofi=tuple(round(float(v.sum())) for v in ofi),
        ofi_squares=tuple(round(float((v * v).sum())) for v in ofi),
        z_ofi=float(sum(np.abs(bars[f"z_{level:02d}"]).sum() for level in range(levels))),
        z_tick=float(z_tick),
        profile_rows=len(volume),
        profile_volume=round(float(volume.sum())),
        profile_squares=round(float((volume * volume).sum())),
    )


def difference(one: Sums, other: Sums) -> str:
    """The first thing that two results do not agree on; empty where they agree.

    Scores agree within half of the fourth decimal, or 1e-11 of the sum where that is more: at 2e7 rows the order of adding says as much.
    """
    for field in fields(Sums):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, float):
            if not abs(a - b) <= max(5e-5, 1e-11 * abs(a)):
                return f"{field.name}: {a!r} against {b!r}"
        elif a != b:
            return f"{field.name}: {a} against {b}"
    return ""
