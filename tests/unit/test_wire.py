"""The wire: what is written reads back to the same columns and bits; whatever else is refused by one line that names the field."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.engine import Pipeline, fold
from cift_models.errors import CiftError, DataError, InputError
from cift_models.events import BOOK, EMPTY_ASK, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.instruments import SECOND
from serving import wire
from tests.panels import OPEN, toy_panel, toy_universe
from tests.unit.test_engine import SESSION, make_events, make_pipeline

UNIVERSE = toy_universe(2)


def good_event(**change: object) -> dict:
    book = {"bid_px": [100, 99], "bid_sz": [5, 5], "ask_px": [101, 102], "ask_sz": [5, 5]}
    return {"ts": OPEN, "symbol": "S0", "sequence": 1, "book": book} | change


def message(**change: object) -> bytes:
    return orjson.dumps({"v": 1, "seq": 7, "events": [good_event()]} | change)


def columns_equal(a: Events, b: Events) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Events))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(0, 200))
def test_events_read_back_to_the_same_columns(seed, n):
    events = toy_panel(seed, 60, 2).events
    events = events[np.lexsort((events.sequence, events.symbol, events.ts))][:n]
    rng = np.random.default_rng(seed)
    hidden = (events.kind & TRADE > 0) & (rng.uniform(size=len(events)) < 0.3)
    events.kind[hidden] |= HIDDEN
    events.kind[rng.uniform(size=len(events)) < 0.1] |= HALT
    events.kind[(rng.uniform(size=len(events)) < 0.1) & (events.kind & HALT == 0)] |= RESUME
    said = orjson.dumps({"v": 1, "seq": 3, "events": wire.write_events(events, UNIVERSE)})
    back = wire.read(said, UNIVERSE)
    assert back.seq == 3 and back.events is not None and columns_equal(events, back.events)


def test_a_shorter_book_is_padded_with_empty_levels():
    event = good_event(book={"bid_px": [100], "bid_sz": [5], "ask_px": [], "ask_sz": []})
    events = wire.read_events([event], UNIVERSE)
    empty = Events.empty(1, 2)
    assert events.bid_px[0].tolist() == [100, empty.bid_px[0, 1]] and np.array_equal(events.ask_px, empty.ask_px)


def bad_book(**change: list) -> dict:
    return good_event(book=good_event()["book"] | change)


def bad_trade(**change: object) -> dict:
    return good_event(trade={"px": 1_000_000, "sz": 1, "side": 1} | change)


BAD_EVENTS = {
    "a float for an integer": (good_event(ts=1.0), "event 0: ts is 1.0"),
    "a bool for an integer": (good_event(sequence=True), "event 0: sequence is True"),
    "a string for an integer": (good_event(ts="1"), "event 0: ts is '1'"),
    "no time": ({k: v for k, v in good_event().items() if k != "ts"}, "event 0: ts is None"),
    "a negative time": (good_event(ts=-1), "event 0: ts is -1"),
    "an integer beyond 64 bits": (good_event(sequence=2**63), "event 0: sequence is 9223372036854775808"),
    "an unknown symbol": (good_event(symbol="ZZZ"), "unknown symbol 'ZZZ'"),
    "no symbol": (good_event(symbol=None), "unknown symbol None"),
    "an unknown field": (good_event(price=1), "event 0 has the unknown field 'price'"),
    "an unknown field of a book": (bad_book(mid_px=[1]), "event 0: book has the unknown field 'mid_px'"),
    "an unknown field of a trade": (bad_trade(maker=1), "event 0: trade has the unknown field 'maker'"),
    "a negative size": (bad_book(bid_sz=[5, -1]), "event 0: bid_sz is -1"),
    "a size of zero at a price": (bad_book(ask_sz=[0, 5]), "event 0: ask has a price without a size"),
    "a size at an empty level": (bad_book(ask_px=[101, EMPTY_ASK]), "event 0: ask has a price without a size, or a size without a price"),
    "a float in a book": (bad_book(bid_px=[100.0, 99]), "event 0: bid_px is 100.0"),
    "a bool in a book": (bad_book(bid_sz=[True, 5]), "event 0: bid_sz is True"),
    "a price beyond 32 bits": (bad_book(ask_px=[101, 2**31]), "event 0: ask_px is 2147483648"),
    "a price of zero": (bad_book(bid_px=[0, -1]), "event 0: bid has a price that is not above zero"),
    "a book without sizes": (good_event(book={"bid_px": [1], "ask_px": [2]}), "bid_px and bid_sz are not lists"),
    "three levels": (bad_book(bid_px=[3, 2, 1], bid_sz=[1, 1, 1]), "bid_px and bid_sz are not lists"),
    "levels out of order": (bad_book(bid_px=[99, 100]), "event 0: the levels are not in order"),
    "a crossed book": (bad_book(bid_px=[102, 99], ask_px=[101, 102]), "event 0: the best bid is above the best ask"),
    "a book that is a list": (good_event(book=[1]), "event 0: book is [1]"),
    "a side of 2": (bad_trade(side=2), "event 0: trade.side is 2"),
    "a side that is a bool": (bad_trade(side=True), "event 0: trade.side is True"),
    "a trade of nothing": (bad_trade(sz=0), "event 0: trade.sz is 0"),
    "a trade too large to sum": (bad_trade(sz=2**41), "event 0: trade.sz is 2199023255552"),
    "a price below zero": (bad_trade(px=-5), "event 0: trade.px is -5"),
    "hidden as a number": (bad_trade(hidden=1), "event 0: trade.hidden is 1"),
    "an unknown status": (good_event(status="paused"), "event 0: status is 'paused'"),
    "a status that is a number": (good_event(status=1), "event 0: status is 1"),
    "an event that says nothing": (good_event(book=None), "event 0 says nothing"),
    "an event that is a number": (5, "event 0 is 5"),
}


@pytest.mark.parametrize("event,words", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_a_bad_event_is_refused_by_name(event, words):
    with pytest.raises(InputError) as caught:
        wire.read(message(events=[event]), UNIVERSE)
    assert words in caught.value.message


@pytest.mark.parametrize("bad", range(3))
def test_the_event_that_is_wrong_is_named_among_good_ones(bad):
    rows = [good_event(sequence=i, ts=OPEN + i) for i in range(3)]
    rows[bad] = rows[bad] | {"book": rows[bad]["book"] | {"bid_sz": [5, -1]}}
    with pytest.raises(InputError, match=f"event {bad}: bid_sz"):
        wire.read_events(rows, UNIVERSE)


BAD_MESSAGES = {
    "not JSON": (b"{", "Not JSON"),
    "nothing": (b"", "Not JSON"),
    "NaN": (message().replace(b'"seq":7', b'"seq":NaN'), "Not JSON"),
    "infinity": (message().replace(b'"seq":7', b'"seq":1e999'), "Not JSON"),
    "not UTF-8": (b'{"v":1,"seq":"\xff"}', "Not JSON"),
    "a list": (b"[1]", "Expected a JSON object"),
    "an unknown field": (message(hello=1), "unknown field 'hello'"),
    "another version": (message(v=2), "Wire version 2"),
    "a version that is a bool": (message(v=True), "Wire version True"),
    "no version": (b'{"seq":1,"advance":5}', "Wire version None"),
    "no seq": (b'{"v":1,"advance":5}', "seq is None"),
    "nothing but a seq": (b'{"v":1,"seq":1}', "The message says nothing"),
    "two things at once": (message(advance=5), "The message says ['events', 'advance']"),
    "events that are an object": (message(events={}), "events is a dict"),
    "too many events": (message(events=[good_event(sequence=i) for i in range(5001)]), "events is a list of 5,001"),
    "a heartbeat that is a float": (b'{"v":1,"seq":1,"advance":5.5}', "advance is 5.5"),
    "a session that ends first": (b'{"v":1,"seq":1,"session":{"day":20240101,"open":5,"close":5}}', "does not end after it begins"),
    "a session of a month": (b'{"v":1,"seq":1,"session":{"day":20240101,"open":5,"close":2592000000000005}}', "within a week"),
    "a session with a field more": (b'{"v":1,"seq":1,"session":{"day":20240101,"open":5,"close":6,"x":1}}', "unknown field 'x'"),
    "a session on no day": (b'{"v":1,"seq":1,"session":{"day":1,"open":5,"close":6}}', "session.day is 1"),
    "fresh as a number": (b'{"v":1,"seq":1,"session":{"day":20240101,"open":5,"close":6,"fresh":1}}', "session.fresh is 1"),
}


@pytest.mark.parametrize("raw,words", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_bad_message_is_refused_by_name(raw, words):
    with pytest.raises(InputError) as caught:
        wire.read(raw, UNIVERSE)
    assert words in caught.value.message
    said = orjson.loads(wire.refusal(raw, caught.value))
    assert words in said["error"] and "\n" not in said["error"] and len(said["error"]) < 400


def test_events_out_of_order_and_a_message_too_large_are_refused():
    with pytest.raises(DataError, match="goes back"):
        wire.read(message(events=[good_event(sequence=2), good_event(sequence=1)]), UNIVERSE)
    with pytest.raises(InputError, match="8,388,609 bytes"):
        wire.read(b" " * (wire.MAX_MESSAGE_BYTES + 1), UNIVERSE)


def test_a_refusal_says_which_message_it_answers():
    assert orjson.loads(wire.refusal(message(v=9), InputError("no", hint="why")))["seq"] == 7
    assert orjson.loads(wire.refusal(b"[", InputError("no", hint="why")))["seq"] is None


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["v", "seq", "events", "session", "advance", "book"]), inner)
    ),
    max_leaves=8,
)
changes = st.dictionaries(st.sampled_from(["ts", "symbol", "sequence", "trade", "book", "status", "x"]), json, max_size=2)


@settings(max_examples=300, deadline=None)
@given(value=json, change=changes, raw=st.binary(max_size=40))
def test_whatever_comes_is_a_message_or_a_cift_error(value, change, raw):
    attempts = [raw]
    for item in (value, {"v": 1, "seq": 1, "events": value}, {"v": 1, "seq": 1, "events": [good_event() | change]}):
        try:
            attempts.append(orjson.dumps(item))
        except TypeError:  # an integer beyond 64 bits: orjson does not write it
            attempts.append(repr(item).encode())
    for attempt in attempts:
        try:
            assert isinstance(wire.read(attempt, UNIVERSE), wire.Message)
        except CiftError as error:
            assert orjson.loads(wire.refusal(attempt, error))["error"]


def said_and_batch() -> tuple[Pipeline, list[dict], object]:
    pipeline = make_pipeline()
    batch = fold(pipeline, pipeline.panel(SESSION, make_events(1)))
    standing = wire.Standing("a" * 64, held=False, max_train_t1=OPEN + 60 * SECOND)
    out = []
    for t in range(len(batch.as_of)):
        one = replace(
            batch,
            as_of=batch.as_of[t : t + 1], valid=batch.valid[t : t + 1], why=batch.why[t : t + 1], signal=batch.signal[t : t + 1],
            values={k: v[t : t + 1] for k, v in batch.values.items()}, ready={k: v[t : t + 1] for k, v in batch.ready.items()},
            p={k: v[t : t + 1] for k, v in batch.p.items()}, cost_bps=batch.cost_bps[t : t + 1],
        )  # fmt: skip
        out.append(orjson.loads(orjson.dumps(wire.decision(pipeline, one, standing))))
    return pipeline, out, batch


def test_a_decision_reads_back_to_the_same_bits_and_every_flipped_bit_is_found():
    pipeline, said, batch = said_and_batch()
    assert all(wire.differences(pipeline, one, batch, t)[1] == [] for t, one in enumerate(said))
    assert {one["symbols"][s]["signal"] for one in said for s in ("S0", "S1")} == {"Buy", "Sell", "Hold"}
    t = next(t for t, one in enumerate(said) if one["symbols"]["S1"]["models"]["linear"]["ready"])
    outputs = said[t]["symbols"]["S1"]["models"]["linear"]["outputs"]
    outputs["mean_bps"] = float(np.nextafter(outputs["mean_bps"], np.inf))
    compared, bad = wire.differences(pipeline, said[t], batch, t)
    assert compared > 10 and len(bad) == 1 and bad[0].startswith("S1 linear.mean_bps: streamed")


def test_a_missing_model_symbol_or_readiness_is_a_difference():
    pipeline, said, batch = said_and_batch()
    one = said[-1]
    one["symbols"]["S0"]["models"]["linear"]["ready"] = False
    assert any("linear.ready" in text for text in wire.differences(pipeline, one, batch, len(said) - 1)[1])
    del one["symbols"]["S0"]["models"]["linear"]
    assert any("S0 models" in text for text in wire.differences(pipeline, one, batch, len(said) - 1)[1])
    del one["symbols"]["S0"]
    assert len(wire.differences(pipeline, one, batch, len(said) - 1)[1]) == 1


def test_minus_zero_is_not_zero_and_one_is_not_true():
    assert not wire._same(0.0, -0.0) and not wire._same(1, True) and not wire._same(1, 1.0) and wire._same(-0.0, -0.0)


def test_action_holds_in_sample_and_where_held():
    pipeline, said, batch = said_and_batch()
    for one in said:
        for symbol in one["symbols"].values():
            assert symbol["action"] == ("Hold" if one["as_of"] <= OPEN + 60 * SECOND else symbol["signal"])
        assert one["in_sample"] is (one["as_of"] <= OPEN + 60 * SECOND)
    held = wire.decision(pipeline, replace_row(batch, -1), wire.Standing("a" * 64, held=True, max_train_t1=0))
    assert {s["action"] for s in held["symbols"].values()} == {"Hold"} and not held["in_sample"]


def replace_row(batch, t):
    at = slice(t, None)
    cut = {name: {k: v[at] for k, v in getattr(batch, name).items()} for name in ("values", "ready", "p")}
    rows = {name: getattr(batch, name)[at] for name in ("as_of", "valid", "why", "cost_bps", "signal")}
    return replace(batch, **rows, **cut)


def test_a_trade_alone_needs_no_book():
    events = wire.read_events(
        [{"ts": 1, "symbol": "S1", "sequence": -4, "trade": {"px": 9, "sz": 2, "side": -1, "hidden": True}}], UNIVERSE
    )
    assert events.kind.tolist() == [TRADE | HIDDEN] and events.kind[0] & BOOK == 0
    assert (events.trade_px[0], events.trade_sz[0], events.side[0], events.sequence[0], events.symbol[0]) == (9, 2, -1, -4, 1)
