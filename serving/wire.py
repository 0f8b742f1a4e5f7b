"""The wire: what a WebSocket message may say, read strictly, and what is said back.

In, one JSON object a message, `v` always 1, `seq` a number of the sender's own:

    {"v": 1, "seq": n, "session": {"day": 20120621, "open": ns, "close": ns}}     a session begins
    {"v": 1, "seq": n, "events": [{"ts": ns, "symbol": "AAPL", "sequence": k, ...}, ...]}
    {"v": 1, "seq": n, "advance": ns}                                             a heartbeat: time has reached ns

The session that runs already goes on, and with "after": ns the decisions later than ns that are still held are said again; with
"fresh": true it begins anew.

An event has `ts`, `symbol`, `sequence` and at least one of: `trade` {"px", "sz", "side", "hidden"}, `book` {"bid_px", "bid_sz", "ask_px",
"ask_sz"} (lists, best first, at most the universe's levels, integers in the instrument's scales), `status` "halt", "gap" or "resume".
The events of a message stand in the order of (ts, place of the symbol in the universe, sequence).

Out: one message for each instant that was decided, with every symbol, then {"v": 1, "ack": n, "applied": k, "late": l, "watermark": ns};
or {"v": 1, "seq": n, "error": "..."}, and nothing has changed. Floats are written so that they read back to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from cift_models.engine import Decisions, Pipeline
from cift_models.errors import InputError
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, GAP, HALT, HIDDEN, RESUME, TRADE, Events, check_order
from cift_models.instruments import SECOND, Session, Universe
from cift_models.models.protocol import Why

VERSION = 1
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_EVENTS = 5_000
"""Events in one message, and rows in one HTTP request."""
MAX_INT = 2**62
"""Integers beyond this would overflow sums of two."""
MAX_SIZE = 2**40
"""Lots of one order or level: 2^22 of them still sum without overflow."""
MAX_SESSION_NS = 7 * 86_400 * SECOND

_EVENT_KEYS = frozenset({"ts", "symbol", "sequence", "trade", "book", "status"})
_TRADE_KEYS = frozenset({"px", "sz", "side", "hidden"})
_BOOK_KEYS = frozenset({"bid_px", "bid_sz", "ask_px", "ask_sz"})
_STATUS = {"halt": HALT, "gap": HALT | GAP, "resume": RESUME}
_SIGNALS = {-1: "Sell", 0: "Hold", 1: "Buy"}
_INT = {int}


@dataclass(frozen=True, slots=True)
class Message:
    """One message in: exactly one of session, events and advance is set. `after` and `fresh` belong to a session."""

    seq: int
    session: Session | None = None
    events: Events | None = None
    advance: int | None = None
    after: int | None = None
    fresh: bool = False


def read(raw: bytes | str, universe: Universe) -> Message:
    """A message, checked. Raises InputError for anything that is not exactly what the module's docstring says."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise InputError(f"A message of {len(raw):,} bytes. Expected at most {MAX_MESSAGE_BYTES:,}.", hint="Send fewer events a message.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InputError(f"Not JSON: {error}.", hint="Send one JSON object a message.") from None
    _keys(value, {"v", "seq", "session", "events", "advance"}, "the message")
    if type(value.get("v")) is not int or value["v"] != VERSION:
        raise InputError(f"Wire version {value.get('v')!r}. Expected {VERSION}.", hint='Send "v": 1.')
    seq = _integer(value.get("seq"), "seq")
    parts = [name for name in ("session", "events", "advance") if name in value]
    if len(parts) != 1:
        raise InputError(f"The message says {parts or 'nothing'}. Expected one of session, events, advance.", hint="Send them apart.")
    if parts[0] == "advance":
        return Message(seq, advance=_integer(value["advance"], "advance", low=0))
    if parts[0] == "events":
        return Message(seq, events=read_events(value["events"], universe))
    said = value["session"]
    _keys(said, {"day", "open", "close", "after", "fresh"}, "session")
    if type(said.get("fresh", False)) is not bool:
        raise InputError(f"session.fresh is {said['fresh']!r}. Expected true or false.", hint="Leave it out otherwise.")
    session = read_session(said.get("day"), said.get("open"), said.get("close"))
    after = _integer(said["after"], "session.after", low=0) if "after" in said else None
    return Message(seq, session=session, after=after, fresh=said.get("fresh", False))


def read_session(day: Any, opened: Any, close: Any) -> Session:
    """A session, checked. Raises InputError for one that does not end within a week of its beginning."""
    session = Session(
        _integer(day, "session.day", 19_000_101, 99_991_231),
        _integer(opened, "session.open", low=0),
        _integer(close, "session.close", low=0),
    )
    if not 0 < session.close - session.open <= MAX_SESSION_NS:
        raise InputError("The session does not end after it begins, within a week.", hint="Send open and close in ns UTC.")
    return session


def refusal(raw: bytes | str, error: Exception) -> bytes:
    """The answer to a message that was not taken: its `seq`, if it has one, and one line of why."""
    seq = None
    if len(raw) <= MAX_MESSAGE_BYTES:
        try:
            value = orjson.loads(raw)
            seq = value["seq"] if type(value["seq"]) is int else None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            seq = None
    return orjson.dumps({"v": VERSION, "seq": seq, "error": " ".join(str(error).split("\n"))})


def read_events(rows: Any, universe: Universe) -> Events:
    """Events from a JSON list. Raises InputError naming the event and the field, DataError where they are out of order.

    Numbers are gathered into one list a column and checked as a whole, which is five times as fast as one at a time.
    """
    if type(rows) is not list or len(rows) > MAX_EVENTS:
        have = f"a list of {len(rows):,}" if type(rows) is list else f"a {type(rows).__name__}"
        raise InputError(f"events is {have}. Expected a list of at most {MAX_EVENTS:,}.", hint="Send several messages.")
    place = {symbol: i for i, symbol in enumerate(universe.symbols)}
    trades: list[int] = []
    books: list[int] = []
    trade_cells: tuple[list[Any], ...] = ([], [], [])
    kinds = []
    symbols = []
    for i, row in enumerate(rows):
        _keys(row, _EVENT_KEYS, "event {}", i)
        symbol = row.get("symbol")
        if type(symbol) is not str or symbol not in place:
            raise InputError(f"event {i}: unknown symbol {_shown(symbol)}.", hint=f"This release knows {', '.join(place)}.")
        symbols.append(place[symbol])
        kind = 0
        if (trade := row.get("trade")) is not None:
            _keys(trade, _TRADE_KEYS, "event {}: trade", i)
            hidden = trade.get("hidden", False)
            if type(hidden) is not bool:
                raise InputError(f"event {i}: trade.hidden is {_shown(hidden)}. Expected true or false.", hint="Leave it out otherwise.")
            kind = TRADE | HIDDEN if hidden else TRADE
            trades.append(i)
            for cells, name in zip(trade_cells, ("px", "sz", "side"), strict=True):
                cells.append(trade.get(name))
        if (book := row.get("book")) is not None:
            _keys(book, _BOOK_KEYS, "event {}: book", i)
            kind |= BOOK
            books.append(i)
        if (status := row.get("status")) is not None:
            if type(status) is not str or status not in _STATUS:
                raise InputError(f"event {i}: status is {_shown(status)}. Expected halt, gap or resume.", hint="Leave it out otherwise.")
            kind |= _STATUS[status]
        if not kind:
            raise InputError(f"event {i} says nothing.", hint="Send a trade, a book or a status with it.")
        kinds.append(kind)
    out = Events.empty(len(rows), universe.levels)
    out.symbol[:] = symbols
    out.kind[:] = kinds
    out.ts[:] = _column([row.get("ts") for row in rows], "event {}: ts", range(len(rows)), 0, MAX_INT)
    out.sequence[:] = _column([row.get("sequence") for row in rows], "event {}: sequence", range(len(rows)), -MAX_INT, MAX_INT)
    px, sz, side = trade_cells
    out.trade_px[trades] = _column(px, "event {}: trade.px", trades, 1, MAX_INT)
    out.trade_sz[trades] = _column(sz, "event {}: trade.sz", trades, 1, MAX_SIZE)
    out.side[trades] = _column(side, "event {}: trade.side", trades, -1, 1)
    _books(out, [rows[i]["book"] for i in books], books)
    check_order(out)
    return out


def _books(out: Events, rows: list[dict[str, Any]], where: list[int]) -> None:
    """Fill the books of the events `where`; refuse what no book is: an empty level before a full one, levels out of order, crossed."""
    if not rows:
        return
    levels = out.levels
    for name, empty in (("bid", EMPTY_BID), ("ask", EMPTY_ASK)):
        depths = []
        prices: list[Any] = []
        sizes: list[Any] = []
        for i, row in zip(where, rows, strict=True):
            price, size = row.get(f"{name}_px"), row.get(f"{name}_sz")
            if type(price) is not list or type(size) is not list or not len(price) == len(size) <= levels:
                raise InputError(f"event {i}: {name}_px and {name}_sz are not lists of one length.", hint=f"Send up to {levels} levels.")
            depths.append(len(price))
            prices += price
            sizes += size
        n = np.array(depths)
        owner = np.repeat(np.array(where), n)
        at = (owner, np.arange(len(owner)) - np.repeat(np.cumsum(n) - n, n))
        px = _column(prices, f"event {{}}: {name}_px", owner, EMPTY_BID, EMPTY_ASK)
        sz = _column(sizes, f"event {{}}: {name}_sz", owner, 0, MAX_SIZE)
        _refuse((sz == 0) != (px == empty), owner, f"{name} has a price without a size, or a size without a price")
        _refuse((sz > 0) & (px <= 0), owner, f"{name} has a price that is not above zero")
        getattr(out, f"{name}_px")[at] = px
        getattr(out, f"{name}_sz")[at] = sz
    bid, ask = out.bid_px[where].astype(np.int64), out.ask_px[where].astype(np.int64)
    wrong = ((bid[:, 1:] >= bid[:, :-1]) & (bid[:, 1:] != EMPTY_BID)) | ((ask[:, 1:] <= ask[:, :-1]) & (ask[:, 1:] != EMPTY_ASK))
    _refuse(wrong.any(axis=1), where, "the levels are not in order, best first")
    _refuse(bid[:, 0] > ask[:, 0], where, "the best bid is above the best ask")


def _column(values: list[Any], where: str, owner: Any, low: int, high: int) -> NDArray[np.int64]:
    """A JSON column as int64, each value an integer (no bool, no float) in low..high."""
    if set(map(type, values)) <= _INT:
        try:
            out = np.array(values, np.int64)
        except OverflowError:
            pass
        else:
            if len(out) == 0 or (low <= int(out.min()) and int(out.max()) <= high):
                return out
    for i, value in zip(owner, values, strict=True):
        _integer(value, where.format(i), low, high)
    raise AssertionError("a column that is refused as a whole has a value that is refused alone")


def _refuse(bad: NDArray[np.bool_], owner: Any, what: str) -> None:
    if bad.any():
        raise InputError(f"event {int(owner[int(np.argmax(bad))])}: {what}.", hint="Check the feed; an empty level may be left out.")


def _keys(value: Any, allowed: set[str] | frozenset[str], where: str, i: int = 0) -> None:
    if type(value) is not dict:
        raise InputError(f"{where.format(i)} is {_shown(value)}. Expected a JSON object.", hint="See the wire.")
    if not value.keys() <= allowed:
        extra = sorted(set(value) - allowed)[0]
        raise InputError(f"{where.format(i)} has the unknown field {_shown(extra)}.", hint=f"Expected {', '.join(sorted(allowed))}.")


def _integer(value: Any, where: str, low: int = -MAX_INT, high: int = MAX_INT) -> int:
    if type(value) is not int:
        raise InputError(
            f"{where} is {_shown(value)}. Expected an integer.", hint="Times are ns, prices and sizes integers in their scales."
        )
    if not low <= value <= high:
        raise InputError(f"{where} is {value}. Expected an integer from {low} to {high}.", hint="Check its unit and scale.")
    return value


def _shown(value: Any) -> str:
    """A value of a stranger's, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_events(events: Events, universe: Universe) -> list[dict[str, Any]]:
    """Events as the JSON rows that `read_events` reads back to the same columns."""
    symbols = universe.symbols
    columns = [getattr(events, name).tolist() for name in ("ts", "symbol", "sequence", "kind", "side", "trade_px", "trade_sz")]
    books = [getattr(events, name).tolist() for name in ("bid_px", "bid_sz", "ask_px", "ask_sz")]
    rows = []
    for i, (ts, symbol, sequence, kind, side, px, sz) in enumerate(zip(*columns, strict=True)):
        row: dict[str, Any] = {"ts": ts, "symbol": symbols[symbol], "sequence": sequence}
        if kind & TRADE:
            row["trade"] = {"px": px, "sz": sz, "side": side, "hidden": bool(kind & HIDDEN)}
        if kind & BOOK:
            row["book"] = {name: column[i] for name, column in zip(("bid_px", "bid_sz", "ask_px", "ask_sz"), books, strict=True)}
        if kind & (HALT | RESUME):
            row["status"] = "gap" if kind & GAP else "halt" if kind & HALT else "resume"
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class Standing:
    """What a reader must know of the release that speaks.

    held          it was not promoted: every action is Hold
    max_train_t1  ns: rows up to here are in sample
    sequence      which move of what is served brought it, 0 where none did: later speakers go before earlier ones in the online store
    """

    release: str
    held: bool
    max_train_t1: int
    sequence: int = 0


def decision(pipeline: Pipeline, decided: Decisions, standing: Standing) -> dict[str, Any]:
    """One instant as a message: every symbol, every model, the rule's signal, and the action that may be taken on it."""
    as_of = int(decided.as_of[0])
    in_sample = as_of <= standing.max_train_t1
    ready = {kind: decided.ready[kind][0].tolist() for kind in pipeline.models}
    values = {kind: decided.values[kind][0].tolist() for kind in pipeline.models}
    p = {kind: decided.p[kind][0].tolist() for kind in decided.p}
    symbols = {}
    for s, symbol in enumerate(pipeline.universe.symbols):
        signal = _SIGNALS[int(decided.signal[0, s])]
        models: dict[str, Any] = {}
        for kind, model in pipeline.models.items():
            said: dict[str, Any] = {"ready": ready[kind][s]}
            if ready[kind][s]:
                said["outputs"] = dict(zip(model.outputs, values[kind][s], strict=True))
                if kind in p:
                    said["p"] = p[kind][s]
            models[kind] = said
        symbols[symbol] = {
            "valid": bool(decided.valid[0, s]),
            "why": Why(int(decided.why[0, s])).name.lower(),
            "cost_bps": float(decided.cost_bps[0, s]),
            "signal": signal,
            "action": "Hold" if standing.held or in_sample else signal,
            "models": models,
        }
    return {
        "v": VERSION,
        "as_of": as_of,
        "session": decided.session,
        "release": standing.release,
        "held": standing.held,
        "in_sample": in_sample,
        "symbols": symbols,
    }


def differences(pipeline: Pipeline, said: Mapping[str, Any], batch: Decisions, t: int) -> tuple[int, list[str]]:
    """Compare one streamed message with row t of the batch result: (values compared, those that differ in any bit).

    Predictions, probabilities, readiness, validity, cost and signal; a model that one side lacks is a difference.
    """
    compared, bad = 0, []
    if set(said["symbols"]) != set(pipeline.universe.symbols):
        return 1, [f"streamed are {sorted(said['symbols'])}, the release has {sorted(pipeline.universe.symbols)}"]
    for s, symbol in enumerate(pipeline.universe.symbols):
        got = said["symbols"][symbol]
        checks: list[tuple[str, Any, Any]] = [
            ("signal", got["signal"], _SIGNALS[int(batch.signal[t, s])]),
            ("valid", got["valid"], bool(batch.valid[t, s])),
            ("why", got["why"], Why(int(batch.why[t, s])).name.lower()),
            ("cost_bps", got["cost_bps"], float(batch.cost_bps[t, s])),
            ("models", sorted(got["models"]), sorted(pipeline.models)),
        ]
        for kind, model in pipeline.models.items():
            here = got["models"].get(kind, {"ready": None})
            ready = bool(batch.ready[kind][t, s])
            checks.append((f"{kind}.ready", here["ready"], ready))
            if ready and here["ready"]:
                values = batch.values[kind][t, s].tolist()
                checks += [(f"{kind}.{n}", here["outputs"].get(n), v) for n, v in zip(model.outputs, values, strict=True)]
                if kind in batch.p:
                    streamed = here.get("p", [None] * 3)
                    checks += [(f"{kind}.p[{i}]", streamed[i], v) for i, v in enumerate(batch.p[kind][t, s].tolist())]
        compared += len(checks)
        bad += [f"{symbol} {name}: streamed {a!r}, batch {b!r}" for name, a, b in checks if not _same(a, b)]
    return compared, bad


def _same(a: Any, b: Any) -> bool:
    """Equal in type and, for floats, in every bit."""
    if type(a) is float and type(b) is float:
        return np.float64(a).tobytes() == np.float64(b).tobytes()
    return type(a) is type(b) and a == b
