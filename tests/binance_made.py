"""A venue made by hand that speaks as Binance does: a book that is known, and the lines that a recorder would write of it."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.feeds.binance import BinanceStream, Rows

T0 = 1_723_161_600_000_000_000
"""2024-08-09 00:00:00 UTC, ns."""
LEVELS = 3
MS = 1_000_000
TICKS = {"spot": ("BTCUSDT", 100, 5), "usdm": ("BTCUSDT", 10, 3), "coinm": ("BTCUSD_PERP", 10, 0)}
"""Symbol, ticks in a unit of the quote currency, decimal places of a size."""
PLACES = {"spot": (8, 8), "usdm": (2, 3), "coinm": (1, 0)}
"""Decimal places that a market writes of prices and of sizes."""


class Venue:
    """One symbol's book, changed at random. `book` is {side: {ticks: lots}}, `u` the id of its last change.

    Ids of the futures markets are shared with other symbols: they leap, and `pu` says where the change before ended.
    """

    def __init__(self, market: str, seed: int, levels: int = 6, low: int = 990) -> None:
        self.market = market
        self.symbol, self.scale, self.places = TICKS[market]
        self.random = random.Random(seed)
        self.u = 1_000_000
        self.low, self.ms = low, T0 // 1_000_000
        self.book: dict[int, dict[int, int]] = {
            side: {low + 10 - side * (level + 1): self.random.randint(1, 99) for level in range(levels)} for side in (1, -1)
        }

    def price(self, ticks: int) -> str:
        return f"{ticks // self.scale}.{ticks % self.scale * 10 ** PLACES[self.market][0] // self.scale:0{PLACES[self.market][0]}d}"

    def size(self, lots: int) -> str:
        written = PLACES[self.market][1]
        whole, part = divmod(lots, 10**self.places)
        return f"{whole}.{part * 10 ** (written - self.places):0{written}d}" if written else str(whole)

    def texts(self, levels: dict[int, int]) -> list[list[str]]:
        return [[self.price(ticks), self.size(lots)] for ticks, lots in levels.items()]

    def wrap(self, stream: str, data: dict[str, Any]) -> str:
        return json.dumps({"stream": f"{self.symbol.lower()}@{stream}", "data": data}, separators=(",", ":"))

    def diff(self, changes: int = 3) -> tuple[str, int, int]:
        """Change the book; returns the message and the ids after and until which it changes."""
        said: dict[int, dict[int, int]] = {1: {}, -1: {}}
        for _ in range(self.random.randint(0, changes)):
            side = self.random.choice((1, -1))
            ticks = self.low + (self.random.randint(0, 9) if side == 1 else self.random.randint(11, 20))
            lots = self.random.choice((0, 0, self.random.randint(1, 99)))
            said[side][ticks] = lots
            if lots:
                self.book[side][ticks] = lots
            else:
                self.book[side].pop(ticks, None)
        before = self.u
        begins = before + 1 + (self.random.randint(0, 5) if self.market != "spot" else 0)
        self.u = begins + self.random.randint(0, 9)
        data: dict[str, Any] = {"e": "depthUpdate", "E": self.ms + 5}
        if self.market != "spot":
            data["T"] = self.ms
        data["s"] = self.symbol
        if self.market == "coinm":
            data["ps"] = self.symbol.removesuffix("_PERP")
        data |= {"U": begins, "u": self.u}
        if self.market != "spot":
            data["pu"] = before
        data |= {"b": self.texts(said[1]), "a": self.texts(said[-1])}
        return self.wrap("depth@100ms" if self.market == "spot" else "depth@0ms", data), before, self.u

    def snapshot(self) -> str:
        """The body that REST would answer now."""
        data: dict[str, Any] = {"lastUpdateId": self.u}
        if self.market != "spot":
            data |= {"E": self.ms + 5, "T": self.ms}
        if self.market == "coinm":
            data |= {"symbol": self.symbol, "pair": self.symbol.removesuffix("_PERP")}
        bids, asks = sorted(self.book[1].items(), reverse=True), sorted(self.book[-1].items())
        return json.dumps(data | {"bids": self.texts(dict(bids)), "asks": self.texts(dict(asks))}, separators=(",", ":"))

    def ticker(self) -> str:
        bid, ask = max(self.book[1], default=0), min(self.book[-1], default=0)
        data: dict[str, Any] = {} if self.market == "spot" else {"e": "bookTicker"}
        data |= {"u": self.u, "s": self.symbol}
        if self.market == "coinm":
            data["ps"] = self.symbol.removesuffix("_PERP")
        data |= {"b": self.price(bid), "B": self.size(self.book[1].get(bid, 0))}
        data |= {"a": self.price(ask), "A": self.size(self.book[-1].get(ask, 0))}
        if self.market != "spot":
            data |= {"T": self.ms, "E": self.ms + 5}
        return self.wrap("bookTicker", data)

    def trade(self, **other: Any) -> str:
        data: dict[str, Any] = {"e": "trade", "E": self.ms + 5}
        data |= {"T": self.ms} if self.market != "spot" else {}
        data |= {"s": self.symbol, "t": self.u, "p": self.price(self.low + 10), "q": self.size(self.random.randint(1, 99))}
        data |= {"X": "MARKET"} if self.market != "spot" else {"T": self.ms}
        data |= {"m": self.random.random() < 0.5} | ({"M": True} if self.market == "spot" else {})
        return self.wrap("trade", data | other)

    def top(self, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The best levels of bids and asks, (ticks, lots)."""
        return sorted(self.book[1].items(), reverse=True)[:levels], sorted(self.book[-1].items())[:levels]


def line(ns: int, message: str, unit: int = 1) -> str:
    """One line of a capture; `unit` 1000 writes microseconds."""
    return f"{ns // unit} {message}\n"


def write(path: Path, text: str | bytes) -> Path:
    """Write a capture, packed where its name ends with .gz."""
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def columns(parts: list[Rows], table: str) -> dict[str, list]:
    """One table of several pushes, joined."""
    names = [rows.tables[table] for rows in parts if table in rows.tables]
    return {name: [x for part in names for x in part[name].tolist()] for name in (names[0] if names else ())}


def apart(parts: list[Rows], table: str) -> list[tuple[str, str]]:
    """(reason, text) of the lines of a table that made no row."""
    lines = [rows.apart[table] for rows in parts if table in rows.apart]
    return [pair for part in lines for pair in zip(part["reason"], part["line"], strict=True)]


def everything(parts: list[Rows]) -> list[Any]:
    """All that a stream said, whatever the pushes were, to compare for equality."""
    out: dict[tuple, dict[str, Any]] = {}
    for rows in parts:
        day = out.setdefault((rows.instrument, rows.day, rows.part, rows.first), {"facts": Counter()})
        for kind, tables in (("table", rows.tables), ("apart", rows.apart)):
            for name, table in tables.items():
                for column, values in table.items():
                    day.setdefault((kind, name, column), []).extend(list(values))
        for name in ("lines", "gaps", "snapshots", "sizes", "finer", "damaged"):
            day["facts"][name] += getattr(rows.facts, name)
        day["facts"].update(rows.facts.unknown)
        day["last"], day["continues"] = rows.last, rows.continues
        if rows.book_state is not None:
            day["state"] = {k: v.tolist() for k, v in rows.book_state.items()}
    return sorted(out.items(), key=lambda item: (item[0][0].symbol, item[0][1]))


def run(text: str | bytes, market: str, cuts: list[int] | None = None, **said: Any) -> list[Rows]:
    """Push a capture in pieces that end at `cuts`, and finish."""
    data = text.encode() if isinstance(text, str) else text
    stream = BinanceStream(market, LEVELS, **said)
    out: list[Rows] = []
    edges = [0, *sorted(cuts or []), len(data)]
    for begin, end in zip(edges, edges[1:], strict=False):
        out += stream.push(data[begin:end])
    return out + stream.finish()


def tops(book: dict[int, dict[int, int]]) -> list[int]:
    """A book as a BOOK row says it."""
    out: list[int] = []
    bids, asks = sorted(book[1].items(), reverse=True)[:LEVELS], sorted(book[-1].items())[:LEVELS]
    for level in range(LEVELS):
        out += bids[level] if level < len(bids) else (EMPTY_BID, 0)
        out += asks[level] if level < len(asks) else (EMPTY_ASK, 0)
    return out


class Recording:
    """What a recorder wrote of a venue: lines, and beside each what only the venue knows.

    ops are "diff", "lost" (a diff that was not recorded), "snapshot" (with how many lines later, or earlier, it was recorded), "ticker",
    "trade".
    """

    def __init__(self, market: str, seed: int, ops: list[tuple[str, int]]) -> None:
        venue = Venue(market, seed)
        told: list[tuple[int, dict[str, Any]]] = []
        self.lost: list[int] = []
        for i, (op, late) in enumerate(ops):
            venue.ms += 1
            if op in ("diff", "lost"):
                text, after, until = venue.diff()
                if op == "lost":
                    self.lost.append(until)
                    continue
                told.append((2 * i, {"op": "diff", "text": text, "after": after, "until": until, "book": copy.deepcopy(venue.book)}))
            elif op == "snapshot":
                truth = {"op": op, "text": venue.snapshot(), "until": venue.u, "book": copy.deepcopy(venue.book)}
                told.append((2 * (i + late) + 1, truth))
            else:
                told.append((2 * i, {"op": op, "text": venue.ticker() if op == "ticker" else venue.trade()}))
        self.venue = venue
        self.messages = [message for _, message in sorted(told, key=lambda item: item[0])]
        self.lines = [line(T0 + i * MS, message["text"]) for i, message in enumerate(self.messages)]

    @property
    def text(self) -> str:
        return "".join(self.lines)
