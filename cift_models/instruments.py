"""What a symbol is, and when its venue is open."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cift_models.errors import InputError, UnknownSymbol

SECOND = 1_000_000_000
"""One second in nanoseconds."""
DAY = 86_400 * SECOND
"""One day in nanoseconds."""
SENT, INFERRED = "sent", "inferred"
"""Who says which side took (Instrument.trade_side)."""


@dataclass(frozen=True, slots=True)
class Session:
    """One stretch of trading without a break: `day` is yyyymmdd (the venue's date), `open` and `close` int64 ns UTC."""

    day: int
    open: int
    close: int

    def instants(self, clock_ns: int) -> range:
        """The decision instants: open + clock, open + 2 clock, ... up to and including close."""
        return range(self.open + clock_ns, self.close + 1, clock_ns)

    @property
    def margin(self) -> int:
        """Nanoseconds at each end that give no decision rows: 10 minutes, or a tenth of a session shorter than 100 minutes."""
        return min(600 * SECOND, (self.close - self.open) // 10)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Regular hours of a venue, in its own time zone; a close at midnight is the day's end.

    A venue that never closes is `continuous`: its sessions are the stretches that were recorded, they end at a gap and not at midnight.
    """

    name: str
    zone: str
    open: time
    close: time
    continuous: bool = False

    def session(self, day: date) -> Session:
        """The regular session of a date; it says nothing about holidays, the data do."""
        zone = ZoneInfo(self.zone)
        begin = datetime.combine(day, self.open, zone)
        end = datetime.combine(day if self.close > self.open else day + timedelta(days=1), self.close, zone)
        return Session(int(day.strftime("%Y%m%d")), to_ns(begin), to_ns(end))


CALENDARS = {
    "us_equity": Calendar("us_equity", "America/New_York", time(9, 30), time(16)),
    "us_equity_extended": Calendar("us_equity_extended", "America/New_York", time(4), time(20)),
    "always": Calendar("always", "UTC", time(0), time(0), continuous=True),
    "simulated": Calendar("simulated", "UTC", time(9), time(12)),
}
"""Calendars by name; an instrument names one."""


def stretch(first: int, last: int) -> Session:
    """The session that a recording of a continuous venue makes: from the whole second before `first` to the one after `last` (ns UTC).

    Its day is the UTC date of `first`. Stretches that touch are one session: a file that ends at midnight and the next day's.
    """
    open_s, close_s = first // SECOND, -(-last // SECOND)
    day = datetime.fromtimestamp(open_s, UTC)
    return Session(int(day.strftime("%Y%m%d")), open_s * SECOND, max(close_s, open_s + 1) * SECOND)


def to_ns(moment: datetime) -> int:
    """A zoned datetime (microsecond resolution) as int64 nanoseconds UTC, without a float in between."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable thing and its integer scales.

    A trade price is an integer `price_scale` times the price; a book price is an integer number of ticks;
    `tick_units` price units make one tick; a size is an integer `lot_scale` times the amount in `unit`.
    """

    symbol: str
    price_scale: int
    tick_units: int
    lot_scale: int
    unit: str
    fee_bps: float
    calendar: str
    levels: int
    trade_side: str = SENT
    """Who says which side took: the feed (`sent`), or the quote before the trade (`inferred`: features/aggressor.py)."""

    @property
    def tick_size(self) -> float:
        """One tick in quote currency."""
        return self.tick_units / self.price_scale

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Universe:
    """The instruments of a run, in the order of every axis called S."""

    instruments: tuple[Instrument, ...]

    def __post_init__(self) -> None:
        symbols = self.symbols
        if not symbols or len(set(symbols)) != len(symbols):
            raise InputError(f"A universe needs different symbols, at least one; was {list(symbols)}.", hint="Name each symbol once.")

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(i.symbol for i in self.instruments)

    @property
    def levels(self) -> int:
        """Levels of the deepest book."""
        return max(i.levels for i in self.instruments)

    def __len__(self) -> int:
        return len(self.instruments)

    def span_ns(self, opened: int, close: int) -> int:
        """What a share of the session is a share of: its length; a day on a venue that never closes, where nobody knows live how long."""
        return DAY if CALENDARS[self.instruments[0].calendar].continuous else close - opened

    def index(self, symbol: str) -> int:
        """Place of a symbol on the axis S."""
        try:
            return self.symbols.index(symbol)
        except ValueError:
            raise UnknownSymbol(f"Unknown symbol {symbol!r}.", hint=f"This universe has {', '.join(self.symbols)}.") from None

    def as_json(self) -> list[dict[str, Any]]:
        return [i.as_json() for i in self.instruments]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> Universe:
        return cls(tuple(Instrument(**row) for row in rows))
