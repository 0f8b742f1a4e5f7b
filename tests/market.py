"""The market of the tests: two sessions of 20 minutes, three symbols, made once a process."""

from __future__ import annotations

from functools import lru_cache

from cift_models.simulate import Market, SimulateConfig, simulate


@lru_cache(maxsize=4)
def small_market(seed: int = 0) -> Market:
    """The canonical small market. Shared by all tests of a process: never write into its arrays."""
    return simulate(SimulateConfig(seed=seed, session_minutes=20, sessions=2))
