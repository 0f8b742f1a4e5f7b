"""How much of a model's skill would be left: without its best minutes, and after a delay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models import scores
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.significance import Blocks, Estimate

BEST = 5
"""Minutes (60-s blocks) that are taken out. The best 5 of 111 carry 37-41 % of ridge_reference's R2 on the real day."""


def _r2(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 - sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan)


def concentration(data: Evaluated, model: str, blocks: Blocks, best: int = BEST) -> dict[str, Estimate]:
    """{"r2_without_best_five": R2 on the rows outside the `best` blocks that saved most squared error, "best_five_share": what they saved}.

    The blocks are chosen with hindsight, so an even skill falls too: the interval is of the rows that are left, and one above 0 says that
    the skill is not those minutes'. The share is of the whole saving, above 1 where the rest loses; it is null where nothing is saved.
    """
    names = ("r2_without_best_five", "best_five_share")
    forecast = data.forecasts[model]
    if forecast.mean_bps is None:
        return dict.fromkeys(names, Estimate.absent("makes no forecast of the move"))
    rows = forecast.ready
    sums = blocks.sums(data.as_of[rows], np.column_stack(scores.r2_terms(data.y[rows], forecast.mean_bps[rows])))
    held = int((sums[:, 1] > 0).sum())
    if held <= best:
        return dict.fromkeys(names, Estimate.absent(f"{held} blocks hold a move, more than {best} are needed"))
    saved = sums[:, 1] - sums[:, 0]
    first = np.argsort(-saved, kind="stable")[:best]
    rest = sums.copy()
    rest[first] = 0.0
    share = (
        Estimate(float(saved[first].sum() / saved.sum()), reason="chosen with hindsight: biased upwards, no interval")
        if saved.sum() > 0
        else Estimate.absent("R2 is not above 0: there is nothing to share")
    )
    return {"r2_without_best_five": blocks.interval(rest, _r2), "best_five_share": share}


def half_life_ms(data: Evaluated, model: str, blocks: Blocks) -> Estimate:
    """The delay in ms at which half of the R2 at delay 0 is left, interpolated in log delay between the delays that were judged.

    The interval is the 95 % of the draws (percentiles: a crossing is no smooth function of sums). Null where R2 at delay 0 is not above 0,
    where half is gone at the first delay already, or where more than half is left at the last.
    """
    forecast = data.forecasts[model]
    later = sorted(delay for delay in data.y_delay if delay > 0)
    delays = np.array(later, np.float64) / 1e6
    if forecast.mean_bps is None:
        return Estimate.absent("makes no forecast of the move")
    if not len(delays):
        return Estimate.absent("no delay was judged")
    if not forecast.ready.any():
        return Estimate.absent("ready on no test row")
    rows, mean = forecast.ready, forecast.mean_bps[forecast.ready]
    labels = [data.y, *(data.y_delay[d] for d in later)]
    sums = np.stack([blocks.sums(data.as_of[rows], np.column_stack(scores.r2_terms(y[rows], mean))) for y in labels])
    curve = _r2(sums.sum(axis=1))
    if not curve[0] > 0:
        return Estimate.absent("R2 at delay 0 is not above 0: there is nothing to halve")
    value = float(crossing(curve[None], delays)[0])
    if value == 0:
        return Estimate.absent(f"half is gone at {delays[0]:g} ms, the first delay, already")
    if not np.isfinite(value):
        return Estimate.absent(f"more than half is left at {delays[-1]:g} ms, the last delay")
    drawn = _r2(np.stack([blocks.weights @ s for s in sums], axis=1))
    low, high = np.quantile(crossing(drawn, delays), [0.025, 0.975], method="inverted_cdf")
    if not (low > 0 and np.isfinite(high)):
        return Estimate(value, reason="no interval: it leaves the delays that were judged")
    return Estimate(value, float(low), float(high))


def crossing(curves: NDArray[np.float64], delays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where R2 curves [R, 1 + D] (delay 0, then `delays` float64[D]) first fall to half of their first value: float64[R].

    0: before the first delay, or nothing to halve; inf: after the last.

    >>> crossing(np.array([[0.04, 0.03, 0.01]]), np.array([10.0, 1000.0])).round(6).tolist()
    [100.0]
    """
    half = curves[:, :1] / 2
    below = curves[:, 1:] <= half
    at = np.where(below.any(axis=1), below.argmax(axis=1), len(delays))
    out = np.full(len(curves), np.inf)
    out[(at == 0) | ~(curves[:, 0] > 0)] = 0.0
    inside = np.flatnonzero((at > 0) & (at < len(delays)) & (curves[:, 0] > 0))
    k = at[inside]
    before, after = curves[inside, k], curves[inside, k + 1]
    part = (before - half[inside, 0]) / (before - after)
    out[inside] = np.exp(np.log(delays[k - 1]) + part * (np.log(delays[k]) - np.log(delays[k - 1])))
    return out
