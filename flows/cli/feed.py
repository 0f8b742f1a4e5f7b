"""`cift feed`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.record import AsJson, BacklogMb, DepthMs, Instruments, Rest, Seconds, Silence, UseClock, Ws, connection, only_binance, start


def feed(
    exchange: Annotated[str, typer.Argument(help="Whose streams: binance.")],
    to: Annotated[str, typer.Option(help="The service's WebSocket.")] = "ws://127.0.0.1:3000/ticks",
    symbols: Annotated[
        str | None, typer.Option(help="Only these: BTCUSDT,ETHUSDT. Default: all symbols of the release that is served, on their markets.")
    ] = None,
    market: Annotated[str | None, typer.Option(help="Market of --symbols: spot, usdm or coinm. Default: spot.")] = None,
    ws: Ws = None,
    rest: Rest = None,
    depth_ms: DepthMs = 100,
    silence: Silence = 10.0,
    backlog_mb: BacklogMb = 64.0,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Also record what is received, as `cift record` does: what live said can be judged. It is whole however "
            "long the service is away, and takes as many --backlog-mb again; what the feed has no room for is then dropped as a gap, "
            "trades too."
        ),
    ] = None,
    decisions: Annotated[Path | None, typer.Option(help="Append every decision of the service to this file, a JSON line each.")] = None,
    in_flight: Annotated[int, typer.Option(help="Messages that may wait for the service's acknowledgement.")] = 8,
    session_hours: Annotated[int, typer.Option(help="Hours of a session: models begin anew behind it (1 to 168).")] = 24,
    instruments: Instruments = None,
    clock: UseClock = "here",
    seconds: Seconds = None,
    as_json: AsJson = False,
) -> None:
    """Join an exchange's live streams to a running service: it decides every second, also while nothing comes.

    What the service is told is what `cift ingest` would make of the same lines. While a book is not whole the service is told of a gap, and
    says so. A symbol that cannot be read, because a price is off its grid, is left out alone, and read again from a snapshot. A service
    that goes away is found again, and gets what it did not acknowledge; a feed that is started again goes on in the session that runs,
    behind a gap.

    Example: cift feed binance --to ws://127.0.0.1:3000/ticks

    Example: cift feed binance --symbols BTCUSDT,ETHUSDT --market spot --record captures --decisions said.jsonl
    """
    only_binance(exchange, "feed")
    values = {"--symbols": symbols, "--record": record.resolve() if record else None}
    values |= {"--decisions": decisions.resolve() if decisions else None}
    arguments = [part for name, value in values.items() if value is not None for part in (name, str(value))]
    arguments += ["--to", to, "--in-flight", str(in_flight), "--session-hours", str(session_hours)]
    start("join", arguments + connection(market, ws, rest, depth_ms, silence, backlog_mb, instruments, clock, seconds, as_json))
