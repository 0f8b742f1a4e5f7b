"""The verdict on a release: two releases over the same stored sessions, the card that is kept, and what may be promoted with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import tasks.gate
import tasks.release as moving
from cift_models import release
from cift_models.engine import Pipeline
from cift_models.errors import Conflict, NotStored, ReleaseError
from cift_models.evaluation import audited, report
from cift_models.evaluation.card import Card, Vouched
from cift_models.evaluation.certificate import Certificate, CertifiedRun, CheapNulls
from cift_models.events import merge
from cift_models.files import canonical_json
from cift_models.instruments import Universe
from cift_models.models.protocol import Panel
from cift_models.refs import ReleaseRef
from cift_models.stores.releases import Releases
from flows.cli import main
from tasks import runs
from tasks.audit import audit_newest
from tasks.code import code_sha256
from tasks.dataset import Dataset, build_session, select_data
from tasks.gate import certificate_path, config_sha256, in_markdown, read_card, stands
from tasks.gate import gate as judge_release
from tasks.step import StepRef, forget, step
from tests.market import small_market, store_small_market
from tests.releases import fitted, labelled, training_panel

pytestmark = pytest.mark.slow

KINDS = ("prior", "linear", "trees")
SWITCHES = {"linear": {"switch": "off", "p_value": 0.5, "reason": "adds nothing that shows: AAA R2 gain in [-0.0010, +0.0010]"}}


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gate") / "home"
    return store_small_market(home)


@pytest.fixture(autouse=True)
def home(module_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One home for all tests, with nothing served and no certificate."""
    monkeypatch.setenv("CIFT_HOME", str(module_home))
    monkeypatch.setattr(moving, "move_alias", lambda served: True)
    (module_home / "served.json").unlink(missing_ok=True)
    for path in (module_home / "certificates").glob("*"):
        path.unlink()
    return module_home


@pytest.fixture(scope="module")
def challenger() -> Pipeline:
    return fitted(training_panel(), KINDS, "trees", 0.0)


def dataset(latency_ms: int = 0) -> Dataset:
    market = small_market()
    first, last = (date.fromisoformat(str(s.day)) for s in market.sessions)
    return select_data.fn(list(market.universe.symbols), first, last, None, latency_ms)


def built(data: Dataset) -> dict[int, StepRef]:
    return {day: build_session.fn(data, day) for day in data.days}


def judged(alarms: tuple = ()) -> StepRef:
    """What the gate reads of a judged run: its alarms."""

    def run(room) -> dict:
        (room.out / "metrics.json").write_bytes(canonical_json({"alarms": list(alarms), "switches": SWITCHES}))
        (room.out / "report.html").write_text(report._UNJUDGED)
        return {}

    return step("judge", {"alarms": list(alarms)}, run)


def write(home: Path, made: Pipeline, data: Dataset, panel: Panel | None = None, later_ns: int = 0) -> ReleaseRef:
    panel = panel or training_panel()
    assert panel.label_end is not None and panel.rows is not None
    last = int(panel.label_end[panel.rows].max()) + later_ns
    directory = release.write(
        home / "releases",
        made,
        max_train_t1={**dict.fromkeys(made.models, last), "rule": last},
        data={ref.key: ref.sha256 for refs in data.partitions.values() for ref in refs},
        code=code_sha256(),
        metrics={},
    )
    return ReleaseRef.of(directory.name)


def judge(ref: ReleaseRef, data: Dataset, alarms: tuple = ()) -> Card:
    return read_card(judge_release.fn(data, built(data), judged(alarms), ref))


def test_the_page_of_a_verdict_begins_with_it(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    made = judge_release.fn(data, built(data), judged(), write(home, challenger, data))
    page, card = (made.directory / "report.html").read_text(), read_card(made)
    assert "Held" in page and report._UNJUDGED not in page and card.clauses["certificate"] is False
    top = page[page.index('<section class="verdict') : page.index("</section>")]
    assert top.count('<li class="bad">') == len(card.reasons)
    assert top.count('<li class="kept">') + top.count('<li class="failed">') == len(card.clauses) > top.count('<li class="kept">')


def test_the_first_is_judged_against_linear_of_its_own_run_and_the_card_is_kept(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    ref = write(home, challenger, data)
    card = judge(ref, data)
    assert card.verdict == "held" and card.champion.release is None and card.champion.model == "linear"
    assert card.challenger.release == ref.sha256 and card.challenger.model == "trees" and card.code == code_sha256()
    assert set(card.symbols) == set(small_market().universe.symbols) and min(card.rows.values()) > 400
    assert {"certificate"} <= set(card.failed) and not {"rows", "audit", "code", "alarms"} & set(card.failed)
    assert card.latency_ms is not None and 0 < card.latency_ms < 1000 and card.audited == 6
    assert Releases(home).verdict(ref.sha256) == card and stands(card)
    assert judge(ref, data).to_bytes() == card.to_bytes()
    page = in_markdown(card)
    assert page.startswith("# Held") and all(reason in page for reason in card.reasons)
    assert {model: one.model_dump() for model, one in card.switches.items()} == SWITCHES
    assert f"- linear **off**: {SWITCHES['linear']['reason']}" in page


def test_its_alarms_are_heard(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    alarm = {"kind": "hit_excess", "symbol": "AAA", "model": "trees", "text": "AAA trees: hits 90 %"}
    card = judge(write(home, challenger, data), data, (alarm,))
    assert "alarms" in card.failed and card.alarms == ("AAA trees: hits 90 %",)


def test_what_is_served_is_run_over_the_same_rows(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    ref = write(home, challenger, data)
    alone = judge(ref, data)
    other = write(home, fitted(training_panel(), ("prior", "linear"), "linear", 0.0), data)
    Releases(home).compare_and_set(0, other.sha256, "forced: first")
    assert not stands(alone)
    card = judge(ref, data)
    assert card.champion.release == other.sha256 and card.champion.model == "linear" and stands(card)
    for symbol, one in card.symbols.items():
        # It is the same linear model, loaded from another release: the same figures as against that of the own run.
        assert one.rival.release == other.sha256
        assert one.r2_gain == alone.symbols[symbol].r2_gain and one.rows == alone.symbols[symbol].rows


def test_a_champion_of_another_universe_is_run_on_its_own_and_judges_what_it_knows(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    market = small_market()
    only = Universe(market.universe.instruments[:1])
    symbol = only.symbols[0]
    panel = labelled(only, market.sessions[0], merge([market.events[0][symbol]], only.levels))
    other = write(home, fitted(panel, ("prior", "linear"), "linear", 0.0), data, panel)
    Releases(home).compare_and_set(0, other.sha256, "forced: first")
    card = judge(write(home, challenger, data), data)
    assert "rows" not in card.failed, card.reasons
    assert card.symbols[symbol].rival.release == other.sha256 and card.rows[symbol] > 400
    assert all(one.rival.release is None for name, one in card.symbols.items() if name != symbol)


def test_a_champion_that_has_learned_from_the_test_rows_holds(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    first = data.get_calendar().first(7)
    panel = training_panel()
    assert panel.label_end is not None and panel.rows is not None
    later = first - int(panel.label_end[panel.rows].max())
    other = write(home, fitted(panel, ("prior", "linear"), "linear", 0.0, 1), data, later_ns=later)
    Releases(home).compare_and_set(0, other.sha256, "forced: first")
    card = judge(write(home, challenger, data), data)
    assert "rows" in card.failed and "what is served has learned from labels until" in card.reasons[0]
    assert card.champion.release == other.sha256


def test_a_champion_that_cannot_be_loaded_holds(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    other = write(home, fitted(training_panel(), ("prior", "linear"), "linear", 0.1), data)
    Releases(home).compare_and_set(0, other.sha256, "forced: first")
    (home / other.key / "models" / "linear" / "weights.npz").write_bytes(b"")
    card = judge(write(home, challenger, data), data)
    assert "rows" in card.failed and "cannot be run on these rows" in " ".join(card.reasons)


def test_a_certificate_is_found_by_code_and_config_and_one_of_size_test_is_refused(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    ref = write(home, challenger, data)
    config = config_sha256(list(challenger.models), data.horizon_ns, data.latency_ns)
    before = judge(ref, data)
    made = Certificate(
        code=code_sha256(),
        config=config,
        nulls=(CertifiedRun(seed=0, verdict="held"),),
        planted=(CertifiedRun(seed=0, verdict="promoted"),),
        cheap=CheapNulls(n=3, promoted=0),
        size="test",
    )
    made.save(certificate_path(made.code, made.config))
    assert not stands(before)
    card = judge(ref, data)
    assert card.certificate is not None and card.certificate.sha256 == made.sha256 and "certificate" in card.failed
    assert any("size test" in reason for reason in card.reasons)
    certificate_path(made.code, made.config).write_text("{")
    assert judge(ref, data).certificate is None


def test_a_leak_in_the_newest_session_holds_and_the_card_says_where(
    home: Path, challenger: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset()
    ref = write(home, challenger, data)
    clean = audit_newest.fn(data)
    card = read_card(judge_release.fn(data, built(data), judged(), ref, clean))
    assert clean.facts == {"session": data.days[-1], "clean": True} and card.clauses["audit"] and card.audited == 6 + 3
    assert (card.nulls, card.clauses["nulls"]) == (CheapNulls(n=200, promoted=0), True)

    honest = audited.features

    def looking_ahead(*given, **more):
        subject = honest(*given, **more)

        def build(events):
            made = subject.build(events)
            names = next(iter(made.blocks))
            return made._replace(blocks={**made.blocks, names: np.roll(made.blocks[names], -1, axis=0)})

        return replace(subject, build=build, folding=None)

    forget(clean)
    monkeypatch.setattr(audited, "features", looking_ahead)
    leaky = audit_newest.fn(data)
    monkeypatch.setattr(audited, "features", honest)
    card = read_card(judge_release.fn(data, built(data), judged(), ref, leaky))
    assert leaky.facts["clean"] is False and card.verdict == "held" and "audit" in card.failed
    assert any(reason.startswith(f"features of {data.days[-1]} know their future: ") for reason in card.reasons)
    forget(leaky)


def test_forecasts_that_are_better_on_labels_without_direction_hold(
    home: Path, challenger: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset()
    ref = write(home, fitted(training_panel(), KINDS, "trees", 0.625), data)
    monkeypatch.setattr(tasks.gate, "fixed_nulls", lambda *given: CheapNulls(n=200, promoted=17))
    card = judge(ref, data)
    assert "nulls" in card.failed and any("better on labels without direction too: 17 of 200" in reason for reason in card.reasons)


def test_a_config_is_what_is_fitted_and_asked() -> None:
    same = config_sha256(["prior", "linear"], 10**9, 0)
    assert same == config_sha256(["prior", "linear"], 10**9, 0)
    others = {config_sha256(["prior", "trees"], 10**9, 0), config_sha256(["prior", "linear"], 10**9, 1), config_sha256(["prior"], 10**9, 0)}
    assert same not in others and len(others) == 3


def test_other_data_than_it_was_trained_on_are_refused(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    fewer = data.model_copy(update={"partitions": {day: refs[:-1] for day, refs in data.partitions.items()}})
    ref = write(home, challenger, fewer)
    with pytest.raises(ReleaseError, match="stored data are not those"):
        judge(ref, data)


def promoted(card: Card) -> Card:
    """The card as it would be if everything held: what the store is asked to promote."""
    return card.model_copy(
        update={
            "verdict": "promoted", "clauses": dict.fromkeys(card.clauses, True), "reasons": ("better than linear",),
            "certificate": Vouched(sha256="0" * 64, size="full"),
        }
    )  # fmt: skip


def test_promote_needs_a_promoted_verdict_or_a_reason_and_the_record_says_which(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    ref = write(home, fitted(training_panel(), KINDS, "trees", 0.25), data)
    with pytest.raises(ReleaseError, match="has no verdict"):
        moving.promote(ref.sha256, None)
    card = judge(ref, data)
    with pytest.raises(ReleaseError, match="does not promote it"):
        moving.promote(ref.sha256, None)
    assert Releases(home).served() is None
    Releases(home).set_verdict(promoted(card))
    served = moving.promote(ref.sha256, None)
    assert served.release == ref.sha256 and served.history[-1].note == "promoted: better than linear"
    with pytest.raises(Conflict, match="judged against nothing"):
        moving.promote(ref.sha256, None)
    other = write(home, fitted(training_panel(), KINDS, "trees", 0.5), data)
    assert moving.promote(other.sha256, "the desk asked").history[-1].note == "forced: the desk asked"
    assert moving.rollback(None).release == ref.sha256


def test_a_run_of_any_latency_has_the_touch_that_the_timing_asks_for(home: Path, challenger: Pipeline) -> None:
    data = dataset(10)
    card = judge(write(home, challenger, data), data)
    at_once = judge(write(home, challenger, dataset()), dataset())
    for symbol, one in card.symbols.items():
        assert one.timing.value is not None and one.gone_ms is not None and one.rows > 400
        assert one.r2.value != at_once.symbols[symbol].r2.value, "the moves begin 10 ms later"


def test_what_is_served_keeps_the_verdict_that_promoted_it(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    ref = write(home, fitted(training_panel(), KINDS, "trees", 0.75), data)
    Releases(home).set_verdict(promoted(judge(ref, data)))
    moving.promote(ref.sha256, None)
    kept = Releases(home).verdict(ref.sha256)
    assert kept is not None and stands(kept) and judge(ref, data) == kept and Releases(home).verdict(ref.sha256) == kept


def test_what_is_served_without_a_verdict_is_judged_as_if_nothing_were(home: Path, challenger: Pipeline) -> None:
    data = dataset()
    ref = write(home, fitted(training_panel(), KINDS, "trees", 0.875), data)
    moving.promote(ref.sha256, "never judged")
    card = judge(ref, data)
    assert card.champion.release is None and "adds nothing over linear of" not in card.reasons[0] and stands(card)


def test_a_run_is_found_by_its_number(home: Path) -> None:
    with pytest.raises(NotStored, match="Nothing has been trained"):
        runs.find_run()
    made = runs.write_run(
        flow="train", params={}, symbols=["AAA"], days=[20240108], judged="steps/judge/x", release="0" * 64, mlflow_run="", version="1",
        steps=[],
    )  # fmt: skip
    assert runs.find_run() == runs.find_run(made.number) == made and made.gated is None
    with pytest.raises(NotStored, match="no run 7"):
        runs.find_run(7)
    with pytest.raises(NotStored, match="not there any more"):
        runs.judged_of(made)
    assert runs.read_card("steps/gate/none") is None


def test_the_command_shows_a_verdict_that_stands_and_its_exit_code_says_which(
    home: Path, challenger: Pipeline, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    data = dataset()
    ref = write(home, challenger, data)
    held = judge(ref, data)
    made = runs.write_run(
        flow="train", params={}, symbols=list(held.symbols), days=data.days, judged="steps/judge/x", release=ref.sha256, mlflow_run="",
        version="1", steps=[],
    )  # fmt: skip

    def gate(*arguments: str) -> tuple[int, bytes]:
        monkeypatch.setattr(sys, "argv", ["cift", "gate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsysbinary.readouterr().out

    assert gate("--json") == (1, held.to_bytes()) and gate(str(made.number), "--json") == (1, held.to_bytes())
    code, said = gate()
    assert f"linear       off {SWITCHES['linear']['reason']}".encode() in said
    assert code == 1 and b"Held:" in said and all(f"  - {reason}".encode() in said for reason in held.reasons)
    monkeypatch.setattr("tasks.gate.stands", lambda card: True)
    Releases(home).set_verdict(promoted(held))
    code, said = gate()
    assert code == 0 and b"Promoted:\n  - better than linear\n" in said and f"cift promote {ref.sha256[:12]}".encode() in said
