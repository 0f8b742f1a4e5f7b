"""A TCP proxy that does to a connection what networks do: it delays, stalls, cuts and refuses, when a test says so.

    with proxy(server.ports["redis"]) as between:
        client = connect(between.port)
        between.delay(0.2)                          # every chunk, either way
        between.stall("response")                   # takes what comes and passes nothing on, until the next call
        between.cut("request", after=1000)          # RST on both sides after that many bytes more
        between.cut("response", after=3, times=1)   # in mid-response, once; then it passes again
        between.refuse()                            # open connections are reset, new ones refused
        between.heal()                              # what stalled goes on its way
        between.connections, between.bytes["request"], between.cuts

It works on bytes, not on messages: where a protocol's messages begin is for the test to know.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

HOST = "127.0.0.1"
CHUNK = 65_536
WAIT_S = 10.0
"""How long a call waits for the proxy's thread."""

Side = Literal["request", "response"]


@dataclass(eq=False)
class Fault:
    """What is done now; a new one replaces it, and `left` of one that cuts a number of times counts down."""

    delay_s: float = 0.0
    stalls: tuple[Side, ...] = ()
    cuts: Side | None = None
    after: int = 0
    left: int | None = None
    seen: dict[Connection, int] = field(default_factory=dict)
    """Bytes that passed on a connection, on the side that is cut, since this fault began."""


@dataclass(eq=False)
class Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def reset(self) -> None:
        """RST to both, so that neither takes it for an orderly end."""
        for writer in (self.client, self.server):
            _reset(writer)


class Proxy:
    """Between a client and a port of this machine, on a thread of its own. Calls take effect before they return."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = 0
        """Accepted so far."""
        self.cuts = 0
        """Connections that `cut` ended."""
        self.bytes: dict[Side, int] = {"request": 0, "response": 0}
        """Passed on so far."""
        self._fault = Fault()
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._changed = self._call(_event)
        self.port = 0
        self._call(self._listen)

    def heal(self) -> None:
        """Pass everything on, and listen."""
        self._become(Fault())

    def delay(self, seconds: float) -> None:
        """Hold every chunk that long, either way; the next one waits behind it."""
        self._become(Fault(delay_s=seconds))

    def stall(self, *sides: Side) -> None:
        """Pass nothing on (of one side, or of both), and keep the connection open."""
        self._become(Fault(stalls=sides or ("request", "response")))

    def cut(self, side: Side, after: int = 0, times: int | None = None) -> None:
        """Reset every connection when `after` bytes more have passed on that side and another one comes; at most `times` of them."""
        self._become(Fault(cuts=side, after=after, left=times))

    def refuse(self) -> None:
        """Reset what is open and refuse what comes, as where no server is."""

        async def gone() -> None:
            self._fault = Fault()
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            for connection in list(self._open):
                connection.reset()
            self._wake()

        self._call(gone)

    def close(self) -> None:
        """Reset what is open and stop."""

        async def ended() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self.refuse()
        self._call(ended)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _become(self, fault: Fault) -> None:
        async def change() -> None:
            self._fault = fault
            if self._listener is None:
                await self._listen()
            self._wake()

        self._call(change)

    def _wake(self) -> None:
        """Let everything that waits look at the fault again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _call(self, what: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what(), self._loop).result(WAIT_S)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, HOST, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())
        try:
            self.connections += 1
            try:
                from_server, to_server = await asyncio.open_connection(HOST, self.target)
            except OSError:
                _reset(writer)
                return
            connection = Connection(writer, to_server)
            self._open.add(connection)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(connection, "request", reader, to_server))
                    both.create_task(self._pump(connection, "response", from_server, writer))
            finally:
                self._open.discard(connection)
                for end in (writer, to_server):
                    end.close()
        except* OSError:
            pass  # one end went; the other was closed with it
        finally:
            self._tasks.discard(task)

    async def _pump(self, connection: Connection, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._hold(side)
            fault = self._fault
            if fault.cuts == side and fault.left != 0:
                allowed = fault.after - fault.seen.get(connection, 0)
                fault.seen[connection] = fault.seen.get(connection, 0) + len(data)
                if len(data) > allowed:
                    writer.write(data[:allowed])
                    await writer.drain()
                    self.bytes[side] += allowed
                    self.cuts += 1
                    fault.left = None if fault.left is None else fault.left - 1
                    connection.reset()
                    raise ConnectionResetError
            writer.write(data)
            await writer.drain()
            self.bytes[side] += len(data)
        writer.write_eof()

    async def _hold(self, side: Side) -> None:
        """Wait as long as the fault of the moment says; another fault ends the waiting of the one before."""
        while side in self._fault.stalls:
            await self._changed.wait()
        if self._fault.delay_s:
            try:
                await asyncio.wait_for(self._changed.wait(), self._fault.delay_s)
            except TimeoutError:
                pass


async def _event() -> asyncio.Event:
    return asyncio.Event()


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A proxy before a port of this machine, that passes everything on until it is told otherwise."""
    between = Proxy(target)
    try:
        yield between
    finally:
        between.close()
