"""The market of the tests: two sessions of 20 minutes, three symbols, made once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cift_models.simulate import Market, SimulateConfig, simulate
from cift_models.stores.ticks import ParquetTicks


@lru_cache(maxsize=4)
def small_market(seed: int = 0) -> Market:
    """The canonical small market. Shared by all tests of a process: never write into its arrays."""
    return simulate(SimulateConfig(seed=seed, session_minutes=20, sessions=2))


def store_small_market(home: Path) -> Path:
    """A home in which the small market is stored, in files."""
    market = small_market()
    for session, parts in zip(market.sessions, market.events, strict=True):
        for instrument in market.universe.instruments:
            ParquetTicks(home).write_events(instrument, session, parts[instrument.symbol], {"feed": "simulate"})
    return home
