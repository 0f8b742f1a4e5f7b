"""Figures that are too good: three relative alarms, each with a margin that noise does not cross.

They are relative because absolute ones are wrong: on names with a large tick 90 % of moves are hit honestly. An alarm says that a figure
must be explained before anything else is read; its absence proves nothing.

The size is of the family: with every null true, one run in a hundred rings at all (Bonferroni over the tests that were made).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.significance import BLOCK_NS, Blocks, block_t, standard_error
from cift_models.instruments import SECOND
from cift_models.scores import Terms, hit_rate_terms, r2_terms

HITS_OVER_LINEAR = 1.5
"""A model may beat the linear one, but whose excess of hits over one half is half again as large must explain itself."""

SIZE = 0.01


@dataclass(frozen=True, slots=True)
class Alarm:
    """One figure that needs an explanation: `kind` is hit_excess, rises_with_delay or skill_on_random_signs."""

    kind: str
    symbol: str
    model: str
    text: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Test:
    alarm: Alarm
    t: float
    blocks: int


def leak_alarms(
    data: Sequence[Evaluated], *, on_random_signs: Sequence[Evaluated] = (), reference: str = "linear", length_ns: int = BLOCK_NS
) -> list[Alarm]:
    """Every alarm that rings, in the order of symbols and models; empty when silent.

    on_random_signs   the same run, fitted and judged on labels times `random_signs`: whoever has skill there has seen the labels
    """
    tests = [test for d in data for test in (*_hit_excess(d, reference, length_ns), *_rises_with_delay(d, length_ns))]
    tests += [test for d in on_random_signs for test in _skill(d, length_ns)]
    return [test.alarm for test in tests if test.t > _critical(test.blocks, len(tests))]


def random_signs(as_of: NDArray[np.int64], seed: int) -> NDArray[np.int8]:
    """+1 or -1 for each second of the clock, the same for every symbol: labels times these keep zeros and volatility and lose direction.

    int64[n] ns -> int8[n]. A function of (second, seed) alone (splitmix64), so that any subset of rows gets the same signs.
    """
    with np.errstate(over="ignore"):
        z = (as_of // SECOND).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.where(z & np.uint64(1), 1, -1).astype(np.int8)


def with_random_signs(data: Evaluated, seed: int) -> Evaluated:
    """The labels of `data` times random signs, forecasts as they are (they are fitted again by whoever runs the check)."""
    signs = random_signs(data.as_of, seed)
    return replace(data, y=data.y * signs, y_delay={delay: y * signs for delay, y in data.y_delay.items()})


def _critical(blocks: int, tests: int) -> float:
    """One-sided point of Student's t at SIZE over all tests; infinity under two blocks."""
    from scipy.stats import t as student

    return float(student.isf(SIZE / tests, blocks - 1)) if blocks > 1 else float("inf")


def _hits_t(as_of: NDArray[np.int64], hits: Terms, length_ns: int) -> float:
    """t of (hit rate = one half). Hits without a miss have no block error: infinite from 30 on (chance 1e-9), else undefined."""
    count = hits.denominator.sum()
    if count and hits.numerator.sum() == count:
        return float("inf") if count >= 30 else float("nan")
    return block_t(as_of, Terms(hits.numerator - 0.5 * hits.denominator, hits.denominator), length_ns)[0]


def _hit_excess(data: Evaluated, reference: str, length_ns: int) -> list[_Test]:
    base = data.forecasts.get(reference)
    if base is None or base.mean_bps is None:
        return []
    tests = []
    for model, forecast in data.forecasts.items():
        if model == reference or forecast.mean_bps is None:
            continue
        rows = forecast.ready & base.ready & (data.y != 0) & (forecast.mean_bps != 0) & (base.mean_bps != 0)
        if not rows.any():
            continue
        ours, count = hit_rate_terms(data.y[rows], forecast.mean_bps[rows])
        theirs, _ = hit_rate_terms(data.y[rows], base.mean_bps[rows])
        # Both must be sound: more than 1.5 times linear's excess, and an excess at all (linear's own may be below 0).
        over, blocks = block_t(data.as_of[rows], Terms(ours - 0.5 - HITS_OVER_LINEAR * (theirs - 0.5), count), length_ns)
        excess = _hits_t(data.as_of[rows], Terms(ours, count), length_ns)
        text = (
            f"{data.symbol} {model}: hits {ours.mean():.1%} of {len(ours):,} moves, {reference} {theirs.mean():.1%} on the same rows. "
            f"Expected an excess over 50 % of at most {HITS_OVER_LINEAR} times {reference}'s. Look for a feature that knows the label."
        )
        tests.append(_Test(Alarm("hit_excess", data.symbol, model, text), min(over, excess), blocks))
    return tests


def _rises_with_delay(data: Evaluated, length_ns: int) -> list[_Test]:
    labels = {0: data.y, **{delay: y for delay, y in sorted(data.y_delay.items()) if delay > 0}}
    delays = list(labels)
    tests = []
    for model, forecast in data.forecasts.items():
        if forecast.mean_bps is None or not forecast.ready.any():
            continue
        rows = forecast.ready
        blocks = Blocks([data.as_of[rows]], draws=1, length_ns=length_ns)
        mean = forecast.mean_bps[rows]
        sums = {d: blocks.sums(data.as_of[rows], np.column_stack(r2_terms(y[rows], mean))) for d, y in labels.items()}
        for i, early in enumerate(delays):
            for late in delays[i + 1 :]:
                both = np.column_stack([sums[early], sums[late]])
                if not (both.sum(axis=0)[[1, 3]] > 0).all():
                    continue
                before, after = (1 - float(s[:, 0].sum() / s[:, 1].sum()) for s in (sums[early], sums[late]))
                error = standard_error(both, lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3])
                # A bad model's R2 also rises, from below towards 0, when its forecasts lose their bite: the later skill must be sound too.
                error_after = standard_error(sums[late], lambda s: s[..., 0] / s[..., 1])
                t = min((after - before) / error, after / error_after) if min(error, error_after) > 1e-9 else float("-inf")
                text = (
                    f"{data.symbol} {model}: R2 rises from {before:.4f} at a delay of {early / 1e6:g} ms to {after:.4f} "
                    f"at {late / 1e6:g} ms. Expected skill to fade with delay. Look for a feature or a clock that is ahead of as_of."
                )
                tests.append(_Test(Alarm("rises_with_delay", data.symbol, model, text), t, len(blocks)))
    return tests


def _skill(data: Evaluated, length_ns: int) -> list[_Test]:
    tests = []
    for model, forecast in data.forecasts.items():
        rows = forecast.ready
        if forecast.mean_bps is None or not rows.any():
            continue
        y, mean, as_of = data.y[rows], forecast.mean_bps[rows], data.as_of[rows]
        error, size = r2_terms(y, mean)
        gain, blocks = block_t(as_of, Terms(size - error, np.ones(len(y))), length_ns)
        hits, count = hit_rate_terms(y, mean)
        hit = _hits_t(as_of, Terms(hits, count), length_ns)
        text = (
            f"{data.symbol} {model}: R2 {1 - Terms(error, size).ratio:.4f}, hits {Terms(hits, count).ratio:.1%} on labels times random "
            "signs. Expected none. The labels reach the model by another way than its features."
        )
        tests.append(_Test(Alarm("skill_on_random_signs", data.symbol, model, text), float(np.nanmax([gain, hit, -np.inf])), blocks))
    return tests
