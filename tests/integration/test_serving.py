"""The service as a process: it streams what batch says to the bit, through swaps and kills; what is wrong is refused, nothing changes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from websockets.sync.client import ClientConnection, connect

from cift_models.engine import Decisions, Pipeline, fold
from cift_models.events import Events
from cift_models.feeds.lobster import read_lobster
from cift_models.instruments import Universe
from cift_models.stores.releases import Releases
from serving import wire
from serving.compare import Batch, Comparison
from serving.replay import connected, recorded_events
from tests.lobster_slice import lobster_zip, slice_lobster
from tests.processes import ROOT, environment
from tests.releases import KINDS, fitted, labelled, make_home, pipeline, second_session, write_release
from tests.service import Service, serving

pytestmark = pytest.mark.slow

PACKET = 100


def successor() -> Pipeline:
    """What is promoted in mid-session: another seed, another threshold, another model that decides."""
    return pipeline(KINDS, "queue_imbalance", 0.0, 7)


def batch_of(made: Pipeline) -> Decisions:
    session, events = second_session()
    return fold(made, made.panel(session, events))


def comparison(**releases: Pipeline) -> Comparison:
    """Against the batch results of pipelines by their releases' names; `_NAME` for a name that begins with a digit."""
    session, events = second_session()
    made = {name.removeprefix("_"): Batch(one, batch_of(one), 0) for name, one in releases.items()}
    into = Comparison(made.__getitem__, session.day, len(events))
    into.expect(next(iter(made.values())).decisions.as_of.tolist())
    return into


def replay(service: Service, *more: str) -> subprocess.CompletedProcess[str]:
    """`python -m serving.replay` of the stored second session, to its end."""
    day = f"{second_session()[0].day}"
    command = [sys.executable, "-m", "serving.replay", "stored", "AAA", "BBB", "CCC", day, "--to", service.ticks, *more]
    return subprocess.run(command, cwd=ROOT, env=environment(service.home), capture_output=True, text=True, timeout=300)


class Client:
    """Sends and hears one message at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seq = 0

    def say(self, **what: object) -> tuple[list[dict], dict]:
        """Decisions, and the acknowledgement or the error that ended them."""
        self.seq += 1
        return self.raw(orjson.dumps({"v": 1, "seq": self.seq, **what}))

    def raw(self, data: bytes) -> tuple[list[dict], dict]:
        self.socket.send(data)
        said: list[dict] = []
        while True:
            one = orjson.loads(self.socket.recv(60))
            if "ack" in one or "error" in one:
                return said, one
            said.append(one)

    def begin(self, **more: object) -> tuple[list[dict], dict]:
        session, _ = second_session()
        return self.say(session={"day": session.day, "open": session.open, "close": session.close, **more})

    def send(self, events: Events) -> tuple[list[dict], dict]:
        return self.say(events=wire.write_events(events, pipeline().universe))


@contextmanager
def client(service: Service) -> Iterator[Client]:
    with connect(service.ticks, max_size=None, compression=None) as socket:
        yield Client(socket)


def test_the_whole_session_is_equal_to_the_bit(service):
    done = replay(service, "--json")
    said = orjson.loads(done.stdout)
    session, events = second_session()
    assert done.returncode == 0, done.stderr
    assert said["equal"] is True and said["missing"] == 0 and said["values_unequal"] == 0 and said["late"] == 0
    assert said["instants"] == (session.close - session.open) // 1_000_000_000 == 1200 and said["events"] == len(events)
    assert said["values"] > 100_000 and said["releases"] == {Releases(service.home).resolve("champion"): 1200}
    assert said["signals"]["Buy"] > 100 and said["signals"]["Sell"] > 100 and said["actions"] == said["signals"]
    assert said["in_sample"] == 0


def test_the_same_session_again_and_in_other_packets_is_equal_too(service):
    done = replay(service, "--packet", "7", "--in-flight", "30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,200 of 1,200 instants came, 0 missing" in done.stdout and "equal to the bit, 0 not." in done.stdout


def test_a_session_that_was_learned_from_is_in_sample_and_holds(service):
    command = [sys.executable, "-m", "serving.replay", "stored", "2024-01-08", "--to", service.ticks, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment(service.home), capture_output=True, text=True, timeout=300)
    said = orjson.loads(done.stdout)
    last = (service.get("/model").json()["max_train_t1"] - second_session()[0].open) / 1e9 + 86_400
    assert done.returncode == 0 and said["session"] == 20240108 and said["values_unequal"] == 0
    assert said["in_sample"] == last and 1000 < last < said["instants"] == 1200
    orders, taken = (said[name]["Buy"] + said[name]["Sell"] for name in ("signals", "actions"))
    assert 0 < taken < orders / 4


def test_one_changed_weight_is_reported(service):
    made = pipeline()
    linear = made.models["linear"]
    twin = type(linear).__new__(type(linear))
    twin.__dict__.update(linear.__dict__)
    changed = linear.weights["weights"].copy()  # type: ignore[attr-defined]
    most = np.abs(changed).argmax()  # the last bit of a small one may be lost in the sum
    changed.flat[most] = np.nextafter(changed.flat[most], np.inf)
    twin.weights = {**linear.weights, "weights": changed}  # type: ignore[attr-defined]
    other = replace(made, models={**made.models, "linear": twin})
    session, events = second_session()
    into = comparison(**{f"_{service.get('/model').json()['release']}": other})
    asyncio.run(connected(service.ticks, made, session, events, into, 500, 8))
    assert not into.equal and into.n_unequal > 0 and into.missing == 0
    assert any("linear.mean_bps: streamed" in text for text in into.unequal)
    assert all(" linear." in text or " signal:" in text for text in into.unequal)


def test_what_never_comes_is_missing(service):
    session, events = second_session()
    into = comparison(**{f"_{service.get('/model').json()['release']}": pipeline()})
    with client(service) as one:
        one.begin(fresh=True)
        for said in one.send(events[:3000])[0][5:]:
            into.add(said)
    assert into.n_unequal == 0 and into.instants > 100 and into.missing == 1200 - into.instants and not into.equal


@pytest.mark.parametrize("how", ["promoted", "rolled back"])
def test_a_release_takes_over_in_mid_session(tmp_path, how):
    first = make_home(tmp_path)
    second = write_release(tmp_path, successor())
    releases = Releases(tmp_path)
    into = comparison(**{f"_{first}": pipeline(), f"_{second}": successor()})
    if how == "rolled back":
        releases.compare_and_set(1, second, "forced: test")
    before, after = (first, second) if how == "promoted" else (second, first)
    session, events = second_session()
    with serving(tmp_path) as service, client(service) as one:
        was = service.get("/model").json()
        assert was["release"] == before
        said = one.begin()[0]
        moved = None
        for at in range(0, len(events), PACKET):
            if moved is None and at >= len(events) // 3:
                moved = releases.compare_and_set(1, second, "forced: test") if how == "promoted" else releases.rollback(2)
            said += one.send(events[at : at + PACKET])[0]
            # Slowly enough for the swap to come in mid-session, by the clock that looks for it once a second.
            if moved is not None and at < 2 * len(events) // 3:
                time.sleep(0.05)
        said += one.say(advance=session.close + 1)[0]
        now = service.get("/model").json()
    assert now["release"] == after and now["pid"] == was["pid"] and now["sequence"] == was["sequence"] + 1
    names = [m["release"] for m in said]
    change = names.index(after)
    assert 0.3 * 1200 < change < 0.8 * 1200 and names == [before] * change + [after] * (1200 - change)
    for one_said in said:
        into.add(one_said)
    assert into.equal, into.unequal
    assert into.releases == {before: change, after: 1200 - change}


def test_a_release_that_is_damaged_is_not_taken_and_the_old_one_goes_on(tmp_path):
    first = make_home(tmp_path)
    second = write_release(tmp_path, successor())
    victim = tmp_path / "releases" / second / "models" / "linear" / "weights.npz"
    victim.write_bytes(victim.read_bytes()[:-1])
    with serving(tmp_path) as service, client(service) as one:
        one.begin()
        Releases(tmp_path).compare_and_set(1, second, "forced: test")
        until = time.monotonic() + 20
        while time.monotonic() < until and "cannot be followed" not in service.log.read_text():
            time.sleep(0.1)
        assert "cannot be followed" in service.log.read_text() and "is damaged" in service.log.read_text()
        assert "Traceback" not in service.log.read_text()
        said = one.send(second_session()[1][:2000])[0]
        assert said and {m["release"] for m in said} == {first} and service.get("/model").json()["release"] == first
        assert "cift_swap_failures_total 1.0" in service.get("/metrics").text


@pytest.mark.parametrize("who", ["both", "worker", "supervisor"])
def test_kill_9_in_mid_session_changes_no_later_bit(tmp_path, who):
    name = make_home(tmp_path)
    into = comparison(**{f"_{name}": pipeline()})
    session, events = second_session()
    third, twice = len(events) // 3, 37
    with serving(tmp_path) as service:
        with client(service) as one:
            said = one.begin()[0]
            for at in range(0, third, PACKET):
                some, ack = one.send(events[at : at + PACKET])
                said += some
            sent = at + PACKET
            pid = service.get("/model").json()["pid"]
            # One more message goes out, and the service dies before its answer is read.
            rows = wire.write_events(events[sent : sent + PACKET], pipeline().universe)
            one.socket.send(orjson.dumps({"v": 1, "seq": 999, "events": rows}))
            if who == "worker":
                os.kill(pid, signal.SIGKILL)
            else:
                service.kill(*([pid] if who == "both" else []))
        if who == "worker":
            service.wait(60, pid)  # the supervisor starts another
        else:
            service.start(60, pid)  # a worker whose supervisor was killed is still there, and leaves by itself
        now = service.get("/model").json()
        assert now["pid"] != pid and now["watermark"] >= ack["watermark"] and now["decided"] >= len(said)
        with client(service) as one:
            missed, ack = one.begin(after=said[-1]["as_of"])
            said += missed
            assert ack["watermark"] == now["watermark"]
            # From the last acknowledged message on, and 37 events of it again.
            some, ack = one.send(events[sent - twice : sent + PACKET])
            said += some
            assert twice <= ack["late"] <= twice + PACKET and ack["applied"] + ack["late"] == PACKET + twice
            for at in range(sent + PACKET, len(events), PACKET):
                some, ack = one.send(events[at : at + PACKET])
                said += some
                assert ack["late"] == 0
            said += one.say(advance=session.close + 1)[0]
        assert service.get("/model").json()["late"] >= twice
    for message in said:
        into.add(message)
    assert into.equal and into.repeated == 0, into.unequal


def bad_rows() -> dict[str, list[dict]]:
    """Messages whose events are wrong in one way each."""
    session, events = second_session()
    good = wire.write_events(events[2000:2003], pipeline().universe)
    book = good[0]["book"]
    return {
        "a key more": [good[0] | {"extra": 1}],
        "an unknown symbol": [good[0] | {"symbol": "ZZZ"}],
        "a float for an integer": [good[0] | {"ts": float(good[0]["ts"])}],
        "a bool for an integer": [good[0] | {"sequence": True}],
        "a negative size": [good[0] | {"book": book | {"bid_sz": [-1, 1]}}],
        "a crossed book": [good[0] | {"book": book | {"bid_px": [book["ask_px"][0] + 1, 1]}}],
        "levels out of order": [good[0] | {"book": book | {"ask_px": book["ask_px"][::-1]}}],
        "events out of order": good[::-1],
        "the last of three wrong": [*good[:2], good[2] | {"ts": None}],
        "too many events": [good[0] | {"sequence": i} for i in range(wire.MAX_EVENTS + 1)],
    }


def test_what_is_wrong_is_one_error_and_changes_nothing(service):
    session, events = second_session()
    with client(service) as one:
        one.begin(fresh=True)
        one.send(events[:2000])
        before = service.get("/model").json()
        rows_before = service.get("/prediction/AAA").json()
        refused: list[tuple[dict, str]] = [(one.say(events=rows)[1], what) for what, rows in bad_rows().items()]
        good = orjson.dumps({"v": 1, "seq": 5, "events": wire.write_events(events[2000:2001], pipeline().universe)})
        raw = {
            "NaN": good.replace(b'"seq":5', b'"seq":NaN'),
            "1e999": good.replace(b'"seq":5', b'"seq":1e999'),
            "another version": good.replace(b'"v":1', b'"v":2'),
            "a key more at the top": good.replace(b'"v":1', b'"v":1,"w":1'),
            "not JSON": good[:-1],
            "not UTF-8": b"\xff\xfe",
            "nothing": b"",
            "a list": b"[]",
            "too large": b" " * (wire.MAX_MESSAGE_BYTES + 1),
            "a session that ends first": b'{"v":1,"seq":1,"session":{"day":20240109,"open":9,"close":3}}',
            "a heartbeat of 1.5": b'{"v":1,"seq":1,"advance":1.5}',
            "a heartbeat of true": b'{"v":1,"seq":1,"advance":true}',
        }
        refused += [(one.raw(data)[1], what) for what, data in raw.items()]
        for said, what in refused:
            assert set(said) == {"v", "seq", "error"} and 10 < len(said["error"]) < 400 and "\n" not in said["error"], (what, said)
            assert "Traceback" not in said["error"]
        after = service.get("/model").json()
        assert after == before and service.get("/prediction/AAA").json() == rows_before
        # The connection survives, and the next good message is taken where the last one ended.
        some, ack = one.send(events[2000:3000])
        assert ack["applied"] == 1000 and ack["late"] == 0 and len(some) > 10
    made = pipeline()
    batch = batch_of(made)
    for said in some:
        assert wire.differences(made, said, batch, int(np.searchsorted(batch.as_of, said["as_of"])))[1] == []


def test_another_connection_sees_the_same_state_and_a_closed_one_leaves_it(service):
    session, events = second_session()
    with client(service) as one, client(service) as two:
        one.begin(fresh=True)
        first = one.send(events[:1000])[0]
        ack = two.begin()[1]
        assert ack["watermark"] == int(events.ts[999])
        second = two.send(events[1000:2000])[0]
        assert second[0]["as_of"] == first[-1]["as_of"] + 1_000_000_000
    assert service.get("/model").json()["watermark"] == int(events.ts[1999])


def test_a_connection_that_is_cut_in_mid_message_leaves_a_whole_state(service):
    session, events = second_session()
    into = comparison(**{f"_{service.get('/model').json()['release']}": pipeline()})
    message = orjson.dumps({"v": 1, "seq": 2, "events": wire.write_events(events[:5000], pipeline().universe)})
    cut = decided = 0
    for _ in range(5):  # on a busy machine the whole message may be decided before the cut is made
        with client(service) as one:
            one.begin(fresh=True)
            one.socket.send(message)
            one.socket.recv(30)  # the first decision
            one.socket.socket.shutdown(socket.SHUT_RDWR)
            cut = service.get("/model").json()["decided"]
        until = time.monotonic() + 30
        while time.monotonic() < until and service.get("/model").json()["watermark"] < int(events.ts[4999]):
            time.sleep(0.05)
        decided = service.get("/model").json()["decided"]
        if cut < decided:
            break
    assert 0 < cut < decided  # the message was taken to its end
    with client(service) as one:
        said = one.begin(after=0)[0]
        for at in range(4000, len(events), 1000):
            some, ack = one.send(events[at : at + 1000])
            assert ack["late"] == (1000 if at == 4000 else 0)
            said += some
        said += one.say(advance=session.close + 1)[0]
    for message in said:
        into.add(message)
    assert into.equal and into.repeated == 0, into.unequal


def test_prediction_before_and_after_and_of_an_unknown_symbol(tmp_path):
    make_home(tmp_path)
    with serving(tmp_path) as service:
        assert service.get("/prediction/AAA").status_code == 503
        unknown = service.get("/prediction/ZZZ")
        assert unknown.status_code == 404 and "AAA, BBB, CCC" in unknown.json()["error"]
        with client(service) as one:
            one.begin()
            said = one.send(second_session()[1][:3000])[0]
        for symbol in ("AAA", "BBB", "CCC"):
            row = service.get(f"/prediction/{symbol}").json()
            assert (
                row
                == {k: said[-1][k] for k in ("as_of", "session", "release", "held", "in_sample")}
                | {"symbol": symbol}
                | (said[-1]["symbols"][symbol])
            )
        for path in ("/healthz", "/livez", "/readyz", "/metrics"):
            assert service.get(path).status_code == 200
        metrics = service.get("/metrics").text
        assert "cift_events_total 3000.0" in metrics and f"cift_instants_total {len(said)}.0" in metrics
        code = service.stop()
    assert code == 0, service.log.read_text()[-2000:]


def predict_body(n: int, instants: int = 5) -> dict:
    session, events = second_session()
    return {
        "session": {"day": session.day, "open": session.open, "close": session.close},
        "events": wire.write_events(events[:n], pipeline().universe),
        "until": int(events.ts[n - 1]),
        "instants": instants,
    }


def post(service: Service, body: object, **headers: str) -> httpx.Response:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return httpx.post(f"{service.url}/predict", content=data, headers={"content-type": "application/json", **headers}, timeout=60)


def test_predict_says_batch_rows_and_leaves_the_live_state_alone(service):
    with client(service) as one:
        one.begin(fresh=True)
        one.send(second_session()[1][:1500])
    before = service.get("/model").json(), service.get("/prediction/BBB").json()
    made, batch = pipeline(), batch_of(pipeline())
    said = post(service, predict_body(4000, 100)).json()
    assert len(said) == 100
    for row in said:
        assert wire.differences(made, row, batch, int(np.searchsorted(batch.as_of, row["as_of"])))[1] == []
    assert (service.get("/model").json(), service.get("/prediction/BBB").json()) == before


def test_predict_refuses_what_is_wrong(service):
    good = predict_body(300)
    raw = orjson.dumps(good)
    assert post(service, good).status_code == 200
    wrong: dict[str, object] = {
        "a key more": good | {"x": 1},
        "a key more in the session": good | {"session": good["session"] | {"x": 1}},
        "a float for an integer": good | {"until": float(good["until"])},
        "a bool for an integer": good | {"instants": True},
        "a string for an integer": good | {"until": str(good["until"])},
        "no instants": good | {"instants": 0},
        "too many instants": good | {"instants": 601},
        "outside the session": good | {"until": good["session"]["close"] + 1},
        "a session of a year": good | {"session": good["session"] | {"close": good["session"]["open"] + 365 * 86_400 * 10**9}},
        "a session without a field": good | {"session": {"day": 20240109}},
        "events that are an object": good | {"events": {}},
        "a bad event": good | {"events": [good["events"][0] | {"ts": 1.5}]},
        "events out of order": good | {"events": good["events"][::-1]},
        "NaN": raw.replace(b'"instants":5', b'"instants":NaN'),
        "NaN in an event": raw.replace(b'"sequence":', b'"sequence":NaN,"x":', 1),
        "1e999": raw.replace(b'"instants":5', b'"instants":1e999'),
        "not JSON": raw[:-1],
        "nothing": b"",
        "a list": b"[]",
        "too many events": good | {"events": [good["events"][0]] * (wire.MAX_EVENTS + 1)},
    }
    for what, body in wrong.items():
        answer = post(service, body)
        assert answer.status_code == 400, (what, answer.status_code, answer.text)
        assert "error" in answer.json() and "Traceback" not in answer.text, what
    assert post(service, b" " * (wire.MAX_MESSAGE_BYTES + 1)).status_code == 413
    assert httpx.post(f"{service.url}/predict", content=iter([raw]), headers={"content-type": "application/json"}).status_code == 411
    for kind in ("application/vnd.bentoml+pickle", "multipart/form-data", "text/plain"):
        assert post(service, raw, **{"content-type": kind}).status_code == 415
    assert post(service, good).status_code == 200


def started(home: Path, release: str = "champion") -> subprocess.CompletedProcess[str]:
    """`cift serve` that is to end by itself."""
    command = [sys.executable, "-m", "flows.cli", "serve", "--release", release, "--port", "3999"]
    return subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=120)


def damage_byte(folder: Path) -> Path:
    victim = folder / "models" / "hawkes" / "weights.npz"
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(raw)
    return folder


def damage_unlisted(folder: Path) -> Path:
    (folder / "models" / "note.txt").write_text("hello")
    return folder


def damage_manifest(folder: Path) -> Path:
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes().replace(b'"cap": 1', b'"cap": 9'))
    return folder


def damage_link(folder: Path) -> Path:
    victim = folder / "heads" / "linear" / "weights.npz"
    victim.rename(folder.parent / "moved.npz")
    victim.symlink_to(folder.parent / "moved.npz")
    return folder


@pytest.mark.parametrize("damage", [damage_byte, damage_unlisted, damage_manifest, damage_link])
def test_a_damaged_release_is_one_message_and_no_service(served_home, tmp_path, damage):
    home = Path(shutil.copytree(served_home, tmp_path / "home", ignore=shutil.ignore_patterns("bentoml", "journal", "lake")))
    folder = home / "releases" / Releases(home).resolve("champion")
    damage(folder)
    done = started(home)
    assert done.returncode == 1 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert 1 <= len(lines) <= 10 and lines[0].startswith("cift serve: ") and "Traceback" not in done.stderr
    assert folder.name[:12] in done.stderr


def test_serve_without_a_champion_or_with_an_unknown_release_says_what_to_do(tmp_path, served_home):
    empty = started(tmp_path)
    assert empty.returncode != 0 and "Nothing is served yet" in empty.stderr and len(empty.stderr.splitlines()) <= 10
    unknown = started(served_home, "abcdef123456")
    assert unknown.returncode != 0 and "No release 'abcdef123456'" in unknown.stderr


def test_a_release_that_was_not_promoted_is_held(tmp_path):
    make_home(tmp_path)
    challenger = write_release(tmp_path, successor())
    Releases(tmp_path).set_challenger(challenger)
    with serving(tmp_path, "challenger") as service:
        assert "HELD" in service.log.read_text()
        done = replay(service, "--json")
        said = orjson.loads(done.stdout)
        assert done.returncode == 0 and said["releases"] == {challenger: 1200}
        assert said["signals"]["Buy"] > 10 and said["actions"] == {"Hold": 3600}
        busy = subprocess.run(
            [sys.executable, "-m", "serving", "--port", str(service.port)],
            cwd=ROOT,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
        )
        assert busy.returncode == 2 and "Cannot listen on" in busy.stderr and len(busy.stderr.splitlines()) <= 3


def test_replay_without_a_service_and_with_wrong_words_says_what_to_do(served_home):
    nobody = replay(Service(served_home))
    assert nobody.returncode == 1 and "No service answers" in nobody.stderr and "Traceback" not in nobody.stderr


def test_replay_of_what_is_not_there_says_what_to_do(service):
    for items, words in ((["2024-02-30"], "stored days"), (["yesterday"], "is not a date"), (["AAA", "2024-01-09"], "asked was AAA")):
        command = [sys.executable, "-m", "serving.replay", "stored", *items, "--to", service.ticks]
        done = subprocess.run(command, cwd=ROOT, env=environment(service.home), capture_output=True, text=True, timeout=120)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.real_data
def test_a_stretch_of_the_recorded_day_is_equal_to_the_bit(tmp_path):
    """`cift replay lobster` of eight minutes of three stocks, books of 1, 5 and 5 levels, against a service that was started with them."""
    ten, minute = 36_000_000, 60_000
    files = [slice_lobster(lobster_zip(s), tmp_path / "files" / f"{s}.zip", ten, ten + 8 * minute) for s in ("AAPL", "AMZN", "GOOG")]
    days = [read_lobster(path) for path in files]
    universe = Universe(tuple(day.instrument for day in days))
    session, events = recorded_events("lobster", files, universe)
    panel = labelled(universe, session, events)
    name = write_release(tmp_path, fitted(panel, ("linear", "hawkes"), "linear", -2.0), panel)
    Releases(tmp_path).compare_and_set(0, name)
    with serving(tmp_path) as service:
        command = [sys.executable, "-m", "flows.cli", "replay", "lobster", *map(str, files), "--to", service.ticks, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said = orjson.loads(done.stdout)
        assert said["equal"] and said["instants"] == 480 and said["events"] == len(events) > 5_000 and said["missing"] == 0
        assert said["signals"]["Buy"] + said["signals"]["Sell"] > 10
        short = subprocess.run(
            [*command[:5], str(files[0]), *command[8:]], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
        )
        assert short.returncode == 2 and "The 1 files hold AAPL; the release knows AAPL, AMZN, GOOG" in short.stderr
