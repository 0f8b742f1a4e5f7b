"""Killed with -9 at every point of an ingest and of a feature build, then run again: the same rows, none lost, none doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cift_models.features import FeatureSet
from cift_models.settings import Settings
from cift_models.stores.features import open_features
from cift_models.stores.ticks import open_ticks
from tests.lobster_made import lobster_made
from tests.processes import ROOT, environment

pytestmark = pytest.mark.slow


@pytest.fixture(params=["parquet", "servers"])
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of a pair of stores: files, or a QuestDB and a ClickHouse."""
    if request.param == "parquet":
        return {}
    urls = {name: request.getfixturevalue(f"{name}_server").url for name in ("questdb", "clickhouse")}
    settings = Settings(questdb_url=urls["questdb"], clickhouse_url=urls["clickhouse"])
    for opened in (open_ticks(settings), open_features(settings)):
        made, differences = opened.migrate()  # type: ignore[attr-defined]
        assert not differences
    return {f"CIFT_{name.upper()}_URL": url for name, url in urls.items()}


def work(home: Path, at: int, what: str, symbols: list[str], **store: str) -> subprocess.CompletedProcess[str]:
    """Ingest or build features of some symbols, dying at point `at`; 0: not at all."""
    files = [lobster_made(home.parent / f"{symbol}.zip", stem=f"{symbol}_2012-06-21_34200000_34320000") for symbol in symbols]
    command = [sys.executable, "-m", "tests.killed", str(at), what, *map(str, files)]
    return subprocess.run(command, cwd=ROOT, env=environment(home, **store), capture_output=True, text=True, timeout=300)


def contents(home: Path, symbol: str, **store: str) -> dict[str, object]:
    """Everything that is stored of a symbol."""
    settings = Settings(home=home, **{name.removeprefix("CIFT_").lower(): value for name, value in store.items()})  # type: ignore[arg-type]
    ticks, features = open_ticks(settings), open_features(settings)
    found: dict[str, object] = {}
    for table in ("trades", "status", "book", "orders"):
        (ref,) = ticks.partitions(table, [symbol])
        found[table] = (ref.rows, ref.schema_hash, ticks.read(ref).to_dict(as_series=False), ticks.quarantined(ref) is None)
    (session,) = ticks.sessions([symbol])
    universe = ticks.universe([symbol])
    found["events"] = ticks.events(universe, session).bid_px.tobytes()
    columns = FeatureSet(levels=universe.levels)
    versions = features.versions(universe, columns, session)
    found["features"] = [[a.tobytes() for a in features.read(universe, columns, session, ref.sha256)] for ref in versions]
    return found


@pytest.mark.parametrize("what", ["ingest", "features"])
def test_killed_at_every_point_and_run_again(what: str, store: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"

    def done(what: str, *symbols: str) -> list[str]:
        run = work(home, 0, what, list(symbols), **store)
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    # One symbol a point, in one store: what a death leaves behind may disturb nobody.
    points = done("ingest", "WHOLE")
    if what == "features":
        points = done("features", "WHOLE")
    symbols = [f"DIED.{at}" for at in range(1, len(points) + 1)]
    if what == "features":
        done("ingest", *symbols)
    for at, symbol in enumerate(symbols, 1):
        killed = work(home, at, what, [symbol], **store)
        # A server's own ways differ from run to run by a question or two: the last point may not come.
        assert killed.returncode == -signal.SIGKILL or (store and at > len(points) - 3), (points[at - 1], killed.stderr)
    done(what, *symbols)
    expected = contents(home, "WHOLE", **store)
    assert len(points) >= 10 and len(expected["features"]) == (what == "features")  # type: ignore[arg-type]
    for symbol, point in zip(symbols, points, strict=True):
        assert contents(home, symbol, **store) == expected, point
