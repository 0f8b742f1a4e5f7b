"""Homes with a release, and a service that runs: made once a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.releases import make_home
from tests.service import Service, serving


@pytest.fixture(scope="module")
def served_home(tmp_path_factory) -> Path:
    """A home whose champion and challenger is the pipeline of tests/releases.py."""
    home = tmp_path_factory.mktemp("home")
    make_home(home)
    return home


@pytest.fixture(scope="module")
def service(served_home) -> Iterator[Service]:
    """The champion of that home, served; tests share it and begin a session of their own."""
    with serving(served_home) as running:
        yield running
