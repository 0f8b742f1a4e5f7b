"""`cift backfill`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import End, FeeBps, Feed, Hours, Instruments, Json, Levels, Market, Start, TickUnits, said_to_feed


def backfill(
    feed: Feed,
    files: Annotated[list[Path], typer.Argument(help="Files, or folders of them: those that begin in the range count.")],
    start: Start,
    end: End,
    symbols: Annotated[str, typer.Option(help="Universe whose features to build, in order, with commas between. Without it: none.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and why, and do nothing.")] = False,
    market: Market = None,
    hours: Hours = None,
    levels: Levels = None,
    tick_units: TickUnits = None,
    fee_bps: FeeBps = None,
    instruments: Instruments = None,
    as_json: Json = False,
) -> None:
    """Bring a range of days up to date: only what is missing or changed is done.

    A file is done again if its bytes, its options, the code or what it goes on from have changed, or if the store has lost it.

    Example: cift backfill lobster data/ --start 2012-06-01 --end 2012-06-30 --symbols AAPL,AMZN,GOOG --dry-run
    """
    import json

    from flows.cli.options import day, parameters, split
    from flows.cli.terminal import watching
    from flows.parameters import BackfillParameters

    params = parameters(
        BackfillParameters,
        feed=feed,
        files=[str(file.resolve()) for file in files],
        start=day(start, "--start"),
        end=day(end, "--end"),
        symbols=split(symbols),
        dry_run=dry_run,
        **said_to_feed(market, hours, levels, tick_units, fee_bps, instruments),
    )
    with watching(f"{'Looking at' if dry_run else 'Backfilling'} {start} .. {end}"):
        from flows.backfill import backfill as flow
        from tasks.ingest import done_before

        try:
            planned, failure = flow(params), None
        except Exception as error:
            planned, failure = getattr(error, "planned", []), error
    if as_json and failure is None:
        print(json.dumps([one.model_dump(mode="json") for one in planned]))
        return
    ran = {one.file for one in done_before(failure)} if failure else {one.what for one in planned}
    doing = 0
    for one in planned:
        does = one.state != "done" and one.what in ran
        doing += does
        state = one.state if one.state == "done" or dry_run else "done now" if does else "not done"
        if not as_json:
            print(f"{one.day} {one.step:8} {one.what}: {state}{f' ({one.why})' if one.why else ''}")
    if planned and not as_json:
        rest = f"{sum(one.state != 'done' for one in planned) - doing} are still to do, " if failure else ""
        print(f"{doing} of {len(planned)} steps {'would run' if dry_run else 'ran'}; {rest}the others stand as they are.")
    if failure is not None:
        raise failure
