"""Lines to the service's messages: the same events as batch, in the order of time, and time goes on where nothing comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import InputError
from cift_models.events import BOOK, GAP, HALT, RESUME, Events, check_order, merge
from cift_models.features import FeatureSet
from cift_models.features.stream import build
from cift_models.instruments import SECOND, Instrument, Session, Universe
from cift_models.models.protocol import Why
from serving import wire
from serving.feed import venue
from serving.feed.backlog import Backlog, Item, Source
from serving.feed.books import Books, listing_of
from serving.feed.capture import Captures
from serving.feed.client import Steady
from serving.feed.messages import PACKET, Stream, sources_of
from serving.feed.venue import BREAK, DEPTH, SNAPSHOT, kind_of, stream_of
from tests.feed_made import START, batch_events, made

BTC, ETH = Source("BTCUSDT", "spot"), Source("ETHUSDT", "spot")
HOUR = 3600 * SECOND


@cache
def recorded(tmp: Path) -> tuple[Universe, Events, tuple[Item, ...]]:
    """Two symbols: the universe, the events of their captures in batch, and their lines in the order of receipt."""
    lines = {BTC: made("BTCUSDT", 6, 1), ETH: made("ETHUSDT", 6, 2, snapshot_at=9)}
    universe, events = batch_events([one.write(tmp) for one in lines.values()], 10)
    items = [item_of(source, *line) for source, one in lines.items() for line in one.lines]
    return universe, events, tuple(sorted(items, key=lambda item: item.recv))


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> tuple[Universe, Events, tuple[Item, ...]]:
    return recorded(tmp_path_factory.mktemp("captures"))


def item_of(source: Source, recv: int, text: bytes) -> Item:
    name = stream_of(text)
    known = kind_of(name) if name else None
    return Item(recv, BREAK if venue.is_break(text) else known[1] if known else SNAPSHOT, source, text)


def stream_for(universe: Universe, session_ns: int = 24 * HOUR) -> Stream:
    places = sources_of(universe, None, None)
    books = Books(
        {source: listing_of(universe.instruments[i]) for source, i in places.items()},
        {source: universe.instruments[i].levels for source, i in places.items()},
    )
    return Stream(universe, places, SECOND, books, session_ns)


def events_in(parts: list[tuple[Session, dict[str, Any]]], universe: Universe) -> Events:
    """The events of messages as the service reads them, checked to be in the order that it wants."""
    said = [wire.read_events(part["events"], universe) for _, part in parts if "events" in part]
    whole = (
        Events(*(np.concatenate([getattr(e, f.name) for e in said]) for f in fields(Events))) if said else Events.empty(0, universe.levels)
    )
    check_order(whole)
    return whole


def unlike(a: Events, b: Events) -> list[str]:
    """Columns in which events are not the same to the bit; rows without a book are not looked at in theirs."""
    if len(a) != len(b):
        return [f"{len(a)} events, {len(b)} expected"]
    book = b.kind & BOOK > 0
    out = []
    for f in fields(Events):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if x.ndim == 2:
            x, y = x[book], y[book]
        if x.dtype != y.dtype or not np.array_equal(x, y):
            out.append(f.name)
    return out


def push(stream: Stream, items: list[Item] | tuple[Item, ...], cuts: list[int]) -> list[tuple[Session, dict[str, Any]]]:
    parts: list[tuple[Session, dict[str, Any]]] = []
    edges = [0, *sorted(c % (len(items) + 1) for c in cuts), len(items)]
    for a, b in zip(edges, edges[1:], strict=False):
        parts += stream.take(items[a:b], items[b - 1].recv if b else 0)
    return parts


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_live_events_are_the_batch_events_to_the_bit_wherever_reading_stops(market, cuts):
    universe, events, items = market
    stream = stream_for(universe)
    parts = push(stream, items, cuts) + stream.finish()
    got = events_in(parts, universe)
    gaps = got.sequence == 2**61
    assert unlike(got[~gaps], events) == []
    assert int(gaps.sum()) == 2 and (got.kind[gaps] == HALT | GAP).all() and (np.flatnonzero(gaps) >= len(got) - 2).all()
    assert stream.events == len(events) and stream.books.whole == 2 and stream.steps == 0


def test_a_row_that_ingest_sets_apart_never_reaches_the_service(tmp_path):
    lines = made("BTCUSDT", 4, 1).lines
    # A bid far above the best ask, and gone again with the next change: the rows between are crossed.
    at = next(i for i, (_, text) in enumerate(lines) if i > 60 and b"@depth" in text)
    crossed = lines[at][1].replace(b'"b":[', b'"b":[["60050.00","1.0"],', 1).replace(b",]", b"]")
    after = next(i for i, (_, text) in enumerate(lines) if i > at + 20 and b"@depth" in text)
    gone = lines[after][1].replace(b'"b":[', b'"b":[["60050.00","0.0"],', 1).replace(b",]", b"]")
    odd = [(recv, crossed if i == at else gone if i == after else text) for i, (recv, text) in enumerate(lines)]
    universe, events = batch_events([made("BTCUSDT", 4, 1)._replace(lines=odd).write(tmp_path)], 10)
    _, plain = batch_events([made("BTCUSDT", 4, 1).write(tmp_path)], 10)
    assert 0 < (plain.kind & BOOK > 0).sum() - (events.kind & BOOK > 0).sum() < 10
    stream = stream_for(universe)
    got = events_in(push(stream, [item_of(BTC, *line) for line in odd], list(range(0, 500, 9))) + stream.finish(), universe)
    assert unlike(got[got.sequence != 2**61], events) == []


def test_the_session_is_told_first_and_every_instant_that_passed_is_decided(market):
    universe, events, items = market
    stream = stream_for(universe)
    parts = push(stream, items, list(range(0, len(items), 7)))
    session, first = parts[0]
    opened = items[0].recv // SECOND * SECOND
    assert session == Session(20240808, opened, opened + 24 * HOUR) and first == {
        "session": {"day": 20240808, "open": opened, "close": session.close, "fresh": True}
    }
    assert all(told == session for told, _ in parts)
    # Reading a message moves time to its last event or to what it says.
    times = [part.get("advance") or part["events"][-1]["ts"] for _, part in parts[1:]]
    assert times == sorted(times) and times[-1] > items[-1].recv - SECOND
    assert {(t - opened - 1) // SECOND for t in times} == set(range((items[-1].recv - opened - 1) // SECOND + 1))


def test_a_quiet_market_is_decided_at_every_instant_once(market):
    universe, _, items = market
    stream = stream_for(universe)
    push(stream, items, [])
    said = []
    now = items[-1].recv
    for _ in range(500):
        now += 23_000_000  # 23 ms
        said += stream.take([], now)
    assert all(list(part) == ["advance"] for _, part in said[1:])  # the last event leaves first
    told = [part["advance"] for _, part in said[1:]]
    assert stream.session is not None
    instants = [(t - 1 - stream.session.open) // SECOND for t in told]
    assert instants == list(range(instants[0], instants[0] + len(instants))) and len(told) in (11, 12)
    assert all((t - 1 - stream.session.open) % SECOND < 23_000_000 for t in told)
    # An instant is decided behind itself: what comes at that very nanosecond belongs to it.
    instant = stream.session.open + ((now - stream.session.open) // SECOND + 1) * SECOND
    assert stream.take([], instant - 1) == [] == stream.take([], instant)
    assert [part for _, part in stream.take([], instant + 1)] == [{"advance": instant + 1}] and stream.take([], instant + 2) == []


def test_the_clock_is_looked_at_just_behind_the_next_instant(market):
    universe, _, items = market
    stream = stream_for(universe)
    assert stream.until_next_s(items[0].recv) == 0.1
    push(stream, items, [])
    assert stream.session is not None
    opened = stream.session.open
    assert stream.until_next_s(opened + 5 * SECOND + 970_000_000) == pytest.approx(0.0301)
    assert stream.until_next_s(opened + 5 * SECOND) == 0.1


def test_events_of_one_nanosecond_leave_in_the_order_of_the_universe(market):
    universe, events, items = market
    # All lines of a tenth of a second share a receive time, and ETH's come first.
    shared = [item._replace(recv=item.recv // 100_000_000 * 100_000_000) for item in items]
    shared.sort(key=lambda item: (item.recv, item.source != ETH))
    stream = stream_for(universe)
    got = events_in(push(stream, shared, list(range(0, len(items), 3))) + stream.finish(), universe)
    assert len(got) == len(events) + 2
    assert len(np.unique(got.ts)) < len(events) / 2


@pytest.mark.parametrize("back", [1, 50_000_000, 3 * SECOND])
def test_a_clock_that_goes_back_makes_nothing_late(market, tmp_path, back: int):
    universe, events, items = market
    half = len(items) // 2
    stepped = [item if i < half else item._replace(recv=item.recv - back) for i, item in enumerate(items)]
    stream = stream_for(universe)
    parts = push(stream, stepped, list(range(0, len(items), 5)))
    got = events_in(parts + stream.finish(), universe)
    got = got[got.sequence != 2**61]
    # Everything is there, in the order of time, and nothing before the greatest time that was seen.
    assert len(got) == len(events)
    greatest = np.maximum.accumulate([item.recv for item in stepped])
    assert set(got.ts.tolist()) <= set(greatest.tolist())
    time = 0
    for _, part in parts[1:]:
        for t in [row["ts"] for row in part.get("events", [])] or [part.get("advance", time)]:
            assert t >= time
            time = t
    lowered = sum(item.recv < t for item, t in zip(stepped, greatest, strict=True))
    assert (stream.steps > 0) == (lowered > 0) and stream.steps == lowered
    # Batch of the same lines: the same events; none is earlier live; those before the step and behind the catching up are the same bits.
    lines = {s: [(item.recv, item.text) for item in stepped if item.source == s] for s in (BTC, ETH)}
    _, batch = batch_events([made(s.symbol, 1)._replace(lines=mine).write(tmp_path) for s, mine in lines.items()], 10)
    caught = int(greatest[half])
    for place in (0, 1):
        mine, its = got[got.symbol == place], batch[batch.symbol == place]
        assert unlike(replace(mine, ts=its.ts), its) == [] and (mine.ts >= its.ts).all()
        before = int((mine.ts < caught).sum())
        assert unlike(mine[:before], its[:before]) == [] and before > 40
    after, true_after = got[got.ts > caught], batch[batch.ts > caught]
    assert unlike(after, true_after) == [] and (len(after) > 50 or back == 3 * SECOND)


class Played:
    """A clock that says some times, one a line, and between two lines the one that was said last."""

    def __init__(self, times: Sequence[int]) -> None:
        self.times, self.said = iter(times), 0

    def stamp(self, text: bytes) -> int:
        self.said = next(self.times)
        return self.said

    def now(self) -> int:
        return self.said


@pytest.mark.parametrize("back", [0, 1, 50_000_000, 3 * SECOND])
def test_stamped_by_a_steady_clock_live_is_batch_to_the_bit_though_the_clock_below_goes_back(market, tmp_path, caplog, back: int):
    universe, _, items = market
    half = len(items) // 2
    said = [item.recv - (back if i >= half else 0) for i, item in enumerate(items)]
    clock, stream, parts = Steady(Played(said)), stream_for(universe), []
    captures = Captures(tmp_path)
    with caplog.at_level("WARNING", "cift.feed"):
        for n, item in enumerate(items):
            stamped = item._replace(recv=clock.stamp(item.text))
            captures.write([stamped])
            parts += stream.take([stamped], 0)
            if n % 5 == 0:
                parts += stream.take([], clock.now())
    captures.close()
    _, batch = batch_events(sorted(tmp_path.iterdir()), 10)
    got = events_in(parts + stream.finish(), universe)
    assert unlike(got[got.sequence != 2**61], batch) == [] and stream.steps == 0
    greatest = np.maximum.accumulate(said)
    assert clock.steps == int((np.array(said) < greatest).sum()) and (clock.steps > 0) == (back > 1)
    assert caplog.text.count("time stands until it catches up") == (back > 1)
    # An event is never behind a time that was told: the service would call it late.
    time = 0
    for _, part in parts[1:]:
        times = [row["ts"] for row in part.get("events", [])] or [part["advance"]]
        assert times[0] >= time
        time = times[-1]


def test_a_steady_clock_says_no_time_before_one_that_it_said():
    clock = Steady(Played([100, 90, 95, 120, 110, 130]))
    assert clock.stamp(b"") == 100 == clock.stamp(b"") == clock.now() == clock.stamp(b"") and clock.steps == 2 and clock.stands
    assert clock.stamp(b"") == 120 == clock.stamp(b"") and clock.steps == 3 and clock.stands
    clock.reach(125)
    assert clock.now() == 125 and clock.stamp(b"") == 130 and not clock.stands
    now = Steady(Played([100, 90]))
    now.stamp(b"")
    now.reach(99)
    assert now.now() == 100


@pytest.mark.parametrize("limit", [3_000, 9_000, 30_000])
def test_what_a_full_backlog_leaves_is_what_batch_says_and_what_it_lost_lies_in_a_gap(market, limit: int):
    """Beside it everything is recorded, so batch knows what live was not told: behind a gap the book is whole again from a snapshot on."""
    universe, events, items = market
    backlog, stream, parts = Backlog(limit, waits=False), stream_for(universe), []
    books = {BTC: made("BTCUSDT", 6, 1).books, ETH: made("ETHUSDT", 6, 2, snapshot_at=9).books}
    places = {BTC: (100, 1e5), ETH: (100, 1e4)}
    for n, item in enumerate(items):
        backlog.offer(item)
        if n % (90 if n < 300 else 3) == 0:
            parts += stream.take(backlog.drain(), 0)
            for source in stream.books.wanting():
                if n >= 300 and item.kind == DEPTH and item.source == source:
                    backlog.offer(snapshot_of(item, books[source], scales=places[source]))
    parts += stream.take(backlog.drain(), 0)
    got = events_in(parts + stream.finish(), universe)
    got = got[got.sequence != 2**61]
    lost = backlog.dropped.total() + backlog.trades.total() + backlog.conflated
    assert lost > 0 and stream.steps == 0
    status = got.kind & (HALT | RESUME) > 0
    said = {row(got, i): i for i in range(len(got)) if not status[i]}
    true = {row(events, i): i for i in range(len(events)) if not events.kind[i] & (HALT | RESUME)}
    # Whatever was said is true; what is true and was not said lies between a gap and its end (there the snapshot stands for the change).
    assert said.keys() <= true.keys() and 50 < len(said) < len(true)
    for place in (0, 1):
        mine = status & (got.symbol == place)
        times, gaps = got.ts[mine], got.kind[mine] & GAP > 0
        for what, i in true.items():
            if events.symbol[i] == place and what not in said:
                assert gaps[int(np.searchsorted(times, events.ts[i], "right")) - 1] or events.ts[i] in times, i
    assert stream.books.whole == 2


def row(events: Events, i: int) -> tuple[Any, ...]:
    """What an event says, its place in its file aside: lines that were dropped have no number there."""
    book = tuple(getattr(events, name)[i].tobytes() for name in ("bid_px", "bid_sz", "ask_px", "ask_sz")) if events.kind[i] & BOOK else ()
    return int(events.ts[i]), int(events.symbol[i]), int(events.kind[i]), int(events.trade_px[i]), int(events.trade_sz[i]), *book


def test_a_gap_that_is_declared_reaches_the_service_and_so_does_its_end(market):
    universe, _, items = market
    btc = [item for item in items if item.source == BTC]
    again = next(item for item in btc if item.kind == SNAPSHOT)
    at = btc.index(again) + 40
    gap = Item(btc[at - 1].recv + 5, BREAK, BTC, venue.break_line("BTCUSDT", "spot", "closed"))
    stream = stream_for(universe)
    # The snapshot that mends it is one of the book as it stands at a later change.
    later = next(i for i in range(at + 20, len(btc)) if btc[i].kind == DEPTH)
    book = made("BTCUSDT", 6, 1).books
    number = int(btc[later].text.split(b'"u":')[1].split(b",")[0])
    sides = {side: sorted(((t, q) for (s, t), q in book[number].items() if s == side), reverse=side > 0) for side in (1, -1)}
    levels = {side: b",".join(b'["%.2f","%.5f"]' % (t / 100, q / 1e5) for t, q in sides[side]) for side in sides}
    body = b'{"lastUpdateId":%d,"bids":[%s],"asks":[%s]}' % (number, levels[1], levels[-1])
    mend = Item(btc[later].recv + 5, SNAPSHOT, BTC, body)
    parts = stream.take(btc[:at], 0)
    assert stream.books.wanting() == [] and stream.books.whole == 1
    parts += stream.take([gap], 0)
    assert stream.books.whole == 0 and stream.books.wanting() == []  # not before changes come again
    parts += stream.take(btc[at : later + 1], 0)
    assert stream.books.wanting() == [BTC]
    parts += stream.take([mend], 0)
    assert stream.books.wanting() == [] and stream.books.whole == 1
    parts += stream.take(btc[later + 1 :], 0)
    got = events_in(parts, universe)
    status = [(int(t), "lost" if k & GAP else "whole") for t, k in zip(got.ts, got.kind, strict=True) if k & (HALT | RESUME)]
    assert [what for _, what in status] == ["lost", "whole", "lost", "whole"]
    assert status[2][0] == gap.recv and status[3][0] == mend.recv
    assert not (got.kind[(got.ts > gap.recv) & (got.ts < mend.recv)] & BOOK).any()
    # From there on the book is the book: the same rows as without the gap.
    _, whole, _ = market
    rows = whole[(whole.symbol == 0) & (whole.ts > mend.recv)]
    tail = got[got.ts > mend.recv]
    assert unlike(replace(tail, sequence=rows.sequence[: len(tail)]), rows[: len(tail)]) == [] and len(tail) > 20
    assert stream.books.gaps == 1 and stream.books.resyncs == 2


def test_a_session_ends_and_the_next_begins(market):
    universe, events, items = market
    stream = stream_for(universe, 2 * SECOND)
    parts = push(stream, items, []) + stream.finish()
    sessions = list(dict.fromkeys(session for session, _ in parts))
    assert len(sessions) == 4 and all(b.open >= a.close for a, b in zip(sessions, sessions[1:], strict=False))
    for session in sessions:
        mine = [part for told, part in parts if told == session]
        assert list(mine[0]) == ["session"]
        for part in mine[1:]:
            assert all(session.open <= row["ts"] <= session.close for row in part.get("events", []))
        if session != sessions[-1]:
            assert mine[-1] == {"advance": session.close + 1}
    assert sum(len(part.get("events", [])) for _, part in parts) >= len(events)


def test_messages_are_of_a_size(market):
    universe, _, items = market
    many = [item._replace(recv=item.recv + lap * 10 * SECOND) for lap in range(8) for item in items if item.kind != SNAPSHOT]
    stream = stream_for(universe)
    sizes = [len(part["events"]) for _, part in stream.take(many, 0) if "events" in part]
    assert len(sizes) > 1 and max(sizes) <= PACKET


def test_a_feed_that_comes_back_tells_a_gap_first(market):
    universe, _, items = market
    stream = stream_for(universe)
    session = Session(20240808, START, START + HOUR)
    parts = stream.resume(session, START + 7, items[0].recv - 1)
    assert parts[0][1] == {"session": {"day": 20240808, "open": START, "close": START + HOUR}}
    gaps = wire.read_events(parts[1][1]["events"], universe)
    assert gaps.ts.tolist() == [START + 8] * 2 + [items[0].recv - 1] * 2 and gaps.symbol.tolist() == [0, 1, 0, 1]
    assert (gaps.kind == HALT | GAP).all()
    rest = events_in(parts[1:] + push(stream, items, [50]), universe)
    assert int(rest.ts[0]) == START + 8 and stream.session == session
    # The service's clock may be ahead of ours: nothing that follows is late there.
    ahead = stream_for(universe)
    watermark = items[20].recv
    ahead.resume(session, watermark, items[0].recv - 1)
    assert int(events_in(push(ahead, items, [50]), universe).ts.min()) > watermark


def test_a_session_that_the_service_forgot_begins_anew(market):
    universe, _, items = market
    stream = stream_for(universe)
    half = next(i for i, item in enumerate(items) if item.recv > items[0].recv + 3 * SECOND)
    stream.take(items[:half], 0)
    before = stream.session
    stream.restart()
    parts = stream.take(items[half:], 0)
    assert list(parts[0][1]) == ["session"] and stream.session != before and stream.session == parts[0][0]


def test_what_to_listen_to():
    def universe(*symbols: str) -> Universe:
        return Universe(tuple(Instrument(s, 100, 1, 100_000, "coins", 0.0, "always", 5) for s in symbols))

    both = universe("BTCUSDT.SPOT", "BTCUSDT.USDM", "AAPL")
    assert sources_of(both, None, None) == {BTC: 0, Source("BTCUSDT", "usdm"): 1}
    assert sources_of(both, "usdm", ("BTCUSDT",)) == {Source("BTCUSDT", "usdm"): 1}
    with pytest.raises(InputError, match=r"no ETHUSDT\.SPOT"):
        sources_of(both, None, ("ETHUSDT",))
    with pytest.raises(InputError, match="no symbol of Binance"):
        sources_of(universe("AAPL"), None, None)


def off_grid(recv: int, price: str = "60000.001") -> Item:
    """A trade of bitcoin at a price between two ticks."""
    ms = recv // 1_000_000
    text = b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":1,"p":"%s","q":"1","T":%d,"m":true}}'
    return item_of(BTC, recv, text % (ms, price.encode(), ms))


@pytest.mark.parametrize("cuts", [[], [100, 101], list(range(0, 400, 7))], ids=["whole", "alone", "parts"])
def test_a_price_off_the_grid_ends_the_symbol_and_not_the_others(market, caplog, cuts: list[int]):
    universe, events, items = market
    stream = stream_for(universe)
    at = items[100].recv
    with caplog.at_level("WARNING", "cift.feed"):
        parts = push(stream, [*items[:101], off_grid(at), *items[101:]], cuts) + stream.finish()
    assert list(stream.books.broken) == [BTC] and "60000.001" in stream.books.broken[BTC].message
    assert stream.books.quarantined == {BTC: 1} and stream.books.whole == 1
    assert "BTCUSDT.SPOT is left out" in caplog.text and "60000.001" in caplog.text and "ETHUSDT" not in caplog.text
    got = events_in(parts, universe)
    # The other is what batch says, to the bit, to the end; this one ends at a gap, and says nothing that is not true before it.
    ended = got.sequence >= 2**61
    assert unlike(got[(got.symbol == 1) & ~ended], events[events.symbol == 1]) == []
    mine = got[got.symbol == 0]
    gap = int(np.argmax(mine.sequence >= 2**61))
    assert mine.kind[gap] == HALT | GAP and unlike(mine[:gap], events[events.symbol == 0][:gap]) == []
    assert mine.ts[gap] <= at and (mine.kind[gap:] == HALT | GAP).all() and len(mine) - gap == 2  # its own, and that of the end
    if cuts == [100, 101]:
        assert mine.ts[gap] == at and gap > 20
    # Lines that give no row are counted, from the reading on in which the price came.
    unread = [item for item in items[101:] if item.source == BTC]
    assert len(unread) < stream.books.unread[BTC] and (cuts != [100, 101] or stream.books.unread[BTC] == len(unread) + 1)


def test_the_service_calls_the_symbol_that_ended_a_gap_and_decides_the_other(market):
    universe, events, items = market
    stream = stream_for(universe)
    at = items[100].recv
    got = events_in(push(stream, [*items[:101], off_grid(at), *items[101:]], [100, 101]), universe)
    session = Session(20240808, items[0].recv // SECOND * SECOND, items[-1].recv // SECOND * SECOND)
    features = FeatureSet(levels=universe.levels, warm_up_ns=0)
    as_of, _, _, valid, why = build(universe, features, session, got)
    _, _, _, true_valid, true_why = build(universe, features, session, events)
    later = as_of > at
    assert later.sum() >= 3 and (why[later, 0] == Why.GAP).all() and not valid[later, 0].any()
    assert (why[:, 1] == true_why[:, 1]).all() and valid[later, 1].all() and (true_why[later, 0] != Why.GAP).all()
    assert (why[~later, 0] == true_why[~later, 0]).all() and (valid == true_valid)[~later].all()


def long(seconds: int = 60) -> tuple[list[Item], dict[int, dict[tuple[int, int], int]]]:
    """Lines of bitcoin, none of them a snapshot, and its books by update."""
    one = made("BTCUSDT", seconds, 5, snapshot_at=0)
    return [item_of(BTC, *line) for line in one.lines], one.books


def snapshot_of(
    change: Item, books: dict[int, dict[tuple[int, int], int]], price: bytes = b"", scales: tuple[float, float] = (100, 1e5)
) -> Item:
    """The answer to a question that came behind a change; one price may be another."""
    number = int(change.text.split(b'"u":')[1].split(b",")[0])
    sides = {side: sorted(((t, q) for (s, t), q in books[number].items() if s == side), reverse=side > 0) for side in (1, -1)}
    levels = {side: b",".join(b'["%.2f","%.5f"]' % (t / scales[0], q / scales[1]) for t, q in sides[side]) for side in sides}
    if price:
        levels[1] = levels[1].replace(levels[1].split(b'"')[1], price, 1)
    body = b'{"lastUpdateId":%d,"bids":[%s],"asks":[%s]}' % (number, levels[1], levels[-1])
    return Item(change.recv + 5, SNAPSHOT, change.source, body)


def answered(stream: Stream, items: list[Item], books: dict[int, dict[tuple[int, int], int]], price: bytes = b"") -> list[Any]:
    """Lines one by one; whenever a snapshot is wanted it follows the change that makes it so. Returns the messages."""
    parts: list[Any] = []
    for item in items:
        parts += stream.take([item], 0)
        if item.kind == DEPTH and stream.books.wanting():
            parts += stream.take([snapshot_of(item, books, price)], 0)
    return parts


def test_a_symbol_that_ended_is_read_again_from_a_snapshot_after_a_pause(market, caplog):
    universe, _, _ = market
    items, books = long(30)
    stream, clean = stream_for(universe), stream_for(universe)
    bad = next(i for i, item in enumerate(items) if item.recv > START + 5 * SECOND)
    at = items[bad - 1].recv
    lines = [*items[:bad], off_grid(at + 1), *items[bad:]]
    with caplog.at_level("WARNING", "cift.feed"):
        got = events_in(answered(stream, lines, books), universe)
    truth = events_in(answered(clean, items, books), universe)
    status = [(int(t), int(k)) for t, k in zip(got.ts, got.kind, strict=True) if k & (HALT | RESUME)]
    # Lost at the start and found; lost at the price; lost and found again behind the pause, when a change and its snapshot had come.
    assert [k for _, k in status] == [HALT | GAP, RESUME | BOOK, HALT | GAP, HALT | GAP, RESUME | BOOK]
    assert status[2][0] == at + 1 and at + 1 + 10 * SECOND <= status[3][0] < status[4][0] < at + 1 + 11 * SECOND
    assert not ((got.ts > at + 1) & (got.ts < status[3][0])).any()
    assert not stream.books.broken and stream.books.quarantined == {BTC: 1} and stream.books.whole == 1
    assert stream.books.unread[BTC] == 1 + sum(at < item.recv < at + 1 + 10 * SECOND for item in items)
    assert "is read again" in caplog.text and stream.books.gaps == 1 and stream.books.resyncs == 2
    # From there on it is what a stream says that never ended.
    after, true_after = got[got.ts > status[4][0]], truth[truth.ts > status[4][0]]
    assert len(after) > 100 and unlike(replace(after, sequence=true_after.sequence[: len(after)]), true_after) == []


def test_a_grid_that_is_not_the_symbols_any_more_never_makes_a_book_whole_and_is_asked_for_more_and_more_rarely(market):
    universe, _, _ = market
    items, books = long(60)
    stream = stream_for(universe)
    asked: list[int] = []
    for lap in range(25):
        for item in items:
            moved = item._replace(recv=item.recv + lap * 60 * SECOND)
            ms = b"%d" % (item.recv // 1_000_000)
            moved = moved._replace(text=moved.text.replace(ms, b"%d" % (moved.recv // 1_000_000)))
            stream.take([moved], 0)
            if item.kind == DEPTH and stream.books.wanting():
                asked.append(moved.recv)
                finer = snapshot_of(item, books, b"60000.005")
                stream.take([finer._replace(recv=moved.recv + 5)], 0)
            assert stream.books.whole == 0
    waits = [round((b - a) / SECOND) for a, b in zip(asked, asked[1:], strict=False)]
    assert waits == [10, 20, 40, 80, 160, 320, 600]
    assert stream.books.quarantined == {BTC: 8} and stream.books.resyncs == 0 and "60000.005" in stream.books.broken[BTC].message


def test_a_snapshot_is_asked_for_again_when_changes_come_again(market):
    universe, _, _ = market
    items, _ = long(20)
    at = next(i for i, item in enumerate(items) if item.recv > START + 5 * SECOND)
    behind = [item for item in items[at:] if item.recv > items[at].recv + 10 * SECOND]
    first = next(i for i, item in enumerate(behind) if item.kind != DEPTH)
    books = stream_for(universe).books
    books.push(items[:at])
    assert books.wanting() == [BTC]
    books.push([off_grid(items[at].recv)])
    assert books.wanting() == []
    books.push([behind[first]])
    assert not books.broken and books.wanting() == []  # nothing to mend a book with yet
    books.push([item for item in behind[first:] if item.kind == DEPTH][:1])
    assert books.wanting() == [BTC]


def test_a_symbol_that_was_read_for_long_is_forgiven(market):
    universe, _, _ = market
    items, _ = long(1)
    books, pauses = stream_for(universe).books, []
    at = START
    for good in (0, 0, 599, 600, 0):  # seconds of clean reading behind each pause
        books.push([off_grid(at)])
        pauses.append((books._until[BTC] - at) // SECOND)
        at = books._until[BTC] + good * SECOND
        ms = b"%d" % (items[0].recv // 1_000_000)
        books.push([items[0]._replace(recv=at - good * SECOND, text=items[0].text.replace(ms, b"%d" % (at // 1_000_000)))])
        assert not books.broken
    assert pauses == [10, 20, 40, 80, 10]


def test_a_listing_is_the_instrument_again():
    instrument = Instrument("BTCUSD_PERP.COINM", 10, 1, 1, "contracts", 0.0, "always", 20)
    grid = listing_of(instrument)
    assert grid.instrument(20, 0.0) == instrument
    with pytest.raises(InputError, match=r"in 1/8 "):
        listing_of(replace(instrument, price_scale=8))


def test_batch_of_two_symbols_is_what_merge_says(market):
    universe, events, _ = market
    parts = [events[events.symbol == i] for i in range(2)]
    assert unlike(merge(parts, universe.levels), events) == []
