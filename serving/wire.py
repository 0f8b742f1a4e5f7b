"""The wire: what a WebSocket message may say, read strictly, and what is said back.

In, one JSON object a message, `v` always 1:

    {"v": 1, "seq": n, "session": {"day": 20120621, "open": ns, "close": ns}}     a session begins
    {"v": 1, "seq": n, "events": [{"ts": ns, "symbol": "AAPL", "sequence": k, ...}, ...]}
    {"v": 1, "seq": n, "advance": ns}                                             a heartbeat: time has reached ns

An event has `ts`, `symbol`, `sequence` and any of: `trade` {"px", "sz", "side", "hidden"}, `book` {"bid_px", "bid_sz", "ask_px", "ask_sz"}
(lists, best first, at most the universe's levels, integers in the instrument's scales), `status` "halt" or "resume".

Out: {"v": 1, "ack": n, "applied": k, "late": l}, then one message an instant with every symbol; or {"v": 1, "error": "...", "seq": n}.
Floats are written so that they read back to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from cift_models.engine import Decisions, Pipeline
from cift_models.errors import InputError
from cift_models.events import BOOK, EMPTY_ASK, EMPTY_BID, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.instruments import Session, Universe
from cift_models.models.protocol import Why

VERSION = 1
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_EVENTS = 5_000
"""Events in one message, and rows in one HTTP request."""
MAX_INT = 2**62
"""Integers beyond this would overflow sums of two."""

_EVENT_KEYS = {"ts", "symbol", "sequence", "trade", "book", "status"}
_TRADE_KEYS = {"px", "sz", "side", "hidden"}
_BOOK_KEYS = {"bid_px", "bid_sz", "ask_px", "ask_sz"}
_SIGNALS = {-1: "Sell", 0: "Hold", 1: "Buy"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message in: exactly one of session, events and advance is set."""

    seq: int
    session: Session | None = None
    events: Events | None = None
    advance: int | None = None


def read(raw: bytes | str, universe: Universe) -> Message:
    """A message, checked. Raises InputError for anything that is not exactly what the module's docstring says."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise InputError(f"A message of {len(raw):,} bytes. Expected at most {MAX_MESSAGE_BYTES:,}.", hint="Send fewer events a message.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InputError(f"Not JSON: {error}.", hint="Send one JSON object a message.") from error
    _keys(value, {"v", "seq", "session", "events", "advance"}, "message")
    if value.get("v") != VERSION:
        raise InputError(f"Wire version {value.get('v')!r}. Expected {VERSION}.", hint='Send "v": 1.')
    seq = _integer(value.get("seq"), "seq")
    parts = [name for name in ("session", "events", "advance") if name in value]
    if len(parts) != 1:
        raise InputError(f"Message {seq} says {parts}. Expected exactly one of session, events, advance.", hint="Send them apart.")
    if parts[0] == "session":
        span = value["session"]
        _keys(span, {"day", "open", "close"}, "session")
        session = Session(*(_integer(span.get(k), f"session.{k}") for k in ("day", "open", "close")))
        if not 0 < session.close - session.open <= 7 * 86_400_000_000_000:
            raise InputError("The session does not end after it begins, within a week.", hint="Send open and close in ns UTC.")
        return Message(seq, session=session)
    if parts[0] == "advance":
        return Message(seq, advance=_integer(value["advance"], "advance"))
    return Message(seq, events=read_events(value["events"], universe))


def read_events(rows: Any, universe: Universe) -> Events:
    """Events from a JSON list, in its order. Raises InputError naming the row and the field."""
    if not isinstance(rows, list) or len(rows) > MAX_EVENTS:
        raise InputError(f"events must be a list of at most {MAX_EVENTS:,}.", hint="Send several messages.")
    place = {symbol: i for i, symbol in enumerate(universe.symbols)}
    levels = universe.levels
    out = Events.empty(len(rows), levels)
    for i, row in enumerate(rows):
        _keys(row, _EVENT_KEYS, f"event {i}")
        out.ts[i] = _integer(row.get("ts"), f"event {i}: ts")
        out.sequence[i] = _integer(row.get("sequence"), f"event {i}: sequence")
        symbol = row.get("symbol")
        if not isinstance(symbol, str) or symbol not in place:
            raise InputError(f"event {i}: unknown symbol {symbol!r}.", hint=f"This release knows {', '.join(place)}.")
        out.symbol[i] = place[symbol]
        kind = 0
        if (trade := row.get("trade")) is not None:
            _keys(trade, _TRADE_KEYS, f"event {i}: trade")
            out.trade_px[i] = _integer(trade.get("px"), f"event {i}: trade.px")
            out.trade_sz[i] = _integer(trade.get("sz"), f"event {i}: trade.sz")
            side, hidden = trade.get("side"), trade.get("hidden", False)
            if side not in (-1, 0, 1) or isinstance(side, bool) or not isinstance(hidden, bool) or out.trade_sz[i] <= 0:
                raise InputError(f"event {i}: trade needs side -1, 0 or 1, sz above 0 and hidden true or false.", hint="See the wire.")
            out.side[i] = side
            kind |= TRADE | (HIDDEN if hidden else 0)
        if (book := row.get("book")) is not None:
            _keys(book, _BOOK_KEYS, f"event {i}: book")
            _side(out.bid_px[i], out.bid_sz[i], book.get("bid_px"), book.get("bid_sz"), levels, f"event {i}: bid", EMPTY_BID)
            _side(out.ask_px[i], out.ask_sz[i], book.get("ask_px"), book.get("ask_sz"), levels, f"event {i}: ask", EMPTY_ASK)
            kind |= BOOK
        if (status := row.get("status")) is not None:
            if status not in ("halt", "resume"):
                raise InputError(f"event {i}: status {status!r}. Expected halt or resume.", hint="Leave it out otherwise.")
            kind |= HALT if status == "halt" else RESUME
        out.kind[i] = kind
    return out


def _side(px: Any, sz: Any, prices: Any, sizes: Any, levels: int, where: str, empty: int) -> None:
    """Fill one side of a book row; a level with the empty price must have size 0."""
    if not isinstance(prices, list) or not isinstance(sizes, list) or len(prices) != len(sizes) or len(prices) > levels:
        raise InputError(
            f"{where}: expected two lists of one length, at most {levels} levels.", hint="Send the universe's levels or fewer."
        )
    for level, (price, size) in enumerate(zip(prices, sizes, strict=True)):
        size = _integer(size, f"{where}_sz[{level}]")
        price = _integer(price, f"{where}_px[{level}]")
        if size < 0 or abs(price) > EMPTY_ASK or (price == empty) != (size == 0):
            raise InputError(f"{where}[{level}]: price {price} with size {size}.", hint="Sizes above 0, prices in ticks (int32).")
        px[level], sz[level] = price, size


def _keys(value: Any, allowed: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object.", hint="See the wire.")
    if extra := set(value) - allowed:
        raise InputError(f"{where} has the unknown field {sorted(extra)[0]!r}.", hint=f"Expected {', '.join(sorted(allowed))}.")


def _integer(value: Any, where: str) -> int:
    if type(value) is not int or not -MAX_INT < value < MAX_INT:
        raise InputError(f"{where} is {value!r}. Expected an integer.", hint="Times are ns, prices and sizes integers in their scales.")
    return value


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
            row["status"] = "halt" if kind & HALT else "resume"
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class Standing:
    """What a reader must know of the release that speaks: its name, whether it is held, and until when its rows are in sample."""

    release: str
    held: bool
    max_train_t1: int


def decision(pipeline: Pipeline, decided: Decisions, standing: Standing) -> dict[str, Any]:
    """One instant as a message: every symbol, every model, the rule's signal, and the action that may be taken on it."""
    as_of = int(decided.as_of[0])
    in_sample = as_of <= standing.max_train_t1
    symbols = {}
    for s, symbol in enumerate(pipeline.universe.symbols):
        signal = int(decided.signal[0, s])
        models: dict[str, Any] = {}
        for kind, model in pipeline.models.items():
            ready = bool(decided.ready[kind][0, s])
            said: dict[str, Any] = {"ready": ready}
            if ready:
                said["outputs"] = dict(zip(model.outputs, decided.values[kind][0, s].tolist(), strict=True))
                if kind in decided.p:
                    said["p"] = decided.p[kind][0, s].tolist()
            models[kind] = said
        symbols[symbol] = {
            "valid": bool(decided.valid[0, s]),
            "why": Why(int(decided.why[0, s])).name.lower(),
            "cost_bps": float(decided.cost_bps[0, s]),
            "signal": _SIGNALS[signal],
            "action": "Hold" if standing.held or in_sample else _SIGNALS[signal],
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
    """Compare one streamed message with row t of the batch result: (values compared, those that differ in any bit)."""
    compared, bad = 0, []
    for s, symbol in enumerate(pipeline.universe.symbols):
        got = said["symbols"][symbol]
        checks: list[tuple[str, Any, Any]] = [
            ("signal", got["signal"], _SIGNALS[int(batch.signal[t, s])]),
            ("valid", got["valid"], bool(batch.valid[t, s])),
            ("cost_bps", got["cost_bps"], float(batch.cost_bps[t, s])),
        ]
        for kind, model in pipeline.models.items():
            ready = bool(batch.ready[kind][t, s])
            checks.append((f"{kind}.ready", got["models"][kind]["ready"], ready))
            if ready and got["models"][kind]["ready"]:
                values = batch.values[kind][t, s].tolist()
                checks += [(f"{kind}.{n}", got["models"][kind]["outputs"][n], v) for n, v in zip(model.outputs, values, strict=True)]
                if kind in batch.p:
                    checks += [(f"{kind}.p[{i}]", got["models"][kind]["p"][i], v) for i, v in enumerate(batch.p[kind][t, s].tolist())]
        compared += len(checks)
        bad += [f"{symbol} {name}: streamed {a!r}, batch {b!r}" for name, a, b in checks if not _same(a, b)]
    return compared, bad


def _same(a: Any, b: Any) -> bool:
    """Equal in type and, for floats, in every bit."""
    if isinstance(a, float) and isinstance(b, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes()
    return type(a) is type(b) and a == b
