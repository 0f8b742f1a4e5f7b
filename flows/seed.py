"""A simulated market into the canonical tables."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import SeedParameters
from tasks.ingest import simulate_market


@flow(name="seed")
def seed(params: SeedParameters) -> dict[str, Any]:
    """Simulate a market with known truth and store it.

    Args:
        params: The seed, the symbols, the sessions.
    """
    return simulate_market(params.model_dump(mode="json"))
