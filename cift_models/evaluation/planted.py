"""What was planted against what was found: a simulated market's manifest beside the fits and the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cift_models.evaluation.report import TruthRow


def planted_against_found(truth: Mapping[str, Any], metrics: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> list[TruthRow]:
    """Rows for the table of the report: signal by symbol, self-excitation, lead-lag edge, regimes.

    `facts` are the FitReport facts of the final fits by kind; a kind that was not fitted has no row. The R2 of a planted component is the
    realised one of the whole simulation, that of a model is on the test rows, so they agree up to the interval of the latter.
    """
    rows = []
    for symbol in metrics["symbols"]:
        realised = truth["realised"][symbol]["r2"]
        models = metrics["symbols"][symbol]
        linear, best = models["linear"]["r2"], models["ensemble"]["r2"]
        if linear["value"] is not None:
            rows.append(_within(f"{symbol}: R2 a line can see (linear)", realised["linear"] + realised["impact"], linear))
        if best["value"] is not None:
            rows.append(_within(f"{symbol}: R2 of all that was planted (ensemble)", realised["all"], best))
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


def _within(name: str, planted: float, found: Mapping[str, Any]) -> TruthRow:
    lo, hi = found["lo"], found["hi"]
    verdict = "no interval" if lo is None else "below" if hi < planted else "above" if lo > planted else "within"
    return TruthRow(name, planted, found["value"], lo, hi, verdict)
