"""Binance's markets: where they answer, what their streams are called, what they allow, and how a line says that lines are missing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from cift_models.errors import InputError
from cift_models.feeds.binance.listing import MARKETS, canonical

TRADE, QUOTE, DEPTH, SNAPSHOT, BREAK, OTHER = range(6)
"""What a line is: a trade, best bid and ask, a change to the book, the whole book, a declared gap, anything else."""
KINDS = {"trade": TRADE, "bookTicker": QUOTE, "depth": DEPTH}
"""Streams by the name behind the symbol."""
SPEEDS = {"spot": (100, 1000), "usdm": (0, 100, 250, 500), "coinm": (0, 100, 250, 500)}
"""Milliseconds between two changes to a book that may be asked for; 0 is every change, which Binance serves and does not document."""
_UNSAID = {"spot": 1000, "usdm": 250, "coinm": 250}
"""The speed that a name without one means."""
_NAME = re.compile(rb"([^@\s]+)@(trade|bookTicker|depth)(?:@\d{1,6}ms)?")
_SYMBOL = re.compile(r"[A-Z0-9_]{1,32}")
_LAST_ID = 10**18 - 1
"""An update that no book is at and nothing follows: the greatest id that a capture may hold."""


@dataclass(frozen=True, slots=True)
class Venue:
    """One market as Binance serves it to everybody, without a key.

    ws, rest         base URLs; `/stream` and `path` + `/depth` follow
    depth_limit      levels of a snapshot a side, and depth_weight what it costs of weight_a_minute, which one address may use
    subscriptions    messages that a connection may send in a second
    """

    market: str
    ws: str
    rest: str
    path: str
    depth_limit: int
    depth_weight: int
    weight_a_minute: int
    subscriptions: int


VENUES = {
    "spot": Venue("spot", "wss://stream.binance.com:9443", "https://api.binance.com", "/api/v3", 1000, 50, 6000, 5),
    # Since April 2026 fstream has a path for each sort of data; books, best bid and ask, and trades are /public.
    "usdm": Venue("usdm", "wss://fstream.binance.com/public", "https://fapi.binance.com", "/fapi/v1", 1000, 20, 2400, 10),
    "coinm": Venue("coinm", "wss://dstream.binance.com", "https://dapi.binance.com", "/dapi/v1", 1000, 20, 2400, 10),
}
"""Markets by name. A snapshot of 1,000 levels is the deepest that every market gives."""


def venue(market: str, ws: str | None = None, rest: str | None = None) -> Venue:
    """A market, at other addresses where they are given. Raises InputError."""
    if market not in VENUES:
        raise InputError(f"Unknown market {market!r}.", hint=f"Expected one of {', '.join(MARKETS)}.")
    found = VENUES[market]
    for url, schemes, option in ((ws, ("ws://", "wss://"), "--ws"), (rest, ("http://", "https://"), "--rest")):
        if url and not url.startswith(schemes):
            raise InputError(f"{option} is {url!r}.", hint=f"Expected {schemes[0]}HOST:PORT or {schemes[1]}HOST:PORT.")
    return Venue(
        market, (ws or found.ws).rstrip("/"), (rest or found.rest).rstrip("/"), found.path, found.depth_limit, found.depth_weight,
        found.weight_a_minute, found.subscriptions,
    )  # fmt: skip


def symbols(text: str, market: str) -> tuple[str, ...]:
    """Symbols of a market from "BTCUSDT,ETHUSDT", as the exchange writes them; BTCUSDT.SPOT may be said too. Raises InputError."""
    out = []
    for part in filter(None, (part.strip().upper() for part in text.split(","))):
        name, _, suffix = part.partition(".")
        if (suffix and suffix != market.upper()) or not _SYMBOL.fullmatch(name):
            raise InputError(f"{part} is no symbol of {market}.", hint="Expected names with commas between: BTCUSDT,ETHUSDT.")
        out.append(name)
    if not out or len(set(out)) != len(out):
        raise InputError(f"The symbols are {text!r}.", hint="Expected each name once, at least one: --symbols BTCUSDT,ETHUSDT.")
    return tuple(out)


def streams(symbol: str, market: str, depth_ms: int) -> tuple[str, ...]:
    """Names of a symbol's streams. Raises InputError for a speed that the market has not."""
    if depth_ms not in SPEEDS[market]:
        raise InputError(f"No {market} book changes every {depth_ms} ms.", hint=f"Expected one of {', '.join(map(str, SPEEDS[market]))}.")
    name = symbol.lower()
    speed = "" if depth_ms == _UNSAID[market] else f"@{depth_ms}ms"
    return f"{name}@depth{speed}", f"{name}@bookTicker", f"{name}@trade"


def stream_of(line: bytes) -> bytes | None:
    """The stream that a message of a combined stream names; None for anything else. O(1): the name is looked for, nothing is parsed."""
    if not line.startswith(b'{"stream":"'):
        return None
    return line[11 : line.index(b'"', 11)]


def kind_of(stream: bytes) -> tuple[str, int] | None:
    """(symbol as sent, kind) of a stream's name, whatever its speed; None for a stream that is not ours."""
    match = _NAME.fullmatch(stream)
    return (match[1].decode().upper(), KINDS[match[2].decode()]) if match else None


def break_line(symbol: str, market: str, why: str) -> bytes:
    """A line that says: messages of this symbol are missing here.

    Written as a change to the book that follows nothing and that nothing follows, so every reader of a capture takes the book for lost
    from here to the next snapshot, and the stored session has a gap; `gap` says that it is ours, and why. It has no exchange time.
    """
    data: dict[str, object] = {"e": "depthUpdate", "s": symbol, "U": _LAST_ID, "u": _LAST_ID}
    if market != "spot":
        data["pu"] = _LAST_ID - 1
    if market == "coinm":
        data["ps"] = symbol.partition("_")[0]
    return orjson.dumps({"stream": f"{symbol.lower()}@depth", "data": data | {"b": [], "a": [], "gap": why}})


def is_break(line: bytes) -> bool:
    """Whether a line is one of `break_line`."""
    return line.endswith(b'"}}') and b'"b":[],"a":[],"gap":"' in line


__all__ = [
    "BREAK", "DEPTH", "KINDS", "OTHER", "QUOTE", "SNAPSHOT", "SPEEDS", "TRADE", "VENUES", "Venue", "break_line", "canonical", "is_break",
    "kind_of", "stream_of", "streams", "symbols", "venue",
]  # fmt: skip
