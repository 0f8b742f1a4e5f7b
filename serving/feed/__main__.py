"""`python -m serving.feed record|exchange|join`: what `cift record`, `cift replay --as-exchange` and `cift feed` start."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cift_models.errors import CiftError, InputError, StoreError, StoreUnavailable

Ready = TypeVar("Ready")


def main() -> None:
    """Exit code 0 where it ended as asked (a signal is asking), 1 where something failed on the way, 2 for a wrong request."""
    parser = argparse.ArgumentParser(prog="python -m serving.feed", description="Record, replay or join an exchange's live streams.")
    commands = parser.add_subparsers(dest="command", required=True)
    record, join, exchange = (commands.add_parser(name) for name in ("record", "join", "exchange"))
    for one in (record, join):
        one.add_argument("--market")
        one.add_argument("--ws")
        one.add_argument("--rest")
        one.add_argument("--depth-ms", type=int, default=100)
        one.add_argument("--silence", type=float, default=10.0)
        one.add_argument("--backlog-mb", type=float, default=64.0)
        one.add_argument("--instruments", type=Path)
        one.add_argument("--clock", default="here")
        one.add_argument("--seconds", type=float)
        one.add_argument("--json", action="store_true")
    record.add_argument("--symbols", required=True)
    record.add_argument("--out", type=Path, required=True)
    record.add_argument("--flush", type=float, default=1.0)
    join.add_argument("--symbols")
    join.add_argument("--to", required=True)
    join.add_argument("--record", type=Path)
    join.add_argument("--decisions", type=Path)
    join.add_argument("--in-flight", type=int, default=8)
    join.add_argument("--session-hours", type=int, default=24)
    exchange.add_argument("files", nargs="+", type=Path)
    exchange.add_argument("--port", type=int, required=True)
    exchange.add_argument("--host", default="127.0.0.1")
    exchange.add_argument("--speed", type=float, default=1.0)
    exchange.add_argument("--market")
    exchange.add_argument("--instruments", type=Path)
    exchange.add_argument("--fault", action="append", default=[])
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("httpx", "httpcore", "cift.feed.websockets", "cift.exchange.websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    name = {"record": "record", "join": "feed", "exchange": "replay"}[asked.command]
    try:
        asyncio.run({"record": _record, "join": _join, "exchange": _exchange}[asked.command](asked))
    except CiftError as error:
        print(f"cift {name}: {error.message}\n      {error.hint}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print(f"cift {name}: stopped.", file=sys.stderr)
        sys.exit(130)


async def _record(asked: argparse.Namespace) -> None:
    from serving.feed import venue
    from serving.feed.record import recorder

    market = asked.market or "spot"
    where, symbols = venue.venue(market, asked.ws, asked.rest), venue.symbols(asked.symbols, market)
    if not 0.05 <= asked.flush <= 3600:
        raise InputError(f"--flush is {asked.flush:g}.", hint="Expected seconds: what a kill may cost.")
    _say(f"Recording {', '.join(symbols)} ({market}) from {where.ws} into {asked.out}; Ctrl-C ends it.")
    ready = recorder(where, symbols, asked.out, _options(asked), flush_s=asked.flush, tell=_say)
    recording = await _within(asked.seconds, ready)
    _on_signal(recording.stop)
    await recording.run(asked.seconds)
    done = recording.summary()
    files = sorted(asked.out.glob(f"{market}_*_[0-9]*.gz"))
    _finish(
        asked.json,
        done,
        f"{done['lines']:,} lines, {done['bytes'] / 1e6:,.1f} MB of {', '.join(done['symbols'])} in {done['seconds']:,.0f} s; "
        f"{done['gaps']} gaps, {done['snapshots']} snapshots, {max(0, done['connects'] - 1)} reconnections; "
        f"{done['conflated']:,} quotes conflated, {sum(done['dropped'].values()):,} book changes dropped.\n"
        + (
            f"Next: cift ingest binance {' '.join(str(file) for file in files[:4])}{' ...' if len(files) > 4 else ''}"
            f" --instruments {asked.instruments or asked.out / f'{market}_exchangeinfo.json'}"
            if files
            else "Nothing came."
        ),
    )


async def _join(asked: argparse.Namespace) -> None:
    from cift_models.settings import get_settings
    from serving.feed import venue
    from serving.feed.decisions import Decisions
    from serving.feed.join import join
    from serving.feed.sender import http_address

    markets: Callable[[str], venue.Venue] = lambda market: venue.venue(market, asked.ws, asked.rest)  # noqa: E731
    symbols = venue.symbols(asked.symbols, asked.market or "spot") if asked.symbols else None
    state = get_settings().home / "feed" / f"{http_address(asked.to).rpartition('/')[2].replace(':', '_')}.json"
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        # Held until the process ends: events of a second feed would be late, each behind the other's.
        lock = open(state.with_suffix(".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"{state.parent}: {error.strerror}.", hint="Expected a home that can be written to: CIFT_HOME.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"Another feed of this home feeds {asked.to}.", hint="Stop it, or feed another service.") from None
    decisions = Decisions(asked.decisions)
    try:
        ready = join(
            asked.to, symbols=symbols, venue=markets, market=asked.market, options=_options(asked), in_flight=max(1, asked.in_flight),
            record=asked.record, decisions=decisions, state=state, session_hours=asked.session_hours, tell=_say,
        )  # fmt: skip
        made = await _within(asked.seconds, ready)
        where = ", ".join(f"{', '.join(s.symbol for s in client.sources)} from {client.venue.ws}" for client in made.clients)
        _say(f"Feeding {where} to {asked.to}; Ctrl-C ends it.")
        _on_signal(made.stop)
        await made.run(asked.seconds)
    finally:
        decisions.close()
        lock.close()
    done = made.summary()
    lag = done["lag_ms"]["p50"]
    _finish(
        asked.json,
        done,
        f"{done['events']:,} events, {done['applied']:,} applied, {done['late']:,} late, in {done['seconds']:,.0f} s; "
        f"{done['decisions']:,} decisions" + (f", {lag:.1f} ms behind their instant (median)" if lag is not None else "") + "; "
        f"{sum(m['gaps'] for m in done['markets'].values())} gaps, {done['service_connections'] - 1} reconnections to the service."
        + "".join(
            f"\n{symbol} was left out {n} times ({market['unread'][symbol]:,} lines)"
            + (f", and is: {market['broken'][symbol]}" if symbol in market["broken"] else ".")
            for market in done["markets"].values()
            for symbol, n in market["quarantined"].items()
        ),
    )


async def _exchange(asked: argparse.Namespace) -> None:
    from serving.feed.exchange import Exchange, Faults
    from serving.feed.recording import Recording

    for file in asked.files:
        if not file.is_file():
            raise InputError(f"There is no file {file}.", hint="Expected the path of a capture: spot_btcusdt_20240808.gz.")
    exchange = Exchange(Recording(asked.files, asked.market, asked.instruments), speed=asked.speed, faults=Faults.of(asked.fault))
    recording = exchange.recording
    stop = asyncio.Event()
    _on_signal(stop.set)
    async with exchange.serving(asked.host, asked.port) as port:
        base = f"{asked.host}:{port}"
        pace = f"{asked.speed:g}x" if asked.speed else "as fast as it is taken"
        _say(
            f"Serving {', '.join(recording.symbols)} ({recording.market}) on ws://{base}/stream and http://{base}, {pace}, from the first "
            f"subscriber on. Ctrl-C ends it.\n"
            f"  cift record binance --market {recording.market} --symbols {','.join(recording.symbols)} --out DIR "
            f"--ws ws://{base} --rest http://{base} --clock exchange"
        )
        waiting = [asyncio.create_task(one.wait()) for one in (stop, exchange.ended)]
        told = 0.0
        while not any(task.done() for task in waiting):
            await asyncio.wait(waiting, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if exchange.at and time.monotonic() - told >= 10:
                told = time.monotonic()
                reached = datetime.fromtimestamp(exchange.at / 1e9, UTC)
                _say(f"{reached:%Y-%m-%d %H:%M:%S} of the recording, {exchange.sent:,} messages sent, {exchange.listening} listening")
        # What is on its way shall arrive before the door closes.
        await asyncio.wait(waiting[:1], timeout=1.0 if exchange.ended.is_set() else 0.0)
        for task in waiting:
            task.cancel()
    _say(f"The recording has ended: {exchange.sent:,} messages and {exchange.snapshots} snapshots over {exchange.connections} connections.")


async def _within(seconds: float | None, ready: Coroutine[Any, Any, Ready]) -> Ready:
    """Wait for what asks the exchange first, not longer than the whole was to take."""
    try:
        async with asyncio.timeout(seconds):
            return await ready
    except TimeoutError:
        raise StoreUnavailable(f"The exchange did not answer within {seconds:g} s.", hint="Check --rest, or give it longer.") from None


def _options(asked: argparse.Namespace) -> Any:
    from serving.feed.record import Options

    if asked.silence <= 0 or asked.backlog_mb < 1 or (asked.seconds is not None and asked.seconds <= 0):
        raise InputError("--silence, --seconds and --backlog-mb must be above 0 (at least 1 MB).", hint="Leave them out.")
    return Options(asked.depth_ms, asked.silence, int(asked.backlog_mb * (1 << 20)), asked.instruments, asked.clock)


def _on_signal(stop: Callable[[], None]) -> None:
    """SIGINT and SIGTERM ask for an orderly end; a second SIGINT does not ask."""
    loop = asyncio.get_running_loop()

    def asked() -> None:
        stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, asked)
    loop.add_signal_handler(signal.SIGTERM, stop)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _finish(as_json: bool, done: dict[str, Any], words: str) -> None:
    import orjson

    print(orjson.dumps(done).decode() if as_json else words)


if __name__ == "__main__":
    main()
