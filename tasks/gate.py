"""The verdict on a release: run it and what is served over the same test sessions, and ask the gate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models import release as releases_of
from cift_models.engine import Engine, Pipeline, fold
from cift_models.errors import CiftError, ReleaseError, StoreError
from cift_models.evaluation import audited
from cift_models.evaluation.card import Card, Switch
from cift_models.evaluation.causality import Audit, Leak, as_given
from cift_models.evaluation.certificate import Certificate
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.gate import Contender, Evidence, verdict
from cift_models.evaluation.leak_alarms import Alarm
from cift_models.evaluation.nulls import fixed_nulls
from cift_models.evaluation.report import with_card
from cift_models.evaluation.rows import JudgedSession, judged_rows
from cift_models.events import Events
from cift_models.files import canonical_json, digest
from cift_models.instruments import SECOND, Session
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.refs import ReleaseRef
from cift_models.settings import get_settings
from cift_models.splits import TEST
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import open_ticks
from tasks import track
from tasks.audit import AUDITS, audit_session
from tasks.code import code_sha256
from tasks.dataset import DELAYS_NS, Dataset, load_labels, open_panel
from tasks.progress import reporter
from tasks.runs import CARD, REPORT
from tasks.step import Room, StepRef, step

CERTIFICATES = "certificates"

AUDITED_NS = 3600 * SECOND
AUDIT_CUTS = 32
"""What is audited before a verdict: the first hour of the first test session. `cift audit --release` asks of whole days."""

WARM, TIMED = 300, 200
"""Instants before the latency is measured, and of it: compiled and warm, as a service is."""


@task(persist_result=False, cache_policy=NO_CACHE)
def gate(dataset: Dataset, built: dict[int, StepRef], judged: StepRef, challenger: ReleaseRef, newest: StepRef | None = None) -> StepRef:
    """Judge a release against what is served, on the test rows of a run: card.json, which is also kept as the release's last verdict.

    `newest` is a night's audit of its last session: a leak in it holds too.

    Raises ReleaseError where the data are not those that the release was trained and judged on.
    """
    home = get_settings().home
    releases = Releases(home)
    manifest = releases_of.verify(releases.directory(challenger.sha256))
    if manifest.data != {ref.key: ref.sha256 for refs in dataset.partitions.values() for ref in refs}:
        raise ReleaseError(
            f"The stored data are not those on which {challenger.sha256[:12]} was trained.", hint="Train again: `cift train`."
        )
    served = releases.served()
    champion = served.release if served else None
    kept = None
    if champion == challenger.sha256:
        # What is served has its verdict, which says why it came to be; against itself it would only be held.
        champion, kept = None, releases.verdict(challenger.sha256)
    config = config_sha256([entry.kind for entry in manifest.models], dataset.horizon_ns, dataset.latency_ns)
    certificate = find_certificate(manifest.code, config)
    found = audit_release(dataset, built, challenger)
    measured = measure_latency(dataset, challenger)

    def run(room: Room) -> dict[str, Any]:
        if kept is not None:
            (room.out / CARD).write_bytes(kept.to_bytes())
            return _facts(kept)
        room.progress("the challenger", 0.1)
        pipeline, _ = releases_of.load(releases.directory(challenger.sha256))
        metrics = orjson.loads((judged.directory / "metrics.json").read_bytes())
        evidence = Evidence(
            code=code_sha256(),
            alarms=[Alarm(**alarm) for alarm in metrics["alarms"]],
            switches={model: Switch(**one) for model, one in metrics["switches"].items()},
            audits=[*_audits(found), *(_audits(newest) if newest else [])],
            certificate=certificate,
            latency_ms=measured.facts["p99_ms"],
        )
        one = Contender(
            pipeline.decides, rows_of(pipeline, dataset, built), challenger.sha256, manifest.code, config, manifest.max_train_t1
        )
        room.progress("the champion", 0.5)
        other, cannot = _champion(releases, champion, dataset, built)
        room.progress("cheap nulls", 0.7)
        nulls = fixed_nulls(one, other)
        room.progress("the verdict", 0.8)
        card = verdict(one, other, replace(evidence, cannot=cannot, nulls=nulls))
        (room.out / CARD).write_bytes(card.to_bytes())
        page = (judged.directory / REPORT).read_text(encoding="utf-8")
        (room.out / REPORT).write_text(with_card(page, card.model_dump(mode="json")), encoding="utf-8")
        return _facts(card)

    inputs = {
        "challenger": challenger.sha256, "champion": champion, "certificate": certificate.sha256 if certificate else None,
        "kept": kept.sha256 if kept else None, "judged": judged, "audited": found, "newest": newest, "measured": measured,
        "calendar": dataset.calendar, "latency_ns": dataset.latency_ns,
        "sessions": {str(day): ref for day, ref in built.items()},
    }  # fmt: skip
    made = step("gate", inputs, run)
    releases.set_verdict(read_card(made))
    return made


def _facts(card: Card) -> dict[str, Any]:
    return {"verdict": card.verdict, "reason": card.first_reason, "failed": list(card.failed)}


def read_card(gated: StepRef) -> Card:
    return Card.from_bytes((gated.directory / CARD).read_bytes())


def config_sha256(kinds: list[str], horizon_ns: int, latency_ns: int) -> str:
    """Digest of what is fitted and of what it is asked, the same on every universe and range: a certificate is of this.

    Epochs and the seed are left out: what is certified is the judge, and its own runs are small.
    """
    configs = {kind: model_class(kind).Config().model_dump(mode="json") for kind in kinds}
    return digest({"kinds": kinds, "configs": configs, "horizon_ns": horizon_ns, "latency_ns": latency_ns})


def certificate_path(code: str, config: str):
    """Where the certificate of a code and a config lies."""
    return get_settings().home / CERTIFICATES / f"{code[:16]}-{config[:16]}.json"


def find_certificate(code: str, config: str) -> Certificate | None:
    """The certificate of a code and a config; None where there is none, or a file that is none (then there is nothing to trust)."""
    try:
        return Certificate.load(certificate_path(code, config))
    except StoreError:
        return None


def stands(card: Card) -> bool:
    """Whether a verdict is still what the gate says: same rival, code and certificate. That of what is served is history, and stands."""
    served = Releases(get_settings().home).served()
    champion = served.release if served else None
    if champion is not None and card.challenger.release == champion:
        return True
    certificate = find_certificate(card.code, card.config)
    shown = card.certificate.sha256 if card.certificate else None
    found = certificate.sha256 if certificate else None
    return card.champion.release == champion and card.code == code_sha256() and shown == found


def _champion(releases: Releases, champion: str | None, dataset: Dataset, built: dict[int, StepRef]) -> tuple[Contender | None, str | None]:
    """What is served, on the rows of the run; without rows where it has learned from them, and with the reason where it cannot be run."""
    if champion is None:
        return None, None
    try:
        pipeline, manifest = releases_of.load(releases.directory(champion))
    except CiftError as error:
        return Contender("unknown", {}, champion), error.message
    nothing = Contender(pipeline.decides, {}, champion, manifest.code, max_train_t1=manifest.max_train_t1)
    if manifest.max_train_t1 >= dataset.get_calendar().first(TEST[0]):
        return nothing, None  # the gate refuses it by its max_train_t1; its rows would be in sample
    try:
        return replace(nothing, rows=rows_of(pipeline, dataset, built)), None
    except CiftError as error:
        return nothing, error.message


def rows_of(pipeline: Pipeline, dataset: Dataset, built: dict[int, StepRef]) -> dict[str, Evaluated]:
    """What a pipeline says on the test rows of a run, by symbol. Its universe and features may be others than the run's."""
    calendar, ticks = dataset.get_calendar(), open_ticks(get_settings())
    same = pipeline.universe.as_json() == dataset.universe and pipeline.features.as_json() == dataset.features
    stored = {dataset.latency_ns, *DELAYS_NS} if same else set()
    sessions = []
    for day in calendar.sessions(TEST):
        if same:
            panel = open_panel(dataset, built, day)
        else:
            session = dataset.session(day)
            panel = pipeline.panel(session, ticks.events(pipeline.universe, session))
        # The delays are counted from the latency that was trained for, so that a run of any latency has the touch 100 ms later.
        told = {
            d: load_labels(built[day].directory, d)
            if d in stored
            else labels(panel.events, pipeline.universe, dataset.session(day), panel.as_of, dataset.horizon_ns, d)
            for d in (dataset.latency_ns + delay for delay in DELAYS_NS)
        }
        y = {d - dataset.latency_ns: moves for d, (moves, _, _) in told.items()}
        known = {d - dataset.latency_ns: seen for d, (_, seen, _) in told.items()}
        sessions.append(JudgedSession(panel, fold(pipeline, panel), y, known))
    return {one.symbol: one for one in judged_rows(pipeline, sessions, calendar, TEST, {})}


def audit_release(dataset: Dataset, built: dict[int, StepRef], ref: ReleaseRef) -> StepRef:
    """Audit what a release makes of the first hour of the first test session: features, labels, models.

    And of all that session, whether the features and labels that the run was given are those of its events.
    """
    day = dataset.get_calendar().sessions(TEST)[0]

    def run(room: Room) -> dict[str, Any]:
        pipeline, session, events = _first_hour(dataset, ref)
        found = audit_session(pipeline.universe, pipeline.features, session, events, AUDIT_CUTS, 0, pipeline=pipeline)
        found += audit_given(dataset, built, day)
        (room.out / AUDITS).write_bytes(canonical_json([one.as_json() for one in found]))
        return {"clean": all(one.clean for one in found), "compared": sum(one.compared for one in found)}

    return step("audit_release", {"release": ref.sha256, "session": day, "built": built[day], "data": dataset}, run)


def audit_given(dataset: Dataset, built: dict[int, StepRef], day: int) -> list[Audit]:
    """Hold the panel of a session and its labels, as every fit and the judge open them, to what is made of the session's events."""
    universe, session = dataset.get_universe(), dataset.session(day)
    panel = open_panel(dataset, built, day)
    build = audited.features(universe, dataset.get_features(), session).build
    latencies = sorted({dataset.latency_ns, *DELAYS_NS})
    given = {d: load_labels(built[day].directory, d) for d in latencies}
    assert panel.y is not None and panel.label_end is not None
    given[dataset.latency_ns] = (panel.y, given[dataset.latency_ns][1], panel.label_end)
    made = {d: labels(panel.events, universe, session, panel.as_of, dataset.horizon_ns, d) for d in latencies}
    return [
        as_given("given features", build(panel.events), audited.panel_rows(panel), universe.symbols, day),
        as_given("given labels", audited.label_rows(panel.as_of, made), audited.label_rows(panel.as_of, given), universe.symbols, day),
    ]


def _audits(audited: StepRef) -> list[Audit]:
    found = orjson.loads((audited.directory / AUDITS).read_bytes())
    return [Audit(**{**one, "leaks": tuple(Leak(**leak) for leak in one["leaks"])}) for one in found]


def _first_hour(dataset: Dataset, ref: ReleaseRef) -> tuple[Pipeline, Session, Events]:
    """A release, and the first hour of the first test session, as a session that ends there."""
    pipeline, _ = releases_of.load(Releases(get_settings().home).directory(ref.sha256))
    whole = dataset.session(dataset.get_calendar().sessions(TEST)[0])
    session = Session(whole.day, whole.open, min(whole.close, whole.open + AUDITED_NS))
    events = open_ticks(get_settings()).events(pipeline.universe, whole)
    return pipeline, session, events[: int(np.searchsorted(events.ts, session.close, "right"))]


def measure_latency(dataset: Dataset, ref: ReleaseRef) -> StepRef:
    """How long a release takes from the last event before an instant to its decision, on this machine, without the wire: ms.

    Live, event by event as they lie between two instants; the 99 % point of TIMED instants behind WARM.
    """

    def run(room: Room) -> dict[str, Any]:
        pipeline, session, events = _first_hour(dataset, ref)
        engine = Engine(pipeline)
        engine.begin(session)
        at, took = 0, []
        instants = list(session.instants(pipeline.features.clock_ns))[: WARM + TIMED]
        for k, as_of in enumerate(instants):
            end = int(np.searchsorted(events.ts, as_of, "right"))
            began = time.perf_counter()
            engine.push(events[at:end])
            decided = engine.advance(int(as_of) + 1)
            if decided and k >= min(WARM, len(instants) // 2):
                took.append(1e3 * (time.perf_counter() - began))
            at = end
        (room.out / "latency.json").write_bytes(canonical_json({"ms": took}))
        return {"p50_ms": float(np.median(took)), "p99_ms": float(np.quantile(took, 0.99)), "instants": len(took)}

    return step("latency", {"release": ref.sha256, "session": dataset.get_calendar().sessions(TEST)[0]}, run)


@task(persist_result=False, cache_policy=NO_CACHE)
def publish(gated: StepRef, mlflow_run: str, version: str) -> None:
    """Show a verdict where people look: tags of the registered model and of the run, the card among its artifacts, a Prefect artifact."""
    from prefect.artifacts import create_markdown_artifact

    card = read_card(gated)
    client = track.client()
    for name, value in {"verdict": card.verdict, "reason": card.first_reason[:4900], "card": card.sha256}.items():
        client.set_model_version_tag(track.MODEL, version, f"cift.{name}", value)
        client.set_tag(mlflow_run, f"cift.{name}", value)
    for name in (CARD, REPORT):  # the page that the judge logged knew of no verdict
        client.log_artifact(mlflow_run, str(gated.directory / name))
    create_markdown_artifact(markdown=in_markdown(card), key="verdict", description=f"{card.verdict}: {card.first_reason}"[:900])
    reporter("gate")(f"{card.verdict}: {card.first_reason}", 1.0)


def in_markdown(card: Card) -> str:
    """A card as a page: the verdict, its reasons, and the figures by symbol."""
    rival = f"{card.champion.model} of {card.champion.release[:12]}" if card.champion.release else card.champion.model
    release = (card.challenger.release or "")[:12]
    lines = [f"# {card.verdict.capitalize()}", "", f"{card.challenger.model} of {release} against {rival}", ""]
    lines += [f"- {reason}" for reason in card.reasons]
    lines += ["", "| symbol | rows | R2 | R2 gain | p, Holm | direction gain | timing, bps | timing gain |", "|" + "---|" * 8]
    for symbol, one in card.symbols.items():
        p = "" if one.p_holm is None else f"{one.p_holm:.2g}"
        figures = (one.r2, one.r2_gain), (one.direction_gain, one.timing, one.timing_gain)
        left, right = ([_figure(figure) for figure in part] for part in figures)
        lines.append(f"| {' | '.join([symbol, f'{one.rows:,}', *left, p, *right])} |")
    if card.switches:
        lines += ["", "Models of its stack:", ""]
        lines += [f"- {model} **{one.switch}**: {one.reason}" for model, one in card.switches.items()]
    return "\n".join(lines) + "\n"


def _figure(figure: Any) -> str:
    if figure.value is None:
        return f"none: {figure.reason}"
    return f"{figure.value:+.4f}" + ("" if figure.lo is None else f" [{figure.lo:+.4f}, {figure.hi:+.4f}]")
