"""The gate: what is better beyond noise is promoted, each clause alone holds it, and what is not known does not speak for anybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cift_models.errors import StoreError
from cift_models.evaluation import gate
from cift_models.evaluation.calibration import ece_against_perfect
from cift_models.evaluation.card import Card, Figure
from cift_models.evaluation.causality import Leak
from cift_models.evaluation.certificate import CertifiedRun, CheapNulls
from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.evaluation.gate import Contender, Evidence, verdict
from cift_models.evaluation.leak_alarms import Alarm, random_signs
from cift_models.instruments import SECOND
from tests.evaluated import chances, forecast
from tests.gated import CODE, SKILL, audits, certificate, contender, evidence, good, rows


@pytest.fixture(scope="module")
def promoted() -> Card:
    return verdict(good(), None, evidence())


def with_best(data: Evaluated, best: Forecast) -> Evaluated:
    return replace(data, forecasts={**data.forecasts, "best": best})


def changed(change: Callable[[Evaluated], Evaluated], only: str = "") -> Contender:
    """The good challenger, its rows changed on every symbol or on one."""
    made = good()
    return replace(made, rows={s: change(d) if not only or s == only else d for s, d in made.rows.items()})


def the_best(data: Evaluated) -> Forecast:
    return data.forecasts["best"]


def mean(data: Evaluated, model: str = "best") -> np.ndarray:
    values = data.forecasts[model].mean_bps
    assert values is not None
    return values


def test_a_planted_signal_is_promoted_and_says_why(promoted: Card) -> None:
    assert promoted.verdict == "promoted" and promoted.failed == () and len(promoted.reasons) >= 4
    assert promoted.champion.model == "linear" and promoted.champion.release is None and promoted.challenger.release == "a" * 64
    assert "better than linear: R2 S0 gain in [+0.0" in promoted.reasons[0]
    assert promoted.size.one_sided == 0.0025 and set(promoted.rows.values()) == {2400}
    assert promoted.certificate is not None and promoted.certificate.size == "full"


def test_a_card_survives_json_and_the_same_inputs_give_the_same_bytes(promoted: Card) -> None:
    assert Card.from_bytes(promoted.to_bytes()) == promoted
    assert verdict(good(), None, evidence()).to_bytes() == promoted.to_bytes()
    for raw in (b"{}", b"", promoted.to_bytes().replace(b'"audit": true', b'"audit": false')):
        with pytest.raises(StoreError, match="no verdict"):
            Card.from_bytes(raw)


def test_the_gain_is_the_difference_of_two_r2_and_its_p_value_that_of_a_t_test(promoted: Card) -> None:
    """Against sums by hand: R2 of both, and Student's t of block sums."""
    from scipy import stats

    data = good().rows["S0"]
    y = data.y
    own, base = (float(((y - mean(data, m)) ** 2).sum()) for m in ("best", "linear"))
    total = float((y**2).sum())
    figures = promoted.symbols["S0"]
    assert figures.r2_gain.value == pytest.approx((base - own) / total, rel=1e-9)
    assert figures.r2.value == pytest.approx(1 - own / total, rel=1e-9)
    gain = ((y - mean(data, "linear")) ** 2 - (y - mean(data)) ** 2).reshape(40, 60).sum(axis=1)
    weight = (y**2).reshape(40, 60).sum(axis=1)
    left = gain - gain.sum() / weight.sum() * weight
    error = np.sqrt((left**2).sum() * 40 / 39) / weight.sum()
    t = gain.sum() / weight.sum() / error
    assert figures.r2_gain.t == pytest.approx(t, rel=1e-9) and figures.blocks == 40
    assert figures.r2_gain.p_value == pytest.approx(stats.t.sf(t, 39), rel=1e-9)
    assert figures.r2_gain.bound == pytest.approx(gain.sum() / weight.sum() - stats.t.ppf(0.9975, 39) * error, rel=1e-9)


def test_holm_is_over_symbols_of_the_larger_p_value(promoted: Card) -> None:
    larger = {s: max(one.r2.p_value or 0, one.r2_gain.p_value or 0) for s, one in promoted.symbols.items()}
    first, second = sorted(larger, key=lambda s: larger[s])
    assert promoted.symbols[first].p_holm == pytest.approx(2 * larger[first])
    assert promoted.symbols[second].p_holm == pytest.approx(max(larger[second], 2 * larger[first]))


# Each clause alone: the good challenger, one thing taken away.


def no_rows(_: Contender) -> tuple[Contender, Evidence]:
    deaf = changed(lambda d: with_best(d, replace(the_best(d), ready=np.zeros(len(d), bool))), "S1")
    return deaf, evidence()


def learned_too_late(made: Contender) -> tuple[Contender, Evidence]:
    return replace(made, max_train_t1=int(made.rows["S0"].as_of[0])), evidence()


def learned_nobody_knows_when(made: Contender) -> tuple[Contender, Evidence]:
    return replace(made, max_train_t1=None), evidence()


def champion_cannot_run(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(cannot="no ticks of ZZZ")


def no_gain(_: Contender) -> tuple[Contender, Evidence]:
    return changed(lambda d: with_best(d, d.forecasts["linear"])), evidence()


def worse_on_one(_: Contender) -> tuple[Contender, Evidence]:
    """Its forecasts are twice too large on S1, with the same signs and chances: R2 alone is worse."""
    return changed(lambda d: with_best(d, replace(the_best(d), mean_bps=1.85 * mean(d))), "S1"), evidence()


def direction_worse(_: Contender) -> tuple[Contender, Evidence]:
    """The same moves expected, and chances that are calibrated but know little: only the direction's log-loss is worse."""
    blind = rows(1, "S1", 0.1).forecasts["best"].p
    return changed(lambda d: with_best(d, replace(the_best(d), p=blind)), "S1"), evidence()


def leaning(data: Evaluated, against: np.ndarray, bps: float) -> Evaluated:
    """The touch lies `bps` lower wherever a forecast is above 0, and higher where it is below: who waits by that forecast saves."""
    level = 1 - bps * 1e-4 * np.sign(against)
    return replace(data, bid={d: px * level for d, px in data.bid.items()}, ask={d: px * level for d, px in data.ask.items()})


def timing_worse(_: Contender) -> tuple[Contender, Evidence]:
    return changed(lambda d: leaning(d, mean(d, "linear"), 1.0), "S1"), evidence()


def timing_within_its_null(_: Contender) -> tuple[Contender, Evidence]:
    """Forecasts of ten minutes ago would have saved more than its own."""
    return changed(lambda d: leaning(d, np.roll(mean(d), 600), 0.3)), evidence()


def better_but_not_on_average(_: Contender) -> tuple[Contender, Evidence]:
    """On S1, whose moves are few blocks' own, it loses more than it gains on S0, and noise hides it."""

    def one_bad_minute(d: Evaluated) -> Evaluated:
        loud = mean(d).copy()
        loud[1200:1260] -= 12 * d.y[1200:1260]
        return with_best(d, replace(the_best(d), mean_bps=loud))

    return changed(one_bad_minute, "S1"), evidence()


def too_slow(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(latency_ms=100.0)


def latency_unknown(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(latency_ms=None)


def latency_nan(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(latency_ms=float("nan"))


def too_sure(_: Contender) -> tuple[Contender, Evidence]:
    """Chances three times too sure on one symbol."""
    return changed(lambda d: with_best(d, replace(the_best(d), p=chances(2.2 * mean(d)))), "S0"), evidence()


def an_alarm(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(alarms=(Alarm("hit_excess", "S0", "best", "S0 best: hits 90 %"),))


def nobody_listened(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(alarms=None)


def better_on_nulls(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(nulls=CheapNulls(n=200, promoted=4))


def no_nulls(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(nulls=None)


def nulls_of_no_row(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(nulls=CheapNulls(n=0, promoted=0))


def a_leak(made: Contender) -> tuple[Contender, Evidence]:
    leak = Leak("models", "best.mean_bps", "S0", 5, 4, 0.1, 0.2, 0.1, 3, {"cut": 1})
    return made, evidence(audits=(*audits()[:2], replace(audits()[2], leaks=(leak,)), *audits()[3:]))


def models_not_audited(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(audits=(*audits()[:2], *audits()[3:]))


def an_audit_that_compared_nothing(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(audits=(*audits()[:2], replace(audits()[2], compared=0), *audits()[3:]))


def not_what_it_was_given(made: Contender) -> tuple[Contender, Evidence]:
    leak = Leak("given features", "spread", "S0", 5, 5, 0.1, 0.2, 0.1, 3, {"given": 1})
    return made, evidence(audits=(*audits()[:3], replace(audits()[3], leaks=(leak,)), audits()[4]))


def what_it_was_given_was_not_looked_at(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(audits=audits()[:3])


def other_code(made: Contender) -> tuple[Contender, Evidence]:
    return replace(made, code="e" * 64), evidence()


def no_code(made: Contender) -> tuple[Contender, Evidence]:
    return replace(made, code=""), evidence()


def no_certificate(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(certificate=None)


def certificate_of_other_code(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(certificate=certificate(code="e" * 64))


def certificate_of_other_config(made: Contender) -> tuple[Contender, Evidence]:
    return replace(made, config="e" * 64), evidence()


def certificate_of_size_test(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(certificate=certificate("test"))


def certificate_of_a_promoted_null(made: Contender) -> tuple[Contender, Evidence]:
    bad = (CertifiedRun(seed=0, verdict="promoted"), *certificate().nulls[1:])
    return made, evidence(certificate=certificate(nulls=bad))


def certificate_of_a_held_signal(made: Contender) -> tuple[Contender, Evidence]:
    bad = (CertifiedRun(seed=0, verdict="held"), *certificate().planted[1:])
    return made, evidence(certificate=certificate(planted=bad))


def certificate_of_cheap_nulls_promoted(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(certificate=certificate(cheap=CheapNulls(n=200, promoted=4)))


def certificate_of_few(made: Contender) -> tuple[Contender, Evidence]:
    return made, evidence(certificate=certificate(cheap=CheapNulls(n=199, promoted=0)))


CLAUSES = {
    "rows": (no_rows, learned_too_late, learned_nobody_knows_when, champion_cannot_run),
    "better": (no_gain, better_but_not_on_average),
    "worse": (worse_on_one,),
    "direction": (direction_worse,),
    "timing": (timing_worse,),
    "economics": (timing_within_its_null,),
    "latency": (too_slow, latency_unknown, latency_nan),
    "calibration": (too_sure,),
    "alarms": (an_alarm, nobody_listened),
    "nulls": (better_on_nulls, no_nulls, nulls_of_no_row),
    "audit": (
        a_leak, models_not_audited, an_audit_that_compared_nothing, not_what_it_was_given, what_it_was_given_was_not_looked_at,
    ),
    "code": (other_code, no_code),
    "certificate": (
        no_certificate, certificate_of_other_config, certificate_of_size_test, certificate_of_a_promoted_null,
        certificate_of_a_held_signal, certificate_of_cheap_nulls_promoted, certificate_of_few, certificate_of_other_code,
    ),
}  # fmt: skip

SPOILS = [(clause, spoil) for clause, spoils in CLAUSES.items() for spoil in spoils]


@pytest.mark.parametrize(("clause", "spoil"), SPOILS, ids=lambda v: getattr(v, "__name__", v))
def test_each_clause_alone_holds(clause: str, spoil: Callable[[Contender], tuple[Contender, Evidence]]) -> None:
    challenger, given = spoil(good())
    card = verdict(challenger, None, given)
    assert card.verdict == "held" and card.failed == (clause,), card.reasons
    assert card.reasons and all(reason.strip() for reason in card.reasons)


def test_the_clause_alone_says_of_every_pair_what_the_card_says() -> None:
    """`is_better` draws no interval; it must still be the clause."""
    for challenger, _ in (spoil(good()) for _, spoil in SPOILS):
        assert gate.is_better(gate.common_rows(challenger, None)) == verdict(challenger, None, evidence()).clauses["better"]
    few = contender({"S0": rows(0, "S0", count=1740, b=1.0)})
    assert not gate.is_better(gate.common_rows(few, None))


def test_every_clause_has_its_test(promoted: Card) -> None:
    assert set(CLAUSES) == set(promoted.clauses)


def test_an_undecided_calibration_holds() -> None:
    constant = changed(lambda d: with_best(d, replace(the_best(d), p=np.tile([0.2, 0.6, 0.2], (len(d), 1)))))
    card = verdict(constant, None, evidence())
    assert "calibration" in card.failed and "not known" in " ".join(card.reasons)


def test_chances_that_miss_though_their_slope_is_right_hold() -> None:
    """Every chance of up is .08 too high: the slope is 1, the perfect models are not like this."""

    def high(d: Evaluated) -> Evaluated:
        q = np.clip(chances(mean(d))[:, 2] / 0.4 + 0.08, 0.01, 0.99)
        p = np.column_stack([0.4 * (1 - q), np.full(len(d), 0.6), 0.4 * q])
        return with_best(d, replace(the_best(d), p=p))

    card = verdict(changed(high, "S0"), None, evidence())
    assert card.failed == ("calibration",) and "beyond near-perfect models" in card.reasons[0]
    assert (card.symbols["S0"].slope.lo or 9) < 1 < (card.symbols["S0"].slope.hi or 0)


def test_chances_that_are_too_sure_are_said_to_be() -> None:
    challenger, given = too_sure(good())
    assert "its chances on S0 are too sure: calibration slope in" in verdict(challenger, None, given).reasons[0]


def test_a_slope_that_is_near_enough_passes_though_rows_enough_tell_it_from_one() -> None:
    """40,000 rows of which the chances are off by a seventh; by a third they are refused."""

    def off(by: float) -> Contender:
        data = rows(0, "S0", count=40_000)
        return contender({"S0": with_best(data, replace(the_best(data), p=stretched(the_best(data).p, by)))})

    def stretched(p: np.ndarray | None, by: float) -> np.ndarray:
        assert p is not None
        moves = p[:, 0] + p[:, 2]
        q = 1 / (1 + (p[:, 0] / p[:, 2]) ** by)
        return np.column_stack([moves * (1 - q), p[:, 1], moves * q])

    near = verdict(off(1.15), None, evidence())
    assert near.verdict == "promoted" and (near.symbols["S0"].slope.hi or 9) < 1
    assert verdict(off(1.5), None, evidence()).failed == ("calibration",)


def test_chances_that_miss_by_little_pass_though_rows_enough_tell_them_from_perfect_ones() -> None:
    """The sure ones are a little too sure, the others are right: no slope says it, and it is less than a slope of .8 would do."""
    data = rows(0, "S0", count=40_000)

    def bent(d: Evaluated, by: float) -> Evaluated:
        p = the_best(d).p
        assert p is not None
        moves = p[:, 0] + p[:, 2]
        q = p[:, 2] / moves
        q = np.clip(np.where(np.abs(q - 0.5) > 0.25, q + by * np.sign(q - 0.5), q - by * np.sign(q - 0.5)), 0.01, 0.99)
        return with_best(d, replace(the_best(d), p=np.column_stack([moves * (1 - q), p[:, 1], moves * q])))

    little = bent(data, 0.02)
    p = the_best(little).p
    assert p is not None
    perfect = ece_against_perfect(little.y, p, draws=300)
    assert perfect is not None and perfect.p_value < 0.01
    assert verdict(contender({"S0": little}), None, evidence()).verdict == "promoted"
    assert "calibration" in verdict(contender({"S0": bent(data, 0.12)}), None, evidence()).failed


def test_under_thirty_blocks_nothing_is_known_and_nothing_promoted() -> None:
    card = verdict(contender({"S0": rows(0, "S0", count=1740, b=1.0)}), None, evidence())
    assert card.symbols["S0"].blocks == 29 and card.symbols["S0"].p_holm is None
    assert {"better", "worse", "direction", "timing", "economics", "calibration"} <= set(card.failed)
    assert verdict(contender({"S0": rows(0, "S0", count=1860, b=1.0)}), None, evidence()).verdict == "promoted"


def test_the_delay_at_which_the_value_is_gone_is_the_first_and_the_latency_must_be_below_it() -> None:
    """At 100 ms the touch still moves with what was known, at 300 ms and 1 s it moves with nothing: a sine that no forecast knows."""

    def later(d: Evaluated) -> Evaluated:
        flat = 100 + 0.001 * np.sin(np.arange(len(d)) * 7.0)
        more = {300_000_000: flat, SECOND: flat}
        return replace(d, bid={**d.bid, **more}, ask={**d.ask, **{delay: px + 0.02 for delay, px in more.items()}})

    card = verdict(changed(later), None, evidence(latency_ms=299.0))
    assert card.verdict == "promoted" and card.symbols["S0"].gone_ms == 300.0
    assert verdict(changed(later), None, evidence(latency_ms=301.0)).failed == ("latency",)


def test_a_null_of_one_shift_is_none() -> None:
    one = verdict(good(), None, evidence()).symbols["S0"]
    assert gate._above_null(one) and not gate._above_null(one.model_copy(update={"shifts": 1}))
    assert not gate._above_null(one.model_copy(update={"null_max": None}))
    assert not gate._above_null(one.model_copy(update={"timing": Figure(value=1.0, reason="no interval")}))


@pytest.mark.parametrize("bad", [None, float("nan"), -1.0, float("inf")])
def test_what_is_not_a_latency_is_below_nothing(bad: float | None) -> None:
    assert not gate._below(bad, 5.0) and gate._below(4.0, 5.0)


@pytest.mark.parametrize("bad", [None, float("nan")])
def test_what_is_not_a_number_passes_no_bar(bad: float | None) -> None:
    assert not gate._below(4.0, bad) and not gate._at_most(bad, gate.SIZE) and gate._at_most(0.0025, gate.SIZE)


# Who adds nothing.


def test_activity_alone_is_held() -> None:
    """Volatility without direction: the right chances of a move, split evenly, and no forecast of where."""
    data = rows(0, "S0")
    moved = np.clip(0.4 + 0.2 * np.sin(np.arange(len(data)) / 60), 0.01, 0.99)
    p = np.column_stack([moved / 2, 1 - moved, moved / 2])
    for says in (None, np.zeros(len(data))):
        card = verdict(contender({"S0": with_best(data, Forecast(the_best(data).ready, says, p))}), None, evidence())
        assert card.verdict == "held" and "adds nothing" in card.reasons[0]


def test_activity_is_held_even_where_linear_is_noise() -> None:
    """A forecast of nothing beats a forecast of noise, beyond doubt; it has no skill, and is held for it."""
    data = rows(0, "S0")
    loud = replace(data.forecasts["linear"], mean_bps=np.random.default_rng(5).normal(size=len(data)))
    silent = replace(the_best(data), mean_bps=1e-3 * np.random.default_rng(6).normal(size=len(data)))
    card = verdict(contender({"S0": replace(data, forecasts={"linear": loud, "best": silent})}), None, evidence())
    assert (card.symbols["S0"].r2_gain.bound or 0) > 0.1, "the fixture: it beats linear"
    assert card.verdict == "held" and "better" in card.failed and "has no skill of its own over linear" in card.reasons[0]


def test_a_model_that_is_its_base_adds_nothing() -> None:
    """A Transformer whose f is 0: the gain is 0 in [0, 0], and the text says so."""
    card = verdict(contender({"S0": with_best(rows(0, "S0"), rows(0, "S0").forecasts["linear"])}), None, evidence())
    assert "better" in card.failed and card.reasons[0] == "adds nothing over linear: S0 gain in [+0.0000, +0.0000]"
    assert card.symbols["S0"].r2_gain.value == 0.0


def test_a_model_that_is_its_base_and_a_little_noise_adds_nothing() -> None:
    data = rows(0, "S0")
    noisy = mean(data, "linear") + 0.01 * np.random.default_rng(3).normal(size=len(data))
    card = verdict(contender({"S0": with_best(data, forecast(noisy))}), None, evidence())
    assert card.verdict == "held" and card.reasons[0].startswith("adds nothing over linear: S0 gain in [")


@pytest.mark.parametrize("seed", range(5))
def test_random_signs_are_held(seed: int) -> None:
    """Labels times random signs keep zeros and volatility, and lose direction."""

    def signed(d: Evaluated) -> Evaluated:
        return replace(d, y=d.y * random_signs(d.as_of, seed))

    card = verdict(changed(signed), None, evidence())
    assert card.verdict == "held" and "better" in card.failed


# The champion.


def champion(skill: float, release: str = "b" * 64, **more) -> Contender:
    return contender({"S0": rows(0, "S0", skill), "S1": rows(1, "S1", skill)}, release=release, **more)


def test_a_weaker_champion_is_replaced_and_a_better_one_is_not() -> None:
    weaker, better = champion(0.2), good()
    card = verdict(better, weaker, evidence())
    assert card.verdict == "promoted" and card.champion.release == "b" * 64
    assert card.reasons[0].startswith("better than best of bbbbbbbbbbbb")
    back = verdict(weaker, better, evidence())
    assert back.verdict == "held" and {"better", "worse"} <= set(back.failed)
    assert back.symbols["S0"].r2_gain.value == pytest.approx(-(card.symbols["S0"].r2_gain.value or 0))


def test_the_champion_itself_adds_nothing() -> None:
    assert verdict(good(), good(release="b" * 64), evidence()).failed == ("better",)


def test_only_rows_that_both_have_and_where_both_are_ready_count() -> None:
    made = champion(0.2)
    data = made.rows["S0"]
    ready = np.arange(len(data)) % 400 >= 5
    late = replace(made, rows={"S0": with_best(data, replace(the_best(data), ready=ready)), "S1": made.rows["S1"]})
    card = verdict(good(), late, evidence())
    assert card.rows == {"S0": int(ready.sum()), "S1": 2400}


def test_a_champion_that_has_learned_from_the_rows_holds() -> None:
    first = int(good().rows["S0"].as_of[0])
    card = verdict(good(), champion(0.2, max_train_t1=first + 5 * SECOND), evidence())
    assert card.failed == ("rows",) and "what is served has learned from labels until" in card.reasons[0]


def test_other_moves_at_the_same_instants_hold() -> None:
    made = champion(0.2)
    data = made.rows["S0"]
    card = verdict(good(), replace(made, rows={**made.rows, "S0": replace(data, y=data.y + 1e-12)}), evidence())
    assert "rows" in card.failed and "different moves" in card.reasons[0]


def test_a_challenger_that_lost_a_symbol_is_held_and_a_new_symbol_is_judged_against_linear() -> None:
    more = contender({s: rows(i, s) for i, s in enumerate(("S0", "S1", "S2"))})
    assert verdict(
        good(), contender({s: rows(i, s, 0.2) for i, s in enumerate(("S0", "S1", "S2"))}, release="b" * 64), evidence()
    ).failed == ("rows",)
    card = verdict(more, champion(0.2), evidence())
    assert card.symbols["S2"].rival.model == "linear" and card.symbols["S2"].rival.release is None
    assert card.symbols["S0"].rival.release == "b" * 64


def test_a_run_without_linear_has_no_rival() -> None:
    card = verdict(changed(lambda d: replace(d, forecasts={"best": the_best(d)})), None, evidence())
    assert "rows" in card.failed and "linear is not part of the run" in card.reasons[0]


def test_a_test_certificate_counts_only_where_it_is_asked_to_and_the_card_says_so() -> None:
    card = verdict(good(), None, evidence(certificate=certificate("test"), take_test=True))
    assert card.verdict == "promoted" and card.certificate is not None and card.certificate.size == "test"


def test_what_certifies_needs_no_certificate_to_be_told_apart() -> None:
    """Runs that make a certificate are judged without one: their verdict is that of every other clause."""
    assert verdict(good(), None, evidence(certificate=None)).failed == ("certificate",)


def test_nothing_at_all_is_held() -> None:
    card = verdict(Contender("best", {}), None, Evidence(CODE))
    assert card.verdict == "held" and not any(card.clauses.values())
    assert SKILL == 0.4
