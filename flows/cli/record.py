"""`cift record`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Market = Annotated[str, typer.Option(help="spot, usdm or coinm.")]
Ws = Annotated[str | None, typer.Option(help="WebSocket address of the exchange, instead of Binance's own: ws://127.0.0.1:9000.")]
Rest = Annotated[str | None, typer.Option(help="REST address of the exchange, instead of Binance's own: http://127.0.0.1:9000.")]
DepthMs = Annotated[int, typer.Option(help="Milliseconds between two changes to a book: 100 or 1000 on spot; 0, 100, 250, 500 on futures.")]
Silence = Annotated[float, typer.Option(help="Seconds without a message after which a connection is given up.")]
BacklogMb = Annotated[
    float, typer.Option(help="Megabytes that may wait. Beyond: quotes are conflated, book changes dropped as a gap, trades wait.")
]
Instruments = Annotated[Path | None, typer.Option(help="An exchangeInfo JSON: what a tick and a lot are. Default: the exchange is asked.")]
UseClock = Annotated[
    str, typer.Option("--clock", help="Receive times: here (this machine's clock), or exchange (moved to a replayed recording's time).")
]
Seconds = Annotated[float | None, typer.Option(help="End after so long. Default: Ctrl-C.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def record(
    exchange: Annotated[str, typer.Argument(help="Whose streams: binance.")],
    symbols: Annotated[str, typer.Option(help="Symbols as the exchange writes them, with commas between: BTCUSDT,ETHUSDT.")],
    out: Annotated[Path, typer.Option(help="Folder for the captures: spot_btcusdt_20240808.gz, one a symbol and UTC day.")],
    market: Market = "spot",
    ws: Ws = None,
    rest: Rest = None,
    depth_ms: DepthMs = 100,
    silence: Silence = 10.0,
    backlog_mb: BacklogMb = 64.0,
    flush: Annotated[float, typer.Option(help="Seconds between two writes: what a kill -9 costs.")] = 1.0,
    instruments: Instruments = None,
    clock: UseClock = "here",
    seconds: Seconds = None,
    as_json: AsJson = False,
) -> None:
    """Record live streams (book changes, best bid and ask, trades) and the snapshots that make their books whole. Needs no key.

    The files are what `cift ingest binance` reads. A recorder that was killed leaves files that can be read; started again, it goes on in
    them, behind a declared gap. A lost connection is made again, declared as a gap, and mended by a snapshot.

    Example: cift record binance --symbols BTCUSDT,ETHUSDT --market spot --out captures

    Example: cift record binance --symbols BTCUSD_PERP --market coinm --out captures --depth-ms 0 --seconds 3600
    """
    only_binance(exchange, "record")
    arguments = ["--symbols", symbols, "--out", str(out.resolve()), "--flush", str(flush)]
    start("record", arguments + connection(market, ws, rest, depth_ms, silence, backlog_mb, instruments, clock, seconds, as_json))


def only_binance(exchange: str, command: str) -> None:
    """Raise InputError for another exchange."""
    from cift_models.errors import InputError

    if exchange != "binance":
        raise InputError(f"Unknown exchange {exchange!r}.", hint=f"Expected binance: cift {command} binance ...")


def connection(
    market: str | None, ws: str | None, rest: str | None, depth_ms: int, silence: float, backlog_mb: float, instruments: Path | None,
    clock: str, seconds: float | None, as_json: bool,
) -> list[str]:  # fmt: skip
    """The options that `cift record` and `cift feed` share."""
    values = {"--market": market, "--ws": ws, "--rest": rest, "--depth-ms": depth_ms, "--silence": silence, "--backlog-mb": backlog_mb}
    values |= {"--instruments": instruments.resolve() if instruments else None, "--clock": clock, "--seconds": seconds}
    return [part for name, value in values.items() if value is not None for part in (name, str(value))] + (["--json"] if as_json else [])


def start(command: str, arguments: list[str]) -> None:
    """Become the process that does it."""
    import os
    import sys

    os.execv(sys.executable, [sys.executable, "-m", "serving.feed", command, *arguments])
