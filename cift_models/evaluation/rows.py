"""From decisions to what is judged: the test rows of each symbol, with every model's words, the touch and the labels beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.engine import Decisions, Pipeline
from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.events import BOOK, Events
from cift_models.instruments import Universe
from cift_models.models.protocol import Panel
from cift_models.signals import SignalRule, Threshold, choose_threshold
from cift_models.splits import BlockCalendar, training_rows

Touch = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Best bid and best ask in quote currency, 0 where a side is empty or nothing has been seen."""


def touch(events: Events, universe: Universe, at: NDArray[np.int64]) -> Touch:
    """The touch of every symbol at times `at` int64[T] (ns): (bid, ask), float64[T, S] each, of the last book with ts <= the time.

    What a fill would pay at the time of the fill: never a feature. O(n + T log n).
    """
    bid, ask = np.zeros((len(at), len(universe))), np.zeros((len(at), len(universe)))
    for s, instrument in enumerate(universe.instruments):
        seen, row = _last_book(events, s, at)
        both = (events.bid_sz[row, 0] > 0) & (events.ask_sz[row, 0] > 0)
        bid[seen, s] = np.where(both, events.bid_px[row, 0] * instrument.tick_size, 0.0)
        ask[seen, s] = np.where(both, events.ask_px[row, 0] * instrument.tick_size, 0.0)
    return bid, ask


def touch_lots(events: Events, universe: Universe, at: NDArray[np.int64]) -> Touch:
    """Lots at the best bid and ask of every symbol at times `at`: float64[T, S] each, of the book that `touch` prices; 0 where unknown."""
    bid, ask = np.zeros((len(at), len(universe))), np.zeros((len(at), len(universe)))
    for s in range(len(universe)):
        seen, row = _last_book(events, s, at)
        bid[seen, s], ask[seen, s] = events.bid_sz[row, 0], events.ask_sz[row, 0]
    return bid, ask


def _last_book(events: Events, symbol: int, at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which of `at` have a book, the event that told it): the last one with ts <= the time."""
    own = np.flatnonzero((events.symbol == symbol) & ((events.kind & BOOK) > 0))
    i = np.searchsorted(events.ts[own], at, "right") - 1
    seen = np.flatnonzero(i >= 0)
    return seen, own[i[seen]]


@dataclass(frozen=True, slots=True)
class JudgedSession:
    """One session to judge: its panel (with labels), what was decided, labels y float64[T, S] and known bool[T, S] by delay in ns."""

    panel: Panel
    decided: Decisions
    y: Mapping[int, NDArray[np.float64]]
    known: Mapping[int, NDArray[np.bool_]]


class Chosen(NamedTuple):
    """Thresholds by kind, in the universe's order; max_train_t1: when the last move was over that chose them, ns UTC."""

    by_kind: dict[str, list[Threshold]]
    max_train_t1: int


def choose_rules(
    pipeline: Pipeline, sessions: Iterable[tuple[Panel, Mapping[str, NDArray], Mapping[str, NDArray]]], calendar: BlockCalendar, block: int
) -> Chosen:
    """A threshold for each kind with a forecast and each symbol, chosen on the rows of `block` alone, purged towards the next.

    `sessions` gives (panel, values by kind, ready by kind) of each session that holds rows of the block. What it says of when it learned
    is counted on the very rows that were traded, not on the calendar.
    """
    latest = 0
    universe = pipeline.universe
    parts: dict[str, list[list[NDArray]]] = {}
    costs: list[list[NDArray]] = [[] for _ in universe.symbols]
    quotes: list[list[tuple[NDArray, NDArray, NDArray]]] = [[] for _ in universe.symbols]
    for panel, values, ready in sessions:
        rows = training_rows(calendar, panel.session, panel.as_of, panel.as_of + calendar.horizon_ns, (block,))
        latest = max(latest, int(panel.as_of[rows].max(initial=0)) + calendar.horizon_ns)
        bid, ask = touch(panel.events, universe, panel.as_of[rows])
        half = panel.column("half_spread_bps")[rows]
        for s, instrument in enumerate(universe.instruments):
            costs[s].append(half[:, s] + instrument.fee_bps)
            quotes[s].append((bid[:, s], ask[:, s], np.full(int(rows.sum()), panel.session)))
            for kind, model in pipeline.models.items():
                if "mean_bps" in model.outputs:
                    mean = values[kind][rows, s, model.outputs.index("mean_bps")]
                    parts.setdefault(kind, [[] for _ in universe.symbols])[s].append(np.stack([mean, ready[kind][rows, s]]))
    out: dict[str, list[Threshold]] = {}
    for kind, by_symbol in parts.items():
        chosen = []
        for s, instrument in enumerate(universe.instruments):
            mean, is_ready = np.concatenate(by_symbol[s], axis=1)
            bid, ask, session = (np.concatenate(column) for column in zip(*quotes[s], strict=True))
            chosen.append(
                choose_threshold(
                    mean, np.concatenate(costs[s]), is_ready.astype(bool), bid, ask, fee_bps=instrument.fee_bps, session=session
                )
            )
        out[kind] = chosen
    return Chosen(out, latest)


def judged_rows(
    pipeline: Pipeline,
    sessions: Sequence[JudgedSession],
    calendar: BlockCalendar,
    blocks: Sequence[int],
    thresholds: Mapping[str, Sequence[float]],
) -> list[Evaluated]:
    """One Evaluated a symbol: the decision rows of `blocks` on which the symbol is valid and its label known at every delay."""
    universe = pipeline.universe
    out = []
    for s, instrument in enumerate(universe.instruments):
        columns: dict[str, list[NDArray]] = {}

        def add(name: str, values: NDArray, columns: dict[str, list[NDArray]] = columns) -> None:
            columns.setdefault(name, []).append(values)

        delays = sorted(sessions[0].y)
        for one in sessions:
            panel = one.panel
            rows = calendar.mask(panel.session, panel.as_of, blocks) & panel.valid[:, s]
            for delay in delays:
                rows &= one.known[delay][:, s]
            add("as_of", panel.as_of[rows])
            add("session", np.full(int(rows.sum()), panel.session))
            add("half", panel.column("half_spread_bps")[rows, s])
            add("mid", panel.column("mid")[rows, s])
            bid_lots, ask_lots = touch_lots(panel.events, universe, panel.as_of[rows])
            add("bid lots", bid_lots[:, s])
            add("ask lots", ask_lots[:, s])
            for delay in delays:
                bid, ask = touch(panel.events, universe, panel.as_of[rows] + delay)
                add(f"bid {delay}", bid[:, s])
                add(f"ask {delay}", ask[:, s])
                add(f"y {delay}", one.y[delay][rows, s])
            for kind, model in pipeline.models.items():
                add(f"ready {kind}", one.decided.ready[kind][rows, s])
                if "mean_bps" in model.outputs:
                    add(f"mean {kind}", one.decided.values[kind][rows, s, model.outputs.index("mean_bps")])
                if kind in one.decided.p:
                    add(f"p {kind}", one.decided.p[kind][rows, s])
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        forecasts = {
            kind: Forecast(
                whole[f"ready {kind}"],
                whole.get(f"mean {kind}"),
                whole.get(f"p {kind}"),
                SignalRule(threshold_bps=float(thresholds[kind][s])) if kind in thresholds else None,
            )
            for kind in pipeline.models
        }
        out.append(
            Evaluated(
                symbol=instrument.symbol,
                as_of=whole["as_of"],
                y=whole[f"y {delays[0]}"],
                half_spread_bps=whole["half"],
                mid=whole["mid"],
                bid={d: whole[f"bid {d}"] for d in delays},
                ask={d: whole[f"ask {d}"] for d in delays},
                forecasts=forecasts,
                y_delay={d: whole[f"y {d}"] for d in delays[1:]},
                session=whole["session"],
                fee_bps=instrument.fee_bps,
                bid_lots=whole["bid lots"],
                ask_lots=whole["ask lots"],
            )
        )
    return out
