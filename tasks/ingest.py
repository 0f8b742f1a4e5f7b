"""Foreign bytes and simulated markets into the tick store."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from cift_models.errors import CiftError, InputError, NotStored, StoreError, StoreUnavailable
from cift_models.feeds.quality import check_day
from cift_models.feeds.quality_summary import summarise
from cift_models.feeds.read import files_of, read
from cift_models.files import canonical_json, replacing, sha256_file, write_atomic
from cift_models.refs import PartitionRef
from cift_models.settings import get_settings
from cift_models.simulate import SimulateConfig, simulate
from cift_models.stores.ticks import TickStore, open_ticks
from tasks.dataset import Dataset
from tasks.progress import reporter
from tasks.step import Room, StepRef, find_step, forget, seconds, step

if TYPE_CHECKING:
    import polars


class Stored(BaseModel):
    """What one symbol's day of a file came to.

    quarantined  rows kept apart, by reason
    partitions   what the store holds of it
    summary      what quality says of it, in a line
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbol: str
    day: int
    part: str
    rows: int
    quarantined: dict[str, int]
    partitions: list[PartitionRef]
    summary: str


class Ingested(BaseModel):
    """One file, ingested. `seconds` is what the run took that did the work, `again` says that it had been done before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    stored: list[Stored]
    seconds: float
    again: bool


@task(persist_result=False, cache_policy=NO_CACHE)
def ingest_files(feed: str, files: list[str], options: dict[str, Any], again: bool = False) -> list[Ingested]:
    """Read files one after the other, keep apart what is not sound, store the rest. What is stored already stays as it is.

    A file that fails stops those behind it, which go on from it. What is raised then tells what was `done` before (`done_before`).
    """
    done: list[Ingested] = []
    for file in files:
        try:
            done.append(ingest_file(feed, Path(file), options, again))
        except Exception as error:
            error.done = done  # type: ignore[attr-defined]
            raise
    return done


def done_before(error: BaseException) -> list[Ingested]:
    """What had been ingested when an ingest failed."""
    return getattr(error, "done", [])


def failure_of(failures: list[Exception], done: list[Ingested]) -> Exception:
    """What to raise where recordings failed and others are done: the first failure, with what the others say.

    An InputError says that nothing was done: where something was, it becomes a CiftError of the same words.
    """
    first = failures[0]
    kind = type(first) if isinstance(first, CiftError) else CiftError
    if isinstance(first, InputError) and not all(one.again for one in done):
        kind = CiftError
    if len(failures) > 1 or (isinstance(first, CiftError) and kind is not type(first)):
        said = [error.message if isinstance(error, CiftError) else f"{type(error).__name__}: {error}" for error in failures]
        head = [f"{len(failures)} recordings could not be ingested:"] if len(failures) > 1 else []
        first = kind("\n".join([*head, *said]), hint=getattr(first, "hint", ""))
        first.__cause__ = failures[0]
    first.done = done  # type: ignore[attr-defined]
    return first


def ingest_file(feed: str, path: Path, options: dict[str, Any], again: bool = False) -> Ingested:
    """One step a file; killed at any point and called again, it leaves what one call leaves. `again` reads it though it was done before."""
    ticks = open_ticks(get_settings())
    inputs = ingest_inputs(feed, path, options)
    done = find_step("ingest", inputs)
    if done is not None and (again or stale(done, ticks)):
        forget(done)
        done = None
    asked: list[tuple[str, int, str]] = []

    def before(symbol: str, ns: int) -> polars.DataFrame | None:
        ref = ticks.book_before(symbol, ns)
        asked.append((symbol, ns, ref.sha256 if ref else ""))
        return ticks.read(ref) if ref else None

    def run(room: Room) -> dict[str, Any]:
        stored = []
        for day in read(feed, path, options, before, progress=lambda what, share: room.progress(what, 0.7 * share)):
            room.progress(f"check {day.instrument.symbol} {day.session.day}", 0.7)
            checked = check_day(day)
            room.progress(f"store {day.instrument.symbol} {day.session.day}", 0.8)
            refs = ticks.write_day(day, checked)
            said = str(summarise(day, checked))
            if left := ticks.left_behind(day):
                said += f"; the {' and '.join(left)} stored before {'are' if len(left) > 1 else 'is'} of another file and no longer read"
            logging.getLogger("cift").info("%s %s: %s", day.instrument.symbol, day.session.day, said)
            quarantined: Counter[str] = Counter()
            for table in checked.values():
                quarantined.update(table.counts)
            stored.append(
                Stored(
                    symbol=day.instrument.symbol,
                    day=day.session.day,
                    part=day.part,
                    rows=sum(ref.rows for ref in refs),
                    quarantined=dict(quarantined),
                    partitions=list(refs),
                    summary=said,
                )
            )
        return {"stored": stored, "asked": asked}

    made = done or step("ingest", inputs, run)
    return Ingested(
        file=path.name,
        stored=[Stored.model_validate(one) for one in made.facts["stored"]],
        seconds=seconds(made),
        again=done is not None,
    )


def ingest_inputs(feed: str, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What a file's ingest depends on, besides the code. The store belongs to it: another one has to be filled anew."""
    said = {name: value for name, value in options.items() if value is not None}
    if "instruments" in said:
        said["instruments"] = sha256_file(Path(said["instruments"]))
    settings = get_settings()
    hashes = {file.name: sha256_file(file) for file in files_of(feed, path)}
    return {"feed": feed, "file": path.name, "sha256": hashes, "options": said, "store": settings.questdb_url or "parquet"}


def stale(done: StepRef, ticks: TickStore) -> str:
    """Why a finished ingest must be done again; "" where everything stands as it left it."""
    for one in done.facts["stored"]:
        for ref in one["partitions"]:
            try:
                ticks.facts(PartitionRef.model_validate(ref))
            except NotStored:
                return f"{ref['key']} is not stored as it was"
            except StoreUnavailable:
                raise
            except StoreError:
                return f"the manifest of {ref['key']} is damaged"
    for symbol, ns, sha256 in done.facts["asked"]:
        try:
            ref = ticks.book_before(symbol, ns)
        except StoreUnavailable:
            raise
        except StoreError as error:
            return f"the book that the recording of {symbol} before it left is damaged ({error.evidence.get('key')})"
        if (ref.sha256 if ref else "") != sha256:
            return f"the recording of {symbol} before it has been stored since"
    return ""


def truth_path(days: list[int], symbols: list[str]) -> Path:
    """Where the truth of a simulated market lies: by its first session and its symbols."""
    return get_settings().home / "truth" / f"{days[0]}-{'-'.join(symbols)}.json"


def find_truth(dataset: Dataset) -> dict[str, Any] | None:
    """What was planted in the data of a run; None for recorded data."""
    path = truth_path(dataset.days, list(dataset.get_universe().symbols))
    if not path.is_file():
        return None
    truth = orjson.loads(path.read_bytes())
    return truth if [s["day"] for s in truth["sessions"]] == dataset.days else None


def hidden_paths(dataset: Dataset) -> dict[int, dict[str, np.ndarray]]:
    """The hidden paths of a simulated market, by session."""
    out: dict[int, dict[str, np.ndarray]] = {day: {} for day in dataset.days}
    with np.load(truth_path(dataset.days, list(dataset.get_universe().symbols)).with_suffix(".npz"), allow_pickle=False) as columns:
        for key in columns.files:
            day, name = key.split("/")
            out[int(day)][name] = columns[key]
    return out


@task(persist_result=False, cache_policy=NO_CACHE)
def simulate_market(params: dict[str, Any]) -> dict[str, Any]:
    """Simulate a market and store its events, and beside them its truth."""
    progress = reporter("simulate")
    config = SimulateConfig(**{name: value for name, value in params.items() if name != "plant"}).planting(params.get("plant", "usual"))
    market = simulate(config, progress=lambda what, share: progress(what, 0.7 * share))
    ticks = open_ticks(get_settings())
    n = 0
    for k, (session, parts) in enumerate(zip(market.sessions, market.events, strict=True)):
        progress(f"store {session.day}", 0.7 + 0.3 * k / len(market.sessions))
        for instrument in market.universe.instruments:
            events = parts[instrument.symbol]
            n += len(events)
            ticks.write_events(
                instrument, session, events, {"feed": "simulate", "config": config.model_dump(mode="json"), "receive_clock": False}
            )
    days = [s.day for s in market.sessions]
    write_atomic(truth_path(days, list(config.symbols)), canonical_json({"sessions": [asdict(s) for s in market.sessions], **market.truth}))
    with replacing(truth_path(days, list(config.symbols)).with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
        columns = {f"{day}/{name}": values for day, hidden in zip(days, market.paths, strict=True) for name, values in hidden.items()}
        np.savez(file, allow_pickle=False, **columns)
    progress("done", 1.0)
    return {"symbols": list(market.universe.symbols), "start": _iso(days[0]), "end": _iso(days[-1]), "events": n}


def _iso(day: int) -> str:
    text = str(day)
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"
