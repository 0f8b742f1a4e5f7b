"""What one line of a capture says, read slowly and exactly: the lines that `scan` leaves, and the meaning that its figures must have.

    <receive time> <JSON>

Receive time: ns (19 digits; hftbacktest's recorder since 2024) or µs (16 digits; the one before). JSON, one of
- a message of a combined stream: {"stream": "btcusdt@depth@0ms", "data": {...}}, or its data alone (a raw stream);
- the body of a REST depth snapshot: {"lastUpdateId": ..., "bids": [...], "asks": [...]}, on futures with E and T, on COIN-M with symbol
  and pair.

    depthUpdate  U, u, b, a; futures: T and pu, the u of the change before; COIN-M: ps
    bookTicker   u, b, B, a, A; futures: e, E, T; COIN-M: ps; spot says neither e nor any time
    trade        t, p, q, T, m (true: the buyer's order rested, so the seller took); futures: X, MARKET where it was a trade
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.feeds.binance.listing import MARKETS, Listing
from cift_models.feeds.binance.scan import DEPTH, NOT_A_TRADE, SNAPSHOT, TICKER, TRADE, UNKNOWN, levels
from cift_models.instruments import SECOND

EXPECTED = "Expected `<receive time> <JSON>` a line, the time in ns (19 digits) or µs (16 digits), as hftbacktest records."
"""What a capture is, for errors."""
UNITS = {16: 1_000, 19: 1}
"""Digits of a receive time to ns in its unit: a time of this century has 16 digits in µs and 19 in ns."""
FIRST_NS, LAST_NS = 1_000_000_000 * SECOND, 4_102_444_800 * SECOND
"""Receive times that can be: from 2001-09-09, since when they have so many digits, to 2100-01-01."""
_LINE = re.compile(rb"(\d{10,19}) (\{.*\})[\r ]*", re.DOTALL)
_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?", re.ASCII)
_STREAM = re.compile(r"[^@\s]+@(?:(trade)|(bookTicker)|(depth)(?:@\d{1,18}ms)?)", re.ASCII)
_SYMBOL = re.compile(r"[A-Z0-9_\-.]{1,32}")
_TICKER_KEYS = frozenset("usbBaA")
_END_OF_IDS = 10**18


class Damaged(Exception):
    """A line that is not what it should be; says why."""


class OtherMarket(Exception):
    """A message that the market does not send; says which do."""


class OffGrid(Exception):
    """A price that is no whole number of ticks, or a number too great; says it."""


@dataclass(slots=True)
class Message:
    """One line.

    kind          a kind of scan
    recv          receive time as written
    event         exchange time, ms: T where there is one, else E, else 0
    symbol        as sent; "" of a snapshot that does not say whose it is
    after, until  the id before its first change and that of its last (a snapshot: both lastUpdateId)
    bids, asks    [price, size] as text, not yet looked at; the best bid and ask are one each, a trade's one stands in bids
    side          of a trade: +1 the buyer took, -1 the seller
    stream        of an UNKNOWN message: what it calls itself
    """

    kind: int
    recv: int
    event: int = 0
    symbol: str = ""
    after: int = 0
    until: int = 0
    bids: list[list[str]] = field(default_factory=list)
    asks: list[list[str]] = field(default_factory=list)
    side: int = 0
    stream: str = ""


def first_time(line: bytes) -> tuple[int, int]:
    """(ns in a unit of the receive time, receive time ns) of a capture's first line. Raises Damaged where it is no such line."""
    digits, _, rest = line.partition(b" ")
    unit = UNITS.get(len(digits), 0) if digits.isdigit() else 0
    if not unit or not FIRST_NS <= int(digits) * unit < LAST_NS or not rest.startswith(b"{"):
        raise Damaged(f"its first line is {line[:60].decode('utf-8', 'replace')!r}")
    return unit, int(digits) * unit


def read_line(line: bytes, market: int) -> Message:
    """Read one line, without its line feed. Raises Damaged, OtherMarket."""
    import orjson

    match = _LINE.fullmatch(line)
    if not match:
        raise Damaged("expected a receive time of 10 to 19 digits, a space and a JSON object")
    recv = int(match[1])
    try:
        said = orjson.loads(match[2])
        if "stream" not in said or "data" not in said:
            return _message(recv, said, "", market)
        kind = _STREAM.fullmatch(said["stream"])
        if not kind:
            # Among them depth5, depth10 and depth20: the best levels only, with the same event name as changes to the whole book.
            return Message(UNKNOWN, recv, stream=said["stream"])
        return _message(recv, said["data"], next(filter(None, kind.groups())), market)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error


def _message(recv: int, data: dict[str, Any], stream: str, market: int) -> Message:
    """A message from its data; `stream` is "" where they came alone."""
    if "lastUpdateId" in data and not stream:
        _check_market(market, _futures(data, "T", "pair"))
        whose = _symbol(data["symbol"]) if "symbol" in data else ""
        until = _id(data["lastUpdateId"])
        return Message(SNAPSHOT, recv, _time(data), whose, until, until, _list(data["bids"]), _list(data["asks"]))
    event = data.get("e", "bookTicker" if data.keys() >= _TICKER_KEYS else "")
    if event not in ("depthUpdate", "bookTicker", "trade"):
        return Message(UNKNOWN, recv, stream=str(event or next(iter(data), "nothing")))
    if not event.startswith(stream):
        raise Damaged(f"{event} in a stream of {stream}")
    symbol = _symbol(data["s"])
    if event == "depthUpdate":
        _check_market(market, _futures(data, "pu", "ps"))
        after, until = _id(data["pu"]) if "pu" in data else _id(data["U"]) - 1, _id(data["u"])
        if until < after:
            raise Damaged(f"it ends with update {until} and begins after {after}")
        return Message(DEPTH, recv, _time(data), symbol, after, until, _list(data["b"]), _list(data["a"]))
    if event == "bookTicker":
        _check_market(market, _futures(data, "T", "ps"))
        return Message(TICKER, recv, _time(data), symbol, 0, _id(data["u"]), [[data["b"], data["B"]]], [[data["a"], data["A"]]])
    _check_market(market, ("usdm", "coinm") if "X" in data else ("spot",))
    price, size = data["p"], data["q"]
    if type(data["m"]) is not bool:
        raise Damaged(f"m is {data['m']!r}")
    kind = TRADE if data.get("X", "MARKET") == "MARKET" and price.strip("0.") and size.strip("0.") else NOT_A_TRADE
    return Message(kind, recv, _id(data["T"]), symbol, bids=[[price, size]], side=-1 if data["m"] else 1)


def _futures(data: dict[str, Any], futures_say: str, coinm_says: str) -> tuple[str, ...]:
    return ("coinm",) if coinm_says in data else ("usdm",) if futures_say in data else ("spot",)


def _check_market(market: int, senders: tuple[str, ...]) -> None:
    if MARKETS[market] not in senders:
        raise OtherMarket(" or ".join(senders))


def _symbol(value: Any) -> str:
    if not isinstance(value, str) or not _SYMBOL.fullmatch(value):
        raise Damaged(f"the symbol is {value!r}")
    return value


def _time(data: dict[str, Any]) -> int:
    return _id(data["T"]) if "T" in data else _id(data["E"]) if "E" in data else 0


def _id(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _END_OF_IDS:
        raise Damaged(f"{value!r} is no id or time")
    return value


def _list(value: Any) -> list[list[str]]:
    if not isinstance(value, list):
        raise Damaged("levels that are no list")
    return value


def read_numbers(said: Message, grid: Listing, px: NDArray[np.int64], sz: NDArray[np.int64], m: int) -> tuple[int, int, int]:
    """Write what a message says of prices and sizes to px and sz from m on: bids, then asks; ticks (a trade: price units) and lots.

    Returns (where asks begin, where they end, how many sizes were finer than a lot). Raises Damaged, OffGrid.
    """
    if said.kind == SNAPSHOT:
        # A snapshot has thousands of levels and may be written with blanks; said again without them, it is read as a change is.
        import orjson

        text = np.frombuffer(orjson.dumps(said.bids) + orjson.dumps(said.asks), np.uint8)
        steps = np.array([grid.price_places, grid.tick_units, grid.lot_places], np.int64)
        behind, middle, finer = levels(text, 1, steps, px, sz, m)
        if behind >= 0:
            behind, end, more = levels(text, behind + 1, steps, px, sz, middle)
            if behind == len(text):
                return middle, end, finer + more
    price, finer = to_units if said.kind == TRADE else to_ticks, 0
    middle = end = m
    for side in (said.bids, said.asks):
        middle = end
        for level in side:
            if not isinstance(level, list) or len(level) != 2:
                raise Damaged(f"the level {level!r}")
            px[end] = price(level[0], grid)
            sz[end], more = to_lots(level[1], grid)
            finer += more
            end += 1
    return middle, end, finer


def to_ticks(text: str, grid: Listing) -> int:
    """A price in ticks. Raises OffGrid where it lies between ticks, or is too high for a book."""
    ticks, between = divmod(to_units(text, grid), grid.tick_units)
    if between or ticks > 2**31 - 2:
        raise OffGrid(f"the price {text}")
    return ticks


def to_units(text: str, grid: Listing) -> int:
    """A price in price units. Raises OffGrid where it is finer."""
    units, finer = _scaled(text, grid.price_places)
    if finer:
        raise OffGrid(f"the price {text}")
    return units


def to_lots(text: str, grid: Listing) -> tuple[int, bool]:
    """A size in whole lots, and whether it was finer. Raises OffGrid where it is too great."""
    return _scaled(text, grid.lot_places)


def _scaled(text: Any, places: int) -> tuple[int, bool]:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise Damaged(f"{text!r} is no decimal in quotes")
    whole, _, fraction = text.partition(".")
    value = int(whole + fraction[:places].ljust(places, "0"))
    if value >= 2**63:
        raise OffGrid(f"the number {text}")
    return value, bool(fraction[places:].strip("0"))
