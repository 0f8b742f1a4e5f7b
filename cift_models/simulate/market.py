"""The simulated market: events by session and symbol, the truth they were made from, and its hidden paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from cift_models.events import TRADE, Events, merge
from cift_models.instruments import CALENDARS, SECOND, Instrument, Session, Universe
from cift_models.simulate.calibration import NO_MARKS, Calibration, calibrate, noise_bps
from cift_models.simulate.config import PRICE_SCALE, SimulateConfig
from cift_models.simulate.draws import Marks, Walked, draw, run_book
from cift_models.simulate.order_flow import expected_signed_count, trade_times
from cift_models.simulate.truth import COMPONENTS, manifest


@dataclass(frozen=True, slots=True)
class Market:
    """A market whose truth is known.

    events    by session, by symbol: canonical events with symbol 0 (`stream` joins them); the first one is the book at the open
    truth     the manifest: JSON values (see truth.py)
    paths     by session, arrays on the decision instants open + 1 s ... close (T rows): regime int8[T, S], which rules the second that
              begins there; linear, interaction, edge, impact, autoregressive float64[T, S], each the planted expectation, in bps, of the
              move over the second that begins there, known from events with ts <= the instant. The last row has no such second.
    """

    config: SimulateConfig
    universe: Universe
    sessions: list[Session]
    events: list[dict[str, Events]]
    truth: dict[str, Any]
    paths: list[dict[str, NDArray]]

    def stream(self, session: int) -> Events:
        """All symbols of session number `session` as one merged stream, in the universe's order. One copy."""
        parts = [replace(part, symbol=np.full(len(part), s, np.int16)) for s, part in enumerate(self.events[session].values())]
        return merge(parts, self.universe.levels)


def universe_of(config: SimulateConfig) -> Universe:
    """The instruments: shares in round lots of 100, no fee, calendar `simulated`."""
    return Universe(
        tuple(Instrument(s, PRICE_SCALE, config.tick_units, 1, "shares", 0.0, "simulated", config.levels) for s in config.symbols)
    )


def sessions_of(config: SimulateConfig) -> list[Session]:
    """One session a weekday from first_day on: the simulated calendar's opening, session_minutes long."""
    sessions: list[Session] = []
    day = config.first_day
    while len(sessions) < config.sessions:
        if day.weekday() < 5:
            regular = CALENDARS["simulated"].session(day)
            sessions.append(replace(regular, close=regular.open + config.seconds * SECOND))
        day += timedelta(days=1)
    return sessions


def repetitions(moves: Marks, share: float, lag_ns: int) -> Marks:
    """The leader's moves as the follower repeats them: (ns, bps) later by the lag and smaller by the share."""
    return moves[0] + lag_ns, share * moves[1]


def known_repetitions(repeated: Marks, lag_ns: int, seconds: int) -> NDArray[np.float64]:
    """float64[seconds + 1], bps: repetitions due in (j s, j + 1 s] whose cause came by j s: all, if the lag is 1 s or more."""
    total = np.concatenate([[0.0], np.cumsum(repeated[1])])
    at = np.arange(seconds + 1) * SECOND
    until = np.minimum(at + SECOND, at + lag_ns)
    return total[np.searchsorted(repeated[0], until, "right")] - total[np.searchsorted(repeated[0], at, "right")]


def simulate(config: SimulateConfig | None = None, progress: Callable[[str, float], None] = lambda what, share: None) -> Market:
    """Make the market. The same config gives the same bytes; a session or a symbol more changes no other (unless it leads an edge).

    Raises SettingsError where the planted R2s leave no room for noise.
    Cost: about .3 s for the default (320,000 events), 5 s more where numba must compile.
    """
    config = config or SimulateConfig()
    progress("calibrate", 0.0)
    found = calibrate(config)
    sessions = sessions_of(config)
    events: list[dict[str, Events]] = []
    paths: list[dict[str, NDArray]] = []
    moves_bps: list[NDArray] = []
    counts: list[dict[str, dict[str, Any]]] = []
    for k, session in enumerate(sessions):
        walked, path = _session(config, found, k, session)
        events.append({s: w.events for s, w in walked.items()})
        paths.append(path)
        doubled = np.stack([w.doubled for w in walked.values()], axis=1)
        moves_bps.append(1e4 * np.diff(doubled, axis=0) / doubled[:-1])
        counts.append({s: _counts(w.events) for s, w in walked.items()})
        progress("simulate", (k + 1) / len(sessions))
    return Market(config, universe_of(config), sessions, events, manifest(config, found, moves_bps, paths, counts), paths)


def _session(config: SimulateConfig, found: Calibration, k: int, session: Session) -> tuple[dict[str, Walked], dict[str, NDArray]]:
    """Session number k: the books of all symbols (a leader before its follower), and the paths."""
    leader, follower = config.edge or (None, None)
    lag_ns = config.edge_lag_ms * 1_000_000
    path = {"regime": np.zeros((config.seconds, len(config.symbols)), np.int8)}
    path |= {name: np.zeros((config.seconds, len(config.symbols))) for name in COMPONENTS}
    walked: dict[str, Walked] = {}
    for symbol in sorted(config.symbols, key=lambda s: s == follower):
        s = config.symbols.index(symbol)
        # The spawn key names the session and the symbol, whatever their numbers: more of them leave this stream as it is.
        streams = SeedSequence(config.seed, spawn_key=(k, s)).spawn(6)
        trades = trade_times(config, np.random.default_rng(streams[5]))
        repeated = NO_MARKS
        if symbol == follower and leader is not None and found.edge_share > 0:
            repeated = repetitions(walked[leader].moves, found.edge_share, lag_ns)
            path["edge"][:, s] = known_repetitions(repeated, lag_ns, config.seconds)[1:]
        draws = draw(config, streams[:5], trades, repeated)
        noise = noise_bps(config, found, symbol == follower)
        walked[symbol] = run_book(config, draws, noise, found.scales, found.impact_bps, True, session.open)
        path["regime"][:, s] = np.append(draws.regime[1:], draws.regime[-1])
        path["linear"][:, s], path["interaction"][:, s], path["autoregressive"][:, s] = walked[symbol].components[1:].T
        path["impact"][:, s] = found.impact_bps * expected_signed_count(config, *trades)[1:]
    return {symbol: walked[symbol] for symbol in config.symbols}, path


def _counts(events: Events) -> dict[str, Any]:
    """Events, trades by side, and the half-spread, mean over events, of one symbol's session."""
    traded = (events.kind & TRADE) > 0
    bid, ask = events.bid_px[:, 0].astype(np.float64), events.ask_px[:, 0].astype(np.float64)
    return {
        "events": len(events),
        "buys": int((events.side[traded] > 0).sum()),
        "sells": int((events.side[traded] < 0).sum()),
        "half_spread_bps": float(np.mean(1e4 * (ask - bid) / (ask + bid))),
    }
