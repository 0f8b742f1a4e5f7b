"""The online store on real servers that are killed, full, read-only, behind a bad network, or want a password or a certificate."""

from __future__ import annotations

import ipaddress
import multiprocessing
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from cift_models.errors import CiftError, SettingsError, StoreError, StoreUnavailable
from cift_models.settings import Settings
from cift_models.stores.online import MemoryOnline, Row, open_online
from cift_models.stores.redis_online import PREFIX, RedisOnline
from scripts.local_servers import free_ports
from serving.mirror import Mirror
from tests import servers
from tests.processes import ROOT, environment
from tests.proxy import Proxy, proxy
from tests.releases import second_session
from tests.service import serving

pytestmark = pytest.mark.slow

KINDS = ["redis", "valkey"]
NOW = 1_700_000_000_123_456_789
SYMBOLS = ["AAA", "BBB", "CCC"]
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@contextmanager
def store_of(url: str, **how) -> Iterator[RedisOnline]:
    with closing(RedisOnline(url, **how)) as store:
        yield store


def through(server: servers.Server, between: Proxy) -> str:
    return server.url.replace(str(server.ports["redis"]), str(between.port))


def say(server: servers.Server, *words: str, password: str = "") -> str:
    """What the server answers to one command, as bytes on the wire say it."""
    with socket.create_connection(("127.0.0.1", server.ports["redis"]), 5) as asked:
        for command in ([("AUTH", password)] if password else []) + [words]:
            asked.sendall(f"*{len(command)}\r\n".encode() + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in command))
            answer = asked.recv(65_536).decode()
    return answer


def refused(store: RedisOnline, kind: type[CiftError], *says: str, secret: str = "hush") -> CiftError:
    """Writing raises exactly this, says so, says what to do, and never says the password."""
    with pytest.raises(kind) as caught:
        store.put("AAA", b"row", 1, NOW)
    assert type(caught.value) is kind and caught.value.hint
    chain, text = caught.value, ""
    while chain is not None:
        text, chain = f"{text}\n{chain}", chain.__cause__ or chain.__context__
    assert secret not in text and all(word in str(caught.value) for word in says), str(caught.value)
    return caught.value


# Many writers


def _write(url: str, seed: int, versions: int) -> None:
    """Two threads, each of which puts every version in an order of its own."""

    def put(seed: int) -> None:
        order = list(range(versions))
        random.Random(seed).shuffle(order)
        for version in order:
            store.put_many({s: Row(b"%d" % version, 1 + version // 100, NOW + version % 100) for s in SYMBOLS})

    with closing(RedisOnline(url)) as store, ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(put, 2 * seed + i) for i in range(2)]:
            done.result()


def test_processes_that_write_shuffled_versions_leave_the_newest_and_no_reader_sees_an_older_one(kind: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with getattr(servers, kind)(tmp_path) as server, store_of(server.url) as store:
        writers = [context.Process(target=_write, args=(server.url, seed, 500)) for seed in range(2)]
        for writer in writers:
            writer.start()
        last, seen, until = (0, 0), 0, time.monotonic() + 120
        while any(w.is_alive() for w in writers):
            assert time.monotonic() < until
            rows = store.get_many(SYMBOLS)
            assert rows == [rows[0]] * 3
            if rows[0] is not None:
                assert rows[0][1:] >= last
                seen += rows[0][1:] > last
                last = rows[0][1:]
        for writer in writers:
            writer.join(10)
            assert writer.exitcode == 0
        assert store.get_many(SYMBOLS) == [(b"499", 5, NOW + 99)] * 3 and seen > 1


# Servers that die


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.proof)])
def test_a_killed_server_loses_no_accepted_row_and_takes_the_next_ones(kind: str, kills: int, tmp_path: Path) -> None:
    """With a log that is flushed before a write is answered; what a write without an answer became is either."""
    rng = random.Random(kills)
    with getattr(servers, kind)(tmp_path, options=DURABLE) as server, store_of(server.url) as store:
        accepted, stop = [0], threading.Event()
        failed: list[StoreUnavailable] = []

        def write() -> None:
            version = 0
            while not stop.is_set():
                version += 1
                try:
                    if all(store.put_many({s: Row(b"%d" % version, 1, NOW + version) for s in SYMBOLS}).values()):
                        accepted[0] = version
                except StoreUnavailable as error:
                    failed.append(error)
                    time.sleep(0.01)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(kills):
                time.sleep(rng.uniform(0.05, 0.3))
                server.kill()
                at_least = accepted[0]
                server.start()
                rows = store.get_many(SYMBOLS)
                assert rows == [rows[0]] * 3 and rows[0] is not None and rows[0].time >= NOW + at_least
        finally:
            stop.set()
            writer.join(30)
        assert not writer.is_alive() and accepted[0] > 10 * kills and failed and all(e.retryable for e in failed)
        assert store.get("AAA") == (b"%d" % accepted[0], 1, NOW + accepted[0])


def test_after_a_restart_the_first_write_already_arrives(kind: str, tmp_path: Path) -> None:
    """The connections of before are dead, and the server has forgotten the script."""
    with getattr(servers, kind)(tmp_path) as server, store_of(server.url) as store:
        assert store.put("AAA", b"one", 1, NOW)
        server.kill()
        refused(store, StoreUnavailable, "does not answer", f"127.0.0.1:{server.ports['redis']}")
        server.start()
        assert store.put("AAA", b"two", 1, NOW) and store.get("AAA") == (b"two", 1, NOW)
        server.stop()
        server.start()
        assert store.get("AAA") is None and store.put("AAA", b"three", 0, 1)


def test_the_mirror_outlives_its_server_and_has_the_newest_row_there_again(kind: str, tmp_path: Path) -> None:
    with getattr(servers, kind)(tmp_path) as server, store_of(server.url) as store:
        mirror = Mirror(store, retry_s=0.02)
        slowest = 0.0
        for instant in range(300):
            if instant == 100:
                server.kill()
            if instant == 200:
                server.start()
            begin = time.perf_counter()
            mirror.offer({s: {"as_of": NOW + instant, "mean_bps": instant / 7} for s in SYMBOLS}, 1)
            slowest = max(slowest, time.perf_counter() - begin)
            time.sleep(0.003)
        mirror.close()
        rows = store.get_many(SYMBOLS)
        assert [orjson.loads(r.payload) for r in rows if r] == [{"as_of": NOW + 299, "mean_bps": 299 / 7}] * 3
        assert mirror.failed > 0 and mirror.written > 300 and mirror.refused == 0 and slowest < 0.5


def test_the_service_says_the_same_while_its_server_dies_and_mirrors_the_last_instant(
    served_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.redis(tmp_path) as server, store_of(server.url) as store:
        monkeypatch.setattr("tests.service.environment", lambda home: environment(home, CIFT_REDIS_URL=server.url))
        with serving(served_home) as service:
            day = str(second_session()[0].day)
            command = [sys.executable, "-m", "serving.replay", "stored", *SYMBOLS, day, "--to", service.ticks, "--json"]
            with open(tmp_path / "replay.log", "w") as log:
                replay = subprocess.Popen(command, cwd=ROOT, env=environment(served_home), stdout=subprocess.PIPE, stderr=log)
            until = time.monotonic() + 60
            while store.get("AAA") is None and replay.poll() is None and time.monotonic() < until:
                time.sleep(0.002)
            first = store.get("AAA")
            server.kill()
            time.sleep(0.2)
            server.start()
            assert first is not None and orjson.loads(first.payload)["symbol"] == "AAA" and first.sequence == 1
            said = orjson.loads(replay.communicate(timeout=120)[0])
            assert said["equal"] is True and said["missing"] == 0 and said["instants"] == 1200
            live = {symbol: service.get(f"/prediction/{symbol}").json() for symbol in SYMBOLS}
            while (rows := store.get_many(SYMBOLS)).count(None) or rows[0].time < live["AAA"]["as_of"]:
                assert time.monotonic() < until + 60
                time.sleep(0.02)
            assert [orjson.loads(row.payload) for row in rows] == list(live.values()) and rows[0].time > first.time


# Round trips and networks


def test_an_instant_is_one_round_trip_whatever_the_number_of_symbols(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    many = [f"S{i}" for i in range(40)]
    with proxy(server.ports["redis"]) as between, store_of(through(server, between)) as store:
        store.get("S0")  # connected
        between.delay(0.25)
        begin = time.perf_counter()
        assert store.put_many({s: Row(b"x" * 500, 1, NOW) for s in many}) == dict.fromkeys(many, True)
        wrote = time.perf_counter() - begin
        assert store.get_many(many) == [(b"x" * 500, 1, NOW)] * 40
        read = time.perf_counter() - begin - wrote
        # One round trip is half a second here, two are a whole one.
        assert 0.5 <= wrote < 0.9 and 0.5 <= read < 0.9


def test_the_mirror_makes_one_round_trip_an_instant() -> None:
    class Counted(MemoryOnline):
        trips = 0

        def put_many(self, rows):
            self.trips += 1
            return super().put_many(rows)

        def put(self, *row):
            raise AssertionError("a round trip for one symbol")

    store = Counted()
    mirror = Mirror(store)
    for instant in range(5):
        mirror.offer({f"S{i}": {"as_of": instant} for i in range(50)}, 1)
        while mirror.written < 50 * (instant + 1):
            time.sleep(0.001)
    mirror.close()
    assert store.trips == 5 and mirror.written == 250


def test_a_cut_connection_is_tried_once_more_and_nothing_is_written_twice(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    with proxy(server.ports["redis"]) as between, store_of(through(server, between)) as store:
        for version, (side, after) in enumerate([("request", 0), ("request", 300), ("response", 0), ("response", 3)]):
            assert store.put("CUT", b"r" * 1000, 1, NOW + version)
            cuts = between.cuts
            between.cut(side, after, times=1)
            assert store.put_many({"CUT": Row(b"s" * 1000, 2, NOW + version), "CUT2": Row(b"s", 2, NOW + version)}) == {
                "CUT": True,
                "CUT2": True,
            }
            assert between.cuts == cuts + 1 and store.get_many(["CUT", "CUT2"]) == [
                (b"s" * 1000, 2, NOW + version),
                (b"s", 2, NOW + version),
            ]
            between.cut("response", 3, times=1)
            assert store.get("CUT") == (b"s" * 1000, 2, NOW + version)
            say(server, "DEL", PREFIX + "CUT")
        between.cut("response", 3)
        refused(store, StoreUnavailable, "does not answer")


def test_a_server_that_hangs_or_a_network_that_swallows_is_given_up_in_seconds(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    with proxy(server.ports["redis"]) as between, store_of(through(server, between), timeout_s=0.3) as store:
        assert store.put("AAA", b"row", 1, NOW)
        for sides in (("response",), ("request",), ()):
            between.stall(*sides)
            begin = time.perf_counter()
            assert refused(store, StoreUnavailable, "does not answer").retryable
            # Two tries of 0.3 s, each of which may have to connect anew.
            assert 0.5 < time.perf_counter() - begin < 2.5
            between.heal()
            assert store.put("AAA", b"row", 1, NOW)
        between.refuse()
        begin = time.perf_counter()
        refused(store, StoreUnavailable, "does not answer")
        assert time.perf_counter() - begin < 1


# What a person has to put right


def test_a_password_is_needed_right_and_never_said(kind: str, tmp_path: Path) -> None:
    with getattr(servers, kind)(tmp_path, password="hush hush") as server:
        url = server.url.replace("redis://", "redis://default@")
        for wrong in ({}, {"password": SecretStr("hush")}, {"password": SecretStr("")}):
            with store_of(server.url, **wrong) as store:
                error = refused(store, StoreError, "refuses this user", "CIFT_REDIS_PASSWORD")
                assert not error.retryable and "hush" not in repr(vars(error)) + repr(store)
                with pytest.raises(StoreError):
                    store.get("AAA")
                with pytest.raises(StoreError):
                    store.flaws()
        for right in (server.url, url):
            with store_of(right, password=SecretStr("hush hush")) as store:
                assert store.put("AAA", b"row", 1, NOW) and store.get("AAA") == (b"row", 1, NOW) and store.flaws() == []


def test_a_read_only_replica_takes_nothing_answers_readers_and_may_become_the_primary(kind: str, tmp_path: Path) -> None:
    with getattr(servers, kind)(tmp_path, read_only=True) as server, store_of(server.url) as store:
        assert refused(store, StoreUnavailable, "is a read-only replica").retryable
        assert store.get_many(SYMBOLS) == [None] * 3
        assert [flaw.what for flaw in store.flaws()] == [f"Redis at 127.0.0.1:{server.ports['redis']}/0 is a replica and takes no rows."]
        say(server, "REPLICAOF", "NO", "ONE")
        assert store.put("AAA", b"row", 1, NOW) and store.flaws() == []


def test_a_full_server_takes_all_of_an_instant_or_none(kind: str, tmp_path: Path) -> None:
    with getattr(servers, kind)(tmp_path) as server, store_of(server.url) as store:
        assert store.put_many({s: Row(b"kept", 1, NOW) for s in SYMBOLS})
        say(server, "CONFIG", "SET", "maxmemory", "1")
        error = refused(store, StoreError, "no memory left", "maxmemory")
        assert not error.retryable
        with pytest.raises(StoreError):
            store.put_many({s: Row(b"x" * 5000, 2, NOW) for s in SYMBOLS})
        assert store.get_many(SYMBOLS) == [(b"kept", 1, NOW)] * 3
        say(server, "CONFIG", "SET", "maxmemory", "0")
        assert store.put("AAA", b"row", 2, NOW)


@pytest.mark.parametrize(
    "other", [("SET", "x"), ("RPUSH", "x"), ("HSET", "sequence", "one", "time", "2", "row", "x"), ("HSET", "sequence", "1", "time", "2")]
)
def test_a_key_of_something_else_is_named_and_the_other_rows_are_stored(kind: str, other: tuple, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    key = PREFIX + "OTHER"
    with store_of(server.url) as store:
        say(server, "DEL", key, PREFIX + "THIRD")
        say(server, other[0], key, *other[1:])
        try:
            with pytest.raises(StoreError, match=r"OTHER in Redis at .* is not a row") as caught:
                store.get_many(["THIRD", "OTHER"])
            assert type(caught.value) is StoreError and caught.value.evidence == {"key": key}
            if other[:3] != ("HSET", "sequence", "1"):
                with pytest.raises(StoreError, match=r"OTHER in Redis at .* is not a row") as caught:
                    store.put_many({"OTHER": Row(b"row", 1, NOW), "THIRD": Row(b"row", 1, NOW)})
                assert type(caught.value) is StoreError and "use another" in caught.value.hint
                assert store.get("THIRD") == (b"row", 1, NOW)
        finally:
            say(server, "DEL", key)


def test_a_user_who_may_not_run_scripts_is_told_what_is_needed(kind: str, tmp_path: Path) -> None:
    with getattr(servers, kind)(tmp_path) as server:
        say(server, "ACL", "SETUSER", "reader", "on", ">hush", "~*", "+hmget", "+info", "+eval_ro")
        url = server.url.replace("redis://", "redis://reader@")
        with store_of(url, password=SecretStr("hush")) as store:
            refused(store, StoreError, "refuses this user", "EVAL")
            assert store.get("AAA") is None
            (flaw,) = store.flaws()
            assert "runs no script" in flaw.what and "EVAL" in flaw.do and "hush" not in flaw.what


@pytest.mark.parametrize(
    ("policy", "flawed"), [("noeviction", False), ("volatile-lru", False), ("allkeys-lru", True), ("allkeys-random", True)]
)
def test_a_server_that_evicts_rows_is_a_flaw(kind: str, policy: str, flawed: bool, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    with store_of(server.url) as store:
        say(server, "CONFIG", "SET", "maxmemory-policy", policy)
        try:
            assert [("evicts rows" in flaw.what and policy in flaw.what, "noeviction" in flaw.do) for flaw in store.flaws()] == [
                (True, True)
            ] * flawed
        finally:
            say(server, "CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_a_server_that_is_down_or_nowhere_is_worth_waiting_for() -> None:
    port = free_ports(servers.Redis)["redis"]
    with store_of(f"redis://127.0.0.1:{port}/0") as store:
        assert refused(store, StoreUnavailable, f"127.0.0.1:{port}", "does not answer", "CIFT_REDIS_URL").retryable
        for ask in (lambda: store.get_many(SYMBOLS), lambda: store.get("AAA"), store.flaws):
            with pytest.raises(StoreUnavailable):
                ask()
    with store_of("redis://no.such.host.invalid:6379/0") as store:
        refused(store, StoreUnavailable, "no.such.host.invalid", "does not answer")


def test_a_server_that_still_loads_is_worth_waiting_for(kind: str, tmp_path: Path) -> None:
    slow = {"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024", "rdbcompression": "no"}
    with getattr(servers, kind)(tmp_path, options=slow) as server, store_of(server.url) as store:
        assert store.put("AAA", b"row", 1, NOW)
        for i in range(60):
            say(server, "SET", f"k{i}", "x" * 3000)
        say(server, "SAVE")
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()
        said = set()
        while starting.is_alive():
            try:
                store.get("AAA")
            except StoreUnavailable as error:
                said.add(error.message.split(": ")[0].partition("/0 ")[2])
        starting.join()
        assert said >= {"is not ready"} and said <= {"is not ready", "does not answer"} and store.get("AAA") == (b"row", 1, NOW)


# TLS


def certificates(folder: Path) -> dict[str, str]:
    """An authority, a certificate that it signed for 127.0.0.1, and an authority that nothing is signed by; as files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.now(UTC)
    made: dict[str, tuple] = {}
    for name, signer in (("ca", "ca"), ("other", "other"), ("server", "ca")):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = made.get(signer, (key, subject))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name != "server", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        )
        made[name] = (key, subject)
        (folder / f"{name}.pem").write_bytes(builder.sign(by[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
    return {name: str(folder / name) for name in made}


def test_tls_with_the_right_authority_and_no_other(tmp_path: Path) -> None:
    files, port = certificates(tmp_path), free_ports(servers.Redis)["redis"]
    tls = {
        "tls-port": str(port),
        "tls-cert-file": f"{files['server']}.pem",
        "tls-key-file": f"{files['server']}.key",
        "tls-ca-cert-file": f"{files['ca']}.pem",
        "tls-auth-clients": "no",
    }
    with servers.redis(tmp_path / "redis", password="hush", options=tls):
        url, secret = f"rediss://127.0.0.1:{port}/0", SecretStr("hush")
        settings = Settings(home=tmp_path, redis_url=url, redis_password=secret, tls_ca=Path(f"{files['ca']}.pem"))
        with closing(open_online(settings)) as store:  # type: ignore[type-var]
            assert store.put("AAA", b"row", 1, NOW) and store.get("AAA") == (b"row", 1, NOW)
        for ca in (None, Path(f"{files['other']}.pem")):
            with store_of(url, password=secret, ca=ca) as store:
                assert not refused(store, StoreError, "is not trusted", "CIFT_TLS_CA").retryable
        with store_of(url.replace("127.0.0.1", "localhost"), password=secret, ca=Path(f"{files['ca']}.pem")) as store:
            refused(store, StoreError, "is not trusted")
        with pytest.raises(SettingsError, match="no certificate"):
            RedisOnline(url, secret, tmp_path / "absent.pem")


def test_the_settings_open_the_server_only_when_it_is_asked(tmp_path: Path, redis_server: servers.Server) -> None:
    assert isinstance(open_online(Settings(home=tmp_path)), MemoryOnline)
    nobody = open_online(Settings(home=tmp_path, redis_url=f"redis://127.0.0.1:{free_ports(servers.Redis)['redis']}/3"))
    assert isinstance(nobody, RedisOnline)
    url = redis_server.url.replace("/0", "/3")
    with store_of(url) as third, store_of(redis_server.url) as first:
        # An authority for other stores does not disturb one without TLS.
        opened = open_online(Settings(home=tmp_path, redis_url=url, tls_ca=tmp_path / "ca.pem"))
        assert opened.put("DB3", b"row", 1, NOW)
        assert third.get("DB3") == (b"row", 1, NOW) and first.get("DB3") is None
