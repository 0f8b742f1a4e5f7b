"""Cheap nulls: what the gate says of simple models where there is nothing to find, some two hundred times in minutes.

A market is a simulated martingale: trades cluster, volatility has regimes, nobody can foretell the next move. Its labels are taken as they
are, times an independent random sign a second (zeros and volatility stay, direction goes), and shifted by ten minutes or more within the
session. Blocks of returns that are shuffled would be no null: with a look-back of 30 s half the rows would keep features and label.

On each, a model is fitted as for a release, with its out-of-fold head, and judged by the gate's own rule against `linear` of the same
labels. Clauses that ask of other things than forecasts (audit, alarms, latency, code, certificate) are not asked.

`fixed_nulls` asks the same of a release without fitting anything: its forecasts stay as they are, the labels of its test rows lose their
direction. It costs seconds, so every verdict and every night has it; `cheap_nulls` is for the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import InputError
from cift_models.evaluation.card import Card
from cift_models.evaluation.certificate import FEWEST_CHEAP, CheapNulls
from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.evaluation.gate import REFERENCE, Contender, Evidence, common_rows, is_better, verdict
from cift_models.evaluation.leak_alarms import random_signs
from cift_models.evaluation.rows import touch
from cift_models.events import merge
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.models.head import Head
from cift_models.models.protocol import FitContext, Panel
from cift_models.simulate import SimulateConfig, simulate
from cift_models.splits import TEST, BlockCalendar, block_calendar, level0_folds
from cift_models.stacking import TrainingPanels

KINDS = ("ridge_reference", "trees")
"""Challengers that are fitted in seconds."""

LABELS = ("as they are", "signs", "other signs", "shifted", "shifted further")
"""What is done to the labels of a market: with two challengers, ten nulls a market."""

A_MARKET = len(KINDS) * len(LABELS)

FORECASTS = ("rows", "better", "worse", "direction", "timing", "economics", "calibration")
"""Clauses of the gate that are about forecasts."""

DELAYS_NS = (0, 1_000_000, 10_000_000, 100_000_000, SECOND)
SHORTEST_SHIFT = 600
"""Rows: ten minutes, twenty times the longest look-back of a feature of flow."""


@dataclass(frozen=True, slots=True)
class Market:
    """One session of a market without a signal: its panel with labels, its blocks, its test rows (one a symbol, nobody speaks yet)."""

    panel: Panel
    calendar: BlockCalendar
    data: list[Evaluated]


def market(seed: int, symbols: int = 2, minutes: int = 120) -> Market:
    """Simulate a martingale. O(minutes x symbols): 2 s."""
    names = tuple(f"N{i}" for i in range(symbols))
    made = simulate(SimulateConfig(seed=seed, symbols=names, sessions=1, session_minutes=minutes).martingale())
    universe, session = made.universe, made.sessions[0]
    features = FeatureSet(levels=universe.levels)
    events = merge([replace(made.events[0][name], symbol=np.full(len(made.events[0][name]), s, np.int16)) for s, name in enumerate(names)],
                   universe.levels)  # fmt: skip
    as_of, offsets, x, valid, why = stream.build(universe, features, session, events)
    told = {delay: labels(events, universe, session, as_of, SECOND, delay) for delay in DELAYS_NS}
    y, known, end = told[0]
    rows = np.all(known | ~valid, axis=1)
    panel = Panel(
        universe, features, session.day, session.open, session.close, as_of, x, valid, why, events, offsets,
        y=np.where(known, y, 0.0), rows=rows, label_end=end, base_oof=np.ones(len(as_of), bool),
    )  # fmt: skip
    calendar = block_calendar([session])
    in_test = calendar.mask(session.day, as_of, TEST)
    data = []
    for s, symbol in enumerate(universe.symbols):
        own = in_test & valid[:, s]
        for _, seen, _ in told.values():
            own &= seen[:, s]
        quotes = {delay: touch(events, universe, as_of[own] + delay) for delay in DELAYS_NS}
        data.append(
            Evaluated(
                symbol=symbol,
                as_of=as_of[own],
                y=y[own, s],
                half_spread_bps=panel.column("half_spread_bps")[own, s],
                mid=panel.column("mid")[own, s],
                bid={delay: bid[:, s] for delay, (bid, _) in quotes.items()},
                ask={delay: ask[:, s] for delay, (_, ask) in quotes.items()},
                forecasts={},
                session=np.full(int(own.sum()), session.day),
            )
        )
    return Market(panel, calendar, data)


def without_direction(panel: Panel, how: str, seed: int) -> Panel:
    """The panel with labels of LABELS. Raises InputError for another word, and for a session too short to be shifted."""
    assert panel.y is not None and panel.rows is not None
    if how == "as they are":
        return panel
    if how in ("signs", "other signs"):
        return replace(panel, y=panel.y * random_signs(panel.as_of, 2 * seed + (how == "signs"))[:, None])
    if how not in ("shifted", "shifted further"):
        raise InputError(f"Labels cannot be made {how!r}.", hint=f"Expected one of {', '.join(LABELS)}.")
    if len(panel) < 4 * SHORTEST_SHIFT:
        raise InputError(f"A session of {len(panel)} instants is too short to be shifted.", hint=f"At least {4 * SHORTEST_SHIFT}.")
    by = SHORTEST_SHIFT * (1 if how == "shifted" else 2) + seed % SHORTEST_SHIFT
    return replace(panel, y=np.roll(panel.y, by, axis=0), rows=panel.rows & np.roll(panel.rows, by))


def judge_null(one: Market, kind: str, how: str, seed: int) -> Card:
    """The verdict on a model that was fitted on labels without direction. Fits on no row that it is judged on; about a second."""
    panel = without_direction(one.panel, how, seed)
    assert panel.y is not None and panel.rows is not None
    spoken = {name: _speak(panel, one.calendar, name, seed) for name in (kind, REFERENCE)}
    rows = {}
    for s, part in enumerate(one.data):
        place = np.searchsorted(panel.as_of, part.as_of)
        keep = panel.rows[place]
        said = {name: Forecast(ready[place, s], mean[place, s], p[place, s]) for name, (mean, ready, p) in spoken.items()}
        rows[part.symbol] = replace(part, y=panel.y[place, s], forecasts=said).taken(keep)
    first = min(int(part.as_of[0]) for part in rows.values())
    return verdict(Contender(kind, rows, max_train_t1=first - 1), None, Evidence(code="", seed=seed))


def promoted(card: Card) -> bool:
    """Whether the clauses that are about forecasts all hold."""
    return all(card.clauses[name] for name in FORECASTS)


def cheap_nulls(n: int, first_seed: int = 0) -> Iterator[tuple[str, Card]]:
    """(what it was, the verdict) of n nulls, A_MARKET a market: the same n and seed give the same cards."""
    made: Market | None = None
    for i in range(n):
        k, j = divmod(i, A_MARKET)
        if j == 0:
            made = market(first_seed + k)
        assert made is not None
        kind, how = KINDS[j % len(KINDS)], LABELS[j // len(KINDS)]
        yield f"market {first_seed + k}, {kind}, labels {how}", judge_null(made, kind, how, first_seed + k)


def fixed_nulls(challenger: Contender, champion: Contender | None, n: int = FEWEST_CHEAP, seed: int = 0) -> CheapNulls:
    """How often forecasts that stay as they are would pass the clause `better` of the gate, of n labels without direction.

    In turn the labels times random signs, and shifted within their session by ten minutes or more, both ways round; where a session has too
    few rows to be shifted, signs alone. A forecast that is the drift of a session, or its time of day, is better on shifted labels too.
    Of no common row: n is 0. O(n rows): 3 symbols x 6,660 rows x 200 take 1.2 s of one core, twenty such sessions 13 s.
    """
    parts = common_rows(challenger, champion)
    if not parts:
        return CheapNulls(n=0, promoted=0)
    shortest = min(int(np.unique(part.sessions, return_counts=True)[1].min()) for part in parts.values())
    by = np.random.default_rng(seed).integers(SHORTEST_SHIFT, max(shortest - SHORTEST_SHIFT, SHORTEST_SHIFT) + 1, size=n)
    found = 0
    for i in range(n):
        shifted = i % 2 == 1 and shortest > 2 * SHORTEST_SHIFT
        found += is_better(
            {
                symbol: replace(part, y=_rolled(part, int(by[i])) if shifted else part.y * random_signs(part.as_of, seed + i))
                for symbol, part in parts.items()
            }
        )
    return CheapNulls(n=n, promoted=found)


def _rolled(part: Evaluated, by: int) -> NDArray[np.float64]:
    """The moves of a part, each session's by so many rows within itself. A row is a second or more."""
    y = part.y.copy()
    for session in np.unique(part.sessions):
        own = part.sessions == session
        y[own] = np.roll(y[own], by)
    return y


def _speak(panel: Panel, calendar: BlockCalendar, kind: str, seed: int):
    """(mean_bps[T, S], ready[T, S], p[T, S, 3]) of the fit that would be released, with a head from out-of-fold rows."""
    cls = model_class(kind)
    means = np.zeros(panel.valid.shape)
    ready = np.zeros(panel.valid.shape, bool)
    head_rows = np.zeros(len(panel), bool)
    folds = [fold for fold in level0_folds() if fold.name == "final" or fold.predict[0] >= 3]
    for fold in folds:
        train, stop = (TrainingPanels(kind, calendar, blocks, lambda _: panel, lambda _: {}) for blocks in (fold.train, fold.stop))
        model, _ = cls.fit(cls.Config(), train, stop, FitContext(seed=seed))
        said = model.predict(panel)
        own = calendar.mask(panel.session, panel.as_of, fold.predict)
        means[own], ready[own] = said.values[own][:, :, model.outputs.index("mean_bps")], said.ready[own]
        if fold.name != "final":
            head_rows |= own
    assert panel.rows is not None
    head, _ = Head.fit([(replace(panel, rows=panel.rows & head_rows), means, ready)])
    return means, ready, head.predict(means, panel.x, ready)
