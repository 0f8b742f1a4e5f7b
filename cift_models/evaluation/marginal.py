"""What each model of the stack adds over the stack without it, and what it costs: the table that decides whether a model is worth running.

A stack is the blend that least squares makes of its members' out-of-fold forecasts (weights of 0 or more, pooled over symbols in sd of the
move), so a member that knows nothing gets the weight 0 and adds exactly nothing. "Without it" leaves out the model and every model that
reads it: a Transformer still knows what its base said, and a stack that holds it is no stack without the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models import scores
from cift_models.evaluation.card import Switch
from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.evaluation.significance import FEWEST_BLOCKS, Blocks, Estimate, diebold_mariano, holm
from cift_models.models import model_class
from cift_models.models.ensemble.model import MEANS
from cift_models.scores import Terms

STACK = ("linear", "hmm", "hawkes", "gnn", "transformer", "meta_learner")
"""Models that stand in the stack, in the order of REGISTRY; the ensemble is the stack."""

NESTED = ("gnn", "transformer")
"""Networks: base + f. They are held against their base, and against the strong line, too."""

STRONG = "strong_linear"

CREDIT = 0.025
"""Size of the test that switches a model on: one-sided, Holm over symbols and over the two measures."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """One symbol's rows that no member of the stack had learned from: y float64[n] bps, means {member: float64[n] bps}."""

    y: NDArray[np.float64]
    means: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs: one live update of it in ms (median), and minutes of all its fits. None with the reason in `reason`."""

    live_ms: float | None
    fit_minutes: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """What the table is made of, besides the test rows.

    past      out-of-fold rows by symbol; empty: no stack can be built
    costs     by model
    overall   the ensemble's weights by member where the regime is not asked: the ensemble without the HMM
    bases     weights of (linear, hawkes) by model that nests them, by symbol: what its own forecast would be without it
    """

    past: Mapping[str, OutOfFold]
    costs: Mapping[str, Cost]
    overall: Mapping[str, float]
    bases: Mapping[str, Mapping[str, tuple[float, float]]]


NOTHING = Stack({}, {}, {}, {})


def reads(kind: str) -> set[str]:
    """Every model that a kind reads, directly or through others."""
    below = set(model_class(kind).needs)
    return below.union(*(reads(need) for need in below)) if below else set()


def without(kind: str, members: Sequence[str]) -> list[str]:
    """The stack without `kind`: members that are not it and do not read it."""
    return [m for m in members if m != kind and kind not in reads(m)]


def blend_weights(past: Mapping[str, OutOfFold], members: Sequence[str]) -> NDArray[np.float64]:
    """Least-squares weights of 0 or more, float64[len(members)] (Lawson and Hanson 1974, as scipy has it). O(n B^2)."""
    from scipy.optimize import nnls

    if not members:
        return np.zeros(0)
    scale = {symbol: float(np.sqrt(np.mean(rows.y**2))) or 1.0 for symbol, rows in past.items()}
    x = np.concatenate([np.column_stack([rows.means[m] for m in members]) / scale[s] for s, rows in past.items()])
    return nnls(x, np.concatenate([rows.y / scale[s] for s, rows in past.items()]))[0]


@dataclass(frozen=True, slots=True)
class _Said:
    """A stack on test rows: its mean and the chance of up given a move."""

    mean: NDArray[np.float64]
    up: NDArray[np.float64]


def _say(part: Evaluated, past: OutOfFold, members: Sequence[str], weights: NDArray[np.float64], rows: NDArray[np.bool_]) -> _Said:
    """One logit of the sign on the blend, fitted on the symbol's out-of-fold moves, gives its direction."""
    mean, before = np.zeros(int(rows.sum())), np.zeros(len(past.y))
    for member, weight in zip(members, weights, strict=True):
        mean = mean + weight * _mean(part.forecasts[member])[rows]
        before = before + weight * past.means[member]
    return _Said(mean, _chance(past.y, before, mean))


def _chance(y: NDArray[np.float64], before: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    moved = y != 0
    intercept, slope = scores.fit_logit(y[moved] > 0, before[moved])
    return expit(intercept + slope * mean) if np.isfinite(slope) else np.full(len(mean), 0.5)


def _mean(forecast: Forecast) -> NDArray[np.float64]:
    assert forecast.mean_bps is not None
    return forecast.mean_bps


def marginal(data: Sequence[Evaluated], blocks: Blocks, stack: Stack = NOTHING) -> dict[str, dict[str, dict[str, Any]]]:
    """The table by symbol and model of STACK: gains with intervals, the verdict in words, ms live and minutes of fit.

    Weights and logits come from `stack.past` alone; test rows are those where every member speaks, the same for all. O(rows members).
    """
    absent = {d.symbol: {model: _row(stack, model, "the out-of-fold rows of the stack were not given") for model in STACK} for d in data}
    if not stack.past:
        return absent
    members = [m for m in MEANS if all(m in d.forecasts for d in data)]
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for part in data:
        past, rows = stack.past[part.symbol], part.ready(members)
        out[part.symbol] = {}
        for model in STACK:
            if model not in part.forecasts:
                out[part.symbol][model] = _row(stack, model, "not part of this run")
            elif not rows.any() or not part.y[rows].any() or not len(past.y):
                out[part.symbol][model] = _row(stack, model, "no row that moved on which the whole stack speaks")
            elif model == "hmm":
                out[part.symbol][model] = _of_regimes(part, past, blocks, stack)
            else:
                others = without(model, members)
                kept = [m for m in members if m in others or m == model]
                full = _say(part, past, kept, blend_weights(stack.past, kept), rows)
                less = _say(part, past, others, blend_weights(stack.past, others), rows)
                row = _compared(part, blocks, rows, full, less)
                row["over"] = others
                row["over_base"] = _over_base(part, model, blocks, stack)
                row |= _over_strong(part, model, blocks)
                out[part.symbol][model] = _finished(row, stack, model)
    return out


def _row(stack: Stack, model: str, reason: str) -> dict[str, Any]:
    nothing = Estimate.absent(reason).as_json()
    untested = {"t": None, "p_value": None, "blocks": 0, "reason": reason}
    row = {"over": [], "rows": 0, "r2_gain": nothing, "direction_gain": nothing, "over_base": nothing}
    row |= {"dm_60s": untested, "direction_dm_60s": untested, "over_strong": nothing, "dm_strong_60s": untested}
    return _finished(row, stack, model)


def _of_regimes(part: Evaluated, past: OutOfFold, blocks: Blocks, stack: Stack) -> dict[str, Any]:
    """With the HMM the ensemble as it stands, without it the ensemble's overall row; one logit for both."""
    ensemble = part.forecasts.get("ensemble")
    if ensemble is None or not stack.overall:
        return _row(stack, "hmm", "the ensemble, which alone reads regimes, is not part of this run")
    members = list(stack.overall)
    rows = part.ready([*members, "ensemble"])
    if not part.y[rows].any():
        return _row(stack, "hmm", "no row that moved on which the whole stack speaks")
    mean, before = np.zeros(int(rows.sum())), np.zeros(len(past.y))
    for member, weight in stack.overall.items():
        mean, before = mean + weight * _mean(part.forecasts[member])[rows], before + weight * past.means[member]
    gated = _mean(ensemble)[rows]
    row = _compared(
        part, blocks, rows, _Said(gated, _chance(past.y, before, gated)), _Said(mean, _chance(past.y, before, mean))
    )  # fmt: skip
    row |= {"over": members, "over_base": Estimate.absent("does not nest a base").as_json(), **_over_strong(part, "hmm", blocks)}
    return _finished(row, stack, "hmm")


def _compared(part: Evaluated, blocks: Blocks, rows: NDArray[np.bool_], full: _Said, less: _Said) -> dict[str, Any]:
    as_of, y = part.as_of[rows], part.y[rows]
    rival, loss = scores.r2_terms(y, less.mean), scores.r2_terms(y, full.mean)
    ones = np.ones(len(y))
    worse, better = (scores.log_loss_direction_terms(y, np.column_stack([1 - said.up, np.zeros(len(y)), said.up])) for said in (less, full))
    return {
        "rows": len(y),
        "r2_gain": _gain(blocks, as_of, rival, loss).as_json(),
        "direction_gain": _gain(blocks, as_of, worse, better).as_json(),
        "dm_60s": diebold_mariano(as_of, Terms(rival.numerator, ones), Terms(loss.numerator, ones)).as_json(),
        "direction_dm_60s": diebold_mariano(as_of, worse, better).as_json(),
    }


def _gain(blocks: Blocks, as_of: NDArray[np.int64], rival: Terms, loss: Terms) -> Estimate:
    # Two sums of the same products differ in their last bits: what is below 1e-9 of the loss is not a difference.
    saved = rival.numerator - loss.numerator
    if float(np.abs(saved).sum()) <= 1e-9 * float(np.abs(rival.numerator).sum()):
        return Estimate(0.0, 0.0, 0.0)
    return blocks.ratio(as_of, Terms(saved, loss.denominator))


def _over_base(part: Evaluated, model: str, blocks: Blocks, stack: Stack) -> dict[str, Any]:
    """R2 gain of a model that nests linear and Hawkes over the base that it adds to, with the weights of its own fit."""
    weights = stack.bases.get(model, {}).get(part.symbol)
    if weights is None:
        return Estimate.absent("does not nest a base, or its fit does not say which").as_json()
    rows = part.ready(["linear", "hawkes", model])
    y = part.y[rows]
    if not y.any():
        return Estimate.absent("no row that moved on which both speak").as_json()
    linear, hawkes, own = (_mean(part.forecasts[m])[rows] for m in ("linear", "hawkes", model))
    base = weights[0] * linear + weights[1] * hawkes
    return _gain(blocks, part.as_of[rows], scores.r2_terms(y, base), scores.r2_terms(y, own)).as_json()


def _over_strong(part: Evaluated, model: str, blocks: Blocks) -> dict[str, Any]:
    """A network's own R2 gain over the strong line, on the rows of both, and its test."""
    why = "not a network" if model not in NESTED else f"{STRONG} is not part of this run" if STRONG not in part.forecasts else None
    rows = part.ready([STRONG, model]) if why is None else np.zeros(0, bool)
    if why is None and not part.y[rows].any():
        why = "no row that moved on which both speak"
    if why is not None:
        untested = {"t": None, "p_value": None, "blocks": 0, "reason": why}
        return {"over_strong": Estimate.absent(why).as_json(), "dm_strong_60s": untested}
    as_of, y, ones = part.as_of[rows], part.y[rows], np.ones(int(rows.sum()))
    rival, loss = (scores.r2_terms(y, _mean(part.forecasts[m])[rows]) for m in (STRONG, model))
    test = diebold_mariano(as_of, Terms(rival.numerator, ones), Terms(loss.numerator, ones))
    return {"over_strong": _gain(blocks, as_of, rival, loss).as_json(), "dm_strong_60s": test.as_json()}


def _finished(row: dict[str, Any], stack: Stack, model: str) -> dict[str, Any]:
    cost = stack.costs.get(model, Cost(None, None, "its cost was not given"))
    out = {**row, "live_ms": cost.live_ms, "fit_minutes": cost.fit_minutes, "text": verdict(row)}
    return out if cost.reason is None else {**out, "cost_reason": cost.reason}


def verdict(row: Mapping[str, Any]) -> str:
    """What a row says, in words: "adds: gain in [lo, hi]", "adds nothing that shows: ..." or "takes away: ...", of R2 and of direction.

    A model adds where the lower end of one gain is above 0 and the upper end of the other is not below it.
    """
    if row["r2_gain"]["value"] is None:
        return str(row["r2_gain"]["reason"])
    said, known = _intervals(row), _known(row)
    if known and all(g["lo"] == g["hi"] == 0 for g in known):
        return f"adds nothing, the stack says the same without it: {said}"
    if not known:
        return f"cannot be told: {said}"
    if any(g["hi"] < 0 for g in known):
        return f"takes away: {said}"
    if any(g["lo"] > 0 for g in known):
        return f"adds: {said}"
    return f"adds nothing that shows: {said}"


def _intervals(row: Mapping[str, Any]) -> str:
    """Both gains of a row: "R2 gain in [lo, hi]; direction gain in [lo, hi]"."""
    return f"R2 {_interval(row['r2_gain'])}; direction {_interval(row['direction_gain'])}"


def _interval(gain: Mapping[str, Any]) -> str:
    if gain["value"] is None:
        return f"gain unknown, {gain['reason']}"
    if gain["lo"] is None:
        return f"gain {gain['value']:+.4f}, {gain['reason']}"
    return f"gain in [{gain['lo']:+.4f}, {gain['hi']:+.4f}]"


def _known(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [g for g in (row["r2_gain"], row["direction_gain"]) if g["lo"] is not None]


def switches(table: Mapping[str, Mapping[str, Mapping[str, Any]]], members: Sequence[str]) -> dict[str, Switch]:
    """Which of `members` are credited, by the table of all symbols: on or off, and why.

    On: of the gains of R2 and of direction on all symbols one is above 0 (one-sided CREDIT, Holm over all of them, on 30 blocks at least),
    and no 95 % interval lies below 0. A network must also beat the strong line in R2 on some symbol (CREDIT, Holm over symbols): what a
    line with a longer memory of trades says as well is no credit to it. All else is off: what is not known to add, does not.
    """
    return {model: _switch(model, {symbol: rows[model] for symbol, rows in table.items()}) for model in STACK if model in members}


def _switch(model: str, rows: Mapping[str, Mapping[str, Any]]) -> Switch:
    p_value = _least([test for row in rows.values() for test in (row["dm_60s"], row["direction_dm_60s"])])
    line = _least([row["dm_strong_60s"] for row in rows.values()])
    above_line = model not in NESTED or (line is not None and line <= CREDIT)
    known = [g for row in rows.values() for g in _known(row)]
    harmed = [symbol for symbol, row in rows.items() if any(g["hi"] < 0 for g in _known(row))]
    adds = p_value is not None and p_value <= CREDIT and not harmed
    if adds:
        word = "adds" if above_line else f"adds, but is not known to be above {STRONG}"
    elif harmed:
        word = f"takes away on {', '.join(harmed)}"
    elif not known:
        word = "not known to add anything"
    elif all(g["lo"] == g["hi"] == 0 for g in known):
        word = "adds nothing, the stack says the same without it"
    else:
        word = "adds nothing that shows"
    tested = "" if p_value is None else f" (p {p_value:.2g} after Holm)"
    said = "; ".join(f"{symbol} {row['text'] if row['r2_gain']['value'] is None else _intervals(row)}" for symbol, row in rows.items())
    if model in NESTED:
        said += f"; R2 over {STRONG}: " + "; ".join(f"{symbol} {_interval(row['over_strong'])}" for symbol, row in rows.items())
    return Switch(switch="on" if adds and above_line else "off", p_value=p_value, reason=f"{word}{tested}: {said}")


def _least(tests: Sequence[Mapping[str, Any]]) -> float | None:
    """The least one-sided p-value after Holm over all tests; None where none can be made."""
    found = [_above(test) for test in tests]
    return None if all(p is None for p in found) else min(holm([1.0 if p is None else p for p in found]))


def _above(test: Mapping[str, Any]) -> float | None:
    """One-sided p-value of a gain: a Diebold-Mariano test's, on enough blocks."""
    from scipy.stats import t as student

    if test["t"] is None or test["blocks"] < FEWEST_BLOCKS:
        return None
    return float(student.sf(test["t"], test["blocks"] - 1))
