"""The recorded Binance captures for tests of the live path: slices, their receive times again, an exchange in step with a client."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from cift_models.instruments import SECOND
from serving.feed.client import Client
from serving.feed.exchange import Exchange
from serving.feed.recording import Line, Recording
from serving.feed.venue import SNAPSHOT, is_break

SPOT = ("spot_btcusdt_20240808", "spot_ethusdt_20240808")


def recorded(name: str) -> Path:
    """A recorded file; skips the test where there is none."""
    root = os.environ.get("CIFT_TEST_DATA")
    path = Path(root or "", "binance_20240808", f"{name}.gz")
    if not root or not path.is_file():
        pytest.skip("CIFT_TEST_DATA is not set, or has no binance_20240808: no recorded Binance day")
    return path


def slices(folder: Path, seconds: float, names: Sequence[str] = SPOT) -> list[Path]:
    """The first seconds of some captures, as files of the same names."""
    out = []
    for name in names:
        with gzip.open(recorded(name)) as file:
            first = file.readline()
            end = int(first.split(b" ", 1)[0]) + int(seconds * SECOND)
            lines = [first]
            for line in file:
                if int(line.split(b" ", 1)[0]) > end:
                    break
                lines.append(line)
        out.append(folder / f"{name}.gz")
        out[-1].write_bytes(gzip.compress(b"".join(lines), 1))
    return out


def lines_of(path: Path, ours: bool = True) -> list[tuple[int, bytes]]:
    """(receive time, text) of a capture's lines, with or without the gaps that our recorder declared."""
    split = [line.split(b" ", 1) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return [(int(recv), text) for recv, text in split if ours or not is_break(text)]


class RecordedClock:
    """Says of each message when it was received as it was recorded; of anything else, the time that was reached."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.reached = 0
        self._times: dict[bytes, deque[int]] = {}
        for file in files:
            for recv, text in lines_of(file):
                self._times.setdefault(text, deque()).append(recv)

    def stamp(self, text: bytes) -> int:
        times = self._times.get(text)
        recv = times.popleft() if times else self.reached
        self.reached = max(self.reached, recv)
        return recv

    def now(self) -> int:
        return self.reached


class InStep:
    """An exchange's gate: a recorded snapshot waits until the client has what went before, and what follows until it has the snapshot.

    REST and WebSocket are two connections: without it a snapshot may overtake a message, and come to stand at another place than recorded.
    """

    client: Client
    exchange: Exchange

    def __init__(self) -> None:
        self.snapshots = 0

    async def __call__(self, line: Line) -> None:
        while self.client.counts.snapshots < self.snapshots:
            await asyncio.sleep(0.001)
        if line.kind == SNAPSHOT:
            self.snapshots += 1
            while self.client.counts.messages < self.exchange.sent:
                await asyncio.sleep(0.001)


def exchange_of(files: Sequence[Path], gate: InStep | None = None, **more: object) -> Exchange:
    """An exchange as fast as it is taken."""
    exchange = Exchange(Recording(files), speed=0, gate=gate, **more)  # type: ignore[arg-type]
    if gate is not None:
        gate.exchange = exchange
    return exchange
