"""What the features remember of each symbol: plain arrays that the kernels change in place, and nothing else.

One row of `symbols` is everything that is one number or a few; what grows with the market or with the feature set stands in arrays beside
it. Every array has leading axis S, so a symbol's memory is a row of each, and copies of the arrays are a copy of the state.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import InputError, StoreError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.instruments import Universe

BID_PX, BID_SZ, ASK_PX, ASK_SZ = 0, 1, 2, 3
"""Rows of `book`."""

RING_TS, RING_OFI = 0, 1
"""Columns of `ring`: the event's time, then per level the running sum of order flow imbalance; behind the levels:"""
RING_SIGNED, RING_VOLUME, RING_MID2 = 1, 2, 3
"""running signed and unsigned volume of visible trades, lots; mid in half ticks, 0 where none is known. Counted from the last level on."""
RING_EXTRA = 4

TRADE_TS, TRADE_BIN, TRADE_LOTS = 0, 1, 2
"""Columns of `trades`."""
BIN, BIN_LOTS = 0, 1
"""Columns of `bins`."""

FIRST_EVENTS, FIRST_TRADES, FIRST_BINS = 1024, 256, 64
"""Entries per symbol that rings hold at first; a ring that a window fills is doubled."""

N_HALF_LIVES = 12
N_BAR = 10
N_ACTIVITY = 2
MAX_WINDOWS = 16
"""Look-backs of one feature set, those of the moves included."""
N_GAPS = 32
"""Gaps under the inter-arrival statistics, a power of two."""

SYMBOL = np.dtype(
    [
        # what the feature set and the session ask for
        ("open", np.int64), ("span_ns", np.int64), ("clock_ns", np.int64), ("profile_ns", np.int64), ("warm_up_ns", np.int64),
        ("tick_bar", np.int64), ("z_max_lots", np.int64), ("vol_scale", np.float64), ("activity_decay", np.float64, (N_ACTIVITY,)),
        # look-backs of the flows, then of the moves; the longest; the first ring entry inside each
        ("n_windows", np.int64), ("windows_ns", np.int64, (MAX_WINDOWS,)), ("longest_ns", np.int64), ("tail", np.int64, (MAX_WINDOWS,)),
        # what the symbol is, and when its memory began: the session's open, or the resumption after a halt or a gap
        ("tick_size", np.float64), ("price_scale", np.int64), ("tick_units", np.int64), ("lot_scale", np.int64), ("volume_bar", np.int64),
        ("since", np.int64), ("halted", np.int64), ("last_ts", np.int64),
        # order flow
        ("booked", np.int64), ("pushed", np.int64), ("oldest", np.int64), ("mid", np.float64),
        # bars of the decision clock
        ("last_px", np.int64), ("bar_open", np.int64), ("bar_high", np.int64), ("bar_low", np.int64),
        ("bar_volume", np.int64), ("bar_turnover", np.int64), ("bar_trades", np.int64),
        # bars of the tick clock (0) and of the volume clock (1): the running one, and the last that closed
        ("run", np.int64, (2, N_BAR)), ("closed", np.int64, (2, N_BAR)),
        # trades under the volume profile
        ("traded", np.int64), ("trade_oldest", np.int64), ("n_bins", np.int64), ("profile_lots", np.int64),
        # exponentially weighted signed counts, as of the last signed trade
        ("count_ts", np.int64), ("counts", np.float64, (N_HALF_LIVES,)),
        # gaps between events (0) and between trades (1), in microseconds: the last time, how many, sum, sum of squares, the ring
        ("gap_ts", np.int64, (2,)), ("n_gaps", np.int64, (2,)), ("gap_sum", np.int64, (2,)), ("gap_squares", np.int64, (2,)),
        ("gaps", np.int64, (2, N_GAPS)),
        # rows of the decision clock
        ("row_mid", np.float64), ("returns", np.int64),
        ("activity_mid", np.float64), ("moved", np.float64, (N_ACTIVITY,)), ("seen", np.float64, (N_ACTIVITY,)),
        ("z_rows", np.int64), ("z_before", np.int64, (2,)), ("z_sum", np.int64, (2,)), ("z_squares", np.int64, (2,)),
    ],
    align=True,
)  # fmt: skip
"""Memory of one symbol."""


class Memory(NamedTuple):
    """State of the features of S symbols.

    symbols     SYMBOL[S]
    book        int64[S, 4, L]: the book as it stands, ticks and lots
    ring        int64[S, N, L + 4]: running sums after each event, a ring; N is a power of two
    trades      int64[S, M, 3]: trades under the volume profile, a ring
    bins        int64[S, B, 2]: its price bins and their lots, prices rising
    bin_logs    float64[S, B]: lots x log(lots) of each bin
    moves       float64[S, R]: log returns of the mid on the decision clock, bps, a ring
    flows       int64[S, Z, 2]: flows under the z-scores, lots, a ring
    """

    symbols: NDArray[Any]
    book: NDArray[np.int64]
    ring: NDArray[np.int64]
    trades: NDArray[np.int64]
    bins: NDArray[np.int64]
    bin_logs: NDArray[np.float64]
    moves: NDArray[np.float64]
    flows: NDArray[np.int64]

    def copy(self) -> Memory:
        """An independent fork."""
        return self._make(array.copy() for array in self)

    def to_bytes(self) -> bytes:
        """The memory as npz bytes (never pickle): `from_bytes` gives the same bits."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self._asdict())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Memory:
        """What `to_bytes` wrote. Raises StoreError where this version of the code remembers other things."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if set(arrays.files) != set(cls._fields) or arrays["symbols"].dtype != SYMBOL:
                raise StoreError(
                    "The stored memory of the features is of another version of the code.", hint="Fold the session from its open again."
                )
            return cls(**{name: arrays[name] for name in cls._fields})


def empty(universe: Universe, levels: int, rows: int, z_rows: int) -> Memory:
    """Memory that has seen nothing. rows: decision instants under the longest volatility; z_rows: under the z-scores."""
    n = len(universe)
    symbols = np.zeros(n, SYMBOL)
    for s, i in enumerate(universe.instruments):
        symbols[s]["tick_size"], symbols[s]["price_scale"] = i.tick_size, i.price_scale
        symbols[s]["tick_units"], symbols[s]["lot_scale"] = i.tick_units, i.lot_scale
    book = np.zeros((n, 4, levels), np.int64)
    book[:, BID_PX], book[:, ASK_PX] = EMPTY_BID, EMPTY_ASK
    return Memory(
        symbols=symbols,
        book=book,
        ring=np.zeros((n, FIRST_EVENTS, levels + RING_EXTRA), np.int64),
        trades=np.zeros((n, FIRST_TRADES, 3), np.int64),
        bins=np.zeros((n, FIRST_BINS, 2), np.int64),
        bin_logs=np.zeros((n, FIRST_BINS)),
        moves=np.zeros((n, rows)),
        flows=np.zeros((n, z_rows, 2), np.int64),
    )


def require_exact(what: str, n: int, largest: int) -> None:
    """Raise InputError unless n rows of |x| <= largest keep n * sum(x^2) below 2^62: beyond it int64 wraps without a word."""
    if n < 1 or n * n * largest * largest >= 2**62:
        raise InputError(
            f"{what} over {n:,} rows of up to {largest:,} is not exact: {n:,}^2 x {largest:,}^2 reaches 2^62.",
            hint="Choose a shorter window or a coarser unit.",
        )


def grown(memory: Memory) -> Memory:
    """The memory with the rings doubled that cannot take the next event; entries keep their place modulo the capacity."""
    n = memory.ring.shape[1]
    events = max((int(m["pushed"] - m["oldest"]) for m in memory.symbols), default=0)
    if events + 4 > n:
        memory = memory._replace(ring=_wider(memory.ring, memory.symbols["pushed"]))
    n = memory.trades.shape[1]
    if max(int(m["traded"] - m["trade_oldest"]) for m in memory.symbols) + 2 > n:
        memory = memory._replace(trades=_wider(memory.trades, memory.symbols["traded"]))
    n = memory.bins.shape[1]
    if int(memory.symbols["n_bins"].max()) + 2 > n:
        memory = memory._replace(
            bins=np.concatenate([memory.bins, np.zeros_like(memory.bins)], axis=1),
            bin_logs=np.concatenate([memory.bin_logs, np.zeros_like(memory.bin_logs)], axis=1),
        )
    return memory


def _wider(ring: NDArray[np.int64], pushed: NDArray[np.int64]) -> NDArray[np.int64]:
    old = ring.shape[1]
    wide = np.zeros((ring.shape[0], 2 * old, ring.shape[2]), np.int64)
    for s in range(ring.shape[0]):
        index = np.arange(max(0, int(pushed[s]) - old), int(pushed[s]))
        wide[s, index % (2 * old)] = ring[s, index % old]
    return wide


@kernel
def has_room(m, ring, trades, bins, ts):
    """Whether every ring of a symbol takes one more event at ts; forgets what no window reaches any more."""
    mask = ring.shape[0] - 1
    while m.oldest < m.pushed and ring[m.oldest & mask, RING_TS] <= ts - m.longest_ns:
        m.oldest += 1
    # The sums just before a window are read too; an interruption pushes an entry of its own.
    return m.pushed - m.oldest + 4 <= ring.shape[0] and m.traded - m.trade_oldest + 2 <= trades.shape[0] and m.n_bins + 2 <= bins.shape[0]
