"""From fits to a verdict: heads, thresholds, the pipeline, its predictions on the test blocks, metrics and report."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date
from typing import Any

import numpy as np
import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models import ledger
from cift_models.engine import Decisions, Pipeline, fold
from cift_models.evaluation import metrics
from cift_models.evaluation.live_cost import live_ms
from cift_models.evaluation.marginal import NESTED, Cost, OutOfFold, Stack
from cift_models.evaluation.planted import planted_against_found, regime_rows
from cift_models.evaluation.report import Kernels, LeadLag, Regimes, drawings, render
from cift_models.evaluation.rows import JudgedSession, choose_rules, judged_rows
from cift_models.evaluation.sign_check import on_random_signs
from cift_models.evaluation.trials import trials_of
from cift_models.files import canonical_json, digest
from cift_models.instruments import CALENDARS
from cift_models.models import model_class
from cift_models.models.ensemble.model import MEANS
from cift_models.models.head import Head, has_own_probabilities
from cift_models.models.protocol import Outputs
from cift_models.signals import SignalRule
from cift_models.splits import STOP, TEST, training_rows
from cift_models.stacking import HEAD_BLOCKS, head_blocks, told
from tasks.code import code_sha256
from tasks.dataset import DELAYS_NS, Dataset, load_labels, open_panel
from tasks.fit import Fits, load_outputs, spoken
from tasks.ingest import hidden_paths
from tasks.step import Room, StepRef, seconds, step
from tasks.trials import keep_trials, known_trials, tested_on


@task(persist_result=False, cache_policy=NO_CACHE)
def fit_heads(kinds: list[str], dataset: Dataset, built: dict[int, StepRef], fits: Fits) -> StepRef:
    """The head of every kind with a forecast and no probabilities of its own, on its out-of-fold rows (Head.fit says what others teach)."""
    calendar = dataset.get_calendar()

    def run(room: Room) -> dict[str, Any]:
        t1: dict[str, int] = {}
        reports: dict[str, Any] = {}
        for i, kind in enumerate(headed(kinds, fits)):
            room.progress(kind, i / len(kinds))
            rows = []
            blocks = head_blocks(tuple(fits[kind]))
            for day in calendar.sessions(blocks):
                panel = open_panel(dataset, built, day)
                assert panel.rows is not None and panel.label_end is not None
                marked = training_rows(calendar, day, panel.as_of, panel.label_end, blocks) & panel.rows
                mean, ready = np.zeros(panel.valid.shape), np.zeros(panel.valid.shape, bool)
                if said := spoken(fits[kind], day):
                    heard = told(panel, calendar, {kind: said})
                    mean = np.ascontiguousarray(heard.base[kind][:, :, fits[kind]["final"].facts["outputs"].index("mean_bps")])
                    ready = heard.base_ready[kind]
                rows.append((replace(panel, rows=marked), mean, ready))
            head, report = Head.fit(rows)
            t1[kind] = report.facts["max_train_t1"]
            (room.out / kind).mkdir()
            head.save(room.out / kind)
            reports[kind] = {"status": report.status, "n_rows": report.n_rows, "facts": report.facts}
        (room.out / "heads.json").write_bytes(canonical_json(reports))
        return {"t1": t1}

    return step("heads", {"kinds": kinds, "fits": fits, "calendar": dataset.calendar, "sessions": _keys(built)}, run)


def headed(kinds: list[str], fits: Fits) -> list[str]:
    """Kinds that need a head."""
    outputs = {kind: fits[kind]["final"].facts["outputs"] for kind in kinds}
    return [kind for kind in kinds if "mean_bps" in outputs[kind] and not has_own_probabilities(tuple(outputs[kind]))]


@task(persist_result=False, cache_policy=NO_CACHE)
def assemble(kinds: list[str], dataset: Dataset, built: dict[int, StepRef], fits: Fits, heads: StepRef) -> StepRef:
    """Choose every kind's threshold on the stopping block, and write down what the pipeline is made of: plan.json."""
    calendar = dataset.get_calendar()
    forecasting = [kind for kind in kinds if "mean_bps" in fits[kind]["final"].facts["outputs"]]
    decides = "ensemble" if "ensemble" in forecasting else forecasting[-1]

    def run(room: Room) -> dict[str, Any]:
        pipeline = load_pipeline(kinds, dataset, fits, heads, SignalRule(), decides)

        def sessions():
            for day in calendar.sessions((STOP,)):
                room.progress(f"thresholds on {day}", 0.3)
                said: dict[str, Outputs] = {kind: load_outputs(fits[kind]["final"].directory, day) for kind in kinds}
                panel = open_panel(dataset, built, day)
                yield panel, {k: o.values for k, o in said.items()}, {k: o.ready for k, o in said.items()}

        chosen, rule_t1 = choose_rules(pipeline, sessions(), calendar, STOP)
        thresholds = {kind: [t.threshold_bps for t in by_symbol] for kind, by_symbol in chosen.items()}
        # What is served never trades at an expected loss, even where nothing was profitable on the stopping block.
        thresholds[decides] = [max(0.0, t) for t in thresholds[decides]]
        plan = {
            "kinds": kinds,
            "decides": decides,
            "thresholds": thresholds,
            "why": {kind: [t.why for t in by_symbol] for kind, by_symbol in chosen.items()},
            "max_train_t1": _t1(kinds, fits, heads, rule_t1),
        }
        (room.out / "plan.json").write_bytes(canonical_json(plan))
        return {"decides": decides, "fits": {k: fits[k]["final"].key for k in kinds}, "heads": heads.key}

    return step("assemble", {"kinds": kinds, "fits": fits, "heads": heads, "calendar": dataset.calendar, "sessions": _keys(built)}, run)


def _t1(kinds: list[str], fits: Fits, heads: StepRef, rule_t1: int) -> dict[str, int]:
    """max_train_t1 of each kind's final predictions over all its ancestors, its head and its threshold included."""
    own = {kind: fits[kind]["final"].facts["own_t1"] for kind in kinds}
    own |= {f"head {kind}": t1 for kind, t1 in heads.facts["t1"].items()}
    own["rule"] = rule_t1
    needs = {kind: model_class(kind).needs for kind in kinds}
    extra = {kind: [*([f"head {kind}"] if f"head {kind}" in own else []), "rule"] for kind in kinds}
    return {kind: ledger.ancestors_t1(kind, own, needs, extra) for kind in kinds} | {"rule": own["rule"]}


def load_pipeline(kinds: list[str], dataset: Dataset, fits: Fits, heads: StepRef, rule: SignalRule, decides: str) -> Pipeline:
    """The final fits as a pipeline."""
    models = {kind: model_class(kind).load(fits[kind]["final"].directory / "model") for kind in kinds}
    return Pipeline(
        dataset.get_universe(), dataset.get_features(), models,
        {kind: Head.load(heads.directory / kind) for kind in headed(kinds, fits)}, rule, decides,
    )  # fmt: skip


def planned_pipeline(dataset: Dataset, plan: dict[str, Any], fits: Fits, heads: StepRef) -> Pipeline:
    """The pipeline that plan.json describes."""
    rule = SignalRule(threshold_bps=tuple(plan["thresholds"][plan["decides"]]))
    return load_pipeline(plan["kinds"], dataset, fits, heads, rule, plan["decides"])


@task(persist_result=False, cache_policy=NO_CACHE)
def judge(
    dataset: Dataset,
    built: dict[int, StepRef],
    fits: Fits,
    heads: StepRef,
    assembled: StepRef,
    truth: dict[str, Any] | None,
    offsets: StepRef | None = None,
) -> StepRef:
    """Predict the test blocks with the pipeline that will be released, and judge it: metrics.json, ledger.parquet, report.html, plots.

    What was found at other moments of the second (`offsets`) is kept beside the metrics, and shown.
    """
    calendar = dataset.get_calendar()

    def run(room: Room) -> dict[str, Any]:
        plan = orjson.loads((assembled.directory / "plan.json").read_bytes())
        pipeline = planned_pipeline(dataset, plan, fits, heads)
        sessions = []
        for day in calendar.sessions(TEST):
            room.progress(f"predicting {day}", 0.1)
            panel = open_panel(dataset, built, day)
            labels = {d: load_labels(built[day].directory, d) for d in sorted({dataset.latency_ns, *DELAYS_NS}) if d >= dataset.latency_ns}
            shift = {d - dataset.latency_ns: (y, known) for d, (y, known, _) in labels.items()}
            sessions.append(
                JudgedSession(panel, fold(pipeline, panel), {d: y for d, (y, _) in shift.items()}, {d: k for d, (_, k) in shift.items()})
            )
        room.progress("ledger", 0.3)
        frame = _ledger(pipeline, sessions, calendar, plan["max_train_t1"])
        ledger.check(frame)
        frame.write_parquet(room.out / "ledger.parquet", compression="zstd")
        room.progress("labels times random signs", 0.4)
        rows = judged_rows(pipeline, sessions, calendar, TEST, plan["thresholds"])
        signed = on_random_signs(plan["kinds"], rows, calendar, lambda day: open_panel(dataset, built, day))
        room.progress("metrics", 0.6)
        reports = {kind: orjson.loads((by_fold["final"].directory / "fit.json").read_bytes()) for kind, by_fold in fits.items()}
        facts = {kind: report["facts"] for kind, report in reports.items()}
        costs = _costs(fits, live_ms(pipeline, sessions[0].panel, sessions[0].decided))
        stack = stack_of(plan["kinds"], dataset, built, fits, facts, costs)
        own = trials_of(rows, _configs(fits, plan), code_sha256(), tested_on(dataset))
        judged = metrics.build(rows, on_random_signs=signed, stack=stack, own=own, earlier=known_trials())
        metrics.validate(judged)
        keep_trials(own)
        (room.out / "metrics.json").write_bytes(canonical_json(judged))
        moments = (offsets.directory / "offsets.json").read_bytes() if offsets else b""
        if moments:
            (room.out / "offsets.json").write_bytes(moments)
        room.progress("report", 0.8)
        found = []
        if truth:
            paths = hidden_paths(dataset)
            found = planted_against_found(truth, judged, facts, rows, paths)
            if "hmm" in pipeline.models:
                spoken = [one.decided for one in sessions]
                said, ready = [d.values["hmm"] for d in spoken], [d.ready["hmm"] for d in spoken]
                found += regime_rows(truth, [one.panel for one in sessions], said, ready, paths)
        page = render(
            judged,
            rows,
            title="CIFT evaluation",
            subtitle=f"{', '.join(pipeline.universe.symbols)}, {_spelt(dataset.days)}",
            zone=CALENDARS[pipeline.universe.instruments[0].calendar].zone,
            truth=found,
            regimes=regime_strips(pipeline, sessions, calendar, facts),
            kernels=excitation_kernels(pipeline),
            lead_lag=lead_lag(pipeline, facts),
            curves={kind: report["curves"] for kind, report in reports.items() if report["curves"]},
            calendar=calendar,
            offsets=orjson.loads(moments) if moments else {},
        )
        (room.out / "report.html").write_text(page, encoding="utf-8")
        (room.out / "plots").mkdir()
        for name, svg in drawings(page).items():
            (room.out / "plots" / f"{name}.svg").write_text(svg, encoding="utf-8")
        return {"alarms": len(judged["alarms"]), "rows": judged["rows"], "found": [asdict(row) for row in found]}

    inputs = {
        "fits": fits, "heads": heads, "plan": assembled, "sessions": _keys(built), "calendar": dataset.calendar,
        "latency_ns": dataset.latency_ns, "truth": truth, "offsets": offsets,
    }  # fmt: skip
    return step("judge", inputs, run)


def _spelt(days: list[int]) -> str:
    """Session days of a reader: "2012-06-21", or "2012-06-21 to 2012-06-25 (3 sessions)"."""
    first, last = (date.fromisoformat(str(day)).isoformat() for day in (days[0], days[-1]))
    return first if len(days) == 1 else f"{first} to {last} ({len(days)} sessions)"


def stack_of(
    kinds: list[str], dataset: Dataset, built: dict[int, StepRef], fits: Fits, facts: dict[str, Any], costs: dict[str, Cost]
) -> Stack:
    """The stack's members on the rows that teach heads, as the fits of earlier folds said them, where every member speaks."""
    calendar, universe = dataset.get_calendar(), dataset.get_universe()
    members = [kind for kind in MEANS if kind in kinds]
    blocks = tuple(b for b in HEAD_BLOCKS if all(f"k{b}" in fits[kind] for kind in members))
    y: dict[str, list[np.ndarray]] = {symbol: [] for symbol in universe.symbols}
    means: dict[str, dict[str, list[np.ndarray]]] = {symbol: {kind: [] for kind in members} for symbol in universe.symbols}
    for day in calendar.sessions(blocks) if members and blocks else ():
        panel = open_panel(dataset, built, day)
        assert panel.rows is not None and panel.y is not None and panel.label_end is not None
        heard = told(panel, calendar, {kind: spoken(fits[kind], day) for kind in members})
        assert heard.base_oof is not None
        marked = panel.rows & heard.base_oof & training_rows(calendar, day, panel.as_of, panel.label_end, blocks)
        for s, symbol in enumerate(universe.symbols):
            own = marked & panel.valid[:, s] & np.logical_and.reduce([heard.base_ready[kind][:, s] for kind in members])
            y[symbol].append(panel.y[own, s])
            for kind in members:
                means[symbol][kind].append(heard.base[kind][own, s, fits[kind]["final"].facts["outputs"].index("mean_bps")])
    past = {
        symbol: OutOfFold(np.concatenate(y[symbol]), {kind: np.concatenate(parts) for kind, parts in means[symbol].items()})
        for symbol in universe.symbols
        if y[symbol]
    }
    return Stack(
        past,
        costs,
        facts.get("ensemble", {}).get("overall", {}),
        {k: _base_weights(facts[k], universe.symbols) for k in NESTED if k in facts},
    )


def _configs(fits: Fits, plan: dict[str, Any]) -> dict[str, str]:
    """What was tried, by kind: the fit, its thresholds, and the models beside it, for a trial is on the rows where all of them speak."""
    return {
        kind: digest({"fit": by_fold["final"].key, "threshold": plan["thresholds"].get(kind), "beside": plan["kinds"]})
        for kind, by_fold in fits.items()
    }


def _base_weights(facts: dict[str, Any], symbols: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """The two weights of a level-1 model's base, as its fit reports them."""
    found = {}
    for symbol in symbols:
        weights = facts["base_weights"][symbol]
        found[symbol] = (weights["linear"], weights["hawkes"]) if isinstance(weights, dict) else (weights[0], weights[1])
    return found


def _costs(fits: Fits, live: dict[str, float]) -> dict[str, Cost]:
    """Live ms as measured, minutes of all the fits of a kind as their steps took them."""
    out = {}
    for kind, by_fold in fits.items():
        took = [seconds(ref) for ref in by_fold.values()]
        minutes = sum(took) / 60 if all(took) else None
        why = [] if kind in live else ["too few valid instants in the first test session to time an update"]
        why += [] if minutes is not None else ["a fit's step does not say how long it took"]
        out[kind] = Cost(live.get(kind), minutes, "; ".join(why) or None)
    return out


def regime_strips(pipeline: Pipeline, sessions: list[JudgedSession], calendar, facts: dict[str, Any]) -> list[Regimes]:
    """The first judged session's filtered regimes, a symbol each; empty where no regimes were found."""
    if "hmm" not in pipeline.models or not facts["hmm"].get("regimes"):
        return []
    one = sessions[0]
    rows = calendar.mask(one.panel.session, one.panel.as_of, TEST)
    names = tuple(facts["hmm"]["names"])
    return [
        Regimes(symbol, one.panel.as_of[rows], one.decided.values["hmm"][rows, s], names)
        for s, symbol in enumerate(pipeline.universe.symbols)
    ]


def excitation_kernels(pipeline: Pipeline) -> list[Kernels]:
    """The fitted Hawkes kernels, a symbol each; those without excitation are left out."""
    model = pipeline.models.get("hawkes")
    if model is None:
        return []
    lag_s = np.geomspace(1e-3, 60, 60)
    sides = ("buy", "sell")
    out = []
    for symbol in pipeline.universe.symbols:
        kernel = model.parameters(symbol).kernel(lag_s)  # type: ignore[attr-defined]
        if kernel.any():
            curves = {f"{b} -> {a}": kernel[i, j] for i, a in enumerate(sides) for j, b in enumerate(sides)}
            out.append(Kernels(symbol, lag_s, curves))
    return out


def lead_lag(pipeline: Pipeline, facts: dict[str, Any]) -> LeadLag | None:
    """The statistical prior's matrix: partial correlation of i's move with j's past, at the lag that shows it best."""
    prior = facts.get("gnn", {}).get("prior")
    if prior is None or len(pipeline.universe) < 2:
        return None
    weight, low, high = (np.array(prior[name]).T for name in ("partial_correlation", "low", "high"))
    return LeadLag(pipeline.universe.symbols, weight, low, high)


def _ledger(pipeline: Pipeline, sessions: list[JudgedSession], calendar, max_train_t1: dict[str, int]):
    """PREDICTIONS of the test rows: every kind with a forecast, every symbol."""
    import polars as pl

    frames = []
    for one in sessions:
        rows = calendar.mask(one.panel.session, one.panel.as_of, TEST)
        frames += [_predictions(pl, pipeline, one.decided, rows, kind, t1) for kind, t1 in max_train_t1.items() if kind in one.decided.p]
    return pl.concat(frames)


def _predictions(pl, pipeline: Pipeline, decided: Decisions, rows, kind: str, t1: int):
    symbols = pipeline.universe.symbols
    n = int(rows.sum())
    mean, p, ready = decided.mean_bps(pipeline, kind), decided.p[kind][rows], decided.ready[kind][rows].ravel()
    as_of = np.repeat(decided.as_of[rows], len(symbols))

    def or_null(values):
        return pl.Series(values).set(pl.Series(~ready), None)

    return pl.DataFrame(
        {
            "symbol": list(symbols) * n,
            "as_of": as_of,
            "available_at": as_of,
            "model": [kind] * len(as_of),
            "fold": ["final"] * len(as_of),
            "max_train_t1": np.full(len(as_of), t1),
            "ready": ready,
            "mean_bps": or_null(mean[rows].ravel() if mean is not None else np.zeros(len(as_of))),
            "p_down": or_null(np.ascontiguousarray(p[:, :, 0]).ravel()),
            "p_flat": or_null(np.ascontiguousarray(p[:, :, 1]).ravel()),
            "p_up": or_null(np.ascontiguousarray(p[:, :, 2]).ravel()),
        }
    )


def _keys(built: dict[int, StepRef]) -> dict[str, StepRef]:
    return {str(day): ref for day, ref in built.items()}
