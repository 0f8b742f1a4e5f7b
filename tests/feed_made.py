"""Captures made for tests: what Binance's spot market sends, seconds of it, with a book that a dict keeps beside it."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from cift_models.events import Events, merge
from cift_models.feeds.binance import read_binance
from cift_models.feeds.canonical import EVENT_TABLES, events_of_tables
from cift_models.feeds.quality import check_day
from cift_models.instruments import Universe

START = 1_723_161_254_000_000_000
"""Receive time of the first line: 2024-08-08 23:54:14 UTC."""
PLACES = {"BTCUSDT": (2, 5, 6_000_000), "ETHUSDT": (2, 4, 260_000)}
"""Decimal places of a price and of a size, and the first best bid in ticks."""


class Made(NamedTuple):
    """One symbol's lines (receive time, text), and the book after each update id: {(side, ticks): lots}."""

    symbol: str
    lines: list[tuple[int, bytes]]
    books: dict[int, dict[tuple[int, int], int]]

    def write(self, folder: Path, upto: int | None = None) -> Path:
        """A capture file of it."""
        path = folder / f"spot_{self.symbol.lower()}_20240808.gz"
        path.write_bytes(gzip.compress(b"".join(b"%d %s\n" % line for line in self.lines[:upto])))
        return path


def made(symbol: str = "BTCUSDT", seconds: int = 5, seed: int = 0, snapshot_at: int = 3, start: int = START) -> Made:
    """Ten changes to the book a second, each with a few quotes and trades; the snapshot comes behind change `snapshot_at` (0: none)."""
    rng = np.random.default_rng(seed)
    price_places, lot_places, bid = PLACES[symbol]
    book = {(1, bid - i): int(rng.integers(1, 10_000)) for i in range(30)}
    book |= {(-1, bid + 1 + i): int(rng.integers(1, 10_000)) for i in range(30)}
    number, trade_id, recv = 50_000_000_000, 3_000_000_000, start
    lines: list[tuple[int, bytes]] = []
    books: dict[int, dict[tuple[int, int], int]] = {}
    kind = symbol.lower()

    def say(stream: str, data: dict[str, object]) -> None:
        nonlocal recv
        recv += int(rng.integers(10_000, 9_000_000))
        lines.append((recv, orjson.dumps({"stream": f"{kind}@{stream}", "data": data})))

    for change in range(1, 10 * seconds + 1):
        recv = max(recv, start + change * 100_000_000)
        first, changed = number + 1, {}
        for _ in range(int(rng.integers(1, 6))):
            number += int(rng.integers(1, 4))
            side = int(rng.choice([1, -1]))
            best = max((side * ticks for s, ticks in book if s == side), default=side * bid) * side
            ticks = best - side * int(rng.integers(0, 25))
            lots = int(rng.integers(0, 10_000)) if len([1 for s, _ in book if s == side]) > 5 else 77
            changed[side, ticks] = lots
            book.pop((side, ticks), None)
            if lots:
                book[side, ticks] = lots
        ms = recv // 1_000_000
        sides = [[_level(t, q, price_places, lot_places) for (s, t), q in changed.items() if s == side] for side in (1, -1)]
        say("depth@100ms", {"e": "depthUpdate", "E": ms, "s": symbol, "U": first, "u": number, "b": sides[0], "a": sides[1]})
        books[number] = dict(book)
        if change == snapshot_at:
            recv += 1_000_000
            body = {
                "lastUpdateId": number,
                "bids": _side(book, 1, price_places, lot_places),
                "asks": _side(book, -1, price_places, lot_places),
            }
            lines.append((recv, orjson.dumps(body)))
        for _ in range(int(rng.integers(0, 4))):
            b, a = (_side(book, side, price_places, lot_places)[0] for side in (1, -1))
            say("bookTicker", {"u": number, "s": symbol, "b": b[0], "B": b[1], "a": a[0], "A": a[1]})
        for _ in range(int(rng.integers(0, 3))):
            trade_id += 1
            ms = recv // 1_000_000
            price = _side(book, int(rng.choice([1, -1])), price_places, lot_places)[0][0]
            say("trade", {"e": "trade", "E": ms, "s": symbol, "t": trade_id, "p": price, "q": "0.01000000", "T": ms,
                          "m": bool(rng.integers(2)), "M": True})  # fmt: skip
    return Made(symbol, lines, books)


def _side(book: dict[tuple[int, int], int], side: int, price_places: int, lot_places: int) -> list[list[str]]:
    levels = sorted(((t, q) for (s, t), q in book.items() if s == side), reverse=side > 0)
    return [_level(t, q, price_places, lot_places) for t, q in levels]


def _level(ticks: int, lots: int, price_places: int, lot_places: int) -> list[str]:
    return [f"{ticks / 10**price_places:.8f}", f"{lots / 10**lot_places:.8f}"]


def batch_events(paths: Sequence[Path], levels: int = 20) -> tuple[Universe, Events]:
    """Captures as ingest stores them and a store gives them back: the instruments in the order of the files, and their merged events."""
    instruments, parts = [], []
    for place, path in enumerate(paths):
        days = list(read_binance(path, levels=levels))
        instruments.append(days[0].instrument)
        for day in days:
            checked = check_day(day)
            parts.append(events_of_tables({name: checked[name].rows for name in EVENT_TABLES}, place))
    return Universe(tuple(instruments)), merge(parts, levels)
