"""Inferred sides: against a loop over the past, in any split, the same live and in batch, and against the truth that Binance sends."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.engine import Engine, Pipeline, fold
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, HIDDEN, RESUME, TRADE, Events, merge
from cift_models.features import FeatureSet, aggressor, stream
from cift_models.feeds.canonical import events_of_tables
from cift_models.feeds.lean import read_lean
from cift_models.feeds.quality import check_tables
from cift_models.instruments import SECOND, Instrument, Session, Universe
from cift_models.signals import SignalRule
from cift_models.stores.features import ParquetFeatures
from cift_models.stores.panels import open_panel
from cift_models.stores.ticks import ParquetTicks
from tests.lean_made import recorded
from tests.lobster_slice import lobster_folder

OPEN = 1_700_000_000 * SECOND
TICK = 100


def universe(*trade_sides: str) -> Universe:
    return Universe(tuple(Instrument(f"S{i}", 10_000, TICK, 1, "shares", 0.0, "simulated", 1, side) for i, side in enumerate(trade_sides)))


BOTH = universe("inferred", "sent")


def make_events(seed: int, n: int = 300, symbols: int = 2, sided: float = 0.2) -> Events:
    """Quotes, trades, both at once, empty sides, halts and gaps; some trades come with a side."""
    rng = np.random.default_rng(seed)
    events = Events.empty(n, 1)
    events.ts[:] = OPEN + np.sort(rng.integers(0, 60 * SECOND, n)) // 10_000_000 * 10_000_000
    events.symbol[:] = rng.integers(0, symbols, n)
    events.sequence[:] = np.arange(n)
    events.kind[:] = rng.choice(
        [BOOK, TRADE, BOOK | TRADE, TRADE | HIDDEN, HALT, HALT | GAP, RESUME], n, p=[0.35, 0.35, 0.2, 0.04, 0.02, 0.02, 0.02]
    )
    bid = 10_000 + rng.integers(-3, 4, n)
    ask = bid + rng.integers(0, 3, n)
    book = events.kind & BOOK > 0
    has_bid, has_ask = book & (rng.uniform(size=n) < 0.95), book & (rng.uniform(size=n) < 0.95)
    events.bid_px[:, 0] = np.where(has_bid, bid, EMPTY_BID)
    events.bid_sz[:, 0] = np.where(has_bid, 5, 0)
    events.ask_px[:, 0] = np.where(has_ask, ask, EMPTY_ASK)
    events.ask_sz[:, 0] = np.where(has_ask, 5, 0)
    trade = events.kind & TRADE > 0
    events.trade_px[:] = np.where(trade, 10_000 * TICK + rng.integers(-8, 9, n) * TICK // 2, 0)
    events.trade_sz[:] = np.where(trade, rng.integers(1, 9, n), 0)
    events.side[:] = np.where(trade & (rng.uniform(size=n) < sided), rng.choice([-1, 1], n), 0)
    return events[np.lexsort((events.sequence, events.symbol, events.ts))]


def slow_side(events: Events, i: int) -> int:
    """The side of one trade, looked up in everything that came before it."""
    if not events.kind[i] & TRADE or events.side[i] != 0:
        return int(events.side[i])
    past = [j for j in range(i) if events.symbol[j] == events.symbol[i]]
    stopped = [j for j in past if events.kind[j] & HALT]
    past = [j for j in past if not stopped or j > stopped[-1]]
    books = [j for j in past if events.kind[j] & BOOK]
    price = int(events.trade_px[i])
    if books:
        bid, ask = events.bid_px[books[-1], 0], events.ask_px[books[-1], 0]
        if bid != EMPTY_BID and ask != EMPTY_ASK:
            middle = (int(bid) + int(ask)) * TICK / 2
            if price != middle:
                return 1 if price > middle else -1
    others = [int(events.trade_px[j]) for j in past if events.kind[j] & TRADE and events.trade_px[j] != price]
    return 0 if not others else 1 if price > others[-1] else -1


@pytest.mark.parametrize("seed", range(6))
def test_sides_are_those_of_the_definition(seed: int) -> None:
    events = make_events(seed)
    got = aggressor.signed(universe("inferred", "inferred"), events).side
    assert got.tolist() == [slow_side(events, i) for i in range(len(events))]
    traded = (events.kind & TRADE > 0) & (events.side == 0)
    assert {-1, 0, 1} == set(got[traded].tolist())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_any_split_gives_the_same_sides_and_the_future_changes_none(seed: int, cuts: list[int]) -> None:
    events = make_events(seed)
    whole = aggressor.signed(BOTH, events)
    state = aggressor.start(BOTH)
    edges = [0, *sorted(cuts), len(events)]
    parts = [aggressor.sign(state, events[a:b]).side for a, b in zip(edges, edges[1:], strict=False)]
    assert np.concatenate(parts).tobytes() == whole.side.tobytes()
    cut = edges[len(edges) // 2]
    assert aggressor.signed(BOTH, events[:cut]).side.tobytes() == whole.side[:cut].tobytes()


def test_what_the_feed_sent_stays_and_signing_again_changes_nothing() -> None:
    events = make_events(3)
    before = events.side.copy()
    once = aggressor.signed(BOTH, events)
    said = (events.side != 0) | (events.symbol == 1)
    assert np.array_equal(once.side[said], events.side[said])
    assert (once.side[~said & (events.kind & TRADE > 0)] != 0).mean() > 0.9
    assert aggressor.signed(BOTH, once).side.tobytes() == once.side.tobytes()
    assert events.side.tobytes() == before.tobytes(), "the caller's events are not touched"
    assert aggressor.signed(universe("sent", "sent"), events) is events


class Sides:
    """A model that says the sum of the sides in each step: what Hawkes and GNN are made of."""

    needs: ClassVar[tuple[str, ...]] = ()
    outputs = ("mean_bps",)

    def start(self) -> None:
        return None

    def update(self, state, step):
        return state, self._said(step.events, len(step.valid))

    def predict(self, panel):
        said = [self._said(panel.events[a:b], panel.valid.shape[1]) for a, b in zip(panel.offsets, panel.offsets[1:], strict=False)]
        return np.array([v for v, _ in said]), np.array([r for _, r in said])

    def _said(self, events: Events, symbols: int):
        values = np.zeros((symbols, 1))
        np.add.at(values[:, 0], events.symbol, events.side.astype(np.float64))
        return values, np.ones(symbols, bool)


SESSION = Session(20231114, OPEN, OPEN + 60 * SECOND)


def make_pipeline(of: Universe = BOTH) -> Pipeline:
    return Pipeline(of, FeatureSet(levels=1, warm_up_ns=0), {"sides": Sides()}, {}, SignalRule(), "sides")  # type: ignore[dict-item]


@pytest.mark.parametrize("packet", [1, 7, 300])
def test_models_and_features_read_the_same_sides_live_and_in_batch(packet: int) -> None:
    events, pipeline = make_events(5, sided=0.0), make_pipeline()
    # The first word is a trade: what a session carries over from another would show in its side.
    events = events[int(np.argmax((events.kind == TRADE) & (events.symbol == 0))) :]
    panel = pipeline.panel(SESSION, events)
    batch = fold(pipeline, panel)
    engine = Engine(pipeline)
    engine.begin(SESSION)
    live = [d for at in range(0, len(events), packet) for d in engine.push(events[at : at + packet])] + engine.finish()
    assert np.array([d.values["sides"][0] for d in live]).tobytes() == batch.values["sides"].tobytes()
    assert np.abs(batch.values["sides"][:, 0]).sum() > 30 and not batch.values["sides"][:, 1].any()
    flow = panel.x[:, 0, panel.features.names.index("signed_volume_1000ms")]
    assert np.abs(flow).sum() > 30
    as_of, offsets, x, _, _ = stream.build(BOTH, pipeline.features, SESSION, panel.events)
    assert x.tobytes() == panel.x.tobytes()
    # A session that begins anew remembers no price of the one before.
    engine.begin(SESSION)
    again = [d for at in range(0, len(events), packet) for d in engine.push(events[at : at + packet])] + engine.finish()
    assert np.array([d.values["sides"][0] for d in again]).tobytes() == batch.values["sides"].tobytes()


def test_stored_events_are_signed_when_they_are_read(tmp_path: Path) -> None:
    one = universe("inferred")
    events = make_events(6, symbols=1, sided=0.0)
    events = events[np.r_[True, np.diff(events.ts) >= 0]]
    events.sequence[:] = np.arange(len(events))
    ticks = ParquetTicks(tmp_path)
    ticks.write_events(one.instruments[0], SESSION, events, {"feed": "made", "receive_clock": False})
    stored = ticks.read(ticks.partitions("trades")[0])
    assert set(stored["side"].to_list()) == {0}, "nothing is inferred at ingest"
    found = ticks.events(one, SESSION)
    pipeline = make_pipeline(one)
    panel = pipeline.panel(SESSION, events)
    assert found.side.tobytes() == panel.events.side.tobytes() and np.abs(found.side).sum() > 100
    store = ParquetFeatures(tmp_path)
    as_of, offsets, x, valid, why = stream.build(one, pipeline.features, SESSION, found)
    ref = store.write(one, pipeline.features, SESSION, as_of=as_of, offsets=offsets, x=x, valid=valid, why=why)
    opened = open_panel(ticks, store, one, pipeline.features, SESSION, ref.sha256)
    assert opened.x.tobytes() == panel.x.tobytes() and opened.events.side.tobytes() == panel.events.side.tobytes()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("symbol", "n", "above", "below", "at", "buys", "unknown", "tick_rule"),
    [
        ("aig", 25_216, 0.4761, 0.4613, 0.0626, 0.5033, 0, 0.7283),
        ("bac", 86_309, 0.5366, 0.4273, 0.0361, 0.5491, 8, 0.9442),
        ("ibm", 24_045, 0.4595, 0.4378, 0.1027, 0.5129, 2, 0.8402),
    ],
)
def test_recorded_equity_day(
    symbol: str, n: int, above: float, below: float, at: float, buys: float, unknown: int, tick_rule: float
) -> None:
    days = [next(read_lean(recorded(symbol, f"20131007_{kind}"))) for kind in ("quote", "trade")]
    rows = {name: c.rows for day in days for name, c in check_tables(day.tables, day.session, receive_clock=False).items()}
    events = merge([events_of_tables({name: frame}) for name, frame in rows.items()], 1)
    one = Universe((days[0].instrument,))
    side = aggressor.signed(one, events).side[events.kind == TRADE]
    # The quote that was known before the trade's millisecond, looked up: exact wherever the price is not the middle.
    book, trades = rows["book"], rows["trades"]
    last = np.searchsorted(book["ts_event"].to_numpy(), trades["ts_event"].to_numpy(), "left") - 1
    twice_mid = (book["bid_px_00"].to_numpy().astype(np.int64) + book["ask_px_00"].to_numpy())[last] * days[0].instrument.tick_units
    over = np.sign(2 * trades["price"].to_numpy() - twice_mid)
    quoted = last >= 0
    assert len(trades) == n and np.array_equal(side[quoted & (over != 0)], over[quoted & (over != 0)])
    shares = [(over[quoted] == sign).mean() for sign in (1, -1, 0)] + [(side > 0).mean()]
    assert shares == pytest.approx([above, below, at, buys], abs=5e-5)
    assert (side == 0).sum() == unknown
    # Without quotes the tick rule is all there is, and it says something else: what a symbol without them (SPY) is worth.
    alone = aggressor.signed(one, events[events.kind == TRADE]).side
    assert (alone == side).mean() == pytest.approx(tick_rule, abs=5e-5)


def binance(path: Path) -> tuple[Events, np.ndarray]:
    """Trades and best quotes of a raw capture in the order in which they came, and who was the aggressor of each trade.

    `ts` is the venue's time, 0 where a message has none (spot quotes).
    """
    rows = []
    with gzip.open(path) as lines:
        for line in lines:
            message = orjson.loads(line.partition(b" ")[2])
            what, data = message.get("stream", "").rpartition("@")[2], message.get("data", {})
            if what == "trade":
                rows.append((data["T"], TRADE, round(100 * float(data["p"])), 0, -1 if data["m"] else 1))
            elif what == "bookTicker":
                rows.append((data.get("T", 0), BOOK, round(100 * float(data["b"])), round(100 * float(data["a"])), 0))
    ts, kind, px, ask, side = np.array(rows, np.int64).T
    events = Events.empty(len(rows), 1)
    events.ts[:], events.kind[:] = ts, kind
    trade = kind == TRADE
    events.trade_px[trade] = px[trade]
    events.bid_px[~trade, 0], events.ask_px[~trade, 0] = px[~trade], ask[~trade]
    events.bid_sz[~trade] = events.ask_sz[~trade] = 1
    return events, side[trade]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "n", "tick_rule", "as_received", "as_happened"),
    [
        ("usdm_btcusdt_20240808", 21_313, 0.9685, 0.8656, 0.9983),
        ("spot_btcusdt_20240808", 9_757, 0.9685, 0.4923, None),
        ("cm_btcusd_perp_20240808", 2_286, 0.8368, 0.9987, 1.0),
    ],
)
def test_against_the_true_aggressor(name: str, n: int, tick_rule: float, as_received: float, as_happened: float | None) -> None:
    """The quote rule is right where the quote is the one before the trade, and worthless where the feed sends the quote after it first."""
    path = lobster_folder().parent / "binance_20240808" / f"{name}.gz"
    if not path.is_file():
        pytest.skip(f"{path} is missing: no recorded Binance capture")
    events, truth = binance(path)
    one = Universe((replace(BOTH.instruments[0], tick_units=1),))

    def right(stream: Events, of: np.ndarray) -> float:
        trade = stream.kind == TRADE
        return float((aggressor.signed(one, stream).side[trade] == of).mean())

    assert len(truth) == n and right(events[events.kind == TRADE], truth) == pytest.approx(tick_rule, abs=5e-5)
    assert right(events, truth) == pytest.approx(as_received, abs=5e-5)
    if as_happened is not None:
        order = np.lexsort((events.kind == BOOK, events.ts))
        every = np.zeros(len(events), np.int64)
        every[events.kind == TRADE] = truth
        assert right(events[order], every[order][events.kind[order] == TRADE]) == pytest.approx(as_happened, abs=5e-5)
