"""What was planted against what was found: a simulated market's manifest beside the fits and the test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models import scores
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.report import TruthRow
from cift_models.instruments import SECOND
from cift_models.models.hmm.parameters import Parameters
from cift_models.models.protocol import Panel
from cift_models.simulate.truth import COMPONENTS

LINE, ALL = ("linear", "impact"), COMPONENTS
"""What a line can see of a simulated market, and everything that was planted."""

Paths = Mapping[int, Mapping[str, NDArray]]
"""Hidden paths by session (yyyymmdd), as simulate.Market holds them: row i is the second that begins at open + (i + 1) s."""


def planted_against_found(
    truth: Mapping[str, Any],
    metrics: Mapping[str, Any],
    facts: Mapping[str, Mapping[str, Any]],
    data: Sequence[Evaluated],
    paths: Paths,
) -> list[TruthRow]:
    """Rows for the table of the report: signal by symbol, self-excitation, lead-lag edge, regimes.

    `facts` are the FitReport facts of the final fits by kind; a kind that was not fitted has no row. A planted R2 is the
    realised one of the true expectation on the very test rows on which the model is judged.
    """
    rows = []
    for part in data:
        models = metrics["symbols"][part.symbol]
        oracle = _oracle_r2(truth, part, paths)
        if models["linear"]["r2"]["value"] is not None:
            rows.append(_within(f"{part.symbol}: R2 a line can see (linear)", oracle["line"], models["linear"]["r2"]))
        if models["ensemble"]["r2"]["value"] is not None:
            rows.append(_within(f"{part.symbol}: R2 of all that was planted (ensemble)", oracle["all"], models["ensemble"]["r2"]))
    n_60s = truth["config"]["branching_60s"]
    for symbol, found in facts.get("hawkes", {}).items():
        if isinstance(found, Mapping) and "n_60s" in found:
            close = abs(found["n_60s"] - n_60s) <= 0.15
            rows.append(TruthRow(f"{symbol}: self-excitation n(60 s)", n_60s, found["n_60s"], None, None, "near" if close else "off"))
    edge, prior = truth.get("edge"), facts.get("gnn", {}).get("prior")
    if edge and prior:
        planted = f"{edge['leader']} -> {edge['follower']} at {edge['lag_ms']} ms"
        symbols = facts["gnn"]["symbols"]
        edges = [(symbols[e["source"]], symbols[e["target"]], 1000 * e["lag_s"]) for e in prior["edges"]]
        found = [f"{leader} -> {follower} at {lag_ms:.0f} ms" for leader, follower, lag_ms in edges]
        hit = any((leader, follower) == (edge["leader"], edge["follower"]) for leader, follower, _ in edges)
        rows.append(TruthRow("Lead-lag edge", planted, "; ".join(found) or "none", None, None, "found" if hit else "not found"))
    names = facts.get("hmm", {}).get("names")
    if names:
        planted = ", ".join(sorted(name.replace("_", "-") for name in truth["regimes"]["names"]))
        found = ", ".join(sorted(names))
        rows.append(
            TruthRow(
                "Regimes", planted, found, None, None, "found" if planted == found else "in part" if "volatile" in names else "not found"
            )
        )
    return rows


def _oracle_r2(truth: Mapping[str, Any], part: Evaluated, paths: Paths) -> dict[str, float]:
    """R2 on a symbol's test rows of the planted expectations: what the best forecast would have had."""
    s = truth["config"]["symbols"].index(part.symbol)
    opened = {session["day"]: session["open"] for session in truth["sessions"]}
    session = part.session if part.session is not None else np.full(len(part.as_of), next(iter(opened)))
    true = {name: np.zeros(len(part.as_of)) for name in ("line", "all")}
    for day, hidden in paths.items():
        own = session == day
        row = (part.as_of[own] - opened[day]) // SECOND - 1
        for name, components in (("line", LINE), ("all", ALL)):
            true[name][own] = sum(hidden[c][row, s] for c in components)
    return {name: scores.r2(part.y, values) for name, values in true.items()}


def regime_rows(
    truth: Mapping[str, Any],
    panels: Sequence[Panel],
    predicted: Sequence[NDArray[np.float64]],
    ready: Sequence[NDArray[np.bool_]],
    paths: Paths,
) -> list[TruthRow]:
    """How often the likeliest regime of the next 30 s is the true one: the filter that knows the planted parameters, and ours.

    Our states carry no planted names, so they are matched to the planted ones by the agreement itself (the best of all matchings): a
    figure to look at, not a proof.
    """
    from scipy.optimize import linear_sum_assignment

    bar_s, planted = truth["regimes"]["bar_s"], truth["regimes"]
    sigma = np.array(planted["volatility_bps"]) * np.sqrt(bar_s)
    known = Parameters.of_returns(planted["transition"], intercept=[0.0] * 3, phi=planted["ar"], sigma=sigma.tolist())
    table = np.zeros((3, 3))
    hits = bars = 0
    for panel, p, is_ready in zip(panels, predicted, ready, strict=True):
        closes = np.arange(bar_s - 1, len(panel) - 1, bar_s)
        mid = panel.column("mid")[closes]
        for s in range(len(panel.universe)):
            true = paths[panel.session]["regime"][closes, s]
            filtered = known.filter_returns(1e4 * np.diff(np.log(mid[:, s])))[1] @ known.transition
            use = is_ready[closes, s][1:]
            hits += int((filtered.argmax(axis=1) == true[1:])[use].sum())
            bars += int(use.sum())
            np.add.at(table, (p[closes, s].argmax(axis=1)[1:][use], true[1:][use]), 1)
    if not bars:
        return []
    ours, planted_state = linear_sum_assignment(-table)
    accuracy = float(table[ours, planted_state].sum() / bars)
    return [TruthRow("Next regime, accuracy (planted: the true filter's)", hits / bars, accuracy, None, None, f"{bars:,} bars")]


def _within(name: str, planted: float, found: Mapping[str, Any]) -> TruthRow:
    lo, hi = found["lo"], found["hi"]
    verdict = "no interval" if lo is None else "below" if hi < planted else "above" if lo > planted else "within"
    return TruthRow(name, planted, found["value"], lo, hi, verdict)
