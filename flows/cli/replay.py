"""`cift replay`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    source: Annotated[
        str,
        typer.Argument(
            help="What the files are: lobster, binance, lean, canonical, or stored (symbols and a date). With --as-exchange: binance."
        ),
    ],
    files: Annotated[list[str] | None, typer.Argument(help="Recorded files, or SYMBOL... DATE for stored sessions.")] = None,
    to: Annotated[str, typer.Option(help="The service's WebSocket.")] = "ws://127.0.0.1:3000/ticks",
    packet: Annotated[int, typer.Option(help="Events in one message; 1 measures the latency of a live tick.")] = 500,
    in_flight: Annotated[int, typer.Option(help="Messages that may wait for their acknowledgement.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    as_exchange: Annotated[
        int | None, typer.Option(metavar="PORT", help="Serve captures on this port as the exchange would, instead of feeding a service.")
    ] = None,
    speed: Annotated[float, typer.Option(help="--as-exchange: 1 is as it was, 10 ten times as fast, 0 as fast as it is taken.")] = 1.0,
    market: Annotated[str | None, typer.Option(help="binance: spot, usdm or coinm, where the files' names do not say it.")] = None,
    instruments: Annotated[Path | None, typer.Option(help="binance: an exchangeInfo JSON, for symbols that are not built in.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="--as-exchange: what goes wrong, and at which message: drop=N,N disconnect=N,N lose=N silent=N snapshot-delay=S "
            "snapshot-errors=N."
        ),
    ] = None,
) -> None:
    """Feed recorded events to a running service, merged by time, and compare every prediction and signal with the batch ones, bit by bit.

    Prints how many were equal, to the bit, and which were not. Exit code 1 where one was not, or an instant never came.

    With --as-exchange, recorded captures of one market are served over a local WebSocket and REST instead, as Binance serves them: try
    `cift record` and `cift feed` on them with --ws ws://127.0.0.1:PORT --rest http://127.0.0.1:PORT.

    Example: cift replay lobster data/*.zip --to ws://127.0.0.1:3000/ticks

    Example: cift replay binance spot_btcusdt_20240808.gz spot_ethusdt_20240808.gz --as-exchange 9000 --speed 10
    """
    import os
    import sys

    from cift_models.errors import InputError

    options = {"--market": market, "--instruments": instruments.resolve() if instruments else None}
    more = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    if as_exchange is not None:
        # The word binance may be left out: nothing else is served.
        captures = [Path(name).resolve() for name in ([] if source == "binance" else [source]) + (files or [])]
        arguments = ["-m", "serving.feed", "exchange", *map(str, captures), "--port", str(as_exchange), "--speed", str(speed)]
        arguments += more
        arguments += [part for one in fault or [] for part in ("--fault", one)]
        if not captures:
            raise InputError("--as-exchange needs captures.", hint="cift replay binance FILE... --as-exchange PORT")
        os.execv(sys.executable, [sys.executable, *arguments])
    if not files:
        raise InputError("There is nothing to replay.", hint="cift replay lobster FILE..., or cift replay stored [SYMBOL...] DATE")
    arguments = ["-m", "serving.replay", source, *(str(Path(f).resolve()) if source != "stored" else f for f in files), "--to", to]
    arguments += ["--packet", str(packet), "--in-flight", str(in_flight), *more]
    os.execv(sys.executable, [sys.executable, *arguments, *(["--json"] if json else [])])
