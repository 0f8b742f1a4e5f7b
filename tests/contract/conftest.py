"""One market for all laws, its models fitted once."""

import pytest

from tests.contract.law_market import LawMarket


@pytest.fixture(scope="session")
def law_market() -> LawMarket:
    return LawMarket()
