"""Every law on every kind. A new model is a file and a line in REGISTRY; the laws find it."""

import pytest

from cift_models.models import REGISTRY
from tests.contract.laws import LAWS

TORCH = ("gnn", "transformer")
KINDS = [pytest.param(kind, marks=pytest.mark.torch if kind in TORCH else ()) for kind in REGISTRY]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_law(kind, law, law_market):
    law(law_market.case(kind))


def test_every_law_says_what_it_is():
    assert all(law.__doc__ and law.__doc__.count("\n") == 0 for law in LAWS) and len(set(LAWS)) == len(LAWS)
