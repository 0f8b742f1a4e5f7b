"""Bars and volume profiles of stored sessions, as files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from cift_models.errors import EmptyRange, InputError
from cift_models.features.columns.tables import job_of, tables
from cift_models.files import write_atomic
from cift_models.settings import get_settings
from cift_models.stores.lake import folder_name, to_parquet
from cift_models.stores.ticks import open_ticks
from tasks.progress import reporter


def write_bars(
    symbols: list[str], start: date, end: date, out: Path, clock: str, window: int, profile: str, levels: int
) -> Iterator[dict[str, Any]]:
    """Write bars-SYMBOL-DAY.parquet and profile-SYMBOL-DAY.parquet below `out`; for each session and symbol the paths and what is in them.

    One session of one symbol is in memory at a time. Raises UnknownSymbol, EmptyRange, InputError where `out` cannot be a folder, and what
    the tick store and `tables` raise.
    """
    if end < start:
        raise EmptyRange(f"The range {start} .. {end} ends before it starts.", hint="Give the earlier day first.")
    ticks = open_ticks(get_settings())
    first, last = (int(f"{day:%Y%m%d}") for day in (start, end))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be a folder: {error.strerror}.", hint="Name a folder that is there or can be made.") from None
    for symbol in symbols:
        universe = ticks.universe([symbol])
        instrument = universe.instruments[0]
        for session in ticks.sessions([symbol], first, last):
            job_of(instrument, session, clock, window, profile, levels)  # what cannot be is said before anything is read
            progress = reporter(f"{symbol} {session.day}")
            progress("reading", 0.1)
            events = ticks.events(universe, session)
            progress(f"{len(events):,} events", 0.5)
            bars, bins = tables(instrument, session, events, clock, window, profile, min(levels, instrument.levels))
            found = {"symbol": symbol, "day": session.day, "events": len(events), "bars": len(bars), "bins": len(bins)}
            for name, frame in (("bars", bars), ("profile", bins)):
                path = out / f"{name}-{folder_name(symbol)}-{session.day}.parquet"
                write_atomic(path, to_parquet(frame))
                found[f"{name}_path"] = str(path)
            progress(f"{len(bars):,} bars", 1.0)
            yield found | {"unit": instrument.unit, "volume": float(bars["volume"].sum()), "n_trades": int(bars["n_trades"].sum())}
