"""Killed with -9 at every point of an ingest and of a feature build, then run again: the same rows, none lost, none doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from cift_models.errors import EmptyRange, StoreError, UnknownSymbol
from cift_models.features import FeatureSet
from cift_models.settings import Settings
from cift_models.stores.features import open_features
from cift_models.stores.leftovers import KeepsLeftovers
from cift_models.stores.ticks import open_ticks
from tests.lobster_made import BOOK, MESSAGES, lobster_made
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


def file_of(home: Path, symbol: str) -> Path:
    """A symbol's recording: the bytes that lie there, made once."""
    path = home.parent / f"{symbol}.zip"
    return path if path.exists() else lobster_made(path, stem=f"{symbol}_2012-06-21_34200000_34320000")


def corrected(home: Path, symbol: str) -> Path:
    """The recording as its vendor sends it again: a trade of another size, and a halt and a trade less."""
    messages, book = (text.splitlines()[:-3] for text in (MESSAGES.replace("34201.1,5,0,10,", "34201.1,5,0,15,"), BOOK))
    stem = f"{symbol}_2012-06-21_34200000_34320000"
    return lobster_made(home.parent / f"{symbol}.zip", "\n".join(messages) + "\n", "\n".join(book) + "\n", stem)


def work(home: Path, at: int, what: str, symbols: list[str], **store: str) -> subprocess.CompletedProcess[str]:
    """Ingest or build features of some symbols, dying at point `at`; 0: not at all."""
    files = [file_of(home, symbol) for symbol in symbols]
    command = [sys.executable, "-m", "tests.killed", str(at), what, *map(str, files)]
    return subprocess.run(command, cwd=ROOT, env=environment(home, **store), capture_output=True, text=True, timeout=300)


def settings_of(home: Path, **store: str) -> Settings:
    return Settings(home=home, **{name.removeprefix("CIFT_").lower(): value for name, value in store.items()})  # type: ignore[arg-type]


def contents(home: Path, symbol: str, **store: str) -> dict[str, object]:
    """Everything that is stored of a symbol."""
    settings = settings_of(home, **store)
    ticks, features = open_ticks(settings), open_features(settings)
    found: dict[str, object] = {}
    for table in ("trades", "status", "book", "orders"):
        (ref,) = ticks.partitions(table, [symbol])
        found[table] = (ref.rows, ref.schema_hash, ticks.read(ref).to_dict(as_series=False), ticks.quarantined(ref) is None)
    (session,) = ticks.sessions([symbol])
    universe = ticks.universe([symbol])
    events = ticks.events(universe, session)
    found["events"] = [getattr(events, field.name).tobytes() for field in fields(events)]
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


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.proof)])
def test_killed_while_a_file_replaces_what_is_stored_and_run_again(every: int, store: dict[str, str], tmp_path: Path) -> None:
    """At every point (every third where it is not a proof): what is stored is the old file's, or the new one's, or refused.

    Run again, it is the new one's, to the row.
    """
    home = tmp_path / "home"

    def done(*symbols: str) -> list[str]:
        run = work(home, 0, "ingest", list(symbols), **store)
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    done("OLD")
    corrected(home, "NEW")
    done("NEW")
    done("SENT")
    corrected(home, "SENT")
    points = done("SENT")
    old, expected = contents(home, "OLD", **store), contents(home, "NEW", **store)
    for table in ("trades", "status", "book", "orders"):
        assert old[table] != expected[table], table
    assert contents(home, "SENT", **store) == expected and len(points) >= 10
    places = range(1, len(points) + 1, every)
    # Names of their own: the servers hold what the tests before this one built of theirs.
    symbols = [f"SENT.{at}" for at in places]
    done(*symbols)
    for at, symbol in zip(places, symbols, strict=True):
        assert contents(home, symbol, **store) == old
        corrected(home, symbol)
        killed = work(home, at, "ingest", [symbol], **store)
        assert killed.returncode == -signal.SIGKILL or (store and at > len(points) - 3), (points[at - 1], killed.stderr)
        try:
            left = contents(home, symbol, **store)
        except (StoreError, ValueError, EmptyRange, UnknownSymbol):
            continue  # a table is absent, or the day is half written: refused
        for table in ("trades", "status", "book", "orders"):
            assert left[table] in (old[table], expected[table]), (points[at - 1], table)
        assert left["events"] in (old["events"], expected["events"]), points[at - 1]
    done(*symbols)
    killed_at = [points[at - 1] for at in places]
    for symbol, point in zip(symbols, killed_at, strict=True):
        assert contents(home, symbol, **store) == expected, point
    # And no row of the old file comes back by cleaning either.
    ticks = open_ticks(settings_of(home, **store))
    if isinstance(ticks, KeepsLeftovers):
        ticks.leftovers(remove=True, young_s=0.0)
        assert ticks.leftovers(young_s=0.0) == []
        for symbol, point in zip(symbols, killed_at, strict=True):
            assert contents(home, symbol, **store) == expected, point
