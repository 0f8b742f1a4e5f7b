"""Options that several commands share, and how a day and a list are read."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from cift_models.errors import InputError

Symbols = Annotated[str, typer.Option(help="Symbols of the universe, in order, with commas between: AAPL,AMZN,GOOG.")]
Start = Annotated[str, typer.Option(help="First session date, included: 2012-06-21.")]
End = Annotated[str, typer.Option(help="Last session date, included: 2012-06-21.")]
TestFrom = Annotated[str | None, typer.Option(help="First session date of the test blocks; without it the last three tenths are the test.")]
Again = Annotated[bool, typer.Option("--again", help="Do what was done before too: it mends a store that has lost or damaged rows.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else.")]

Feed = Annotated[str, typer.Argument(help="What the files are: lobster, binance, lean or canonical.")]
Market = Annotated[str | None, typer.Option(help="binance: spot, usdm or coinm, where the file's name does not say it.")]
Hours = Annotated[str | None, typer.Option(help="lean: regular (9:30 to 16:00, the default) or extended (4:00 to 20:00).")]
Levels = Annotated[int | None, typer.Option(help="binance: levels of the book to keep (20).")]
TickUnits = Annotated[
    int | None, typer.Option(help="lobster, lean: a tick in 1/10000 of the currency (100; 1 for a stock below a dollar).")
]
FeeBps = Annotated[float | None, typer.Option(help="Fee of taking liquidity in basis points; no file says it (0).")]
Instruments = Annotated[
    Path | None,
    typer.Option(help="binance: an exchangeInfo JSON for other symbols. canonical: its instruments.csv, if not beside the files."),
]


def day(text: str, option: str) -> date:
    """A date. Raises InputError for anything else."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}.", hint="Expected a date like 2012-06-21.") from None


def split(text: str) -> list[str]:
    """A comma-separated list, in order."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parameters(cls: type, **values: Any) -> Any:
    """Flow parameters from options. Raises InputError with the first thing that is wrong."""
    from pydantic import ValidationError

    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the parameters"
        raise InputError(f"{where}: {first['msg']} (was {str(first['input'])[:80]!r}).", hint="See --help.") from None


def said_to_feed(
    market: str | None, hours: str | None, levels: int | None, tick_units: int | None, fee_bps: float | None, instruments: Path | None
) -> dict[str, Any]:
    """The options of a feed as the flow's parameters."""
    return {
        "market": market,
        "hours": hours,
        "levels": levels,
        "tick_units": tick_units,
        "fee_bps": fee_bps,
        "instruments": str(instruments.resolve()) if instruments else None,
    }
