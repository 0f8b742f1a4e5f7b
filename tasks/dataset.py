"""What a run is about, and its panels: sessions, instruments, features, labels, blocks."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from cift_models.errors import EmptyRange, InputError, StoreError, StoreUnavailable
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models.protocol import Panel
from cift_models.refs import PartitionRef
from cift_models.settings import get_settings
from cift_models.splits import BLOCKS, BlockCalendar, block_calendar, decision_rows
from cift_models.stores.features import open_features
from cift_models.stores.panels import open_panel as stored_panel
from cift_models.stores.ticks import open_ticks
from tasks.step import Room, StepRef, find_step, forget, step

DELAYS_NS = (0, 1_000_000, 10_000_000, 100_000_000, SECOND)
"""Latencies at which the test rows are judged besides (methods.md section 1)."""


class Dataset(BaseModel):
    """What a run is about, as plain values: nothing in it is a path, everything in it is part of every step's key.

    partitions   stored tables by session (yyyymmdd), as the manifests name them
    calendar     the ten blocks (splits.BlockCalendar); {} where only features are built
    latency_ns   how long after a decision its price is taken
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    universe: list[dict[str, Any]]
    sessions: list[dict[str, int]]
    features: dict[str, Any]
    calendar: dict[str, Any]
    horizon_ns: int
    latency_ns: int
    partitions: dict[int, list[PartitionRef]]

    def get_universe(self) -> Universe:
        return Universe.from_json(self.universe)

    def get_features(self) -> FeatureSet:
        return FeatureSet.from_json(self.features)

    def get_calendar(self) -> BlockCalendar:
        """Raises InputError where the data were selected without blocks."""
        if not self.calendar:
            raise InputError(
                "These data were selected for features only: they have no blocks.", hint="Select them with blocks to fit on them."
            )
        return BlockCalendar.from_json(self.calendar)

    def session(self, day: int) -> Session:
        return next(Session(**s) for s in self.sessions if s["day"] == day)

    @property
    def days(self) -> list[int]:
        return [s["day"] for s in self.sessions]


def yyyymmdd(day: date) -> int:
    return int(day.strftime("%Y%m%d"))


@task(persist_result=False, cache_policy=NO_CACHE)
def select_data(
    symbols: list[str],
    start: date,
    end: date,
    test_from: date | None,
    latency_ms: int,
    last: int | None = None,
    blocks: bool = True,
) -> Dataset:
    """Name the stored sessions of a range (both ends included; the `last` n of them) and lay the block calendar over them.

    Without `blocks` there is no calendar: for whoever builds features only, of sessions however short. Raises UnknownSymbol and EmptyRange,
    naming what is stored; EmptyRange where the sessions are too short for ten blocks, naming their decision rows.
    """
    ticks = open_ticks(get_settings())
    if end < start:
        raise EmptyRange(f"The range {start} .. {end} ends before it starts.", hint="Give the earlier day first.")
    universe = ticks.universe(symbols)
    sessions = list(ticks.sessions(symbols, yyyymmdd(start), yyyymmdd(end)))[-last if last else None :]
    features = FeatureSet(levels=universe.levels)
    calendar = _blocks(symbols, sessions, features.clock_ns, test_from).as_json() if blocks else {}
    return Dataset(
        universe=universe.as_json(),
        sessions=[asdict(s) for s in sessions],
        features=features.as_json(),
        calendar=calendar,
        horizon_ns=SECOND,
        latency_ns=latency_ms * 1_000_000,
        partitions={s.day: list(ticks.event_partitions(universe, s)) for s in sessions},
    )


def _blocks(symbols: list[str], sessions: list[Session], clock_ns: int, test_from: date | None) -> BlockCalendar:
    """The ten blocks. Raises EmptyRange, saying how many decision rows each session has and how many are needed."""
    try:
        return block_calendar(sessions, clock_ns, SECOND, test_from)
    except EmptyRange as error:
        rows = {session.day: len(decision_rows(session, clock_ns, SECOND)) for session in sessions}
        fewest = sorted(sessions, key=lambda s: (rows[s.day], s.day))
        said = ", ".join(f"{s.day} has {rows[s.day]:,} in {(s.close - s.open) / SECOND:,.0f} s" for s in fewest[:5])
        more = f", {len(fewest) - 5} others have more" if len(fewest) > 5 else ""
        cut = yyyymmdd(test_from) if test_from else 0
        need = (
            f"7 before {test_from} and 3 from it on (there are {sum(n for day, n in rows.items() if day < cut):,} "
            f"and {sum(n for day, n in rows.items() if day >= cut):,})"
            if test_from
            else "one in each block of whole sessions"
            if len(sessions) >= BLOCKS
            else f"{BLOCKS}, one a block (there are {sum(rows.values()):,})"
        )
        raise EmptyRange(
            f"{','.join(symbols)}: {len(sessions)} sessions are too short for ten blocks. "
            f"Of decision rows {said}{more}. Needed are {need}.",
            hint="They are a second each, none in the first and last tenth of a session (10 minutes of a long one): take a longer range, "
            "or another test_from. `cift backfill --symbols` builds features of sessions of any length.",
        ) from error


@task(persist_result=False, cache_policy=NO_CACHE)
def build_session(dataset: Dataset, day: int, again: bool = False) -> StepRef:
    """Features and labels of one session. `again` builds them though that was done before: it mends a store that has lost rows."""
    universe, features, session = dataset.get_universe(), dataset.get_features(), dataset.session(day)
    settings = get_settings()

    def run(room: Room) -> dict[str, Any]:
        room.progress("reading events", 0.1)
        events = open_ticks(settings).events(universe, session)
        room.progress("features", 0.3)
        # Sessions are built side by side; where there are fewer of them than workers, so are the symbols of one.
        threads = max(1, settings.workers // len(dataset.days))
        as_of, offsets, x, valid, why = stream.build(universe, features, session, events, threads=threads)
        ref = open_features(settings).write(universe, features, session, as_of=as_of, offsets=offsets, x=x, valid=valid, why=why)
        room.progress("labels", 0.8)
        columns: dict[str, np.ndarray] = {}
        for delay in sorted({dataset.latency_ns, *DELAYS_NS}):
            y, known, end = labels(events, universe, session, as_of, dataset.horizon_ns, delay)
            columns |= {f"y_{delay}": y, f"known_{delay}": known, f"end_{delay}": end}
        np.savez(room.out / "labels.npz", allow_pickle=False, **columns)
        return {"features": ref.model_dump(mode="json"), "events": len(events), "instants": len(as_of), "valid": float(valid.mean())}

    inputs = feature_inputs(dataset, day)
    done = find_step("features", inputs)
    if done is not None and (again or not features_stored(dataset, day, done)):
        forget(done)
    return step("features", inputs, run)


def features_stored(dataset: Dataset, day: int, done: StepRef) -> bool:
    """Whether the feature store still holds what a step wrote to it. Among damaged manifests nothing is taken to be there."""
    store = open_features(get_settings())
    try:
        versions = store.versions(dataset.get_universe(), dataset.get_features(), dataset.session(day))
    except StoreUnavailable:
        raise
    except StoreError:
        return False
    return any(ref.sha256 == done.facts["features"]["sha256"] for ref in versions)


def feature_inputs(dataset: Dataset, day: int) -> dict[str, Any]:
    """What a session's features and labels depend on, besides the code."""
    return {
        "partitions": dataset.partitions[day],
        "universe": dataset.universe,
        "features": dataset.features,
        "session": asdict(dataset.session(day)),
        "horizon_ns": dataset.horizon_ns,
        "latency_ns": dataset.latency_ns,
    }


def open_panel(dataset: Dataset, built: dict[int, StepRef], day: int) -> Panel:
    """A session's panel with labels; the last two that were opened are kept, they are shared: do not change them.

    It is what the run pinned: the version of the features that its step built, the events of the partitions that were selected. Corrections
    of features that were written since are not seen; where events were replaced, it raises NotStored.
    """
    return _open_panel(dataset.model_dump_json(), built[day].key, built[day].sha256, built[day].facts["features"]["sha256"], day)


@lru_cache(maxsize=2)
def _open_panel(dataset_json: str, key: str, sha256: str, features_sha256: str, day: int) -> Panel:
    dataset = Dataset.model_validate_json(dataset_json)
    universe, features, session = dataset.get_universe(), dataset.get_features(), dataset.session(day)
    settings = get_settings()
    panel = stored_panel(
        open_ticks(settings), open_features(settings), universe, features, session, features_sha256, partitions=dataset.partitions[day]
    )
    y, known, end = load_labels(settings.home / key, dataset.latency_ns)
    # A row whose label is unknown for a symbol that is valid teaches no symbol: rows is one mark an instant.
    return replace(panel, y=y, label_end=end, rows=(known | ~panel.valid).all(axis=1))


def load_labels(directory: Path, latency_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y[T, S], known[T, S], label_end[T] at one latency."""
    with np.load(directory / "labels.npz", allow_pickle=False) as columns:
        return columns[f"y_{latency_ns}"], columns[f"known_{latency_ns}"], columns[f"end_{latency_ns}"]
