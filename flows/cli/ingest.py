"""`cift ingest`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Again, FeeBps, Feed, Hours, Instruments, Json, Levels, Market, TickUnits, said_to_feed

if TYPE_CHECKING:
    from tasks.ingest import Ingested


def ingest(
    feed: Feed,
    files: Annotated[list[Path], typer.Argument(help="The files, any number.")],
    market: Market = None,
    hours: Hours = None,
    levels: Levels = None,
    tick_units: TickUnits = None,
    fee_bps: FeeBps = None,
    instruments: Instruments = None,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Read, check and store recorded data.

    What the files are is checked, never guessed. Rows that no model may see are kept apart with a reason (`cift quality` shows them).
    Ingesting a file again changes nothing; an ingest that was stopped goes on. Any other vendor's data: docs/data.md.

    Example: cift ingest lobster data/*.zip

    Example: cift ingest binance spot_btcusdt_20240808.gz spot_btcusdt_20240809.gz

    Example: cift ingest lean aig/20131007_quote.zip aig/20131007_trade.zip --hours extended
    """
    from cift_models.errors import InputError
    from flows.cli.options import parameters
    from flows.cli.terminal import watching
    from flows.parameters import IngestParameters

    for file in files:
        if not file.is_file():
            raise InputError(f"There is no file {file}.", hint="Expected the path of a recorded file.")
    said = said_to_feed(market, hours, levels, tick_units, fee_bps, instruments)
    params = parameters(IngestParameters, feed=feed, files=[str(f.resolve()) for f in files], again=again, **said)
    with watching(f"Ingesting {len(files)} files"):
        from flows.ingest import ingest as flow
        from tasks.ingest import done_before

        try:
            done, failure = flow(params), None
        except Exception as error:
            done, failure = done_before(error), error
    show(done, as_json)
    if failure is not None:
        raise failure


def show(done: list[Ingested], as_json: bool) -> None:
    """A line a symbol and day, and what a symbol-day costs."""
    import json
    import statistics

    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in done]))
        return
    for one in done:
        for stored in one.stored:
            print(f"{stored.symbol} {stored.day}: {stored.summary}{' (stored before)' if one.again else ''}")
    fresh = [one for one in done if not one.again]
    if fresh:
        cost = statistics.median(one.seconds / len(one.stored) for one in fresh)
        year = cost * 252 * 500 / 3600
        print(f"A symbol and day took {cost:.2f} s of a worker (median): a year of 500 such symbols would take {year:,.0f} hours of one.")
