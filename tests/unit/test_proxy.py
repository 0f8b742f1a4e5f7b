"""The proxy of the tests does what it says, seen from a plain socket on either side."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy, proxy


class Echo:
    """A server that sends back what it gets, and keeps count of it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got = b""
        self.ends: list[str] = []
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(thread := threading.Thread(target=self._echo, args=(one,), daemon=True))
            thread.start()

    def _echo(self, one: socket.socket) -> None:
        with one:
            try:
                while data := one.recv(65_536):
                    self.got += data
                    one.sendall(data)
                self.ends.append("end")
            except ConnectionError:
                self.ends.append("reset")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)

    def ended(self, count: int = 1) -> list[str]:
        until = time.monotonic() + 5
        while len(self.ends) < count and time.monotonic() < until:
            time.sleep(0.005)
        return self.ends


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def between(echo: Echo) -> Iterator[Proxy]:
    with proxy(echo.port) as made:
        yield made


def connect(between: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", between.port), 5)


def read(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := client.recv(size - len(got))):
        got += data
    return got


def test_it_passes_everything_on_and_counts(between: Proxy, echo: Echo) -> None:
    sent = bytes(range(256)) * 4000
    for _ in range(3):
        with connect(between) as client:
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            assert read(client, len(sent)) == sent
            sender.join()
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    assert echo.ended(3) == ["end"] * 3
    assert between.connections == 3 and between.cuts == 0 and between.bytes == {"request": 3 * len(sent), "response": 3 * len(sent)}


def test_a_delay_holds_either_way_and_ends(between: Proxy) -> None:
    with connect(between) as client:
        between.delay(0.15)
        begin = time.perf_counter()
        client.sendall(b"x")
        assert read(client, 1) == b"x" and 0.3 <= time.perf_counter() - begin < 2
        between.delay(60)
        client.sendall(b"y")
        time.sleep(0.05)
        between.heal()
        begin = time.perf_counter()
        assert read(client, 1) == b"y" and time.perf_counter() - begin < 2


def test_a_stall_keeps_the_connection_and_loses_nothing(between: Proxy, echo: Echo) -> None:
    with connect(between) as client:
        for sides, arrives in ((("response",), True), (("request",), False), ((), False)):
            between.stall(*sides)
            before = len(echo.got)
            client.sendall(b"abc")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(3)
            assert (len(echo.got) == before + 3) is arrives
            between.heal()
            client.settimeout(5)
            assert read(client, 3) == b"abc"


@pytest.mark.parametrize("side", ["request", "response"])
def test_a_cut_lets_so_many_bytes_pass_and_resets_both(between: Proxy, echo: Echo, side) -> None:
    with connect(between) as client:
        client.sendall(b"12345")
        assert read(client, 5) == b"12345"
        between.cut(side, after=7)
        client.sendall(b"abcdefg")
        assert read(client, 7) == b"abcdefg"
        client.sendall(b"h")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert echo.ended() == ["reset"] and echo.got == b"12345abcdefg" + (b"h" if side == "response" else b"")
    assert between.cuts == 1 and between.bytes[side] == 12


def test_a_cut_in_the_middle_of_a_chunk_passes_its_beginning(between: Proxy) -> None:
    with connect(between) as client:
        between.cut("response", after=3)
        client.sendall(b"abcdef")
        got = b""
        with pytest.raises(ConnectionResetError):
            while data := client.recv(1):
                got += data
    assert got == b"abc" and between.bytes["response"] == 3


def test_a_number_of_cuts_then_it_passes(between: Proxy) -> None:
    between.cut("request", times=2)
    for _ in range(2):
        with connect(between) as client:
            client.sendall(b"a")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    with connect(between) as client:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
    assert between.cuts == 2 and between.connections == 3


def test_refusing_resets_what_is_open_and_comes_back_on_the_same_port(between: Proxy, echo: Echo) -> None:
    port = between.port
    with connect(between) as client:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
        between.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert echo.ended() == ["reset"]
    with pytest.raises(ConnectionRefusedError):
        connect(between)
    between.heal()
    with connect(between) as client:
        client.sendall(b"b")
        assert read(client, 1) == b"b" and between.port == port


def test_no_server_behind_it_is_a_reset(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    # The reset may come while it still connects.
    with proxy(nobody) as between, pytest.raises(ConnectionResetError), connect(between) as client:
        client.recv(1)


def test_it_ends_with_connections_open(echo: Echo) -> None:
    threads = threading.active_count()
    with proxy(echo.port) as between:
        clients = [connect(between) for _ in range(3)]
        between.stall()
        for client in clients:
            client.sendall(b"a")
        time.sleep(0.05)
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    assert len(echo.ended(3)) == 3
    for thread in echo.threads[1:]:
        thread.join(5)
    assert threading.active_count() == threads
