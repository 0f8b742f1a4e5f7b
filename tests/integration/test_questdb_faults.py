"""Ticks on a QuestDB that is down, slow, cut off, killed, full, read-only or wants another password; and writers killed at every step."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from cift_models.errors import NotStored, StoreError, StoreUnavailable
from cift_models.instruments import Instrument
from cift_models.schema import TRADES
from cift_models.stores import questdb
from cift_models.stores.questdb import QuestDBPartitions, QuestDBTicks
from cift_models.stores.questdb_http import Http
from cift_models.stores.questdb_send import Courier
from cift_models.stores.ticks import Key
from tests import servers
from tests.integration.test_questdb import facts_of, got, put, settled, some_trades
from tests.processes import ROOT, free_port
from tests.proxy import Proxy, proxy
from tests.servers import QuestDB, running
from tests.tick_places import OnQuestDB

pytestmark = pytest.mark.slow
KEY = Key("trades", "A", 20231114)
SECRET = "hush-hush"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuestDB]:
    with servers.questdb(tmp_path_factory.mktemp("questdb")) as server:
        yield server


@pytest.fixture(scope="module")
def place(server: QuestDB) -> OnQuestDB:
    return OnQuestDB(server.url)


@pytest.fixture
def ticks(place: OnQuestDB) -> QuestDBTicks:
    return place.fresh()


@pytest.fixture
def between(server: QuestDB) -> Iterator[Proxy]:
    with proxy(server.ports["http"]) as between:
        yield between


def through(port: int, **how: float) -> QuestDBPartitions:
    return QuestDBPartitions(Http(f"http://127.0.0.1:{port}", **how))


def rows_in(ticks: QuestDBTicks, table: str = "trades") -> int:
    return ticks.http.rows(f"select count() from {table}")[0][0]


# The network


def test_a_batch_that_is_cut_off_is_sent_again(ticks: QuestDBTicks, between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questdb, "BATCH_BYTES", 300_000)
    frame = some_trades(20_000)
    partitions = through(between.port)
    for k, (side, after) in enumerate((("request", 200_000), ("request", 1_500_000), ("response", 1_500))):
        key = Key("trades", f"S{k}", 20231114)
        before = between.cuts
        between.cut(side, after=after, times=1)  # type: ignore[arg-type]
        put(partitions, frame, key)
        between.heal()
        assert between.cuts == before + 1
        assert got(QuestDBPartitions(ticks.http), key).equals(frame) and rows_in(ticks) == (k + 1) * len(frame)


def test_an_answer_that_is_cut_off_is_asked_for_again(ticks: QuestDBTicks, between: Proxy) -> None:
    frame = some_trades(20_000)
    put(QuestDBPartitions(ticks.http), frame)
    partitions = through(between.port)
    ref, facts = partitions.manifest(KEY)
    for after in (0, 10_000, 100_000):
        between.cut("response", after=after, times=1)
        before = between.cuts
        assert partitions.rows(ref, facts).equals(frame)
        assert between.cuts == before + 1
        between.heal()


@pytest.mark.parametrize("fault", ["refuse", "stall", "cut"])
def test_a_server_that_stays_away_is_one_error_and_later_the_same_call_works(fault: str, ticks: QuestDBTicks, between: Proxy) -> None:
    frame = some_trades(2_000)
    put(QuestDBPartitions(ticks.http), frame, Key("trades", "B", 20231114))
    partitions = through(between.port, timeout_s=0.5, read_patience_s=1.0, write_patience_s=1.5)
    put(partitions, frame[:10], Key("trades", "C", 20231114))  # its connections are open
    faults = {"refuse": between.refuse, "stall": between.stall, "cut": lambda: between.cut("request")}
    calls: list[Callable[[], object]] = [
        lambda: put(partitions, frame),
        lambda: got(partitions, Key("trades", "B", 20231114)),
        partitions.find,
        lambda: through(between.port, timeout_s=0.5, read_patience_s=0.5, write_patience_s=1.0).find(),
        lambda: Courier(partitions._http).row("instruments", {"symbol": "A"}, {"levels": 1}, 0),
    ]
    faults[fault]()
    for call in calls:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match=rf"QuestDB at 127\.0\.0\.1:{between.port} does not answer") as caught:
            call()
        # The patience, and one more try that runs into the timeout: half a second, and for a batch what its size allows.
        assert time.monotonic() - begun < 6 and caught.value.retryable and "run the same again" in caught.value.hint
    between.heal()
    ref = put(partitions, frame)
    assert partitions.manifest(KEY)[0] == ref and got(partitions).equals(frame)


def test_a_server_that_goes_away_in_mid_write_leaves_nothing_that_can_be_read(
    ticks: QuestDBTicks, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questdb, "BATCH_BYTES", 100_000)
    frame = some_trades(20_000)
    partitions = through(between.port, timeout_s=0.5, read_patience_s=0.5, write_patience_s=0.5)
    sent = 0
    true_deliver = Courier._deliver

    def counted(self: Courier, *a: object) -> None:
        nonlocal sent
        true_deliver(self, *a)  # type: ignore[arg-type]
        sent += 1
        if sent == 3:
            between.refuse()

    monkeypatch.setattr(Courier, "_deliver", counted)
    with pytest.raises(StoreUnavailable):
        put(partitions, frame)
    reader = QuestDBPartitions(ticks.http)
    assert reader.find() == [] and 0 < rows_in(ticks) < len(frame)
    with pytest.raises(NotStored):
        reader.manifest(KEY)
    between.heal()
    put(partitions, frame)
    assert got(reader).equals(frame) and rows_in(ticks) == len(frame)


def test_a_slow_network_is_only_slow(ticks: QuestDBTicks, between: Proxy) -> None:
    frame = some_trades(3_000)
    partitions = through(between.port, timeout_s=5)
    between.delay(0.05)
    put(partitions, frame)
    assert got(partitions).equals(frame)


# Killed


@pytest.mark.parametrize("down_s", [0.0, 3.0])
def test_a_server_that_is_killed_in_mid_write_comes_back_and_nothing_is_lost_or_doubled(
    down_s: float, place: OnQuestDB, server: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = place.fresh()
    monkeypatch.setattr(questdb, "BATCH_BYTES", 100_000)
    frame = some_trades(30_000)
    partitions = QuestDBPartitions(ticks.http)
    wrong: list[BaseException] = []
    reached = threading.Event()
    sent = 0
    true_deliver = Courier._deliver

    def counted(self: Courier, *a: object) -> None:
        nonlocal sent
        true_deliver(self, *a)  # type: ignore[arg-type]
        sent += 1
        if sent == 5:
            reached.set()

    monkeypatch.setattr(Courier, "_deliver", counted)

    def write() -> None:
        try:
            put(partitions, frame)
        except BaseException as error:
            wrong.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    assert reached.wait(30)
    server.kill()
    assert writer.is_alive()
    time.sleep(down_s)
    server.start()
    writer.join(60)
    assert not writer.is_alive() and not wrong, wrong
    assert got(QuestDBPartitions(ticks.http)).equals(frame) and rows_in(ticks) == len(frame)


WRITER = """
import os, signal, sys
import polars as pl
from cift_models.schema import TRADES
from cift_models.stores import questdb, questdb_send
from cift_models.stores.ticks import Key
from tests.integration.test_questdb import facts_of, some_trades

url, owner, method, nth, after = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "after"
questdb.BATCH_BYTES = 30_000
victim = questdb.QuestDBPartitions if owner == "partitions" else questdb_send.Courier
true, calls = getattr(victim, method), 0

def dying(self, *a, **k):
    global calls
    calls += 1
    if calls == nth and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    out = true(self, *a, **k)
    if calls == nth:
        os.kill(os.getpid(), signal.SIGKILL)
    return out

setattr(victim, method, dying)
frame = some_trades(2_000)
kept = frame[:20].with_columns(reason=pl.lit("crossed"))
partitions = questdb.QuestDBPartitions(questdb.Http(url))
partitions.write(Key("trades", "A", 20231114), frame, kept, facts_of(TRADES, frame, instrument=INSTRUMENT))
"""
INSTRUMENT = Instrument("A", 1, 1, 1, "shares", 0.0, "simulated", 1).as_json()


@pytest.mark.parametrize(
    ("owner", "method", "nth", "when", "rewrites"),
    [
        ("courier", "_deliver", 1, "before", False),
        ("courier", "_deliver", 1, "after", False),
        ("courier", "_deliver", 4, "after", False),
        ("partitions", "_send_rows", 1, "after", False),
        ("partitions", "_send_lines", 1, "after", False),
        ("partitions", "_make_sure", 1, "after", False),
        ("partitions", "_send_instrument", 1, "after", False),
        ("courier", "row", 2, "after", False),
        ("partitions", "_commit", 1, "after", False),
        ("courier", "_deliver", 4, "after", True),
        ("partitions", "_make_sure", 1, "after", True),
        ("courier", "row", 2, "after", True),
    ],
)
def test_a_writer_that_is_killed_at_any_step_leaves_the_partition_whole_or_absent(
    owner: str, method: str, nth: int, when: str, rewrites: bool, ticks: QuestDBTicks, server: QuestDB
) -> None:
    frame, old = some_trades(2_000), some_trades(1_500, seed=7)
    kept = frame[:20].with_columns(reason=pl.lit("crossed"))
    partitions = QuestDBPartitions(ticks.http)
    if rewrites:
        put(partitions, old)
    source = WRITER.replace("INSTRUMENT", repr(INSTRUMENT))
    command = [sys.executable, "-c", source, server.url, owner, method, str(nth), when]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    committed = (method, when) in (("row", "after"), ("_commit", "after"))
    if method == "row":
        time.sleep(1)  # acknowledged, and nobody waited until it could be read
    if committed:
        assert got(partitions).equals(frame)
    elif rewrites:
        assert got(partitions).equals(old)
    else:
        with pytest.raises(NotStored):
            partitions.manifest(KEY)
    ref = partitions.write(KEY, frame, kept, facts_of(TRADES, frame, instrument=INSTRUMENT))
    found, facts = partitions.manifest(KEY)
    again = partitions.quarantined(found, facts)
    assert found == ref and partitions.rows(found, facts).equals(frame) and again is not None and again.equals(kept)
    more = len(old) if rewrites else 0
    assert (rows_in(ticks), rows_in(ticks, "quarantine"), rows_in(ticks, "instruments")) == (len(frame) + more, 20, 1)
    assert partitions.find() == [KEY]


# Refusals


def secretless(error: BaseException) -> bool:
    """Whether a traceback of it and of all that it came from is without the password."""
    return SECRET not in "".join(traceback.format_exception(error))


def test_a_wrong_password_is_refused_and_never_shown(tmp_path: Path) -> None:
    with servers.questdb(tmp_path / "server", password=SECRET) as server:
        right = QuestDBTicks(server.url, server.user, SECRET)
        assert right.migrate()[0] and right.lacks() == []
        put(QuestDBPartitions(right.http), some_trades())
        assert got(QuestDBPartitions(right.http)).equals(some_trades())
        wrong = QuestDBTicks(server.url, "admin", f"{SECRET}-not")
        calls: list[Callable[[], object]] = [
            wrong.migrate,
            wrong.instruments,
            wrong.lacks,
            lambda: put(QuestDBPartitions(wrong.http), some_trades()),
            lambda: Courier(wrong.http).row("instruments", {"symbol": "A"}, {"levels": 1}, 0),
        ]
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(StoreError, match="refuses the user 'admin'") as caught:
                call()
            assert secretless(caught.value) and "CIFT_QUESTDB_PASSWORD" in caught.value.hint and not caught.value.retryable
            assert time.monotonic() - begun < 2
        with pytest.raises(StoreError, match="refuses a request without user and password"):
            QuestDBTicks(server.url).instruments()


def test_a_read_only_server_is_read_and_said_to_be_so(tmp_path: Path) -> None:
    with servers.questdb(tmp_path / "server") as server:
        place = OnQuestDB(server.url)
        put(QuestDBPartitions(place.ticks.http), some_trades())
    with servers.questdb(tmp_path / "server", read_only=True) as server:
        ticks = QuestDBTicks(server.url)
        partitions = QuestDBPartitions(ticks.http)
        assert got(partitions).equals(some_trades()) and partitions.find() == [KEY]
        assert ticks.lacks() == [f"QuestDB at 127.0.0.1:{server.ports['http']} takes no writes: it is read-only."]
        begun = time.monotonic()
        with pytest.raises(StoreError, match="takes no writes: it is read-only") as caught:
            put(partitions, some_trades(), Key("trades", "B", 20231114))
        assert not caught.value.retryable and time.monotonic() - begun < 2
        assert put(partitions, some_trades()) == partitions.manifest(KEY)[0]  # nothing to write
    with servers.questdb(tmp_path / "empty", read_only=True) as server, pytest.raises(StoreError, match="takes no writes: it is read-only"):
        QuestDBTicks(server.url).migrate()


@dataclass(frozen=True, eq=False)
class OnASmallDisk(QuestDB):
    """A server whose folder is a disk of 700 MB with 390 MB taken, in a mount namespace that a process holds and takes with it.

    The server reserves about 275 MB for its own tables and ours, with the small pages that it is told to take.
    """

    holder: list[subprocess.Popen] = field(default_factory=list)

    def command(self) -> list[str]:
        if not self.holder:
            place = self.folder / "data"
            place.mkdir()
            ballast = f"head -c 390000000 /dev/zero > {place}/ballast"
            mount = f"mount -t tmpfs -o size=700m tmpfs {place} && {ballast} && echo ready && exec sleep 600"
            self.holder.append(subprocess.Popen(["unshare", "-rm", "sh", "-c", mount], stdout=subprocess.PIPE, start_new_session=True))
            output = self.holder[0].stdout
            assert output is not None and output.readline() == b"ready\n"
        enter = ["nsenter", "--preserve-credentials", "-U", "-m", "-t", str(self.holder[0].pid)]
        return [*enter, *super().command()[:-1], str(self.folder / "data")]

    def environment(self) -> dict[str, str]:
        pages = ("CAIRO_WRITER_DATA_APPEND", "CAIRO_WAL_WRITER_DATA_APPEND", "CAIRO_SYSTEM_WRITER_DATA_APPEND")
        small = {f"QDB_{name}_PAGE_SIZE": "64k" for name in pages}
        return {**super().environment(), **small, "QDB_CAIRO_O3_COLUMN_MEMORY_SIZE": "128k"}

    def make_room(self) -> None:
        Path(f"/proc/{self.holder[0].pid}/root{self.folder}/data/ballast").unlink()

    def release(self) -> None:
        for process in self.holder:
            process.kill()
            process.communicate()


def can_mount() -> bool:
    tried = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


def test_a_full_disk_is_one_error_and_room_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_mount():
        pytest.skip("this user may not mount a small disk (unshare -rm)")
    monkeypatch.setattr(questdb, "BATCH_BYTES", 2_000_000)
    with running(OnASmallDisk, tmp_path / "server") as server, ExitStack() as stack:
        stack.callback(server.release)
        ticks = QuestDBTicks(server.url, write_patience_s=5.0)
        ticks.migrate()
        partitions = QuestDBPartitions(ticks.http)
        put(partitions, some_trades(1_000), Key("trades", "B", 20231114))
        begun = time.monotonic()
        # Which of them is a matter of who meets the full disk first; writing into a mapped file, the server may even die of it.
        with pytest.raises(StoreError, match=r"is full|has suspended the table trades|does not answer") as caught:
            put(partitions, some_trades(700_000))
        assert time.monotonic() - begun < 60 and "run the same again" in caught.value.hint
        server.make_room()
        if server.process.poll() is not None:
            server.start()
        with pytest.raises(NotStored):
            partitions.manifest(KEY)
        for (name,) in ticks.http.rows("select name from wal_tables() where suspended"):
            with pytest.raises(StoreError, match=f"has suspended the table {name}") as caught:
                put(partitions, some_trades(100))
            assert f'ALTER TABLE "{name}" RESUME WAL' in caught.value.hint and not caught.value.retryable
            settled(ticks, f'ALTER TABLE "{name}" RESUME WAL')
        frame = some_trades(100_000)
        try:
            ref = put(partitions, frame)
        except StoreUnavailable:
            # It may die as late as now of what it wrote into a mapped file when the disk was full: nothing else may have stopped it.
            assert server.process.wait(10) != 0
            server.start()
            ref = put(partitions, frame)
        assert partitions.manifest(KEY)[0] == ref and got(partitions).equals(frame)
        assert got(partitions, Key("trades", "B", 20231114)).equals(some_trades(1_000))


# TLS


@contextmanager
def behind_tls(target: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """A port that speaks TLS with a certificate of an authority of its own; (port, the authority's certificate)."""
    authority, certificate = folder / "authority.pem", folder / "server.pem"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    of = ["-CA", str(authority), "-CAkey", str(authority.with_suffix(".key")), "-addext", "basicConstraints=critical,CA:FALSE"]
    for command in (
        [*new, "-keyout", str(authority.with_suffix(".key")), "-out", str(authority), "-subj", "/CN=an authority"],
        [*new, "-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate), "-subj", "/CN=localhost"]
        + [*of, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    listener = socket.create_server(("127.0.0.1", free_port()))

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                inside = context.wrap_socket(raw, server_side=True)
            except OSError:
                raw.close()
                continue
            beyond = socket.create_connection(("127.0.0.1", target))
            for pair in ((inside, beyond), (beyond, inside)):
                threading.Thread(target=pass_on, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], authority
    finally:
        listener.close()


def test_a_certificate_is_checked_against_the_authority_that_is_named(ticks: QuestDBTicks, server: QuestDB, tmp_path: Path) -> None:
    with behind_tls(server.ports["http"], tmp_path) as (port, authority):
        trusted = QuestDBTicks(f"https://localhost:{port}", ca=authority)
        frame = some_trades(2_000)
        put(QuestDBPartitions(trusted.http), frame)
        assert got(QuestDBPartitions(trusted.http)).equals(frame) and trusted.lacks() == []
        stranger = QuestDBTicks(f"https://localhost:{port}")
        for call in (stranger.instruments, lambda: Courier(stranger.http).row("instruments", {"symbol": "A"}, {"levels": 1}, 0)):
            with pytest.raises(StoreError, match=f"certificate of QuestDB at localhost:{port} is not trusted") as caught:
                call()
            assert "CIFT_TLS_CA" in caught.value.hint and not caught.value.retryable


# Memory

LARGE = """
import resource, sys
import numpy as np, polars as pl, pandas, httpx
import questdb as _
from cift_models.schema import BOOK
from cift_models.stores.questdb import Http, QuestDBPartitions
from cift_models.stores.ticks import Key

table = BOOK.with_levels(10)
n = 250_000
rng = np.random.default_rng(0)
at = np.arange(n) * 1000
frame = pl.DataFrame({name: at if name.startswith("ts") else np.arange(n) if name == "sequence" else rng.integers(1, 9999, n)
                      for name in table.names}, schema=table.polars_schema())
partitions = QuestDBPartitions(Http(sys.argv[1]))
facts = {"table": "book", "schema_hash": table.schema_hash}
partitions.write(Key("book", "A", 20231113), frame[:1000], None, facts | {"rows": 1000})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
partitions.write(Key("book", "A", 20231114), frame, None, facts | {"rows": n})
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, frame.estimated_size() // 1024)
"""


def test_a_write_holds_one_batch_however_often_it_is_sent(ticks: QuestDBTicks, between: Proxy) -> None:
    between.cut("request", after=3_000_000, times=4)
    command = [sys.executable, "-c", LARGE, f"http://127.0.0.1:{between.port}"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before, after, frame = (int(word) for word in done.stdout.split())
    assert between.cuts == 4 and rows_in(ticks, "book") == 251_000
    # A batch's arrays and two batches as they are sent, each of which may have grown by doubling; the frame alone is 66 MB.
    assert frame > 60_000 and after - before < 60_000, (before, after, frame)
