"""Does a model live on the round second? The same fits, asked at other moments of the second, on features built for those moments.

Traders' clocks and venues' own jobs cluster on whole seconds, and so do the decision rows: skill that is there at .000 s and nowhere else
is skill at a schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models import scores
from cift_models.engine import Pipeline, fold
from cift_models.errors import InputError
from cift_models.evaluation.significance import Blocks, Estimate
from cift_models.features import stream
from cift_models.instruments import SECOND, Session
from cift_models.labels import labels
from cift_models.models.protocol import Panel
from cift_models.splits import TEST, BlockCalendar

KINDS = ("ridge_reference", "linear")
"""Judged at every offset by default: they read no other model."""

OFFSETS_NS = tuple(range(0, SECOND, SECOND // 10))
"""The round second first, then every tenth of it."""


def shifted(panel: Panel, session: Session, offset_ns: int) -> Panel:
    """The same session decided `offset_ns` later at every instant: features anew from its events, no labels, nothing of other models.

    Instants beyond the session's close are left out. At 0 it is the panel that was stored, to the bit. O(events).
    """
    as_of = panel.as_of + offset_ns
    as_of = as_of[as_of <= session.close]
    offsets = stream.step_offsets(panel.events, as_of)
    state = stream.start(panel.universe, panel.features, session)
    x, valid, why = stream.fold(state, panel.universe, panel.features, panel.events, offsets, as_of)
    return Panel(panel.universe, panel.features, panel.session, panel.open, panel.close, as_of, x, valid, why, panel.events, offsets)


def by_offset(
    pipeline: Pipeline,
    sessions: Iterable[tuple[Session, Panel]],
    calendar: BlockCalendar,
    kinds: Sequence[str] = KINDS,
    offsets_ns: Sequence[int] = OFFSETS_NS,
    latency_ns: int = 0,
    blocks: Sequence[int] = TEST,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """By symbol and kind: {"offsets": [{offset_ms, rows, value, lo, hi}], "spread", "round_second", "text"}.

    R2 against zero of the same frozen fits at each offset, on the test rows moved by it; `round_second` is the R2 at offset 0 less the mean
    of the others, with its interval (one block draw for all, so what they share falls out); `spread` the sd over offsets. `pipeline` holds
    the kinds and what they read. One session in memory; O(offsets (events + rows)).

    Raises InputError where offset 0 is not the first, where there is no other, or for a kind without a forecast.
    """
    if len(offsets_ns) < 2 or offsets_ns[0] != 0:
        raise InputError(
            f"Offsets expected 0 first and another; were {list(offsets_ns)} ns.", hint="Leave them out for tenths of a second."
        )
    for kind in kinds:
        if kind not in pipeline.models or "mean_bps" not in pipeline.models[kind].outputs:
            raise InputError(f"{kind} has no forecast to judge at offsets.", hint=f"The pipeline holds {', '.join(pipeline.models)}.")
    symbols = pipeline.universe.symbols
    found: dict[tuple[str, str, int], list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for session, panel in sessions:
        test = panel.as_of[calendar.mask(panel.session, panel.as_of, blocks)]
        for offset in offsets_ns:
            moved = shifted(panel, session, offset)
            y, known, _ = labels(panel.events, pipeline.universe, session, moved.as_of, calendar.horizon_ns, latency_ns)
            said = fold(pipeline, moved)
            rows = np.isin(moved.as_of - offset, test)
            for s, symbol in enumerate(symbols):
                for kind in kinds:
                    mean = said.mean_bps(pipeline, kind)
                    assert mean is not None
                    own = rows & moved.valid[:, s] & known[:, s] & said.ready[kind][:, s]
                    terms = np.column_stack(scores.r2_terms(y[own, s], mean[own, s]))
                    # Blocks are of the round second's clock, so that an offset cannot carry a row into the next block.
                    found.setdefault((symbol, kind, offset), []).append((moved.as_of[own] - offset, terms))
    whole = {key: tuple(np.concatenate(c) for c in zip(*parts, strict=True)) for key, parts in found.items()}
    drawn = Blocks([as_of for as_of, _ in whole.values()], seed=seed)
    return {symbol: {kind: _judged(drawn, whole, symbol, kind, offsets_ns) for kind in kinds} for symbol in symbols}


def _r2(s: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - s[..., 0] / np.where(s[..., 1] > 0, s[..., 1], np.nan)


def _judged(drawn: Blocks, whole: dict[tuple[str, str, int], Any], symbol: str, kind: str, offsets_ns: Sequence[int]) -> dict[str, Any]:
    sums = [drawn.sums(*whole[symbol, kind, offset]) for offset in offsets_ns]
    table = [
        {"offset_ms": offset / 1e6, "rows": len(whole[symbol, kind, offset][0]), **drawn.interval(own, _r2).as_json()}
        for offset, own in zip(offsets_ns, sums, strict=True)
    ]

    def gain(s: NDArray[np.float64]) -> NDArray[np.float64]:
        each = np.stack([_r2(s[..., 2 * k : 2 * k + 2]) for k in range(len(offsets_ns))], axis=-1)
        return each[..., 0] - each[..., 1:].mean(axis=-1)

    estimate = drawn.interval(np.concatenate(sums, axis=1), gain)
    values = [row["value"] for row in table if row["value"] is not None]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"offsets": table, "spread": spread, "round_second": estimate.as_json(), "text": _text(estimate)}


def _text(gain: Estimate) -> str:
    if gain.lo is None or gain.hi is None:
        return gain.reason or "no interval"
    band = f"R2 there less the mean of the other offsets in [{gain.lo:+.4f}, {gain.hi:+.4f}]"
    if gain.lo > 0:
        return f"better on the round second than elsewhere: {band}"
    return f"worse on the round second than elsewhere: {band}" if gain.hi < 0 else f"does not live on the round second: {band}"
