"""What was known at an instant: the stream up to it, and a late correction that is written into the past is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import StoreError
from cift_models.evaluation import audited
from cift_models.evaluation.causality import audit
from cift_models.events import GAP, HALT, Events
from cift_models.features import FeatureSet
from cift_models.feeds.canonical import events_of_tables, tables_of_events
from cift_models.feeds.day import FeedDay
from cift_models.feeds.quality import Checked
from cift_models.instruments import SECOND, Instrument, Session, Universe
from cift_models.stores import ticks as ticks_module
from cift_models.stores.as_known import as_known
from cift_models.stores.ticks import ParquetTicks
from tests.panels import OPEN, toy_panel

STEPS = 200
SESSION = Session(20231114, OPEN, OPEN + STEPS * SECOND)
UNIVERSE = Universe(
    tuple(
        Instrument(f"S{i}", 10_000, 100, 1, "shares", 0.0, calendar, 2)
        for i, calendar in enumerate(("simulated", "simulated", "simulated"))
    )
)
ALWAYS = Universe(tuple(replace(i, calendar="always") for i in UNIVERSE.instruments))


def stored(ticks: ParquetTicks, instrument: Instrument, session: Session, tables: dict, part: str = "") -> None:
    day = FeedDay(instrument, session, tables, {"feed": "test", "receive_clock": True, "file": part}, part)
    ticks.write_day(day, {name: Checked(frame, frame.clear(), {}) for name, frame in tables.items()})


def own(symbol: int, seed: int = 0) -> Events:
    events = toy_panel(seed, STEPS, 2).events
    events = events[events.symbol == symbol]
    events.symbol[:] = 0
    return events


def received(tables: dict, seed: int) -> dict:
    """The same tables received up to 80 ms after they happened, so that some reach us in another order."""
    import polars as pl

    events = events_of_tables(tables)
    late = np.random.default_rng(seed).integers(0, 80_000_000, len(events))
    by_sequence = pl.DataFrame({"sequence": events.sequence, "late": late})
    return {
        name: frame.join(by_sequence, on="sequence", how="left", maintain_order="left")
        .with_columns(ts_recv=pl.col("ts_event") + pl.col("late"))
        .drop("late")
        for name, frame in tables.items()
    }


@pytest.fixture()
def ticks(tmp_path: Path) -> ParquetTicks:
    """Two symbols whose rows come late; the third is stored on another day only."""
    ticks = ParquetTicks(tmp_path)
    for s in range(2):
        stored(ticks, UNIVERSE.instruments[s], SESSION, received(tables_of_events(own(s)), s))
    other = Session(SESSION.day + 1, SESSION.open + 86_400 * SECOND, SESSION.close + 86_400 * SECOND)
    events = own(0, 5)
    events.ts[:] += 86_400 * SECOND
    stored(ticks, UNIVERSE.instruments[2], other, tables_of_events(events))
    return ticks


def same(one: Events, two: Events) -> bool:
    return all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in Events.__dataclass_fields__)


def prefix(events: Events, t: int) -> Events:
    return events[: int(np.searchsorted(events.ts, t, "right"))]


def test_what_was_known_is_the_stream_up_to_then(ticks):
    whole, known = ticks.events(UNIVERSE, SESSION), as_known(ticks, UNIVERSE, SESSION)
    assert len(whole) > 1000 and set(whole.symbol) == {0, 1}
    for t in (
        SESSION.open - 1,
        int(whole.ts[0]),
        int(whole.ts[400]),
        int(whole.ts[401]) - 1,
        SESSION.open + 77 * SECOND,
        SESSION.close + SECOND,
    ):
        assert same(known(t), prefix(whole, t))
    assert len(known(0)) == 0 and len(known(SESSION.close + SECOND)) == len(whole)


def test_a_recording_in_pieces_with_a_hole_and_a_book_beside_its_trades(tmp_path):
    ticks, instrument = ParquetTicks(tmp_path), ALWAYS.instruments[0]
    events, at = own(0), OPEN + 80 * SECOND
    before, after = events[events.ts < at], events[events.ts > at + 20 * SECOND]
    stored(ticks, instrument, Session(SESSION.day, OPEN, at), tables_of_events(before), "a")
    stored(ticks, instrument, Session(SESSION.day, at + 20 * SECOND, SESSION.close), tables_of_events(after), "b")
    # Quotes and trades of the second symbol are two files of one stretch.
    tables = tables_of_events(own(1))
    tables["book"] = tables["book"].with_columns(sequence=tables["book"]["sequence"] + (1 << 40))
    stored(ticks, ALWAYS.instruments[1], SESSION, {"book": tables["book"]}, "quote")
    stored(ticks, ALWAYS.instruments[1], SESSION, {"trades": tables["trades"]}, "trade")
    universe = Universe(ALWAYS.instruments[:2])
    whole, known = ticks.events(universe, SESSION), as_known(ticks, universe, SESSION)
    hole = np.flatnonzero(whole.kind == HALT | GAP)
    assert len(hole) == 1 and whole.ts[hole[0]] == before.ts[-1]
    edges = [int(before.ts[-1]) - 1, int(before.ts[-1]), at + SECOND, int(after.ts[0]) - 1, int(after.ts[0]), int(whole.ts[30])]
    for t in edges:
        assert same(known(t), prefix(whole, t)), t


def test_it_is_only_read(ticks):
    from cift_models.stores.as_known import _Known

    events = own(0)
    with pytest.raises(StoreError, match="not written"):
        _Known({}, UNIVERSE.symbols).write_events(UNIVERSE.instruments[0], SESSION, events, {"receive_clock": False})


def corrected(tables: dict, told_after_s: int, within: bool) -> dict:
    """One trade in ten is told again at another price and size, with the time of the trade and a later time of receipt; its sequence is the
    last of all, or `within` right behind the trade's own."""
    import polars as pl

    tables = {name: frame.with_columns(sequence=2 * pl.col("sequence")) for name, frame in tables.items()}
    trades = tables["trades"]
    again = trades[::10].with_columns(
        ts_recv=pl.col("ts_recv") + told_after_s * SECOND,
        sequence=pl.col("sequence") + 1 if within else pl.int_range(pl.len(), dtype=pl.Int64) + 1_000_000,
        price=pl.col("price") + 5_000,
        size=pl.col("size") * 7,
    )
    again = again.filter(pl.col("ts_recv") <= SESSION.close)
    return {**tables, "trades": pl.concat([trades, again]).sort("sequence")}


@pytest.fixture(params=["behind all", "within"])
def mended(tmp_path: Path, request) -> ParquetTicks:
    ticks = ParquetTicks(tmp_path)
    for s in range(2):
        stored(ticks, UNIVERSE.instruments[s], SESSION, corrected(received(tables_of_events(own(s)), s), 30, request.param == "within"))
    return ticks


def asked(ticks: ParquetTicks):
    universe = Universe(UNIVERSE.instruments[:2])
    features = FeatureSet(levels=2, z_steps=10, warm_up_ns=5 * SECOND)
    subject = audited.features(universe, features, SESSION, as_known(ticks, universe, SESSION))
    return audit(subject, ticks.events(universe, SESSION), universe.symbols, SESSION, cuts=16)


def test_a_correction_counts_from_when_it_was_told(mended):
    found = asked(mended)
    assert found.clean, found.leaks[:3]
    assert found.probes["arrival"] == 4


def test_a_correction_that_is_written_into_the_past_is_found(mended, monkeypatch):
    """A store that orders by the exchange's time gives rows at t what was corrected later."""

    def by_exchange_time(tables, symbol=0):
        events = events_of_tables(tables, symbol)
        at = {int(q): int(t) for frame in tables.values() for q, t in frame.select("sequence", "ts_event").iter_rows()}
        events.ts[:] = [at[int(q)] for q in events.sequence]
        return events[np.lexsort((events.sequence, events.ts))]

    monkeypatch.setattr(ticks_module, "events_of_tables", by_exchange_time)
    found = asked(mended)
    columns = {one.column for one in found.leaks}
    assert {"volume", "signed_volume_30000ms", "bar_close", "profile_entropy"} <= columns
    # The stream itself is causal: only the question what was known when tells.
    assert {probe for one in found.leaks for probe in one.probes} == {"arrival"}
