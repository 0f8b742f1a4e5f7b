"""What a backfill would do, and why: every file and session of a range, each done, missing or changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from cift_models.errors import EmptyRange, InputError
from cift_models.feeds.read import identify, recordings
from cift_models.settings import get_settings
from cift_models.stores.ticks import open_ticks, session_days
from tasks.dataset import feature_inputs, features_stored, select_data, yyyymmdd
from tasks.ingest import ingest_inputs, stale
from tasks.step import find_step, plain, runs_of

State = Literal["done", "missing", "changed"]


class Planned(BaseModel):
    """One step of a backfill: `what` a person calls it, `why` it is to be done ("" where it is done)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Literal["ingest", "features"]
    what: str
    symbol: str
    day: int
    state: State
    why: str
    file: str = ""


def files_below(places: list[str]) -> list[Path]:
    """The files themselves, and every file below a folder, each once, sorted. Raises InputError for a place that is not there."""
    found: set[Path] = set()
    for place in map(Path, places):
        if place.is_dir():
            found |= {path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")}
        elif place.is_file():
            found.add(place)
        else:
            raise InputError(f"There is no file or folder {place}.", hint="Expected recorded files, or folders of them.")
    return sorted(path.resolve() for path in found)


@task(persist_result=False, cache_policy=NO_CACHE)
def plan_ingest(feed: str, places: list[str], options: dict[str, Any], start: date, end: date) -> list[Planned]:
    """Every file that begins in a range, in the order of days. A file that the feed does not know is refused, never passed over.

    A recording that goes on from one that is to be ingested is to be ingested behind it.
    """
    ticks = open_ticks(get_settings())
    before = [run for run in runs_of("ingest") if run.get("feed") == feed]
    files = [(identify(feed, path, options), path) for path in recordings(feed, files_below(places))]
    planned = []
    redone: set[str] = set()
    for who, path in sorted(files, key=lambda file: (file[0].begins, file[1])):
        if not yyyymmdd(start) <= who.day <= yyyymmdd(end):
            continue
        inputs = ingest_inputs(feed, path, options)
        done = find_step("ingest", inputs)
        state: State
        if done is None:
            state, why = compared(inputs, [run for run in before if run.get("file") == path.name])
        else:
            why = stale(done, ticks)
            behind = sorted({symbol for symbol, _, _ in done.facts["asked"]} & redone)
            if behind and not why:
                why = f"the recording of {behind[0]} before it is ingested first"
            state = "changed" if why else "done"
        if state != "done":
            redone.add(who.symbol)
        planned.append(Planned(step="ingest", what=path.name, symbol=who.symbol, day=who.day, state=state, why=why, file=str(path)))
    if not planned:
        raise EmptyRange(f"None of the files begins in {start} .. {end}.", hint="Give the files of that range, or another range.")
    return sorted(planned, key=lambda p: (p.day, p.symbol, p.what))


@task(persist_result=False, cache_policy=NO_CACHE)
def plan_features(symbols: list[str], start: date, end: date, ingesting: list[Planned]) -> list[Planned]:
    """Every stored session of a range, and the days whose ticks are still to be ingested.

    Whether such a day goes on in the session before it (a venue that never closes) is seen when it is stored. Raises UnknownSymbol for a
    symbol that is neither stored nor to be ingested; EmptyRange where there is nothing.
    """
    ticks = open_ticks(get_settings())
    changing = {one.day for one in ingesting if one.state != "done" and one.symbol in symbols}
    coming = {one.symbol for one in ingesting if one.state != "done"}
    stored = ticks.instruments()
    known = [symbol for symbol in symbols if symbol in stored]
    if unknown := [symbol for symbol in symbols if symbol not in stored and symbol not in coming]:
        ticks.universe(unknown)
    try:
        sessions = ticks.sessions(known, yyyymmdd(start), yyyymmdd(end)) if known else ()
    except EmptyRange:
        if not changing:
            raise
        sessions = ()
    before = runs_of("features")
    found: dict[int, tuple[State, str]] = dict.fromkeys(changing, ("missing", "its ticks are ingested first"))
    for session in sessions:
        last = min(yyyymmdd(end), max(session_days(stored[symbol], session)[-1] for symbol in known))
        inside = {day for day in changing if session.day <= day <= last}
        for day in inside:
            del found[day]
        if inside or len(known) < len(symbols):
            found[session.day] = ("changed" if len(known) == len(symbols) else "missing", "its ticks are ingested first")
            continue
        # A session at a time: one that is half written says nothing of the others.
        dataset = select_data.fn(symbols, _date(session.day), _date(last), None, 0, blocks=False)
        inputs = feature_inputs(dataset, session.day)
        done = find_step("features", inputs)
        if done is not None:
            held = features_stored(dataset, session.day, done)
            found[session.day] = ("done", "") if held else ("changed", "the store has lost it")
        else:
            alike = [run for run in before if run.get("session", {}).get("day") == session.day and _symbols(run) == symbols]
            found[session.day] = compared(inputs, alike)
    universe = ",".join(symbols)
    return [
        Planned(step="features", what=universe, symbol=universe, day=day, state=state, why=why)
        for day, (state, why) in sorted(found.items())
    ]


def compared(inputs: Mapping[str, Any], before: list[dict[str, Any]]) -> tuple[State, str]:
    """Whether something like it was done before, and in what the closest differs."""
    if not before:
        return "missing", "never done"
    now = {name: plain(value) for name, value in inputs.items()}
    closest = min(([name for name in now if run.get(name) != now[name]] for run in before), key=len)
    said = {"sha256": "the file", "partitions": "the ticks", "store": "the store"}
    return "changed", " and ".join(said.get(name, name) for name in closest) + " changed" if closest else "the code changed"


def _date(day: int) -> date:
    return date.fromisoformat(str(day))


def _symbols(run: Mapping[str, Any]) -> list[str]:
    """The symbols of a feature step's universe."""
    return [instrument["symbol"] for instrument in run.get("universe", [])]
