"""What is stored, where a command was not told what to take; and where it is, in words."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from cift_models.settings import Settings


def ticks_place(settings: Settings) -> str:
    """Where the settings put ticks: `below HOME`, or `in QuestDB at HOST:PORT`."""
    return f"in QuestDB at {urlsplit(settings.questdb_url).netloc}" if settings.questdb_url else f"below {settings.home}"


def rows_place(settings: Settings, key: str) -> str:
    """Where the rows lie that a model wrote under a key: a file, or the key on ClickHouse."""
    if settings.clickhouse_url:
        return f"{key} in ClickHouse at {urlsplit(settings.clickhouse_url).netloc}"
    return str(settings.home / key / "data.parquet")


def fill(symbols: list[str] | None, start: date | None, end: date | None) -> tuple[list[str], date, date]:
    """Symbols and days as given; what was not given is everything that is stored.

    Raises NotStored where nothing is stored, and what the tick store raises.
    """
    from cift_models.errors import NotStored
    from cift_models.settings import get_settings
    from cift_models.stores.ticks import open_ticks

    settings = get_settings()
    ticks = open_ticks(settings)
    if not symbols:
        symbols = list(ticks.instruments())
        if not symbols:
            raise NotStored(f"Nothing is stored {ticks_place(settings)}.", hint="Begin with `cift seed`, or `cift ingest lobster FILE...`.")
    if start is None or end is None:
        days = [session.day for session in ticks.sessions(symbols)]
        start, end = start or iso(days[0]), end or iso(days[-1])
    return symbols, start, end


def refuse_absent(symbols: list[str], start: date, end: date) -> None:
    """Raise UnknownSymbol or EmptyRange before Prefect is started, which takes ten seconds: the flow would say the same then."""
    from cift_models.settings import get_settings
    from cift_models.stores.ticks import open_ticks

    open_ticks(get_settings()).sessions(symbols, int(f"{start:%Y%m%d}"), int(f"{end:%Y%m%d}"))


def iso(day: int) -> date:
    """yyyymmdd as a date."""
    return date(day // 10_000, day // 100 % 100, day % 100)
