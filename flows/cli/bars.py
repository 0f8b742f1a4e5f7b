"""`cift bars`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import End, Json, Start, Symbols


def bars(
    symbols: Symbols,
    start: Start,
    end: End,
    every: Annotated[str, typer.Option(help="What ends a bar: 250ms, 1s, 5m, 1h; 500trades; 1000volume (in the symbol's unit).")] = "1s",
    levels: Annotated[int, typer.Option(min=1, help="Levels of the book whose order flow is summed; those that there are.")] = 1,
    window: Annotated[int, typer.Option(min=2, help="Bars that a z-score looks back over, its own among them.")] = 300,
    profile: Annotated[str, typer.Option(help="Stretch of time of the volume profile: 60s, 5m.")] = "60s",
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("bars"),
    json: Json = False,
) -> None:
    """Write bars of stored sessions as Parquet: price, volume, order flow and its z-score; and the volume at each price.

    Two files a symbol and session: bars-SYMBOL-DAY.parquet (as_of, open, high, low, close, vwap, volume, n_trades, n_events, and for each
    level ofi_00, z_ofi_00) and profile-SYMBOL-DAY.parquet (as_of, price, volume). Prices are in the currency, sizes in the symbol's unit,
    times ns UTC. docs/data.md says every column.

    A row holds what was received up to its as_of, and nothing after: a bar of time from t - 1s to t says what a feature at t may know, so
    there is no bar where nothing happened. A bar of trades or volume ends with the trade that fills it, and is known then. Behind a halt
    or a gap of the feed all begins anew. A z-score counts a flow up to 2^31 / window lots.

    Example: cift bars --symbols AAPL --start 2012-06-21 --end 2012-06-21 --every 5m --levels 5

    Example: cift bars --symbols BTCUSDT --start 2024-08-08 --end 2024-08-08 --every 1000trades --out /tmp/bars
    """
    from cift_models.errors import InputError
    from flows.cli.options import day, split
    from flows.cli.terminal import showing
    from tasks.bars import write_bars

    chosen = list(dict.fromkeys(split(symbols)))
    if not chosen:
        raise InputError("--symbols names no symbol.", hint="Expected symbols with commas between: AAPL,AMZN,GOOG.")
    first, last = day(start, "--start"), day(end, "--end")
    found = []
    with showing(f"Bars of {', '.join(chosen)}, {first} .. {last}"):
        for one in write_bars(chosen, first, last, out, every, window, profile, levels):
            found.append(one)
            if not json:
                of = f"{one['events']:,} events, {one['n_trades']:,} trades of {one['volume']:,.10g} {one['unit']}"
                print(f"{one['symbol']} {one['day']}: {one['bars']:,} bars of {of}\n  {one['bars_path']}\n  {one['profile_path']}")
    if json:
        import orjson

        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
