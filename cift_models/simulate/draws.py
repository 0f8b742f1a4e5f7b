"""Everything random about one symbol's session, drawn before the book runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from cift_models.events import Events
from cift_models.instruments import SECOND
from cift_models.simulate.book import NEWS, QUOTE, REPEATED, TRADED, WIDE, walk
from cift_models.simulate.config import SimulateConfig
from cift_models.simulate.regimes import regime_path

Marks = tuple[NDArray[np.int64], NDArray]
"""Nanoseconds from the open, sorted, and a value at each."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The arguments of `walk` of the same names; see there."""

    at_ns: NDArray[np.int64]
    what: NDArray[np.int8]
    value: NDArray[np.float64]
    uniforms: NDArray[np.float64]
    exponentials: NDArray[np.float64]
    regime: NDArray[np.int8]
    opening: int


@dataclass(frozen=True, slots=True)
class Walked:
    """What the book did: its events, doubled mids int64[T + 1], moves (ns, bps) and the components float64[T + 1, 3]."""

    events: Events
    doubled: NDArray[np.int64]
    moves: Marks
    components: NDArray[np.float64]


def news_hz(config: SimulateConfig) -> NDArray[np.float64]:
    """Rate of news by regime, float64[3]: a volatile one has more of it as well as larger."""
    return config.moves_hz * np.array([1.0, 1.0, config.volatility_ratio])


def draw(config: SimulateConfig, streams: list[SeedSequence], trades: Marks, repeated: Marks) -> Draws:
    """Draw regimes, news and quotes, and put all events with the given trades (ns, side) and repetitions (ns, bps) in order.

    `streams` are five seeds: of regimes, news, quotes, book, opening price. Events of the same nanosecond are moved apart by one; what
    that moves past the close is dropped.
    """
    of_regime, of_news, of_quotes, of_book, of_opening = (np.random.default_rng(s) for s in streams)
    end = config.seconds * SECOND
    regime = regime_path(config.seconds, config.regime_minutes, of_regime)
    pieces = of_news.poisson(news_hz(config)[regime])
    news_ns = np.repeat(np.arange(config.seconds) * SECOND, pieces) + of_news.integers(1, SECOND + 1, int(pieces.sum()))
    quotes_ns = of_quotes.integers(1, end + 1, of_quotes.poisson(config.quotes_hz * config.seconds))
    at_ns = np.concatenate([quotes_ns, news_ns, trades[0], repeated[0]])
    what = np.repeat(np.array([QUOTE, NEWS, TRADED, REPEATED], np.int8), [len(quotes_ns), len(news_ns), len(trades[0]), len(repeated[0])])
    value = np.concatenate([np.zeros(len(quotes_ns)), of_news.standard_normal(len(news_ns)), trades[1], repeated[1]])
    order = np.argsort(at_ns, kind="stable")
    ladder = np.arange(len(order))
    at_ns = np.maximum.accumulate(at_ns[order] - ladder) + ladder
    kept = at_ns <= end
    n = int(kept.sum())
    return Draws(
        at_ns=at_ns[kept],
        what=what[order][kept],
        value=value[order][kept],
        uniforms=of_book.random((n + 1, 3)),
        exponentials=of_book.standard_exponential((n + 1, 1 + 2 * config.levels)),
        regime=regime,
        # Sessions open apart, so that no two share a price level.
        opening=round(2 * config.price / config.tick_size * np.exp(of_opening.normal(0.0, 0.02))),
    )


def run_book(
    config: SimulateConfig,
    draws: Draws,
    noise_bps: NDArray[np.float64],
    scales: tuple[float, float, float],
    impact_bps: float,
    drifts: bool,
    open_ns: int,
) -> Walked:
    """Run `walk` over the draws; times of the events are open_ns + at_ns, their symbol is 0, the book at the open is sequence 0."""
    n = len(draws.at_ns)
    events = Events.empty(n + 1, config.levels)
    events.ts[0] = open_ns
    events.ts[1:] = open_ns + draws.at_ns
    events.sequence[:] = np.arange(n + 1)
    trade_ticks = np.zeros(n + 1, np.int64)
    doubled, moved_bps, components = walk(
        draws.at_ns, draws.what, draws.value, draws.uniforms, draws.exponentials, draws.regime, draws.opening,
        config.spread_ticks, config.queue_lots, config.trade_lots, np.array(WIDE), np.array(config.ar), news_hz(config), noise_bps,
        np.array(scales), drifts, impact_bps, events.kind, events.side, trade_ticks, events.trade_sz,
        events.bid_px, events.bid_sz, events.ask_px, events.ask_sz,
    )  # fmt: skip
    events.trade_px[:] = trade_ticks * config.tick_units
    at = np.flatnonzero(moved_bps)
    return Walked(events, doubled, (draws.at_ns[at], moved_bps[at]), components)
