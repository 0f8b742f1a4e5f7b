"""The causality audit over stored sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models import release as releases_of
from cift_models.engine import Pipeline
from cift_models.errors import EmptyRange, UnknownSymbol
from cift_models.evaluation import audited
from cift_models.evaluation.causality import Audit, Subject, audit
from cift_models.events import Events
from cift_models.features import FeatureSet
from cift_models.files import canonical_json
from cift_models.instruments import Session, Universe
from cift_models.settings import get_settings
from cift_models.stores.as_known import as_known
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import open_ticks
from tasks.dataset import Dataset
from tasks.progress import reporter
from tasks.step import Room, StepRef, step

AUDITS = "audits.json"
"""Audits in the folder of a step, as Audit.as_json."""

NEWEST_CUTS = 64
"""As `cift audit` has by default."""

LATENCIES_NS = (0, 100_000_000)
"""Labels are audited at these: with a latency they read behind the horizon, without one to its very end."""


def audit_range(symbols: list[str], start: date, end: date, cuts: int, seed: int, release: str | None = None) -> Iterator[dict[str, Any]]:
    """Audit features and labels of every stored session of a range, and the models of a release; one report a session, as JSON values.

    Each report: day, open and close (ns), symbols, events, audits (Audit.as_json of each subject) and clean. With a release, its whole
    universe is audited. Raises UnknownSymbol and EmptyRange, and what the tick store and Releases raise.
    """
    settings = get_settings()
    if end < start:
        raise EmptyRange(f"The range {start} .. {end} ends before it starts.", hint="Give the earlier day first.")
    ticks = open_ticks(settings)
    pipeline = _pipeline(release, symbols) if release else None
    universe = pipeline.universe if pipeline else ticks.universe(symbols)
    features = pipeline.features if pipeline else FeatureSet(levels=universe.levels)
    first, last = (int(f"{day:%Y%m%d}") for day in (start, end))
    for session in ticks.sessions(universe.symbols, first, last):
        events = ticks.events(universe, session)
        known = as_known(ticks, universe, session)
        found = audit_session(universe, features, session, events, cuts, seed, pipeline=pipeline, known=known)
        yield {
            "day": session.day,
            "open": session.open,
            "close": session.close,
            "symbols": list(universe.symbols),
            "events": len(events),
            "audits": [one.as_json() for one in found],
            "clean": all(one.clean for one in found),
        }


@task(persist_result=False, cache_policy=NO_CACHE)
def audit_newest(dataset: Dataset) -> StepRef:
    """What `cift audit` says of the last session of a run, whole: features and labels, audits.json. A leak is found, not raised."""
    day = dataset.days[-1]
    symbols = list(dataset.get_universe().symbols)

    def run(room: Room) -> dict[str, Any]:
        on = date.fromisoformat(str(day))
        (report,) = audit_range(symbols, on, on, NEWEST_CUTS, 0)
        (room.out / AUDITS).write_bytes(canonical_json(report["audits"]))
        return {"session": day, "clean": report["clean"]}

    return step("audit_newest", {"session": day, "symbols": symbols, "partitions": dataset.partitions[day]}, run)


def audit_session(
    universe: Universe,
    features: FeatureSet,
    session: Session,
    events: Events,
    cuts: int,
    seed: int,
    *,
    pipeline: Pipeline | None = None,
    known: Callable[[int], Events] | None = None,
) -> list[Audit]:
    """Audit features and labels of one session; the models of a pipeline, and what the store knew when (`known`), where they are given."""
    subjects = [audited.features(universe, features, session, known)]
    subjects += [audited.targets(universe, features.clock_ns, session, latency_ns=latency) for latency in LATENCIES_NS]
    if pipeline:
        subjects.append(audited.models(pipeline, session))
    return [_audit(subject, events, universe, session, cuts, seed) for subject in subjects]


def _audit(subject: Subject, events: Events, universe: Universe, session: Session, cuts: int, seed: int) -> Audit:
    progress = reporter(f"{subject.what} {session.day}")
    found = audit(
        subject, events, universe.symbols, session, cuts=cuts, seed=seed, progress=lambda what, share: progress(what, 0.99 * share)
    )
    progress("clean" if found.clean else f"a leak in {len(found.leaks)} columns", 1.0)
    return found


def _pipeline(name: str, symbols: list[str]) -> Pipeline:
    """A release's pipeline. Raises UnknownSymbol for a symbol that it does not know, and what Releases and release.load raise."""
    releases = Releases(get_settings().home)
    pipeline, _ = releases_of.load(releases.directory(releases.resolve(name)))
    known = pipeline.universe.symbols
    for symbol in symbols:
        if symbol not in known:
            raise UnknownSymbol(f"The release {name} does not know {symbol!r}.", hint=f"It knows {', '.join(known)}.")
    return pipeline
