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
from cift_models.stores.ticks import open_ticks
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
    """Every file that begins in a range, in the order of days. A file that the feed does not know is refused, never passed over."""
    ticks = open_ticks(get_settings())
    before = [run for run in runs_of("ingest") if run.get("feed") == feed]
    planned = []
    for path in recordings(feed, files_below(places)):
        who = identify(feed, path, options)
        if not yyyymmdd(start) <= who.day <= yyyymmdd(end):
            continue
        inputs = ingest_inputs(feed, path, options)
        done = find_step("ingest", inputs)
        if done is None:
            state, why = compared(inputs, [run for run in before if run.get("file") == path.name])
        else:
            why = stale(done, ticks)
            state = "changed" if why else "done"
        planned.append(Planned(step="ingest", what=path.name, symbol=who.symbol, day=who.day, state=state, why=why, file=str(path)))
    if not planned:
        raise EmptyRange(f"None of the files begins in {start} .. {end}.", hint="Give the files of that range, or another range.")
    return sorted(planned, key=lambda p: (p.day, p.symbol, p.what))


@task(persist_result=False, cache_policy=NO_CACHE)
def plan_features(symbols: list[str], start: date, end: date, ingesting: list[Planned]) -> list[Planned]:
    """Every stored session of a range, and the days whose ticks are still to be ingested."""
    changing = {one.day for one in ingesting if one.state != "done" and one.symbol in symbols}
    try:
        stored = {session.day for session in open_ticks(get_settings()).sessions(symbols, yyyymmdd(start), yyyymmdd(end))}
    except InputError:
        if not changing:
            raise
        stored = set()
    before = runs_of("features")
    planned = []
    for day in sorted(changing | stored):
        state: State
        if day in changing:
            state, why = ("changed" if day in stored else "missing"), "its ticks are ingested first"
        else:
            # A day at a time: one that is half written says nothing of the others.
            own = date.fromisoformat(str(day))
            dataset = select_data.fn(symbols, own, own, None, 0)
            inputs = feature_inputs(dataset, day)
            done = find_step("features", inputs)
            if done is not None:
                state, why = ("done", "") if features_stored(dataset, day, done) else ("changed", "the store has lost it")
            else:
                alike = [run for run in before if run.get("session", {}).get("day") == day and _symbols(run) == symbols]
                state, why = compared(inputs, alike)
        universe = ",".join(symbols)
        planned.append(Planned(step="features", what=universe, symbol=universe, day=day, state=state, why=why))
    return planned


def compared(inputs: Mapping[str, Any], before: list[dict[str, Any]]) -> tuple[State, str]:
    """Whether something like it was done before, and in what the closest differs."""
    if not before:
        return "missing", "never done"
    now = {name: plain(value) for name, value in inputs.items()}
    closest = min(([name for name in now if run.get(name) != now[name]] for run in before), key=len)
    said = {"sha256": "the file", "partitions": "the ticks", "store": "the store"}
    return "changed", " and ".join(said.get(name, name) for name in closest) + " changed" if closest else "the code changed"


def _symbols(run: Mapping[str, Any]) -> list[str]:
    """The symbols of a feature step's universe."""
    return [instrument["symbol"] for instrument in run.get("universe", [])]
