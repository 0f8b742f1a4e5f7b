"""The exchange that remembers: what it sends, when, and what it answers."""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import websockets

from cift_models.errors import FeedError, InputError
from serving.feed.exchange import Exchange, Faults
from serving.feed.recording import Book, Recording, exchange_info, recorded_by_us
from serving.feed.venue import DEPTH, SNAPSHOT, break_line
from tests.feed_made import Made, made


@pytest.fixture(scope="module")
def btc() -> Made:
    return made("BTCUSDT", 6, 1)


@pytest.fixture(scope="module")
def captures(tmp_path_factory, btc) -> list[Path]:
    folder = tmp_path_factory.mktemp("captures")
    return [btc.write(folder), made("ETHUSDT", 6, 2, snapshot_at=9).write(folder)]


def sides(body: bytes, places: tuple[int, int] = (2, 5)) -> dict[tuple[int, int], int]:
    said = orjson.loads(body)
    scale = [10**p for p in places]
    return {
        (side, round(float(p) * scale[0])): round(float(q) * scale[1]) for side, name in ((1, "bids"), (-1, "asks")) for p, q in said[name]
    }


def test_lines_of_several_symbols_go_out_by_time_and_twice_the_same(captures, btc):
    recording = Recording(captures)
    lines = list(recording.lines())
    assert recording.symbols == ("BTCUSDT", "ETHUSDT") and [line.time for line in lines] == sorted(line.time for line in lines)
    assert [(line.time, line.text) for line in lines if line.symbol == "BTCUSDT"] == btc.lines
    assert list(recording.lines()) == lines and lines[0].time == recording.begins


def test_a_time_that_goes_back_in_a_file_stays_in_its_place(tmp_path, btc):
    lines = [*btc.lines[:10], (btc.lines[10][0] - 2_000_000_000, btc.lines[10][1]), *btc.lines[11:]]
    path = tmp_path / "spot_btcusdt_20240808.gz"
    path.write_bytes(gzip.compress(b"".join(b"%d %s\n" % line for line in lines)))
    played = list(Recording([path]).lines())
    assert [line.text for line in played] == [text for _, text in btc.lines]
    assert played[10].time == played[9].time


def test_a_last_line_without_a_line_feed_is_played_as_ingest_reads_it(tmp_path, btc):
    path = tmp_path / "spot_btcusdt_20240808.dat"
    path.write_bytes(b"\n".join(b"%d %s" % line for line in btc.lines))
    assert [(line.time, line.text) for line in Recording([path]).lines()] == btc.lines


def test_its_own_book_is_the_book(captures, btc):
    recording = Recording(captures)
    book = Book(recording, "BTCUSDT")
    seen = 0
    known = False
    for line in recording.lines():
        if line.symbol != "BTCUSDT":
            continue
        book.add(line)
        known = known or line.kind == SNAPSHOT
        if line.kind != DEPTH:
            continue
        body = book.snapshot(1000)
        if not known:
            assert body is None
            continue
        assert body is not None
        number = orjson.loads(body)["lastUpdateId"]
        assert number == orjson.loads(line.text)["data"]["u"] and sides(body) == btc.books[number]
        said = orjson.loads(book.snapshot(3) or b"")
        assert [len(said["bids"]), len(said["asks"])] == [3, 3] and said["bids"][0] == orjson.loads(body)["bids"][0]
        seen += 1
    assert seen > 50


def test_gaps_of_our_own_recorder_are_not_sent_and_the_book_is_lost_at_them(tmp_path, btc):
    gap = btc.lines[99][0], break_line("BTCUSDT", "spot", "closed")
    path = tmp_path / "spot_btcusdt_20240808.gz"
    path.write_bytes(gzip.compress(b"".join(b"%d %s\n" % line for line in [*btc.lines[:100], gap, *btc.lines[100:]])))
    recording = Recording([path])
    book = Book(recording, "BTCUSDT")
    for line in recording.lines():
        book.add(line)
        if recorded_by_us(line):
            assert book.snapshot(10) is None
    assert sum(recorded_by_us(line) for line in recording.lines()) == 1
    assert heard([path]) == [text for _, text in btc.lines if b'"stream"' in text]


def test_files_that_one_exchange_cannot_serve(tmp_path, captures):
    other = tmp_path / "usdm_btcusdt_20240808.gz"
    other.write_bytes(
        gzip.compress(
            b'1723161255030314667 {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT",'
            b'"t":1,"p":"61800.30","q":"0.006","X":"MARKET","m":false}}\n'
        )
    )
    with pytest.raises(InputError, match="2 markets: spot, usdm"):
        Recording([*captures, other])
    (tmp_path / "spot_x_20240808.gz").write_bytes(gzip.compress(b"hello\n"))
    with pytest.raises(FeedError, match="no capture"):
        Recording([tmp_path / "spot_x_20240808.gz"])
    unknown = tmp_path / "spot_dogeusdt_20240808.gz"
    unknown.write_bytes(
        gzip.compress(
            b'1723161254024619568 {"stream":"dogeusdt@bookTicker","data":{"u":1,"s":"DOGEUSDT","b":"1","B":"1","a":"1","A":"1"}}\n'
        )
    )
    with pytest.raises(FeedError, match="DOGEUSDT are is not known"):
        Recording([unknown])


def heard(captures: list[Path], path: str = "/stream", say: list[dict] | None = None, speed: float = 0, **more: Any) -> list[bytes]:
    """What one connection hears until the recording has ended. Without a path that names streams, everything is subscribed to."""
    names = [f"{s.lower()}@{k}" for s in Recording(captures).symbols for k in ("depth@100ms", "bookTicker", "trade")]
    say = say if say is not None else [{"method": "SUBSCRIBE", "params": names, "id": 1}]

    async def run() -> list[bytes]:
        exchange = Exchange(Recording(captures), speed=speed, **more)
        out: list[bytes] = []
        async with exchange.serving("127.0.0.1", 0) as port, httpx.AsyncClient() as rest:

            async def ask(symbol: str) -> None:
                await rest.get(f"http://127.0.0.1:{port}/api/v3/depth", params={"symbol": symbol}, timeout=20)

            async with websockets.connect(f"ws://127.0.0.1:{port}{path}", compression=None) as socket:
                for one in say:
                    await socket.send(orjson.dumps(one))
                asking = [asyncio.create_task(ask(symbol)) for symbol in Recording(captures).symbols]
                async with asyncio.timeout(20):
                    while not exchange.ended.is_set() or len(out) - len(say) < exchange.sent:
                        try:
                            out.append(await asyncio.wait_for(socket.recv(decode=False), 0.2))
                        except TimeoutError:
                            continue
                await asyncio.gather(*asking)
        return [text for text in out if not text.startswith(b'{"result"')]

    return asyncio.run(run())


def texts(captures: list[Path], *kinds: bytes) -> list[bytes]:
    return [line.text for line in Recording(captures).lines() if any(line.text.startswith(b'{"stream":"' + kind) for kind in kinds)]


@pytest.mark.parametrize(
    "path", ["/stream?streams=btcusdt@trade/ethusdt@depth@100ms", "/public/stream?streams=btcusdt@trade/ethusdt@depth"]
)
def test_streams_named_in_the_path(captures, path: str):
    assert heard(captures, path, []) == texts(captures, b"btcusdt@trade", b"ethusdt@depth")


def test_a_bare_stream_is_its_data_alone(captures):
    expected = [orjson.loads(text)["data"] for text in texts(captures, b"btcusdt@trade")]
    assert [orjson.loads(text) for text in heard(captures, "/ws/btcusdt@trade", [])] == expected


def test_subscribing_unsubscribing_and_nonsense_are_answered(captures):
    async def run() -> list[Any]:
        exchange = Exchange(Recording(captures), speed=1)
        async with exchange.serving("127.0.0.1", 0) as port, websockets.connect(f"ws://127.0.0.1:{port}/ws", compression=None) as socket:
            out = []
            for said in (
                {"method": "SUBSCRIBE", "params": ["nope@trade", "btcusdt@kline_1m"], "id": 1},
                {"method": "LIST_SUBSCRIPTIONS", "id": 2},
                {"method": "UNSUBSCRIBE", "params": ["nope@trade"], "id": 3},
                {"method": "LIST_SUBSCRIPTIONS", "id": 4},
                {"method": "DANCE", "id": 5},
                [],
            ):
                await socket.send(orjson.dumps(said))
                out.append(orjson.loads(await socket.recv()))
            return out

    first, listed, third, left, dance, nonsense = asyncio.run(run())
    assert first == {"result": None, "id": 1} and third == {"result": None, "id": 3}
    assert listed["result"] == ["btcusdt@kline_1m", "nope@trade"] and left["result"] == ["btcusdt@kline_1m"]
    assert "error" in dance and "error" in nonsense


@pytest.mark.parametrize("speed", [10, 40])
def test_time_runs_at_the_speed_that_was_asked(captures, speed: float):
    began = time.monotonic()
    got = heard(captures, speed=speed)
    took = time.monotonic() - began
    lines = list(Recording(captures).lines())
    recorded = (lines[-1].time - lines[0].time) / 1e9
    assert got == [line.text for line in lines if line.kind != SNAPSHOT]
    assert recorded / speed <= took < recorded / speed + 5


def test_time_does_not_begin_before_somebody_listens_and_waits_for_nobody_afterwards(captures):
    async def run() -> tuple[int, int, bytes]:
        exchange = Exchange(Recording(captures), speed=20)
        async with exchange.serving("127.0.0.1", 0) as port:
            await asyncio.sleep(0.2)
            before = exchange.number
            async with websockets.connect(f"ws://127.0.0.1:{port}/stream?streams=btcusdt@trade"):
                await asyncio.sleep(0.05)
            async with asyncio.timeout(10):
                await exchange.ended.wait()
            async with httpx.AsyncClient() as rest:
                late = await rest.get(f"http://127.0.0.1:{port}/api/v3/depth", params={"symbol": "BTCUSDT", "limit": "5000"})
            return before, exchange.number, late.content

    before, after, late = asyncio.run(run())
    assert before == 0 and after == len([line for line in Recording(captures).lines() if line.kind != SNAPSHOT])
    # A question that comes after everything is answered by the book as it stands then.
    assert sides(late) == list(made("BTCUSDT", 6, 1).books.values())[-1]


def test_questions(captures):
    async def run() -> list[httpx.Response]:
        exchange = Exchange(Recording(captures), speed=1)
        async with exchange.serving("127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as rest:
            paths = (
                "time",
                "exchangeInfo",
                'exchangeInfo?symbols=["BTCUSDT"]',
                'exchangeInfo?symbols=["NOPE"]',
                "depth?symbol=NOPE",
                "depth",
            )
            out = [await rest.get(f"/api/v3/{path}") for path in paths]
            return [*out, await rest.get("/fapi/v1/depth"), await rest.get("/")]

    clock, info, one, none, nope, nobody, futures, root = asyncio.run(run())
    assert clock.json() == {"serverTime": Recording(captures).begins // 1_000_000}
    assert info.content == exchange_info(Recording(captures)) == one.content
    assert [r.status_code for r in (none, nope, nobody, futures, root)] == [400, 400, 400, 404, 404]
    assert none.json()["code"] == -1121 and "serves /api/v3/depth" in futures.json()["msg"]


def test_a_connection_that_fell_silent_hears_nothing_more_while_time_goes_on(captures):
    everything = [line.text for line in Recording(captures).lines() if line.kind != SNAPSHOT]
    assert heard(captures, speed=40, faults=Faults(silent=frozenset({30}), drop=frozenset({5}))) == everything[:4] + everything[5:30]


def test_faults_are_read_and_nonsense_is_refused(captures):
    said = Faults.of(["drop=3,4", "disconnect=9", "lose=5", "silent=7", "snapshot-delay=0.5", "snapshot-errors=2"])
    assert said == Faults(frozenset({3, 4}), frozenset({9}), 5, frozenset({7}), 0.5, 2)
    for wrong in ("drop", "drop=x", "explode=1", "lose=-"):
        with pytest.raises(InputError, match="--fault"):
            Faults.of([wrong])
    for speed in (-1, float("nan"), 1e9):
        with pytest.raises(InputError, match="--speed"):
            Exchange(Recording(captures), speed=speed)


def test_a_port_that_is_taken_is_said(captures):
    async def run() -> None:
        exchange = Exchange(Recording(captures))
        async with exchange.serving("127.0.0.1", 0) as port, Exchange(Recording(captures)).serving("127.0.0.1", port):
            pass

    with pytest.raises(InputError, match="Cannot listen on 127"):
        asyncio.run(run())


def test_a_recording_that_is_damaged_ends_with_its_error(captures, tmp_path):
    path = tmp_path / "spot_btcusdt_20240808.gz"
    path.write_bytes(captures[0].read_bytes()[:-300])
    with pytest.raises(FeedError, match="is cut"):
        heard([path])
