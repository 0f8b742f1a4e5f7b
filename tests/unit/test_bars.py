"""Bars of stored sessions (`cift bars`): against loops that anyone can read, against the recorded day, and from outside."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from cift_models.errors import InputError
from cift_models.events import BOOK, EMPTY_BID, GAP, HALT, RESUME, TRADE, Events
from cift_models.features.columns import TickClock, TimeClock, VolumeClock
from cift_models.features.columns.clocks import clock_of, duration_ns
from cift_models.features.columns.tables import stretches, tables
from cift_models.feeds.quality import check_day
from cift_models.feeds.read import read
from cift_models.instruments import SECOND, Instrument, Session
from cift_models.schema import BARS, PROFILE
from cift_models.stores.ticks import ParquetTicks
from flows.cli import main
from tests.event_streams import OPEN, stream_of
from tests.lobster_slice import lobster_zip


def slow_bars(instrument: Instrument, session: Session, events: Events, width_ns: int, levels: int, window: int) -> list[dict]:
    """Bars of time, event by event."""
    bars: list[dict] = []
    book, last, flows, running = None, None, [], True

    def end() -> None:
        if not bars or "closed" in bars[-1]:
            return
        bar = bars[-1]
        trades = bar.pop("trades")
        px, sz = [p for p, _ in trades], [z for _, z in trades]
        bar |= (
            {"open": px[0], "high": max(px), "low": min(px), "close": px[-1]}
            if px
            else dict.fromkeys(("open", "high", "low", "close"), last_before)
        )
        bar["vwap"] = sum(p * z for p, z in trades) / sum(sz) if px else last_before
        bar["volume"], bar["n_trades"] = sum(sz) / instrument.lot_scale, len(px)
        for level in range(levels):
            flows[level].append(bar["flow"][level])
            seen = np.array(flows[level][-window:], float)
            sd = seen.std()
            bar[f"z_ofi_{level:02d}"] = (seen[-1] - seen.mean()) / sd if len(set(seen)) > 1 else 0.0
            bar[f"ofi_{level:02d}"] = bar["flow"][level] / instrument.lot_scale
        bar["closed"] = True

    last_before = None
    for i in range(len(events)):
        kind = events.kind[i]
        if kind & (HALT | RESUME):
            end()
            running = bool(kind & RESUME)
            book, last, last_before, flows = None, None, None, [[] for _ in range(levels)]
        if not running:
            continue
        if not flows:
            flows = [[] for _ in range(levels)]
        as_of = session.open - (session.open - int(events.ts[i])) // width_ns * width_ns
        if not bars or "closed" in bars[-1] or bars[-1]["as_of"] != as_of:
            end()
            last_before = last
            bars.append({"as_of": as_of, "since": int(events.ts[i]), "trades": [], "n_events": 0, "flow": [0] * levels})
        bar = bars[-1]
        bar["n_events"] += 1
        if kind & TRADE and events.trade_sz[i] > 0:
            last = int(events.trade_px[i]) / instrument.price_scale
            bar["trades"].append((last, int(events.trade_sz[i])))
        if kind & BOOK:
            now = [[int(c[i, level]) for c in (events.bid_px, events.bid_sz, events.ask_px, events.ask_sz)] for level in range(levels)]
            for level in range(levels if book else 0):
                (b0, q0, a0, r0), (b1, q1, a1, r1) = book[level], now[level]
                bar["flow"][level] += (b1 >= b0) * q1 - (b1 <= b0) * q0 - (a1 <= a0) * r1 + (a1 >= a0) * r0
            book = now
    end()
    return bars


@pytest.mark.parametrize("seed", range(4))
def test_bars_are_what_loops_over_the_events_say(seed):
    """Halts, gaps, events on the very instants and before the open, trades between ticks, empty levels, trades before any book."""
    universe, _, session, events = stream_of(seed, symbols=3, steps=300, rate_hz=0.7)
    for s, instrument in enumerate(universe.instruments):
        own = events[events.symbol == s]
        found, profile = tables(instrument, session, own, "3s", 7, "21s", levels=3)
        want = slow_bars(instrument, session, own, 3 * SECOND, 3, 7)
        assert found.schema == BARS.with_levels(3).polars_schema() and profile.schema == PROFILE.polars_schema()
        assert len(found) == len(want) > 20 and (found["n_trades"] == 0).any() and found["open"].null_count()
        for name in found.columns[1:]:
            a, b = found[name].to_list(), [bar[name] for bar in want]
            assert [v is None for v in a] == [v is None for v in b]
            near = name.startswith(("vwap", "z_", "ofi", "volume"))
            a, b = [v for v in a if v is not None], [v for v in b if v is not None]
            assert a == pytest.approx(b, rel=1e-9, abs=1e-9) if near else a == b, name
        traded: dict[tuple[int, float], float] = {}
        for stretch in stretches(own.kind):
            part = own[stretch]
            for i in np.flatnonzero(part.kind & TRADE):
                as_of = session.open - (session.open - int(part.ts[i])) // (21 * SECOND) * 21 * SECOND
                tick = int(part.trade_px[i]) // instrument.tick_units * instrument.tick_units / instrument.price_scale
                traded[as_of, tick] = traded.get((as_of, tick), 0) + int(part.trade_sz[i]) / instrument.lot_scale
        by_bin = profile.group_by("as_of", "price").agg(pl.col("volume").sum()).rows()
        assert {(t, p): v for t, p, v in by_bin} == pytest.approx(traded)


def test_a_bar_of_trades_or_volume_ends_with_the_trade_that_fills_it():
    universe, _, session, events = stream_of(9, symbols=1, interruptions=0)
    instrument = universe.instruments[0]
    traded = np.flatnonzero((events.kind & TRADE) > 0)
    bars, _ = tables(instrument, session, events, "7trades")
    whole = len(traded) // 7
    assert bars["n_trades"].to_list()[:whole] == [7] * whole and len(bars) <= whole + 1
    assert bars["as_of"].to_list()[:whole] == events.ts[traded[6::7]].tolist()
    bars, _ = tables(instrument, session, events, "5000volume")
    full = bars[:-1]
    assert (full["volume"] >= 5000).all() and len(full) > 5
    assert full["as_of"].is_in(events.ts[traded].tolist()).all()
    assert bars["volume"].sum() == events.trade_sz[traded].sum()
    assert float((bars["vwap"] * bars["volume"]).sum()) == pytest.approx((events.trade_px * events.trade_sz)[traded].sum() / 10_000)


def test_nothing_is_carried_over_a_halt():
    """The book before it makes no order flow with the book behind it, and its last price is nobody's open."""
    instrument = Instrument("A", 100, 1, 1, "shares", 0.0, "simulated", 1)
    events = Events.empty(6, 1)
    events.ts[:] = OPEN + np.arange(1, 7) * SECOND // 10
    events.sequence[:] = np.arange(6)
    events.kind[:] = [BOOK, TRADE, HALT | GAP, RESUME | TRADE, BOOK, BOOK]
    events.bid_px[:, 0], events.ask_px[:, 0] = [100, 0, 0, 0, 90, 90], [101, 0, 0, 0, 91, 91]
    events.bid_sz[:, 0], events.ask_sz[:, 0] = [5, 0, 0, 0, 7, 9], [5, 0, 0, 0, 7, 7]
    events.trade_px[[1, 3]], events.trade_sz[[1, 3]] = [100, 91], [3, 2]
    bars, profile = tables(instrument, Session(20231114, OPEN, OPEN + SECOND), events)
    assert bars.select("as_of", "open", "close", "volume", "n_events", "ofi_00").rows() == [
        (OPEN + SECOND, 1.0, 1.0, 3.0, 2, 0.0),
        (OPEN + SECOND, 0.91, 0.91, 2.0, 3, 2.0),
    ]
    assert profile["volume"].to_list() == [3.0, 2.0]
    assert [(s.start, s.stop) for s in stretches(events.kind)] == [(0, 2), (3, 6)]
    both = np.array([RESUME, 0, HALT | RESUME, 0, HALT, HALT, 0], np.int8)
    assert [(s.start, s.stop) for s in stretches(both)] == [(0, 2), (2, 4)]


def test_a_session_without_events_or_with_great_prices_has_bars_too():
    instrument = Instrument("A", 10**8, 10**6, 10**8, "coins", 0.0, "always", 1)
    session = Session(20231114, OPEN, OPEN + SECOND)
    bars, profile = tables(instrument, session, Events.empty(0, 1))
    assert len(bars) == len(profile) == 0 and bars.columns[:3] == ["symbol", "as_of", "since"]
    events = Events.empty(1, 1)
    events.ts[:], events.kind[:] = OPEN + 1, TRADE
    events.trade_px[:], events.trade_sz[:] = 61_824_120_000_000 // 10, 150_000_000  # 61,824.12 in tenths of a tick: past int32
    bars, profile = tables(instrument, session, events)
    assert bars.select("close", "vwap", "volume").row(0) == (61_824.12, 61_824.12, 1.5) and profile["price"].to_list() == [61_824.12]
    assert events.bid_px[0, 0] == EMPTY_BID


def test_flows_beyond_what_a_score_takes_count_as_the_most_that_it_does():
    """A coin of which millions trade at once: the flow itself is whole, its score as that of the features that models read."""
    instrument = Instrument("A", 100, 1, 1, "coins", 0.0, "always", 1)
    events = Events.empty(40, 1)
    events.ts[:], events.sequence[:], events.kind[:] = OPEN + 1 + np.arange(40) * SECOND, np.arange(40), BOOK
    events.bid_px[:, 0], events.ask_px[:, 0], events.ask_sz[:, 0] = 100, 101, 1
    flows = np.random.default_rng(0).integers(-50_000_000, 50_000_000, 40)
    events.bid_sz[:, 0] = 2_500_000_000 + np.cumsum(flows)
    bars, _ = tables(instrument, Session(20231114, OPEN, OPEN + 40 * SECOND), events, window=300)
    most = math.isqrt(2**62 - 1) // 300
    assert bars["ofi_00"].to_list() == [0, *flows[1:].tolist()] and np.abs(flows).max() > most
    seen = np.clip([0, *flows[1:]], -most, most).astype(float)
    assert bars["z_ofi_00"][-1] == pytest.approx((seen[-1] - seen.mean()) / seen.std())


def test_what_ends_a_bar_is_said_in_words():
    assert [duration_ns(text) for text in ("250ms", "1s", "5m", "1h")] == [SECOND // 4, SECOND, 300 * SECOND, 3600 * SECOND]
    assert clock_of("5m", 100, 7) == TimeClock(300 * SECOND, 7)
    assert clock_of("500trades", 100, 7) == TickClock(500) and clock_of("2.5volume", 100, 7) == VolumeClock(250)
    for wrong in ("", "5", "0s", "1.5s", "-1s", "2.5trades", "0trades", "1d", "trades"):
        with pytest.raises(InputError):
            clock_of(wrong, 1, 0)


@pytest.fixture()
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`cift bars ...` in this process over one stored session: (exit code, stdout, stderr)."""
    universe, _, session, events = stream_of(3, symbols=1)
    ticks = ParquetTicks(tmp_path / "home")
    ticks.write_events(universe.instruments[0], session, events, {"feed": "test"})
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    def bars(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cift", "bars", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return bars


def test_the_command_writes_two_files_a_session(run, tmp_path):
    day = ("--start", "2023-11-14", "--end", "2023-11-14")
    code, out, err = run("--symbols", "S0", *day, "--every", "5s", "--levels", "9")
    assert code == 0, err
    assert out.splitlines()[1:] == ["  bars/bars-S0-20231114.parquet", "  bars/profile-S0-20231114.parquet"]
    bars = pl.read_parquet(tmp_path / "bars" / "bars-S0-20231114.parquet")
    assert bars.schema == BARS.with_levels(3).polars_schema(), "as many levels as the book has"
    code, out, _ = run("--symbols", "S0", *day, "--json", "--out", "x", "--every", "30trades")
    (one,) = orjson.loads(out)
    assert (
        code == 0 and one["volume"] == pytest.approx(bars["volume"].sum()) and Path(one["bars_path"]).exists() and one["unit"] == "shares"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--symbols", "S0", "--start", "2023-11-14", "--end", "2023-11-13"), "ends before it starts"),
        (("--symbols", "S0", "--start", "2023-11-14", "--end", "2023-11-14", "--every", "1d"), "ends no bar"),
        (("--symbols", "S0", "--start", "2023-11-14", "--end", "2023-11-14", "--profile", "5trades"), "no stretch of time"),
        (("--symbols", "S0", "--start", "2023-11-14", "--end", "2023-11-14", "--out", "file"), "cannot be a folder"),
        (("--symbols", "XX", "--start", "2023-11-14", "--end", "2023-11-14"), "Unknown symbol 'XX'"),
        (("--symbols", "S0", "--start", "2023-11-15", "--end", "2023-11-15"), "stored days"),
        (("--symbols", ",", "--start", "2023-11-14", "--end", "2023-11-14"), "names no symbol"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(run, arguments, said):
    code, out, err = run(*arguments)
    assert code not in (0, None) and said in err and not out


@pytest.mark.real_data
def test_a_recorded_day_has_its_known_volume_and_prices(tmp_path):
    """2,850,140 shares of AAPL (LOBSTER's own count); every bar lies between its low and its high, hidden trades between the ticks too."""
    ticks = ParquetTicks(tmp_path)
    for day in read("lobster", lobster_zip("AAPL"), {}, lambda symbol, ns: None):
        ticks.write_day(day, check_day(day))
    universe = ticks.universe(["AAPL"])
    (session,) = ticks.sessions(["AAPL"])
    bars, profile = tables(universe.instruments[0], session, ticks.events(universe, session), "5m")
    assert len(bars) == 78 and bars["volume"].sum() == profile["volume"].sum() == 2_850_140 and bars["as_of"].is_sorted()
    inside = bars.select(
        (pl.col("low") <= pl.min_horizontal("open", "close", "vwap")) & (pl.max_horizontal("open", "close", "vwap") <= pl.col("high"))
    )
    assert inside.to_series().all()
