"""A seeded market with known truth: the oracle of the tests and the newcomer's data."""

from cift_models.simulate.config import SimulateConfig
from cift_models.simulate.market import Market, simulate

__all__ = ["Market", "SimulateConfig", "simulate"]
