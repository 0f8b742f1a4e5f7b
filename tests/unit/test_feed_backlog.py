"""The room between connection and reader: bounded, in order, and nothing leaves it unsaid."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.feed.backlog import OVERHEAD, Backlog, Item, Source
from serving.feed.venue import BREAK, DEPTH, QUOTE, SNAPSHOT, TRADE, is_break

BTC, ETH = Source("BTCUSDT", "spot"), Source("ETHUSDT", "spot")
TEXT = 200


def item(n: int, kind: int, source: Source = BTC, size: int = TEXT) -> Item:
    return Item(n, kind, source, b"%0*d" % (size, n))


def room_for(n: int) -> Backlog:
    return Backlog(n * (TEXT + OVERHEAD))


def taken(backlog: Backlog) -> list[Item]:
    return backlog.drain()


def test_what_fits_comes_out_as_it_went_in():
    backlog = room_for(10)
    items = [item(n, kind) for n, kind in enumerate((DEPTH, QUOTE, QUOTE, TRADE, SNAPSHOT, DEPTH, BREAK, TRADE, QUOTE, QUOTE))]
    assert all(backlog.offer(one) for one in items)
    assert taken(backlog) == items and len(backlog) == 0 == backlog.size
    assert taken(backlog) == [] and backlog.conflated == 0


def test_quotes_give_way_first_and_the_newest_of_each_symbol_stays():
    backlog = room_for(8)
    kinds = [(DEPTH, BTC), (QUOTE, BTC), (QUOTE, ETH), (QUOTE, BTC), (TRADE, BTC), (QUOTE, ETH), (QUOTE, BTC), (TRADE, ETH)]
    for n, (kind, source) in enumerate(kinds):
        assert backlog.offer(item(n, kind, source))
    assert backlog.offer(item(8, TRADE))
    assert [one.recv for one in taken(backlog)] == [0, 4, 5, 6, 7, 8]
    assert backlog.conflated == 3 and not backlog.dropped and not backlog.gaps


def test_a_quote_that_comes_replaces_the_one_that_waits():
    backlog = room_for(3)
    for n, kind in enumerate((TRADE, QUOTE, TRADE, QUOTE)):
        assert backlog.offer(item(n, kind))
    assert [one.recv for one in taken(backlog)] == [0, 2, 3] and backlog.conflated == 1


def test_book_changes_give_way_next_as_one_declared_gap_where_the_first_was():
    backlog = room_for(6)
    for n, (kind, source) in enumerate([(TRADE, BTC), (DEPTH, BTC), (DEPTH, ETH), (DEPTH, BTC), (SNAPSHOT, BTC), (TRADE, BTC)]):
        assert backlog.offer(item(n, kind, source))
    assert backlog.offer(item(6, DEPTH, ETH))
    out = taken(backlog)
    # BTC had most: its two changes and its snapshot are gone, and stand as one gap; ETH's are kept.
    assert [(one.recv, one.kind, one.source) for one in out] == [
        (0, TRADE, BTC),
        (1, BREAK, BTC),
        (2, DEPTH, ETH),
        (5, TRADE, BTC),
        (6, DEPTH, ETH),
    ]
    assert is_break(out[1].text) and b"overflow" in out[1].text
    assert backlog.dropped == Counter({BTC: 3}) and backlog.gaps == Counter({BTC: 1})


def test_a_gap_that_waits_is_not_declared_twice():
    backlog = room_for(5)
    for n in range(400):
        assert backlog.offer(item(n, DEPTH))
    kinds = [one.kind for one in taken(backlog)]
    assert kinds.count(BREAK) == 1 == kinds.index(BREAK) + 1
    assert backlog.gaps == Counter({BTC: 1}) and backlog.dropped[BTC] == 400 - kinds.count(DEPTH)
    assert (
        backlog.offer(item(0, BREAK)) and backlog.offer(item(1, BREAK)) and backlog.offer(item(2, DEPTH)) and backlog.offer(item(3, BREAK))
    )
    assert [one.recv for one in taken(backlog)] == [0, 2, 3]


def test_trades_wait_and_none_is_lost():
    async def run() -> tuple[list[int], int]:
        backlog = room_for(4)
        out: list[int] = []

        async def write() -> None:
            for n in range(50):
                await backlog.put(item(n, TRADE))

        writing = asyncio.create_task(write())
        while len(out) < 50:
            await asyncio.sleep(0)
            assert backlog.size <= backlog.limit
            out += [one.recv for one in await backlog.take(timeout_s=1)]
        await writing
        return out, backlog.waited

    out, waited = asyncio.run(asyncio.wait_for(run(), 20))
    assert out == list(range(50)) and waited > 0


def test_what_came_first_is_read_first_though_it_had_to_wait():
    """Two connections: a line that comes when room has just been made does not overtake those that wait for it."""

    async def run() -> list[int]:
        backlog = room_for(2)
        backlog.offer(item(0, TRADE))
        backlog.offer(item(1, TRADE, ETH))
        # The fourth does not fit beside the third; the fifth would, before it.
        kinds = ((2, BTC, TEXT), (3, ETH, 2 * TEXT + OVERHEAD), (4, BTC, 20))
        waiting = [asyncio.create_task(backlog.put(item(n, TRADE, source, size))) for n, source, size in kinds]
        await asyncio.sleep(0)
        out = [one.recv for one in taken(backlog)]
        # Room, and those that wait have not run yet.
        assert not backlog.offer(item(5, TRADE, ETH)) and not backlog.offer(item(5, QUOTE))
        waiting.append(asyncio.create_task(backlog.put(item(5, TRADE, ETH))))
        while len(out) < 6:
            await asyncio.sleep(0)
            out += [one.recv for one in await backlog.take(timeout_s=1)]
        await asyncio.gather(*waiting)
        assert backlog.offer(item(6, TRADE))  # nobody waits any more
        giving_up = asyncio.create_task(_full(backlog))
        await asyncio.sleep(0)
        giving_up.cancel()
        await asyncio.gather(giving_up, return_exceptions=True)
        taken(backlog)
        assert backlog.offer(item(7, TRADE))
        return out

    assert asyncio.run(asyncio.wait_for(run(), 10)) == [0, 1, 2, 3, 4, 5]


async def _full(backlog: Backlog) -> None:
    for n in range(10):
        await backlog.put(item(n, TRADE))


def test_one_item_is_taken_however_large_it_is():
    backlog = room_for(1)
    assert backlog.offer(item(0, TRADE, size=100_000)) and not backlog.offer(item(1, TRADE))
    assert [one.recv for one in taken(backlog)] == [0] and backlog.offer(item(1, TRADE))


def test_a_reader_wakes_when_something_comes_and_gives_up_in_time():
    async def run() -> tuple[list[Item], list[Item]]:
        backlog = room_for(4)
        nothing = await backlog.take(timeout_s=0.01)
        reading = asyncio.create_task(backlog.take(timeout_s=30))
        await asyncio.sleep(0)
        backlog.offer(item(7, TRADE))
        return nothing, await reading

    nothing, something = asyncio.run(run())
    assert nothing == [] and [one.recv for one in something] == [7]


def test_nothing_waits_when_nothing_is_taken():
    """A line that comes in the very turn in which patience ends is taken: who asks the clock then may say that all before now is read."""

    async def run() -> int:
        together = 0
        for n in range(30):
            backlog = room_for(4)
            loop = asyncio.get_running_loop()
            when = loop.time() + 0.004
            loop.call_at(when, backlog.offer, item(n, TRADE))
            got = await backlog.take(timeout_s=when - loop.time())
            assert len(backlog) == 0 or got
            together += not got
            await asyncio.sleep(0.002)
        return together

    assert asyncio.run(run()) < 30


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([TRADE, QUOTE, DEPTH, SNAPSHOT, BREAK]), st.sampled_from([BTC, ETH]), st.integers(50, 900)),
        st.just("take"),
    ),
    max_size=120,
)
"""What is offered, and when the backlog is read."""


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, room=st.integers(3, 12))
def test_whatever_comes(steps: list, room: int):
    """Trades: all that were taken in, in order. Quotes: the newest of every symbol. Changes: kept, or a gap stands before what is kept."""
    backlog = room_for(room)
    offered: list[Item] = []
    out: list[Item] = []
    for n, step in enumerate([*steps, "take"]):
        if step != "take":
            kind, source, size = step
            if backlog.offer(item(n, kind, source, size)):
                offered.append(item(n, kind, source, size))
            # A gap may be longer than the change that it stands for, once a symbol.
            assert backlog.size <= backlog.limit + 2 * 200 or len(backlog) == 1
            assert backlog.size == sum(len(one.text) + OVERHEAD for one in backlog._items.values())
            continue
        batch, mine, offered = taken(backlog), offered, []
        out += batch
        assert [one.recv for one in batch] == sorted(one.recv for one in batch)
        assert [o for o in batch if o.kind == TRADE] == [o for o in mine if o.kind == TRADE]
        for source in (BTC, ETH):
            quotes = [o for o in mine if (o.kind, o.source) == (QUOTE, source)]
            assert [o for o in batch if (o.kind, o.source) == (QUOTE, source)][-1:] == quotes[-1:]
            book = [o for o in mine if o.kind in (DEPTH, SNAPSHOT) and o.source == source]
            kept = [o for o in batch if o.kind in (DEPTH, SNAPSHOT) and o.source == source]
            assert kept == book[len(book) - len(kept) :]
            if len(kept) < len(book):
                first_lost = book[0].recv
                assert any(o.kind == BREAK and o.source == source and o.recv <= first_lost for o in batch)
    quotes = sum(o.kind == QUOTE for o in out)
    assert quotes + backlog.conflated == sum(1 for step in steps if step != "take" and step[0] == QUOTE) - _refused(steps, room, QUOTE)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, room=st.integers(3, 12))
def test_where_nobody_waits_every_line_is_there_or_counted_and_a_gap_stands_where_the_first_was_lost(steps: list, room: int):
    backlog = Backlog(room * (TEXT + OVERHEAD), waits=False)
    offered: list[Item] = []
    came: Counter[int] = Counter()
    went: Counter[int] = Counter()
    ours = 0
    for n, step in enumerate([*steps, "take"]):
        if step != "take":
            offered.append(item(n, *step))
            assert backlog.offer(offered[-1])
            came[step[0]] += 1
            # Room for what has just come, and a gap of each symbol.
            assert backlog.size <= backlog.limit + 900 + 3 * (OVERHEAD + 200)
            assert backlog.size == sum(len(one.text) + OVERHEAD for one in backlog._items.values())
            continue
        batch, mine, offered = taken(backlog), offered, []
        went.update(one.kind for one in batch)
        declared = [one for one in batch if one.kind == BREAK and one not in mine]
        ours += len(declared)
        assert all(b"overflow" in one.text for one in declared)
        assert [one.recv for one in batch] == sorted(one.recv for one in batch)
        for source in (BTC, ETH):
            for kinds in ((TRADE,), (DEPTH, SNAPSHOT)):
                sent = [one for one in mine if one.source == source and one.kind in kinds]
                kept = [one for one in batch if one.source == source and one.kind in kinds]
                assert kept == sent[len(sent) - len(kept) :]
                if len(kept) < len(sent):
                    assert any(one.kind == BREAK and one.source == source and one.recv <= sent[0].recv for one in batch)
    assert came[TRADE] == went[TRADE] + backlog.trades.total()
    assert came[QUOTE] == went[QUOTE] + backlog.conflated
    assert came[DEPTH] + came[SNAPSHOT] == went[DEPTH] + went[SNAPSHOT] + backlog.dropped.total()
    assert ours == backlog.gaps.total()


def test_a_gap_in_which_everything_was_dropped_is_not_declared_twice():
    backlog = Backlog(4 * (TEXT + OVERHEAD), waits=False)
    for n in range(5):
        assert backlog.offer(item(n, TRADE))
    assert backlog.trades == {BTC: 4} and backlog.gaps == {BTC: 1}
    for n in range(5, 50):
        assert backlog.offer(item(n, DEPTH))
    kinds = [one.kind for one in taken(backlog)]
    assert kinds.count(BREAK) == 1 == kinds.index(BREAK) + 1 and backlog.gaps == {BTC: 1}


def _refused(steps: list, room: int, kind: int) -> int:
    """How many of a kind were not taken in."""
    backlog, refused = room_for(room), 0
    for n, step in enumerate(steps):
        if step == "take":
            taken(backlog)
        else:
            refused += not backlog.offer(item(n, *step)) and step[0] == kind
    return refused


@pytest.mark.parametrize("kinds", [(DEPTH,), (QUOTE,), (TRADE,), (TRADE, QUOTE, DEPTH)], ids=str)
def test_memory_is_bounded_whatever_comes_and_nobody_reads(kinds: tuple[int, ...]):
    limit = 2 << 20
    tracemalloc.start()
    try:
        backlog = Backlog(limit)
        before, _ = tracemalloc.get_traced_memory()
        for n in range(40_000):  # 24 MB
            backlog.offer(item(n, kinds[n % len(kinds)], Source(f"S{n % 7}USDT", "spot"), TEXT))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # Its own account of what an item takes is not below what it takes, and making room costs little beside.
    assert peak < 1.3 * limit, peak
    assert backlog.size <= limit
