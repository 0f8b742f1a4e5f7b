"""Recorded captures as one exchange's past: lines of several symbols in the order of their receive times, and the book behind them."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import orjson

from cift_models.errors import FeedError, InputError
from cift_models.feeds.binance import BinanceStream
from cift_models.feeds.binance.capture import look, pieces
from cift_models.feeds.binance.listing import Listing, built_in, canonical, read_exchange_info
from cift_models.feeds.binance.message import UNITS
from serving.feed.venue import OTHER, SNAPSHOT, is_break, kind_of, stream_of

_LINE = re.compile(rb"(\d{16}|\d{19}) (\{.*\})\r?")
_READ_AT_ONCE = 1 << 20
_UNREAD = 4 << 20
"""Bytes that a book may lag behind before it is read on without being asked for."""


class Line(NamedTuple):
    """One recorded line: when it was received (ns; in a file, never less than before), what it is, whose, its text."""

    time: int
    kind: int
    symbol: str
    text: bytes


class Recording:
    """Captures of one market. Reading them again begins anew; memory is that of a few lines and the books."""

    def __init__(self, files: Sequence[Path], market: str | None = None, instruments: Path | None = None) -> None:
        """Look at the files. Raises FeedError for what is no capture, InputError for files of two markets."""
        found = [(look(path, market), path) for path in files]
        markets = {what.market for what, _ in found}
        if len(markets) != 1:
            raise InputError(
                f"The files are of {len(markets)} markets: {', '.join(sorted(markets)) or 'none'}.",
                hint="One exchange serves one market: spot and USD-M call their streams the same. Start one for each, on its own port.",
            )
        self.market = markets.pop()
        self.listings: dict[str, Listing] = built_in() if instruments is None else read_exchange_info(instruments, self.market)
        self.begins = min(what.begins for what, _ in found)
        self._files: dict[str, list[Path]] = {}
        for what, path in sorted(found, key=lambda one: (one[0].symbol, one[0].begins)):
            if canonical(what.symbol, self.market) not in self.listings:
                raise FeedError(
                    f"{path.name}: what one tick and one lot of {what.symbol} are is not known.",
                    hint=f"Pass --instruments FILE, the JSON that Binance's exchangeInfo answered for {self.market}.",
                    path=path,
                )
            self._files.setdefault(what.symbol, []).append(path)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._files)

    def lines(self) -> Iterator[Line]:
        """Every line of every symbol, by time; lines of one time in the order of their files, lines of one file in their order."""
        return heapq.merge(*(self._of(symbol) for symbol in self._files), key=lambda line: line.time)

    def _of(self, symbol: str) -> Iterator[Line]:
        time = 0
        for path in self._files[symbol]:
            tail = b""
            # A last line without a line feed is a line, as it is to ingest.
            for piece in chain((piece for piece, _ in pieces(path, _READ_AT_ONCE)), (b"\n",)):
                *whole, tail = (tail + piece).split(b"\n")
                for raw in whole:
                    match = _LINE.fullmatch(raw)
                    if match is None:
                        continue  # a damaged line was never sent
                    time = max(time, int(match[1]) * UNITS[len(match[1])])
                    text = match[2]
                    name = stream_of(text)
                    known = kind_of(name) if name is not None else None
                    kind = known[1] if known else SNAPSHOT if text.startswith(b'{"lastUpdateId"') else OTHER
                    yield Line(time, kind, symbol, text)


class Book:
    """What the exchange's own book of a symbol holds after the lines that have gone out."""

    def __init__(self, recording: Recording, symbol: str) -> None:
        self.symbol = symbol
        self.market = recording.market
        self._listing = recording.listings[canonical(symbol, recording.market)]
        self._stream = BinanceStream(recording.market, 1, listings=recording.listings, symbol=symbol, name=f"the recording of {symbol}")
        self._unread: list[bytes] = []
        self._size = 0

    def add(self, line: Line) -> None:
        """Take a line that has gone out."""
        self._unread.append(b"%d %s\n" % (line.time, line.text))
        self._size += len(line.text)
        if self._size > _UNREAD:
            self._read()

    def snapshot(self, limit: int) -> bytes | None:
        """The body of a depth snapshot of so many levels a side, as REST answers; None while the book is not whole."""
        self._read()
        # Finishing a copy says the whole book, and the stream itself goes on.
        state = self._stream.copy().finish()
        if not state or state[-1].book_state is None or not len(state[-1].book_state["side"]):
            return None
        book = state[-1].book_state
        places, lots = self._listing.price_places, self._listing.lot_places
        sides: dict[int, list[list[str]]] = {1: [], -1: []}
        for side, price, size in zip(book["side"].tolist(), book["price"].tolist(), book["size"].tolist(), strict=True):
            if len(sides[side]) < limit:
                sides[side].append([_decimal(price, places), _decimal(size, lots)])
        body: dict[str, object] = {"lastUpdateId": int(book["sequence"][0])}
        if self.market != "spot":
            ms = int(book["ts_event"][0]) // 1_000_000
            body |= {"E": ms, "T": ms}
        if self.market == "coinm":
            body |= {"symbol": self.symbol, "pair": self.symbol.partition("_")[0]}
        return orjson.dumps(body | {"bids": sides[1], "asks": sides[-1]})

    def _read(self) -> None:
        self._stream.push(b"".join(self._unread))
        self._unread.clear()
        self._size = 0


def exchange_info(recording: Recording) -> bytes:
    """The body of exchangeInfo for the symbols of a recording: the grids that its lines are read with."""
    symbols = []
    for symbol in recording.symbols:
        grid = recording.listings[canonical(symbol, recording.market)]
        one: dict[str, object] = {
            "symbol": symbol,
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": _decimal(grid.tick_units, grid.price_places)},
                {"filterType": "LOT_SIZE", "stepSize": _decimal(1, grid.lot_places)},
            ],
        }
        if recording.market != "spot":
            one["contractType"] = "PERPETUAL"
        if grid.contract_usd:
            one["contractSize"] = grid.contract_usd
        symbols.append(one)
    return orjson.dumps({"symbols": symbols})


def recorded_by_us(line: Line) -> bool:
    """Whether a line was never the exchange's: a gap that our recorder declared."""
    return is_break(line.text)


def _decimal(value: int, places: int) -> str:
    """1234 with two places is 12.34."""
    text = str(value).rjust(places + 1, "0")
    return f"{text[:-places]}.{text[-places:]}" if places else text
