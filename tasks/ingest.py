"""Foreign bytes and simulated markets into the tick store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models.errors import InputError
from cift_models.feeds.lobster import read_lobster
from cift_models.feeds.quality import check_tables
from cift_models.files import canonical_json, replacing, write_atomic
from cift_models.settings import get_settings
from cift_models.simulate import SimulateConfig, simulate
from cift_models.stores.ticks import open_ticks
from tasks.dataset import Dataset
from tasks.progress import reporter


@task(persist_result=False, cache_policy=NO_CACHE)
def ingest_file(feed: str, file: str) -> dict[str, Any]:
    """Read one file, keep apart what is not sound, store the rest. Storing the same file again changes nothing."""
    path = Path(file)
    progress = reporter(f"ingest {path.name[:40]}")
    if feed != "lobster":
        raise InputError(f"Unknown feed {feed!r}.", hint="Expected lobster.")
    day = read_lobster(path, progress=lambda what, share: progress(what, 0.7 * share))
    progress("check and store", 0.7)
    checked = check_tables(day.tables, day.session, receive_clock=day.source["receive_clock"])
    refs = open_ticks(get_settings()).write_day(day, checked)
    quarantined: dict[str, int] = {}
    for table in checked.values():
        for reason, n in table.counts.items():
            quarantined[reason] = quarantined.get(reason, 0) + n
    progress("done", 1.0)
    return {
        "symbol": day.instrument.symbol,
        "day": day.session.day,
        "rows": sum(ref.rows for ref in refs),
        "quarantined": quarantined,
        "partitions": [ref.key for ref in refs],
    }


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
    config = SimulateConfig(**params)
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
