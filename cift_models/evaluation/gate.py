"""The gate: is the challenger better than what is served, on the same rows, beyond what noise would do? Promoted or held, with reasons.

The rival is the champion; where nothing is served, and on a symbol that the champion does not know, it is `linear` of the challenger's
own run. Both are held against the same moves: rows by as_of, both ready. Every clause must hold, and what is not known does not hold:

    rows         both speak on the same moves of every symbol; neither has learned from a label that reaches into them
    better       on at least one symbol R2 is above the rival's and above 0, both: the larger of the two one-sided p-values, Holm over
                 symbols, is at most .0025 (a 99.75 % bound); and over all symbols R2 gains on average. Above 0 too, because a forecast of
                 nothing beats a rival whose forecast is noise
    worse        R2 is worse on no symbol: no 95 % interval of the gain lies below 0
    direction    nor the log-loss of the sign, given a move
    timing       nor the execution-timing value
    economics    on a symbol that is better, the timing value's 95 % interval lies above the most that its forecasts reach when they are
                 shifted in time by 10 minutes or more
    latency      there, the measured latency is below the delay at which the timing value is gone
    calibration  on no symbol does the slope's interval miss all of [.8, 1.25], or the ECE lie beyond what models reach whose chances are
                 off by such a slope and by nothing else. Both at 1 % over all symbols, not at 5 %: a perfect model that is refused once
                 in twenty could not be found twenty times of twenty. A margin, because a head is fitted on no more rows than judge it:
                 it is never perfect, and rows enough would refuse every model for it
    alarms       no leak alarm rings
    nulls        its forecasts, as they are, are better than the rival's (the clause above) on at most 3 of 200 labels without direction
    audit        features, labels and models were audited for causality, and are clean; features and labels that the run was given are those
                 of its events
    code         this is the code that made the challenger
    certificate  of this code and this config, full, and it passed

A harm is tested at 2.5 % and a gain at .25 %, one-sided: a false harm keeps what is served, a false gain replaces it. A symbol on which
nothing can be measured (under 30 blocks) is not known to be unharmed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cift_models import scores
from cift_models.evaluation import backtest, calibration
from cift_models.evaluation.card import Card, Figure, OnSymbol, Size, Switch, Tested, Vouched, Who
from cift_models.evaluation.causality import Audit, Leak
from cift_models.evaluation.certificate import Certificate, CheapNulls
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.leak_alarms import Alarm
from cift_models.evaluation.significance import BLOCK_NS, DRAWS, FEWEST_BLOCKS, Blocks, Estimate, block_t, holm
from cift_models.scores import Terms

SIZE = 0.0025
HARM = 0.025
CALIBRATION = 0.01
NEAR = (0.8, 1.25)
"""Calibration slopes that are near enough to 1: chances of 60 % that are 58 or 62."""

FEWEST_SHIFTS = 2
"""Shifted forecasts that a null needs: half an hour of rows. A day has 12, which is what the figures in the documents are of."""

AUDITED = ("features", "labels", "models", "given features", "given labels")
"""What must have been audited."""

REFERENCE = "linear"

OURS, THEIRS = "challenger", "rival"


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is judged: a release's deciding model on its test rows.

    model         the kind that decides; rows[symbol].forecasts[model] is what it says
    release       its sha256; None for a model without one (then it is never served)
    code, config  digests of what made it
    max_train_t1  ns: the last moment that anything in it learned from; None where nobody knows, which no rule forgives
    """

    model: str
    rows: Mapping[str, Evaluated]
    release: str | None = None
    code: str = ""
    config: str = ""
    max_train_t1: int | None = None

    @property
    def who(self) -> Who:
        return Who(release=self.release, model=self.model)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What must be known besides forecasts. None, or nothing of a kind: it was not looked at, and the challenger is held.

    code          digest of the code that judges
    nulls         what nulls.fixed_nulls found of the two contenders
    switches      which models of the challenger's stack are credited (marginal.switches): said on the card, and no clause
    latency_ms    from an event to the decision, measured on the challenger
    cannot        why there is nothing to compare with though something is served: the champion cannot be run on these rows
    take_test     a certificate of size `test` counts too; the card says so, and no command promotes it
    """

    code: str
    alarms: Sequence[Alarm] | None = None
    nulls: CheapNulls | None = None
    switches: Mapping[str, Switch] = field(default_factory=dict)
    audits: Sequence[Audit] = ()
    certificate: Certificate | None = None
    latency_ms: float | None = None
    cannot: str | None = None
    take_test: bool = False
    seed: int = 0
    draws: int = DRAWS


@dataclass(frozen=True, slots=True)
class _Pair:
    """One symbol: both on the same rows, as forecasts OURS and THEIRS; or why they cannot be compared."""

    symbol: str
    rival: Who
    data: Evaluated | None
    fault: str | None = None


def verdict(challenger: Contender, champion: Contender | None, evidence: Evidence) -> Card:
    """Judge a challenger. Pure: no file, no clock, no random number but of evidence.seed. 3 symbols x 6,660 rows: .4 s of one core."""
    pairs = [_pair(challenger, champion, symbol) for symbol in challenger.rows]
    held: dict[str, list[str]] = {}
    held["rows"] = _rows(challenger, champion, pairs, evidence)
    found = _figures([pair for pair in pairs if pair.data is not None], evidence)
    alone = [symbol for symbol, one in found.items() if _at_most(one.p_holm, SIZE)]
    held["better"] = _better(found, alone)
    held["worse"] = _worse(found, lambda one: one.r2_gain, "R2", ".4f")
    held["direction"] = _worse(found, lambda one: one.direction_gain, "log-loss of the direction, nats a move", ".4f")
    held["timing"] = _worse(found, lambda one: one.timing_gain, "execution-timing value, bps", ".3f")
    asked = alone or list(found)
    worth = [symbol for symbol in asked if _above_null(found[symbol])]
    held["economics"] = [] if worth else [f"its timing is worth nothing: {_timing(found, asked)}"]
    quick = [symbol for symbol in worth or asked if _below(evidence.latency_ms, found[symbol].gone_ms)]
    held["latency"] = [] if quick else [_late(evidence.latency_ms, found, worth or asked)]
    held["calibration"] = [text for symbol, one in found.items() if (text := _uncalibrated(symbol, one))] or (
        [] if found else ["its calibration is not known: there is no row"]
    )
    alarms = None if evidence.alarms is None else tuple(alarm.text for alarm in evidence.alarms)
    held["alarms"] = ["nobody listened for leak alarms"] if alarms is None else [f"a leak alarm rings: {text}" for text in alarms]
    held["nulls"] = _promoted_nulls(evidence.nulls)
    held["audit"] = _unaudited(evidence.audits)
    same = bool(evidence.code) and challenger.code == evidence.code
    held["code"] = [] if same else ["it was made by other code than judges it here: train it again"]
    held["certificate"] = _uncertified(evidence, challenger)
    why = [text for texts in held.values() for text in texts]
    return Card(
        verdict="held" if why else "promoted",
        reasons=tuple(why or _for(found, alone, worth, evidence)),
        clauses={name: not texts for name, texts in held.items()},
        challenger=challenger.who,
        champion=champion.who if champion else Who(release=None, model=REFERENCE),
        code=evidence.code,
        config=challenger.config,
        size=Size(one_sided=SIZE, over="Holm over symbols", harm=HARM, calibration=CALIBRATION),
        rows={pair.symbol: 0 if pair.data is None else len(pair.data) for pair in pairs},
        symbols=found,
        certificate=None if evidence.certificate is None else Vouched(sha256=evidence.certificate.sha256, size=evidence.certificate.size),
        latency_ms=_finite(evidence.latency_ms),
        audited=len(evidence.audits),
        nulls=evidence.nulls,
        switches=dict(evidence.switches),
        alarms=alarms or (),
    )


def _pair(challenger: Contender, champion: Contender | None, symbol: str) -> _Pair:
    """Both on the rows that both have and where both are ready."""
    against = champion if champion is not None and symbol in champion.rows else replace(challenger, model=REFERENCE, release=None)
    mine, other = challenger.rows[symbol], against.rows[symbol]
    ours, theirs = mine.forecasts.get(challenger.model), other.forecasts.get(against.model)
    rival = against.who
    for name, forecast in ((challenger.model, ours), (against.model, theirs)):
        if forecast is None:
            return _Pair(symbol, rival, None, f"{name} is not part of the run")
        if forecast.mean_bps is None:
            return _Pair(symbol, rival, None, f"{name} makes no forecast of the move, so it adds nothing")
    assert ours is not None and theirs is not None
    _, i, j = np.intersect1d(mine.as_of, other.as_of, assume_unique=True, return_indices=True)
    both = ours.ready[i] & theirs.ready[j]
    i, j = i[both], j[both]
    if not len(i):
        return _Pair(symbol, rival, None, "there is no row on which both speak")
    if mine.y[i].tobytes() != other.y[j].tobytes():
        return _Pair(symbol, rival, None, "the two were judged on different moves at the same instants")
    data = Evaluated(
        symbol=symbol,
        as_of=mine.as_of[i],
        y=mine.y[i],
        half_spread_bps=mine.half_spread_bps[i],
        mid=mine.mid[i],
        bid={delay: px[i] for delay, px in mine.bid.items()},
        ask={delay: px[i] for delay, px in mine.ask.items()},
        forecasts={OURS: ours.taken(i), THEIRS: theirs.taken(j)},
        session=mine.sessions[i],
        fee_bps=mine.fee_bps,
        horizon_ns=mine.horizon_ns,
    )
    return _Pair(symbol, rival, data)


def common_rows(challenger: Contender, champion: Contender | None) -> dict[str, Evaluated]:
    """By symbol the rows on which both speak, as forecasts OURS and THEIRS; symbols on which they cannot be compared are left out."""
    pairs = [_pair(challenger, champion, symbol) for symbol in challenger.rows]
    return {pair.symbol: pair.data for pair in pairs if pair.data is not None}


def is_better(parts: Mapping[str, Evaluated]) -> bool:
    """The clause `better` alone, on common rows by symbol: no interval is drawn, so it is asked hundreds of times in seconds. O(rows)."""
    skill, gain = ({symbol: terms(data) for symbol, data in parts.items()} for terms in (_skill, _gain))
    p = [{symbol: _tail(data.as_of, told[symbol])[2] for symbol, data in parts.items()} for told in (skill, gain)]
    if not any(_at_most(one, SIZE) for one in _holm_of_larger(*p).values()):
        return False
    return sum(float(one.numerator.sum() / one.denominator.sum()) for one in gain.values()) > 0


def _rows(challenger: Contender, champion: Contender | None, pairs: Sequence[_Pair], evidence: Evidence) -> list[str]:
    held = [f"{pair.symbol}: {pair.fault}" for pair in pairs if pair.fault]
    if evidence.cannot:
        held.append(f"what is served cannot be run on these rows: {evidence.cannot}")
    if not pairs:
        held.append("the challenger has no test row")
    if champion is not None and (lost := sorted(set(champion.rows) - set(challenger.rows))):
        held.append(f"it does not know {', '.join(lost)}, which what is served knows")
    first = min((int(pair.data.as_of[0]) for pair in pairs if pair.data is not None), default=0)
    for name, one in (("the challenger", challenger), ("what is served", champion)):
        if one is None:
            continue
        if one.max_train_t1 is None:
            held.append(f"nobody knows until when {name} has learned")
        elif not one.max_train_t1 < first:
            held.append(f"{name} has learned from labels until {one.max_train_t1}, and the rows begin at {first}: it would be in sample")
    return held


def _figures(pairs: Sequence[_Pair], evidence: Evidence) -> dict[str, OnSymbol]:
    """Every number of the card, by symbol; one draw of blocks for all."""
    parts = {pair.symbol: pair.data for pair in pairs if pair.data is not None}
    blocks = Blocks([data.as_of for data in parts.values()], seed=evidence.seed, draws=evidence.draws)
    skill = {symbol: _tested(data, blocks, _skill(data)) for symbol, data in parts.items()}
    gain = {symbol: _tested(data, blocks, _gain(data)) for symbol, data in parts.items()}
    p_holm = _holm_of_larger(*({symbol: one.p_value for symbol, one in told.items()} for told in (skill, gain)))
    level = 1 - CALIBRATION / max(len(parts), 1)
    slope = {symbol: _slope(data, blocks, level) for symbol, data in parts.items()}
    near = {symbol: _near(data, evidence.seed) for symbol, data in parts.items()}
    ece = dict(zip(parts, holm([1.0 if p is None else p.p_value for p in near.values()]), strict=True))
    found = {}
    for pair in pairs:
        data = parts[pair.symbol]
        mean = data.forecasts[OURS].mean_bps
        assert mean is not None
        null = backtest.shifted_null(data, mean, data.forecasts[OURS].ready)
        close = near[pair.symbol]
        found[pair.symbol] = OnSymbol(
            rival=pair.rival,
            rows=len(data),
            blocks=len(np.unique(data.as_of // blocks.length_ns)),
            r2=skill[pair.symbol],
            r2_gain=gain[pair.symbol],
            p_holm=p_holm[pair.symbol],
            direction_gain=_direction(data, blocks),
            timing_gain=_timing_gain(data, blocks),
            timing=Figure.of(backtest.timing_value(data, mean, data.forecasts[OURS].ready, blocks)),
            null_max=max(null, default=None),
            shifts=len(null),
            slope=slope[pair.symbol],
            ece=None if close is None else close.ece,
            ece_p_holm=None if close is None else ece[pair.symbol],
            gone_ms=_gone_ms(data, mean, blocks),
        )
    return found


def _gain(data: Evaluated) -> Terms:
    """Squared error of the rival less ours, over squared moves: the difference of the two R2, by row."""
    rival, own = (scores.r2_terms(data.y, _mean(data, who)) for who in (THEIRS, OURS))
    return Terms(rival.numerator - own.numerator, own.denominator)


def _skill(data: Evaluated) -> Terms:
    """Squared moves less our squared error, over squared moves: R2, by row."""
    own = scores.r2_terms(data.y, _mean(data, OURS))
    return Terms(own.denominator - own.numerator, own.denominator)


def _mean(data: Evaluated, who: str) -> NDArray[np.float64]:
    mean = data.forecasts[who].mean_bps
    assert mean is not None
    return mean


def _tested(data: Evaluated, blocks: Blocks, terms: Terms) -> Tested:
    """A gain with its interval, t on blocks - 1 degrees of freedom, one-sided p-value and bound."""
    from scipy.stats import t as student

    figure = _estimate(data.as_of, blocks, terms)
    t, n, p_value = _tail(data.as_of, terms, blocks.length_ns)
    if figure.value is None or figure.lo is None or p_value is None:
        return Tested(**figure.model_dump())
    error = figure.value / t
    return Tested(
        **figure.model_dump(),
        t=t,
        bound=figure.value - float(student.isf(SIZE, n - 1)) * error if error > 0 else None,
        p_value=p_value,
    )


def _tail(as_of: NDArray[np.int64], terms: Terms, length_ns: int = BLOCK_NS) -> tuple[float, int, float | None]:
    """(t, blocks, one-sided p-value); no p-value under 30 blocks or without variation."""
    from scipy.stats import t as student

    t, n = block_t(as_of, terms, length_ns)
    return t, n, float(student.sf(t, n - 1)) if math.isfinite(t) and n >= FEWEST_BLOCKS else None


def _holm_of_larger(skill: Mapping[str, float | None], gain: Mapping[str, float | None]) -> dict[str, float | None]:
    """Better than the rival and better than nothing: the larger p-value tests both at once (Berger 1982). Holm over symbols."""
    larger = {symbol: _larger(skill[symbol], gain[symbol]) for symbol in skill}
    adjusted = dict(zip(larger, holm([1.0 if p is None else p for p in larger.values()]), strict=True))
    return {symbol: None if p is None else adjusted[symbol] for symbol, p in larger.items()}


def _estimate(as_of: NDArray[np.int64], blocks: Blocks, terms: Terms) -> Figure:
    """sum / sum with its interval; exactly 0 in [0, 0] where no row differs."""
    if not terms.denominator.any():
        return Figure(value=None, reason="no row moved")
    if not terms.numerator.any():
        return Figure(value=0.0, lo=0.0, hi=0.0, reason="no row differs")
    return Figure.of(blocks.ratio(as_of, terms))


def _direction(data: Evaluated, blocks: Blocks) -> Figure:
    p, q = data.forecasts[THEIRS].p, data.forecasts[OURS].p
    if p is None or q is None:
        return Figure(value=None, reason="one of the two gives no chances")
    rival, own = scores.log_loss_direction_terms(data.y, p), scores.log_loss_direction_terms(data.y, q)
    return _estimate(data.as_of, blocks, Terms(rival.numerator - own.numerator, own.denominator))


def _timing_gain(data: Evaluated, blocks: Blocks) -> Figure:
    """What our timing saves less what the rival's does, of the same parent orders."""
    if backtest.DELAY_NS not in data.bid:
        return Figure(value=None, reason="the touch 100 ms later was not given")
    own, rival = (backtest.execution_timing(data, _mean(data, who), data.forecasts[who].ready) for who in (OURS, THEIRS))
    if not len(own.row):
        return Figure(value=None, reason="no 10 s without a gap")
    return _estimate(data.as_of[own.row], blocks, Terms(own.saving_bps - rival.saving_bps, np.ones(len(own.row))))


def _gone_ms(data: Evaluated, mean: NDArray[np.float64], blocks: Blocks) -> float | None:
    """The shortest delay at which the timing value is not above 0 any more; the longest that was tried where it always is."""
    delays = sorted(data.bid)
    for delay in delays:
        lo = backtest.timing_value(data, mean, data.forecasts[OURS].ready, blocks, delay).lo
        if lo is None or not lo > 0:
            return delay / 1e6
    return delays[-1] / 1e6 if delays else None


def _slope(data: Evaluated, blocks: Blocks, level: float) -> Figure:
    p = data.forecasts[OURS].p
    return Figure.of(Estimate.absent("it gives no chances") if p is None else calibration.slope(data.as_of, data.y, p, blocks, level))


def _near(data: Evaluated, seed: int) -> calibration.PerfectModels | None:
    """The ECE among those of models whose slope is at an end of NEAR: the end at which it is less of an exception."""
    p = data.forecasts[OURS].p
    if p is None:
        return None
    found = [calibration.ece_against_perfect(data.y, p, seed=seed, slope=slope) for slope in NEAR]
    return max((one for one in found if one is not None), key=lambda one: one.p_value, default=None)


def _larger(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else max(a, b)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _at_most(value: float | None, bar: float) -> bool:
    return value is not None and value <= bar


def _below(value: float | None, bar: float | None) -> bool:
    return value is not None and bar is not None and 0 <= value < bar


def _above_null(one: OnSymbol) -> bool:
    if one.shifts < FEWEST_SHIFTS or one.null_max is None or one.timing.lo is None:
        return False
    return one.timing.lo > max(one.null_max, 0.0)


def _better(found: Mapping[str, OnSymbol], alone: Sequence[str]) -> list[str]:
    if not found:
        return ["it adds nothing: there is no row to compare on"]
    if not alone:
        skilled = any(_at_most(one.r2_gain.p_value, SIZE) for one in found.values())
        what = "has no skill of its own" if skilled else "adds nothing"
        return [f"{what} over {_rivals(found)}: {'; '.join(_gained(symbol, one, skilled) for symbol, one in found.items())}"]
    gains = [one.r2_gain.value for one in found.values()]
    mean = sum(gains) / len(gains) if all(gain is not None for gain in gains) else None  # type: ignore[arg-type]
    if mean is None or not mean > 0:
        said = "is not known" if mean is None else f"is {mean:+.4f}"
        return [f"better on {', '.join(alone)}, but over all symbols the mean R2 gain {said}"]
    return []


def _rivals(found: Mapping[str, OnSymbol]) -> str:
    return " and ".join(dict.fromkeys(_name(one.rival) for one in found.values()))


def _name(who: Who) -> str:
    return who.model if who.release is None else f"{who.model} of {who.release[:12]}"


def _gained(symbol: str, one: OnSymbol, skill: bool = False) -> str:
    figure = one.r2 if skill else one.r2_gain
    p = "" if one.p_holm is None else f", p {one.p_holm:.2g} after Holm"
    return f"{symbol} {'R2' if skill else 'gain'} {_in(figure, '.4f')}{p}"


def _in(figure: Figure, form: str) -> str:
    if figure.value is None:
        return f"unknown ({figure.reason})"
    if figure.lo is None or figure.hi is None:
        return f"{figure.value:+{form}} without an interval ({figure.reason})"
    return f"in [{figure.lo:+{form}}, {figure.hi:+{form}}]"


def _worse(found: Mapping[str, OnSymbol], which: Callable[[OnSymbol], Figure], what: str, form: str) -> list[str]:
    if not found:
        return [f"{what}: not known, there is no row"]
    held = []
    for symbol, one in found.items():
        figure = which(one)
        if figure.hi is None or not figure.hi >= 0:
            verb = "not known to be no worse" if figure.hi is None else "worse"
            held.append(f"{verb} than {_name(one.rival)} on {symbol} in {what}: gain {_in(figure, form)}")
    return held


def _timing(found: Mapping[str, OnSymbol], asked: Sequence[str]) -> str:
    said = []
    for symbol in asked:
        one = found[symbol]
        null = f"shifted forecasts reach {one.null_max:.3f}" if one.null_max is not None else "no shifted forecast to compare with"
        said.append(f"{symbol} {_in(one.timing, '.3f')} bps, {null} ({one.shifts} shifts)")
    return "; ".join(said) or "there is no row"


def _late(latency_ms: float | None, found: Mapping[str, OnSymbol], asked: Sequence[str]) -> str:
    if _finite(latency_ms) is None:
        return "its latency was not measured"
    gone = "; ".join(f"{symbol} at {found[symbol].gone_ms} ms" for symbol in asked) or "nowhere known"
    return f"it takes {latency_ms:.3g} ms, and the value of its timing is gone: {gone}"


def _uncalibrated(symbol: str, one: OnSymbol) -> str | None:
    lo, hi = one.slope.lo, one.slope.hi
    if lo is None or hi is None or one.ece_p_holm is None:
        return f"its calibration on {symbol} is not known: slope {_in(one.slope, '.2f')}"
    if lo > NEAR[1] or hi < NEAR[0]:
        return f"its chances on {symbol} are {'too sure' if hi < 1 else 'too shy'}: calibration slope in [{lo:.2f}, {hi:.2f}]"
    if not one.ece_p_holm > CALIBRATION:
        return (
            f"its chances on {symbol} miss what happens: ECE {one.ece:.3f}, beyond near-perfect models (p {one.ece_p_holm:.2g} after Holm)"
        )
    return None


def _promoted_nulls(nulls: CheapNulls | None) -> list[str]:
    if nulls is None or nulls.n == 0:
        why = "nobody asked" if nulls is None else "there is no row to ask on"
        return [f"whether its forecasts are better on labels without direction too is not known: {why}"]
    if nulls.too_many:
        return [
            f"its forecasts, as they are, are better on labels without direction too: {nulls.promoted} of {nulls.n} (labels of ten minutes "
            "and more away, or times random signs)"
        ]
    return []


def _counted(nulls: CheapNulls | None) -> str:
    return "no cheap null" if nulls is None else f"better on {nulls.promoted} of {nulls.n} cheap nulls"


def _unaudited(audits: Sequence[Audit]) -> list[str]:
    held = [
        f"{audit.what} of {audit.session} {_leaks(audit.leaks[0])}: {audit.leaks[0].column} at {audit.leaks[0].as_of}"
        for audit in audits
        if not audit.clean
    ]
    if missing := [what for what in AUDITED if not any(audit.what == what and audit.compared > 0 for audit in audits)]:
        held.append(f"the causality of its {', '.join(missing)} was not audited")
    return held


def _leaks(leak: Leak) -> str:
    """What is wrong with rows that are not clean, by the probe that found it."""
    if leak.probes.keys() == {"given"}:
        return "are not those of its events"
    return "are not anchored at the price that stands" if leak.probes.keys() == {"past"} else "know their future"


def _uncertified(evidence: Evidence, challenger: Contender) -> list[str]:
    one = evidence.certificate
    if one is None:
        return ["there is no certificate for this code and config: `cift certify` makes one"]
    if not one.matches(evidence.code, challenger.config):
        return ["the certificate is of other code or another config: `cift certify` makes one"]
    if one.size != "full" and not evidence.take_test:
        return ["the certificate is of size test, which is for tests: `cift certify` makes a full one"]
    return [f"the certificate does not vouch for the gate: {fault}" for fault in one.faults()]


def _for(found: Mapping[str, OnSymbol], alone: Sequence[str], worth: Sequence[str], evidence: Evidence) -> list[str]:
    """What speaks for a promotion."""
    assert evidence.certificate is not None
    return [
        f"better than {_rivals(found)}: R2 {'; '.join(_gained(symbol, found[symbol]) for symbol in alone)}",
        f"worse on none of {len(found)} symbols in R2, direction and timing (95 % intervals)",
        f"its timing is worth something: {_timing(found, worth)}",
        f"{evidence.latency_ms:.3g} ms to decide; the value lasts until {max(found[s].gone_ms or 0 for s in worth):g} ms",
        f"calibrated, no leak alarm, {_counted(evidence.nulls)}, {len(evidence.audits)} causality audits clean, "
        f"certificate {evidence.certificate.sha256[:12]} ({evidence.certificate.size})",
    ]
