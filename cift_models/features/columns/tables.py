"""A session of one symbol as tables that any tool opens: BARS and PROFILE (schema.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cift_models.events import HALT, RESUME, Events
from cift_models.features.columns.chunk import Chunk
from cift_models.features.columns.clocks import clock_of, duration_ns
from cift_models.features.columns.job import Job, Rows
from cift_models.features.columns.volume_profile import VolumeProfile
from cift_models.features.columns.z_score import RollingZ
from cift_models.instruments import Instrument, Session
from cift_models.schema import BARS, PROFILE

if TYPE_CHECKING:
    import polars

PRICES = ("open", "high", "low", "close", "vwap")


def tables(
    instrument: Instrument, session: Session, events: Events, clock: str = "1s", window: int = 300, profile: str = "60s", levels: int = 1
) -> tuple[polars.DataFrame, polars.DataFrame]:
    """BARS with `levels` levels and PROFILE of one symbol's events.

    clock     what ends a bar: 250ms, 1s, 5m, 1h from the session's open; 500trades; 1000volume in the instrument's unit
    window    bars that a z-score looks back over
    profile   stretch of time of the volume profile, in bins of one tick

    Everything starts anew behind a halt or a gap of the feed, whose own events are left out; the bar before it ends with its last event,
    so that two bars may bear one as_of. The last bar of a stretch may be a part. A score counts no flow above what it can take exactly.
    Raises InputError for a clock that is none, DataError for fewer levels in the book than asked and where sums would not be exact.
    O(events levels); a bar uses its own events, its z-score those of `window` bars up to it.
    """
    import polars as pl

    # Price units keep trades between two ticks apart; where they pass int32, ticks are what there is room for.
    unit = 1 if events.trade_px.max(initial=0) < 2**31 and events.trade_px.min(initial=0) >= -(2**31) else instrument.tick_units
    job = job_of(instrument, session, clock, window, profile, levels, unit)
    parts = [job.run([Chunk.of_events(events[stretch], unit)]) for stretch in stretches(events.kind)]
    parts = parts or [job.run([Chunk.of_events(events[:0], unit)])]
    return pl.concat([_bars(rows, instrument, unit) for rows in parts]), pl.concat([_profile(rows, instrument, unit) for rows in parts])


def job_of(instrument: Instrument, session: Session, clock: str, window: int, profile: str, levels: int, unit: int = 1) -> Job:
    """The job that `tables` does, prices counted in `unit` price units. Raises InputError for what cannot be one."""
    bins = VolumeProfile(duration_ns(profile), instrument.tick_units // unit, session.open)
    return Job(levels, clock_of(clock, instrument.lot_scale, session.open), RollingZ(window, capped=True), None, bins)


def stretches(kind: NDArray[np.int8]) -> Iterator[slice]:
    """Places of the events between halts: from the first event, or the one that resumes, to before the next that halts."""
    begin: int | None = 0
    for i in [*np.flatnonzero(kind & (HALT | RESUME)).tolist(), len(kind)]:
        if begin is not None and i > begin:
            yield slice(begin, i)
        begin = i if i < len(kind) and kind[i] & RESUME else None


def _bars(rows: Rows, instrument: Instrument, unit: int) -> polars.DataFrame:
    """BARS of one stretch."""
    import polars as pl

    bars, lots = rows.bars, instrument.lot_scale
    untraded = np.cumsum(bars.n_trades) == 0
    prices = {name: np.where(untraded, np.nan, getattr(bars, name) * float(unit) / instrument.price_scale) for name in PRICES}
    columns = {"symbol": _named(instrument, len(bars)), "as_of": bars.as_of, "since": bars.since, **prices}
    columns |= {"volume": bars.volume / lots, "n_trades": bars.n_trades, "n_events": bars.n_rows}
    for level in range(len(rows.ofi)):
        columns |= {f"ofi_{level:02d}": rows.ofi[level] / lots, f"z_ofi_{level:02d}": rows.z_ofi[level]}
    frame = pl.DataFrame(columns).with_columns(pl.col(*prices).fill_nan(None))
    BARS.with_levels(len(rows.ofi)).check(frame)
    return frame


def _profile(rows: Rows, instrument: Instrument, unit: int) -> polars.DataFrame:
    """PROFILE of one stretch."""
    import polars as pl

    found = rows.profile
    price = found.price * float(unit) / instrument.price_scale
    columns = {"symbol": _named(instrument, len(found)), "as_of": found.as_of, "price": price}
    frame = pl.DataFrame(columns | {"volume": found.volume / instrument.lot_scale})
    PROFILE.check(frame)
    return frame


def _named(instrument: Instrument, n: int) -> polars.Series:
    import polars as pl

    return pl.repeat(instrument.symbol, n, dtype=pl.String, eager=True)
