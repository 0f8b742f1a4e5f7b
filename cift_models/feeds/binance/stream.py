"""The state machine: bytes of a capture in, rows of the canonical tables out. A file and the live client push the same one.

How the stream is cut into pushes changes no bit of what comes out (lines may be cut too); a test cuts it anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FeedError
from cift_models.feeds.binance.listing import MARKETS, Listing, built_in, canonical, find
from cift_models.feeds.binance.message import (
    EXPECTED,
    FIRST_NS,
    LAST_NS,
    Damaged,
    Message,
    OffGrid,
    OtherMarket,
    first_time,
    read_line,
    read_numbers,
)
from cift_models.feeds.binance.rows import DAY_NS, MS, Rows, Symbol, end_part, rows_of
from cift_models.feeds.binance.scan import (
    AFTER,
    AT,
    DAMAGED,
    DAY,
    END,
    EVENT,
    FINER,
    FIRST,
    KIND,
    LINE,
    MIDDLE,
    NOT_A_TRADE,
    OTHER,
    RECV,
    SIDE,
    SNAPSHOT,
    SYMBOL,
    TO,
    UNKNOWN,
    UNTIL,
    WHOLE,
    WIDTH,
    scan,
)
from cift_models.feeds.binance.sync import Sync
from cift_models.feeds.day import BookBefore
from cift_models.feeds.l2_book import L2Book
from cift_models.instruments import SECOND

_ROOM = 65_536
"""Messages that are read before rows are made of them."""


def nothing_before(symbol: str, ns: int) -> None:
    """A BookBefore that knows of no book."""


@dataclass(slots=True)
class BinanceStream:
    """One market's stream: where it stands is in its fields, and `copy` forks it.

    market    spot, usdm or coinm; a message of another one is refused
    levels    levels of the BOOK rows
    fee_bps   fee of taking, for the instrument
    listings  grids by canonical symbol
    before    asked once a symbol for the stored book that its stream may go on from
    symbol    whose a snapshot is that does not say so (spot and USD-M do not), as sent; "": the one symbol that the stream has had
    name      what errors call the stream
    """

    market: str
    levels: int = 20
    fee_bps: float = 0.0
    listings: Mapping[str, Listing] = field(default_factory=built_in)
    before: BookBefore = nothing_before
    symbol: str = ""
    name: str = "the stream"
    _symbols: dict[str, int] = field(default_factory=dict)
    _known: list[Symbol] = field(default_factory=list)
    _unclaimed: Counter[str] = field(default_factory=Counter)
    _unit: int = 0
    _day_end: int = 0
    _line: int = 0
    _recv: int = 0
    _current: int = -1
    _tail: bytes = b""

    def copy(self) -> BinanceStream:
        """A stream that goes on from here by itself."""
        return replace(self, _symbols=dict(self._symbols), _known=[s.copy() for s in self._known], _unclaimed=Counter(self._unclaimed))

    def push(self, data: bytes) -> list[Rows]:
        """Read what came next: any number of lines, the last may be cut. Returns the rows by symbol and day, days in order.

        Raises FeedError where a message is of another market, a price is off its grid, a symbol is not listed, receive and exchange time
        are more than a day apart, a snapshot does not say whose it is, or the first line is none of a capture: the stream is then done for.
        O(bytes).
        """
        begin, end = data.find(b"\n") + 1 if self._tail else 0, data.rfind(b"\n") + 1
        if not end:
            self._tail += data
            return []
        out = self._read(self._tail + data[:begin], 0, len(self._tail) + begin) if self._tail else []
        self._tail = data[end:]
        return out + self._read(data, begin, end)

    def finish(self) -> list[Rows]:
        """The rows of a last line without a line feed, and the end of every symbol's part, with the book that it leaves."""
        whole, self._tail = self._tail + b"\n" if self._tail else b"", b""
        out = self._read(whole, 0, len(whole))
        return out + self._end_parts()

    @property
    def lines(self) -> int:
        """Whole lines read so far."""
        return self._line

    @property
    def unit(self) -> int:
        """Nanoseconds in a unit of the receive time: 1 or 1,000; 0 before the first line."""
        return self._unit

    def _read(self, data: bytes, at: int, end: int) -> list[Rows]:
        """Rows of the whole lines data[at:end]."""
        out: list[Rows] = []
        if at == end:
            return out
        if not self._unit:
            self._unit = self._find_unit(data)
        buf = np.frombuffer(data, np.uint8, end)
        told = np.empty((min(_ROOM, (end - at) // 16 + 1), WIDTH), np.int64)
        # A level takes 10 bytes at least; the best bid and ask are written before their line is known to be a usual one.
        px, sz = np.empty((end - at) // 10 + 4, np.int64), np.empty((end - at) // 10 + 4, np.int64)
        names, name_to, grid = self._tables()
        unknown: list[str] = []
        n = m = 0  # messages and numbers whose rows are not out
        while True:
            why, at, self._line, n, m = scan(
                buf, at, self._line, MARKETS.index(self.market), names, name_to, grid, self._unit, FIRST_NS // self._unit,
                LAST_NS // self._unit, self._day_end, told, n, px, sz, m,
            )  # fmt: skip
            if n:
                self._recv, self._current = int(told[n - 1, RECV]), int(told[n - 1, SYMBOL])
            if why == OTHER or (why == DAY and self._is_damaged(_line_at(data, at))):
                line, known = _line_at(data, at), len(self._known)
                if self._add(self._slowly(line), told[n], at, px, sz, m, unknown):
                    told[n, TO] = at + len(line)
                    m = int(told[n, END])
                    n += 1
                if len(self._known) > known:
                    names, name_to, grid = self._tables()
                at += len(line) + 1
                self._line += 1
                continue
            out += self._rows(told[:n], px, sz, data, unknown)
            if why == WHOLE:
                return out
            n = m = 0
            if why == DAY:
                out += self._end_parts()
                self._day_end = (int(data[at : data.index(b" ", at)]) * self._unit // DAY_NS + 1) * DAY_NS

    def _is_damaged(self, line: bytes) -> bool:
        """Whether the line that would begin a day cannot be read: a wrong digit in its time would send all that follow to a wrong day."""
        return self._slowly(line).kind == DAMAGED

    def _find_unit(self, data: bytes) -> int:
        """Nanoseconds in a unit of the receive time, from the first line's digits."""
        try:
            unit, self._recv = first_time(_line_at(data, 0))
        except Damaged as error:
            raise FeedError(f"{self.name} is no capture: {error}.", hint=EXPECTED) from error
        return unit

    def _tables(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Known symbols as scan wants them."""
        names = [name.encode() for name in self._symbols]
        wide = np.zeros((len(names), max(map(len, names), default=1)), np.uint8)
        for row, name in zip(wide, names, strict=True):
            row[: len(name)] = np.frombuffer(name, np.uint8)
        grid = np.array([[s.grid.price_places, s.grid.tick_units, s.grid.lot_places] for s in self._known], np.int64)
        return wide, np.array([len(name) for name in names], np.int64), grid.reshape(-1, 3)

    def _slowly(self, line: bytes) -> Message:
        """Read a line that scan left; what cannot be read is DAMAGED."""
        try:
            said = read_line(line, MARKETS.index(self.market))
        except Damaged:
            return Message(DAMAGED, 0)
        except OtherMarket as error:
            raise self._error(
                f"a message that {error} sends; the stream was said to be {self.market}",
                "Name the market (spot, usdm, coinm) that was recorded: by market=, or by the file's name (spot_, usdm_, cm_).",
            ) from error
        return said if FIRST_NS <= said.recv * self._unit < LAST_NS else Message(DAMAGED, 0)

    def _place(self, said: Message) -> int:
        """Number of the symbol that a message is of; -1 where none is known yet and none is needed."""
        symbol = said.symbol
        if not symbol and said.kind == SNAPSHOT:
            if len(self._symbols) > 1:
                raise self._error(
                    f"a snapshot that does not say whose it is, after messages of {', '.join(self._symbols)}",
                    'Record one symbol a file, as hftbacktest does; or put `"symbol": ...` into the snapshot\'s body.',
                )
            symbol = next(iter(self._symbols), self.symbol)
        elif not symbol:
            if self._current >= 0:
                return self._current
            symbol = self.symbol
        if symbol:
            return self._symbols[symbol] if symbol in self._symbols else self._register(symbol, said.recv * self._unit)
        if said.kind == UNKNOWN:
            return -1
        raise self._error(
            "a snapshot or a damaged line before any message that names a symbol", "Say whose stream it is (symbol=), or begin behind it."
        )

    def _register(self, symbol: str, recv: int) -> int:
        """Make a symbol known, with the book that it goes on from. Raises FeedError where it is not listed."""
        try:
            grid = find(self.listings, symbol, self.market)
        except FeedError as error:
            raise self._error(error.message.removesuffix("."), error.hint) from None
        sync = Sync()
        recv = recv or self._recv  # a damaged line says no time
        state = self.before(canonical(symbol, self.market), recv)
        if state is not None and len(state):
            side, price, size = (state[column].to_numpy() for column in ("side", "price", "size"))
            stood = int(state["ts_recv"].max())  # pyright: ignore[reportArgumentType]
            sync.book, sync.last = L2Book.of(side, price // grid.tick_units, size), int(state["sequence"][0])
            sync.away = -(-stood // SECOND) < recv // SECOND
        self._symbols[symbol] = len(self._known)
        self._known.append(Symbol(grid, grid.instrument(self.levels, self.fee_bps), sync))
        return self._symbols[symbol]

    def _add(self, said: Message, out: NDArray[np.int64], at: int, px: NDArray, sz: NDArray, m: int, unknown: list[str]) -> bool:
        """Write a message as scan writes one, its columns but TO to `out`, its numbers to px and sz from m on; False: no place."""
        place = self._place(said)
        if place < 0:
            self._unclaimed[said.stream] += 1
            return False
        grid = self._known[place].grid
        middle, end, finer = m, m, 0
        if said.kind not in (DAMAGED, UNKNOWN, NOT_A_TRADE):
            try:
                middle, end, finer = read_numbers(said, grid, px, sz, m)
            except Damaged:
                said = Message(DAMAGED, 0)
            except OffGrid as error:
                tick = grid.tick_units / 10**grid.price_places
                raise self._error(
                    f"{error} of {grid.symbol} is no whole number of ticks of {tick:g}, or too great",
                    "Pass instruments=FILE, the exchangeInfo of the time of the recording.",
                ) from error
        if said.kind == UNKNOWN:
            said.side = len(unknown)
            unknown.append(said.stream)
        recv = self._recv if said.kind == DAMAGED else said.recv * self._unit
        out[[KIND, RECV, EVENT, SYMBOL, AFTER, UNTIL]] = said.kind, recv, said.event, place, said.after, said.until
        out[[FIRST, MIDDLE, END, SIDE, FINER, LINE, AT]] = m, middle, end, said.side, finer, self._line, at
        return True

    def _rows(self, told: NDArray[np.int64], px: NDArray, sz: NDArray, data: bytes, unknown: list[str]) -> list[Rows]:
        """Rows of messages of one day, by symbol."""
        if not len(told):
            return []
        self._check_clocks(told)
        present = np.unique(told[:, SYMBOL]).tolist()
        out = []
        for place in present:
            mine = told if len(present) == 1 else told[told[:, SYMBOL] == place]
            rows = rows_of(self._known[place], mine, px, sz, data, unknown)
            rows.facts.unknown.update(self._unclaimed)
            rows.facts.lines += self._unclaimed.total()
            self._unclaimed.clear()
            out.append(rows)
        return out

    def _check_clocks(self, told: NDArray[np.int64]) -> None:
        """Receive and exchange time must be of one day: else a unit is not what its digits say, or a line is damaged in its time."""
        apart = np.where(told[:, EVENT] > 0, np.abs(told[:, RECV] - told[:, EVENT] * MS), 0)
        if apart.max() > DAY_NS:
            i = int(np.argmax(apart > DAY_NS))
            raise FeedError(
                f"{self.name}, line {told[i, LINE] + 1:,}: received at {told[i, RECV]} ns, sent at {told[i, EVENT]} ms.",
                hint="Expected times less than a day apart: ns (19 digits) or µs (16 digits) received, ms sent.",
            )

    def _end_parts(self) -> list[Rows]:
        return [end_part(symbol) for symbol in self._known if symbol.first]

    def _error(self, what: str, hint: str) -> FeedError:
        return FeedError(f"{self.name}, line {self._line + 1:,}: {what}.", hint=hint)


def _line_at(data: bytes, at: int) -> bytes:
    """The line that begins at a byte, without its line feed."""
    return data[at : data.index(b"\n", at)]
