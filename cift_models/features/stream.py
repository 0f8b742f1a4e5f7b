"""The one computation of features: events in, rows out, memory carried. Batch is one call over a session, live one call an instant."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numba import int64
from numba.core.errors import NumbaError
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import DataError, InputError, StoreError
from cift_models.events import Events
from cift_models.features import activity, clock_bars, families, flows, volatility, z_score
from cift_models.features.families import FAMILIES
from cift_models.features.feature_set import FeatureSet
from cift_models.features.handle import (
    END,
    EVENT_COLUMNS,
    N_EVENT_LEVELS,
    N_EVENTS,
    N_LEVELS,
    N_SYMBOLS,
    NEXT,
    bins_of,
    book_of,
    events_at,
    events_table,
    floats,
    int8s_at,
    int16s_at,
    int32s,
    int32s_at,
    ints,
    ints_at,
    logs_of,
    memory_at,
    memory_table,
    replay_at,
    ring_of,
    symbol_of,
    trades_of,
)  # fmt: skip
from cift_models.features.memory import MAX_WINDOWS, Memory, empty, grown
from cift_models.instruments import SECOND, Session, Universe

TAKEN, FULL, REFUSED = 0, 1, 2
STOPPED = -1
"""What a replay's step says where it took no event."""


class FeatureState:
    """Memory of the features of a universe in one session: what `fold`, `push` and `row` change."""

    __slots__ = ("_memory", "_push", "_table", "at", "features", "universe")

    def __init__(self, universe: Universe, features: FeatureSet, memory: Memory) -> None:
        self.universe = universe
        self.features = features
        self.memory = memory
        self.at = np.cumsum([0, *(len(family.names(features)) for family in FAMILIES)])[:-1]

    @property
    def memory(self) -> Memory:
        """The arrays; changed in place by every fold, push and row, replaced where a ring has grown."""
        return self._memory

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self._memory = memory
        self._table = memory_table(memory)
        self._push = partial(_push, self._table.ctypes.data)

    @property
    def table_address(self) -> int:
        """Where the addresses of the arrays lie (features/handle.py), until the memory is replaced."""
        return self._table.ctypes.data

    def copy(self) -> FeatureState:
        """An independent fork."""
        return FeatureState(self.universe, self.features, self.memory.copy())

    def to_bytes(self) -> bytes:
        """The memory as npz bytes (never pickle)."""
        return self.memory.to_bytes()

    @classmethod
    def from_bytes(cls, universe: Universe, features: FeatureSet, data: bytes) -> FeatureState:
        """What `to_bytes` wrote, to the bit. Raises StoreError where this version of the code remembers other things."""
        memory = Memory.from_bytes(data)
        if (len(memory.symbols), memory.book.shape[2]) != (len(universe), features.levels):
            raise StoreError(
                f"The stored memory is of {len(memory.symbols)} symbols with {memory.book.shape[2]} levels, expected {len(universe)} with "
                f"{features.levels}.",
                hint="Fold the session from its open again.",
            )
        return cls(universe, features, memory)

    def push(self, ts: int, symbol: int, kind: int, side: int, trade_px: int, trade_sz: int, book: NDArray[np.int64]) -> None:
        """Take one event: fields as in Events, its book as int64[4, L] (bid px, bid size, ask px, ask size; ignored without BOOK). O(1).

        Raises DataError for a symbol that the universe lacks and for a book of other levels. Events come in order; nobody checks it here.
        """
        try:
            said = self._push(ts, symbol, kind, side, trade_px, trade_sz, book)
        except NumbaError as error:
            raise DataError(
                f"A book of {book.dtype}, expected a C-contiguous int64[4, L].", hint="np.ascontiguousarray(book, np.int64)"
            ) from error
        if said != TAKEN:
            if said == REFUSED:
                raise DataError(
                    f"Symbol {symbol}, book {book.shape}: expected 0 to {len(self.universe) - 1} and (4, {self.features.levels}).",
                    hint="Pad the book to the universe's levels.",
                )
            self.memory = grown(self._memory)
            self.push(ts, symbol, kind, side, trade_px, trade_sz, book)

    def row(self, as_of: int) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        """x float64[S, F] and why int8[S] of one instant, behind every event of up to then and before any later one; each instant once."""
        x = np.empty((len(self.universe), len(self.features.names)))
        why = np.empty(len(x), np.int8)
        _rows(self.memory, as_of, self.at, x, why)
        return x, why


def start(universe: Universe, features: FeatureSet, session: Session) -> FeatureState:
    """Memory at a session's open. Raises InputError where a window is too long for exact integers."""
    windows = (*features.windows_ns, *flows.MOVES_NS)
    if len(windows) > MAX_WINDOWS:
        raise InputError(
            f"A feature set has at most {MAX_WINDOWS - len(flows.MOVES_NS)} windows_ns, was {len(features.windows_ns)}.",
            hint="Leave some out.",
        )
    memory = empty(universe, features.levels, volatility.rows(features), features.z_steps)
    m = memory.symbols
    m["open"], m["span_ns"] = session.open, universe.span_ns(session.open, session.close)
    m["clock_ns"], m["profile_ns"], m["warm_up_ns"] = features.clock_ns, features.profile_ns, features.warm_up_ns
    m["tick_bar"], m["z_max_lots"] = features.tick_bar, z_score.max_lots(features)
    m["n_windows"], m["longest_ns"] = len(windows), max(windows)
    m["windows_ns"][:, : len(windows)] = windows
    m["vol_scale"] = math.sqrt(SECOND / features.clock_ns)
    m["activity_decay"] = activity.decay(features)
    m["volume_bar"] = [clock_bars.volume_bar(instrument) for instrument in universe.instruments]
    for s in range(len(universe)):
        _begin(memory, s, session.open)
    return FeatureState(universe, features, memory)


def fold(
    state: FeatureState, universe: Universe, features: FeatureSet, events: Events, offsets: NDArray[np.int64], as_of: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int8]]:
    """x float64[T, S, F], valid bool[T, S], why int8[T, S] of the instants as_of int64[T]; changes `state` in place.

    The events of instant t are events[offsets[t] : offsets[t + 1]], all with ts <= as_of[t]. Splitting the instants over several
    calls anywhere gives the same bits. Raises DataError where events have other levels than `features`.
    O(events + T S F); uses nothing later than as_of[t] for row t.
    """
    x = np.empty((len(as_of), len(universe), len(features.names)))
    why = np.empty(x.shape[:2], np.int8)
    _fold_into(state, events, offsets, as_of, 0, x, why)
    return x, why == 0, why


def _fold_into(state: FeatureState, events: Events, offsets: NDArray, as_of: NDArray, first_symbol: int, x: NDArray, why: NDArray) -> None:
    """Rows of the state's symbols, into x and why from `first_symbol` on; events of other symbols are passed over."""
    if events.levels != state.features.levels:
        raise DataError(
            f"Events have {events.levels} book levels, the feature set {state.features.levels}.",
            hint="Merge the events to the universe's levels.",
        )
    books = [np.ascontiguousarray(getattr(events, name), EVENT_COLUMNS[name]) for name in ("bid_px", "bid_sz", "ask_px", "ask_sz")]
    order, bounds = _by_symbol(events.symbol, first_symbol, len(state.universe), int(offsets[0]), int(offsets[-1]))
    s, t, k = 0, 0, -1
    while True:
        s, t, k = _fold(
            state.memory, events.ts, events.symbol, events.kind, events.side, events.trade_px, events.trade_sz,
            *books, offsets, as_of, state.at, first_symbol, x, why, order, bounds, s, t, k,
        )  # fmt: skip
        if s == len(state.universe):
            return
        state.memory = grown(state.memory)


@kernel
def _fold(
    memory, ts, symbol, kind, side, trade_px, trade_sz, bid_px, bid_sz, ask_px, ask_sz, offsets, as_of, at, first_symbol, x, why, order,
    bounds, first, first_instant, first_event,
):  # fmt: skip
    """Symbol by symbol: a symbol's memory stays in the cache, and no feature reads another's.

    order[bounds[s] : bounds[s + 1]] are the events of symbol s, in order. Goes on from a symbol, an instant and a place in `order`;
    returns those at which a ring is full (nothing of that event is applied), or (S, 0, 0).
    """
    bid_px, bid_sz, ask_px, ask_sz, rows = int32s(bid_px), ints(bid_sz), int32s(ask_px), ints(ask_sz), floats(x)
    at = ints(at)
    for s in range(first, len(memory.symbols)):
        m, book, ring = memory.symbols[s], ints(memory.book[s]), ints(memory.ring[s])
        trades, bins, logs = ints(memory.trades[s]), ints(memory.bins[s]), floats(memory.bin_logs[s])
        moves, flows_ring = floats(memory.moves[s]), ints(memory.flows[s])
        k = first_event if s == first and first_event >= 0 else bounds[s]
        for t in range(first_instant if s == first else 0, len(as_of)):
            while k < bounds[s + 1] and order[k] < offsets[t + 1]:
                i = order[k]
                if not families.apply(
                    m, book, ring, trades, bins, logs,
                    ts[i], np.int64(kind[i]), np.int64(side[i]), trade_px[i], trade_sz[i], bid_px, bid_sz, ask_px, ask_sz, i,
                ):  # fmt: skip
                    return s, t, k
                k += 1
            why[t, first_symbol + s] = families.row(
                m, book, ring, trades, bins, logs, moves, flows_ring, as_of[t], rows[t, first_symbol + s], at
            )
    return len(memory.symbols), 0, 0


@kernel
def _by_symbol(symbol, first_symbol, n_symbols, first, last):
    """(order, bounds): the places first .. last - 1 of each symbol's events, in order, one symbol behind the other. A counting sort."""
    bounds = np.zeros(n_symbols + 1, np.int64)
    for i in range(first, last):
        s = symbol[i] - first_symbol
        if 0 <= s < n_symbols:
            bounds[s + 1] += 1
    for s in range(n_symbols):
        bounds[s + 1] += bounds[s]
    order = np.empty(bounds[n_symbols], np.int64)
    place = bounds[:-1].copy()
    for i in range(first, last):
        s = symbol[i] - first_symbol
        if 0 <= s < n_symbols:
            order[place[s]] = i
            place[s] += 1
    return order, bounds


# One event is taken in less time than letting go of the GIL and taking it again costs where somebody waits for it.
@kernel(nogil=False)
def _push(address, ts, s, kind, side, trade_px, trade_sz, book):
    table = memory_at(address)
    if s < 0 or s >= table[N_SYMBOLS] or book.shape[0] != 4 or book.shape[1] != table[N_LEVELS]:
        return REFUSED
    levels = ints(book)
    return _take(table, s, ts, kind, side, trade_px, trade_sz, levels[0:1], levels[1:2], levels[2:3], levels[3:4], 0)


@kernel
def _take(table, s, ts, kind, side, trade_px, trade_sz, bid_px, bid_sz, ask_px, ask_sz, i):
    taken = families.apply(
        symbol_of(table, s), book_of(table, s), ring_of(table, s), trades_of(table, s), bins_of(table, s), logs_of(table, s),
        ts, kind, side, trade_px, trade_sz, bid_px, bid_sz, ask_px, ask_sz, i,
    )  # fmt: skip
    return TAKEN if taken else FULL


@kernel(nogil=False)
def _push_next(address):
    """Take the next event of a replay (replay_at says what lies at the address) and return its place; STOPPED behind the last one, and
    where a ring is full (nothing of the event is applied). The place is counted here: an argument less, and nothing for Python to count.
    """
    replayed = replay_at(address)
    i = replayed[NEXT]
    if i >= replayed[END]:
        return STOPPED
    e = events_at(replayed[1])
    n = e[N_EVENTS]
    shape = (n, e[N_EVENT_LEVELS])
    said = _take(
        memory_at(replayed[0]), carray(int16s_at(e[1]), (n,))[i], carray(ints_at(e[0]), (n,))[i],
        np.int64(carray(int8s_at(e[2]), (n,))[i]), np.int64(carray(int8s_at(e[3]), (n,))[i]),
        carray(ints_at(e[4]), (n,))[i], carray(ints_at(e[5]), (n,))[i],
        carray(int32s_at(e[6]), shape), carray(ints_at(e[7]), shape), carray(int32s_at(e[8]), shape), carray(ints_at(e[9]), shape), i,
    )  # fmt: skip
    if said != TAKEN:
        return STOPPED
    replayed[NEXT] = i + 1
    return i


@kernel
def _begin(memory, s, ts):
    families.forget(memory.symbols[s], memory.ring[s], ts)


@kernel
def _rows(memory, as_of, at, x, why):
    rows, at = floats(x), ints(at)
    for s in range(len(why)):
        why[s] = families.row(
            memory.symbols[s], ints(memory.book[s]), ints(memory.ring[s]), ints(memory.trades[s]), ints(memory.bins[s]),
            floats(memory.bin_logs[s]), floats(memory.moves[s]), ints(memory.flows[s]), as_of, rows[s], at,
        )  # fmt: skip


def replay(
    state: FeatureState,
    events: Events,
    as_of: NDArray[np.int64],
    on_event: Callable[[int], object] | None = None,
    on_row: Callable[[int, NDArray[np.float64], NDArray[np.int8]], object] | None = None,
) -> None:
    """Stored events through the live state, one by one: what a strategy that reacts to events would see, in the order of the tape.

    Behind event i `on_event(i)` is called, at each instant of as_of int64[T], behind its events, `on_row(as_of, x[S, F], why[S])`; events
    behind the last instant are pushed too. Rows have the bits of `fold`. Raises DataError where events have other levels than the set.
    """
    if events.levels != state.features.levels:
        raise DataError(
            f"Events have {events.levels} book levels, the feature set {state.features.levels}.",
            hint="Merge the events to the universe's levels.",
        )
    if len(events) and not 0 <= int(events.symbol.min()) <= int(events.symbol.max()) < len(state.universe):
        raise DataError(f"Events of symbol {int(events.symbol.max())}; the universe has {len(state.universe)}.", hint="Merge its own.")
    on_event = on_event or _nothing
    table, columns = events_table(events)  # `columns` keeps alive what the table points to
    _push_next.compile((int64,))
    replayed = np.array([0, table.ctypes.data, 0, 0], np.int64)
    # Straight to the machine code: the argument is an integer, and asking for its type takes half of a push.
    push_next = partial(_push_next.get_overload((int64,)), replayed.ctypes.data)
    ends = [*step_offsets(events, as_of).tolist()[1:], len(columns[0])]
    for t, end in enumerate(ends):
        replayed[END] = end
        while replayed[NEXT] < end:
            replayed[0] = state.table_address
            # The loop is most of what a callback costs: nothing is asked and nothing is added in it.
            for i in iter(push_next, STOPPED):
                on_event(i)
            if replayed[NEXT] < end:
                state.memory = grown(state.memory)
        if t < len(as_of):
            x, why = state.row(int(as_of[t]))
            if on_row is not None:
                on_row(int(as_of[t]), x, why)


def _nothing(i: int) -> None: ...


def step_offsets(events: Events, as_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets int64[T + 1] that give each instant the events after the instant before it (the first: from the stream's start)."""
    return np.concatenate([[0], np.searchsorted(events.ts, as_of, "right")]).astype(np.int64)


def build(
    universe: Universe, features: FeatureSet, session: Session, events: Events, threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int8]]:
    """(as_of[T], offsets[T + 1], x[T, S, F], valid[T, S], why[T, S]) of one whole session.

    With several threads each takes symbols that stand side by side, about as many events as the others; the bits are the same, because no
    feature reads another symbol.
    """
    as_of = np.array(session.instants(features.clock_ns), np.int64)
    offsets = step_offsets(events, as_of)
    if threads <= 1 or len(universe) == 1:
        return as_of, offsets, *fold(start(universe, features, session), universe, features, events, offsets, as_of)
    x = np.empty((len(as_of), len(universe), len(features.names)))
    why = np.empty(x.shape[:2], np.int8)

    def some(first: int, end: int) -> None:
        state = start(Universe(universe.instruments[first:end]), features, session)
        _fold_into(state, events, offsets, as_of, first, x, why)

    groups = _shared_out(np.bincount(events.symbol, minlength=len(universe))[: len(universe)], 2 * threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, *zip(*groups, strict=True)))
    return as_of, offsets, x, why == 0, why


def _shared_out(events: NDArray[np.int64], groups: int) -> list[tuple[int, int]]:
    """(first, end) of at most `groups` stretches of symbols, whose events int64[S] are about as many in each."""
    upto = np.cumsum(events + 1)  # a symbol without events has rows too
    ends = np.unique(np.searchsorted(upto, upto[-1] * np.arange(1, groups + 1) / groups) + 1)
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
