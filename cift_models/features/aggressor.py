"""Which side took, where the feed does not say: the quote before the trade, then the last price that was another one.

Lee and Ready (1991): a trade above the middle of the quote that stood before it was bought, below it sold. At the middle, and where no
two-sided quote is known, the tick rule decides: up from the last different trade price is a buy, down a sell. Before any of that a side
stays unknown (0).

Only trades of side 0 of an instrument whose `trade_side` is `inferred` are touched; an instrument whose feed sends sides is left as it
is, its unknown sides too (an auction has no aggressor). A side once found stays: signing signed events changes nothing. An event that holds
both trade and book holds the book after it, so the trade is read first. A halt or a gap forgets quote and prices.

Where events enter, they pass here once: TickStore.events for what is stored, Engine.push live, Pipeline.panel for events that a caller
brings. Features, Hawkes and GNN then read the same sides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.events import BOOK, HALT, TRADE, Events
from cift_models.instruments import INFERRED, Universe


def start(universe: Universe) -> dict[str, NDArray]:
    """Memory at a session's open, by symbol: what is inferred, the middle of the quote in half ticks (0: none), last price, last move."""
    n = len(universe)
    return {
        "inferred": np.array([i.trade_side == INFERRED for i in universe.instruments]),
        "tick_units": np.array([i.tick_units for i in universe.instruments], np.int64),
        "mid": np.zeros(n, np.int64),
        "last_px": np.zeros(n, np.int64),
        "last_move": np.zeros(n, np.int8),
    }


def sign(state: dict[str, NDArray], events: Events) -> Events:
    """The events with the sides that can be told; changes `state` in place, never the events. The same object where nothing is inferred.

    Any split of the stream over several calls gives the same sides. O(events); a side uses nothing behind its event.
    """
    if not state["inferred"].any():
        return events
    side = events.side.copy()
    _sign(
        state["inferred"], state["tick_units"], state["mid"], state["last_px"], state["last_move"],
        events.symbol, events.kind, events.trade_px, events.bid_px, events.bid_sz, events.ask_px, events.ask_sz, side,
    )  # fmt: skip
    return replace(events, side=side)


def signed(universe: Universe, events: Events) -> Events:
    """A whole session's events with the sides that can be told."""
    return sign(start(universe), events)


@kernel
def _sign(inferred, tick_units, mid, last_px, last_move, symbol, kind, trade_px, bid_px, bid_sz, ask_px, ask_sz, side):
    for i in range(len(symbol)):
        s = symbol[i]
        if not inferred[s]:
            continue
        if kind[i] & TRADE:
            if last_px[s] != 0 and trade_px[i] != last_px[s]:
                last_move[s] = 1 if trade_px[i] > last_px[s] else -1
            last_px[s] = trade_px[i]
            if side[i] == 0:
                above = 2 * trade_px[i] - mid[s] * tick_units[s] if mid[s] != 0 else 0
                side[i] = 1 if above > 0 else -1 if above < 0 else last_move[s]
        if kind[i] & BOOK:
            mid[s] = np.int64(bid_px[i, 0]) + np.int64(ask_px[i, 0]) if bid_sz[i, 0] > 0 and ask_sz[i, 0] > 0 else 0
        if kind[i] & HALT:
            mid[s], last_px[s], last_move[s] = 0, 0, 0
