"""What is served moves by a verdict against what is served: no race ends on the worse model, and nothing rolls back to what never was."""

from __future__ import annotations

import multiprocessing
import threading
from functools import cache
from pathlib import Path

import pytest

from cift_models.errors import Conflict, InputError, ReleaseError, StoreError
from cift_models.evaluation.card import Card, Who
from cift_models.evaluation.gate import verdict
from cift_models.files import sha256_bytes
from cift_models.stores.releases import Releases, Served
from tests.gated import certificate, contender, evidence, rows

SKILLS = {"old": 0.02, "fair": 0.4, "best": 1.0}
"""Three releases, each better than the one before it, beyond doubt."""


def write(home: Path, text: str) -> str:
    name = sha256_bytes(text.encode())
    folder = home / "releases" / name
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(text)
    return name


@cache
def card(challenger: str, champion: str) -> Card:
    """The gate's own verdict on two of the releases."""

    def made(which: str):
        parts = {s: rows(seed, s, SKILLS[which], b=0.8) for seed, s in enumerate(("S0", "S1"))}
        return contender(parts, release=sha256_bytes(which.encode()))

    return verdict(made(challenger), made(champion), evidence())


def test_the_fixture_is_a_ladder() -> None:
    for worse, better in (("old", "fair"), ("fair", "best"), ("old", "best")):
        assert card(better, worse).verdict == "promoted", card(better, worse).reasons
        assert card(worse, better).verdict == "held"


def climb(home: Path, mine: str, start: threading.Barrier | None = None, names: dict[str, str] | None = None) -> None:
    """What somebody does who wants a release served: judge it against what is served, promote, and judge again where that moved."""
    releases = Releases(home)
    known = {sha256_bytes(text.encode()): text for text in SKILLS}
    first = True
    while True:
        now = releases.served()
        assert now is not None
        if now.release == sha256_bytes(mine.encode()):
            return
        judged = card(mine, known[now.release])
        if start is not None and first:
            start.wait()
        first = False
        if judged.verdict == "held":
            return
        try:
            releases.promote(now.sequence, judged, "promoted")
        except Conflict:
            continue


def stubborn(home: Path, mine: str, start: threading.Barrier) -> None:
    """Who has a verdict against the old champion, and insists: reads the sequence again and again, and never judges again."""
    releases = Releases(home)
    judged = card(mine, "old")
    start.wait()
    for _ in range(3):
        now = releases.served()
        assert now is not None
        try:
            releases.promote(now.sequence, judged, "promoted")
        except Conflict:
            continue


def a_home(home: Path) -> Releases:
    for text in SKILLS:
        write(home, text)
    releases = Releases(home)
    releases.compare_and_set(0, write(home, "old"), "forced: first")
    return releases


def race(home: Path, one, other) -> Served:
    releases = a_home(home)
    start = threading.Barrier(2)
    threads = [threading.Thread(target=one[0], args=(home, one[1], start)), threading.Thread(target=other[0], args=(home, other[1], start))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = releases.served()
    assert served is not None
    return served


def test_of_a_thousand_races_none_ends_on_the_worse_model(tmp_path: Path) -> None:
    """Two who judge again where they lose, and one in four times one who insists on an old verdict for the worse of the two."""
    for one, other in (("fair", "old"), ("best", "old"), ("best", "fair"), ("fair", "best")):
        card(one, other)  # judged once: a race is about who moves first
    best, ways = sha256_bytes(b"best"), set()
    for k in range(1000):
        home = tmp_path / str(k)
        served = race(home, (stubborn if k % 4 == 0 else climb, "fair"), (climb, "best"))
        assert served.release == best, f"race {k} ended on {[move.release[:6] for move in served.history]}"
        assert [move.sequence for move in served.history] == list(range(1, served.sequence + 1))
        ways.add(tuple(move.release for move in served.history))
    assert len(ways) == 2, "both orders were seen: the worse one first, then the better one, and the better one alone"


def _climbs(home: Path, mine: str, ready, cards: dict) -> None:
    def known(challenger: str, champion: str) -> Card:
        return Card.from_bytes(cards[challenger, champion])

    globals()["card"] = known
    ready.wait()
    climb(home, mine)


def test_races_of_processes_end_on_the_better_model_too(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    cards = {(a, b): card(a, b).to_bytes() for a in SKILLS for b in SKILLS if a != b}
    for k in range(10):
        home = tmp_path / str(k)
        releases = a_home(home)
        ready = context.Barrier(2)
        racing = [context.Process(target=_climbs, args=(home, mine, ready, cards)) for mine in ("fair", "best")]
        for one in racing:
            one.start()
        for one in racing:
            one.join(60)
        assert [one.exitcode for one in racing] == [0, 0]
        served = releases.served()
        assert served is not None and served.release == sha256_bytes(b"best")


def test_a_verdict_against_what_is_served_no_more_promotes_nothing(tmp_path: Path) -> None:
    releases = a_home(tmp_path)
    releases.promote(1, card("best", "old"), "promoted")
    with pytest.raises(Conflict, match="what is served now is"):
        releases.promote(2, card("fair", "old"), "promoted")
    with pytest.raises(Conflict, match="sequence 2, expected 1"):
        releases.promote(1, card("fair", "old"), "promoted")
    with pytest.raises(Conflict, match="against nothing"):
        releases.promote(2, card("fair", "old").model_copy(update={"champion": Who(release=None, model="linear")}), "promoted")
    served = releases.served()
    assert served is not None and served.sequence == 2


def test_what_holds_or_was_made_for_a_test_is_not_promoted(tmp_path: Path) -> None:
    releases = a_home(tmp_path)
    promoted = card("best", "old")
    assert promoted.certificate is not None
    for bad in (
        card("old", "best"),
        promoted.model_copy(update={"certificate": None}),
        promoted.model_copy(update={"certificate": promoted.certificate.model_copy(update={"size": "test"})}),
        promoted.model_copy(update={"clauses": {**promoted.clauses, "audit": False}}),
        promoted.model_copy(update={"verdict": "held"}),
        promoted.model_copy(update={"challenger": Who(release=None, model="best")}),
    ):
        with pytest.raises(ReleaseError, match="does not promote it"):
            releases.promote(1, bad, "promoted")
    assert certificate("test").size == "test" and releases.served().sequence == 1  # type: ignore[union-attr]


def test_a_rollback_goes_only_to_what_was_served(tmp_path: Path) -> None:
    releases = a_home(tmp_path)
    releases.promote(1, card("best", "old"), "promoted")
    with pytest.raises(InputError, match="was never served"):
        releases.rollback(2, sha256_bytes(b"fair"))
    assert releases.rollback(2).release == sha256_bytes(b"old")
    assert releases.rollback(3, sha256_bytes(b"best")).release == sha256_bytes(b"best")


def test_a_release_keeps_its_last_verdict(tmp_path: Path) -> None:
    releases = a_home(tmp_path)
    name = sha256_bytes(b"best")
    assert releases.verdict(name) is None
    releases.set_verdict(card("best", "old"))
    assert releases.verdict(name) == card("best", "old")
    releases.set_verdict(card("best", "fair"))
    assert releases.verdict(name) == card("best", "fair")
    path = tmp_path / "verdicts" / f"{name}.json"
    path.rename(path.with_name(f"{sha256_bytes(b'fair')}.json"))
    with pytest.raises(StoreError, match="that of another release"):
        releases.verdict(sha256_bytes(b"fair"))
    path.write_text("{}")
    with pytest.raises(StoreError, match="no verdict"):
        releases.verdict(name)
    with pytest.raises(InputError, match="of no release"):
        releases.set_verdict(card("best", "old").model_copy(update={"challenger": Who(release=None, model="best")}))
