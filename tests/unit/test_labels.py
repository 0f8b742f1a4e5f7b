"""Labels against a loop over the book, and the cases in which nothing is known."""

import numpy as np
import pytest

from cift_models.errors import InputError
from cift_models.events import BOOK, EMPTY_BID, HALT, RESUME, TRADE, Events
from cift_models.instruments import SECOND, Session
from cift_models.labels import labels
from tests.panels import toy_universe

OPEN = 1_700_000_000 * SECOND
SESSION = Session(20231114, OPEN, OPEN + 100 * SECOND)
AS_OF = OPEN + SECOND * np.arange(1, 101)


def book(rows: list[tuple[float, int, int, int]], kind: int = BOOK) -> Events:
    """Events of (seconds after the open, symbol, bid, ask)."""
    events = Events.empty(len(rows), 1)
    for i, (seconds, symbol, bid, ask) in enumerate(rows):
        events.ts[i], events.symbol[i], events.sequence[i], events.kind[i] = OPEN + round(seconds * SECOND), symbol, i, kind
        events.bid_px[i, 0], events.ask_px[i, 0] = bid, ask
    return events


def random_book(seed: int, n: int = 600) -> Events:
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.choice(np.arange(0, 100, 0.05), n, replace=True))
    bid = 10_000 + np.cumsum(rng.integers(-2, 3, n))
    return book(
        [(t, int(s), int(b), int(b + w)) for t, s, b, w in zip(seconds, rng.integers(0, 2, n), bid, rng.integers(1, 4, n), strict=True)]
    )


@pytest.mark.parametrize("latency_ms", [0, 1, 10, 100, 1000])
def test_labels_equal_a_loop_over_the_book(latency_ms):
    events = random_book(latency_ms)
    latency, horizon = latency_ms * 1_000_000, SECOND
    y, known, end = labels(events, toy_universe(2, 1), SESSION, AS_OF, horizon, latency)

    def mid(symbol: int, t: int) -> float | None:
        found = None
        for i in range(len(events)):
            if events.ts[i] <= t and events.symbol[i] == symbol:
                found = (int(events.bid_px[i, 0]) + int(events.ask_px[i, 0])) / 2
        return found

    for t, as_of in enumerate(AS_OF):
        assert end[t] == as_of + latency + horizon
        for s in range(2):
            a, b = mid(s, as_of + latency), mid(s, as_of + latency + horizon)
            assert known[t, s] == (a is not None and end[t] <= SESSION.close)
            assert y[t, s] == pytest.approx(1e4 * (b - a) / a if known[t, s] else 0.0, abs=1e-9)
    assert known.sum() > 150


def test_the_last_of_equal_times_counts_and_a_state_at_the_instant_is_in():
    events = book([(0, 0, 100, 102), (5, 0, 110, 112), (5, 0, 120, 122)])
    y, known, _ = labels(events, toy_universe(1, 1), SESSION, np.array([OPEN + 4 * SECOND]), SECOND)
    assert known.all() and y[0, 0] == pytest.approx(1e4 * 20 / 101)
    y, _, _ = labels(events, toy_universe(1, 1), SESSION, np.array([OPEN + 4 * SECOND]), SECOND - 1)
    assert y[0, 0] == 0


def test_unknown_before_the_first_book_after_the_close_and_on_an_empty_side():
    events = book([(3, 0, 100, 102), (10, 0, EMPTY_BID, 102), (20, 0, 100, 102)])
    y, known, _ = labels(events, toy_universe(1, 1), SESSION, AS_OF, SECOND)
    seconds = (AS_OF - OPEN) // SECOND
    assert np.array_equal(known[:, 0], (seconds >= 3) & (seconds <= 99) & ~((seconds >= 9) & (seconds < 20)))
    assert np.isfinite(y).all() and (y[~known] == 0).all()


def test_nothing_is_computed_across_a_halt():
    events = random_book(1)
    halt, resume = book([(40.5, 0, 0, 0)], HALT), book([(60.5, 0, 0, 0)], RESUME)
    parts = [events, halt, resume]
    joined = Events(*(np.concatenate([getattr(p, f) for p in parts]) for f in Events.__dataclass_fields__))
    joined = joined[np.argsort(joined.ts, kind="stable")]
    plain, free, _ = labels(events, toy_universe(2, 1), SESSION, AS_OF, SECOND)
    y, known, _ = labels(joined, toy_universe(2, 1), SESSION, AS_OF, SECOND)
    seconds = (AS_OF - OPEN) // SECOND
    assert np.array_equal(known[:, 0], free[:, 0] & ~((seconds >= 40) & (seconds <= 60)))
    assert np.array_equal(known[:, 1], free[:, 1]) and np.array_equal(y[known], plain[known])


def test_trades_and_other_sessions_do_not_move_the_mid():
    events = random_book(2)
    y, known, _ = labels(events, toy_universe(2, 1), SESSION, AS_OF, SECOND)
    other = random_book(3)
    other.kind[:] = TRADE
    before = random_book(4)
    before.ts[:] -= 200 * SECOND
    joined = Events(*(np.concatenate([getattr(p, f) for p in (before, events, other)]) for f in Events.__dataclass_fields__))
    joined = joined[np.argsort(joined.ts, kind="stable")]
    again, known_again, _ = labels(joined, toy_universe(2, 1), SESSION, AS_OF, SECOND)
    assert np.array_equal(y, again) and np.array_equal(known, known_again)


def test_no_events_and_senseless_horizons():
    y, known, _ = labels(Events.empty(0, 1), toy_universe(2, 1), SESSION, AS_OF, SECOND)
    assert not known.any() and not y.any()
    with pytest.raises(InputError, match="horizon"):
        labels(random_book(0), toy_universe(2, 1), SESSION, AS_OF, 0)
