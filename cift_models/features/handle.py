"""Arrays by their addresses: what lets one event be pushed from Python in the time that unboxing the arrays alone would take.

Numba takes 36 ns to unbox an array argument and 10 for an integer (docs/results.md), and a symbol's memory is six arrays. So a push gets
one integer, the address of a table of addresses, and views the arrays from there. Who owns a table keeps the arrays alive, and makes a
new one where one of them moves.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.events import Events
from cift_models.features.memory import RING_EXTRA, SYMBOL, Memory

N_SYMBOLS, N_LEVELS, N_RING, N_TRADES, N_BINS = range(6, 11)
"""Places in a memory's table behind the addresses of symbols, book, ring, trades, bins and bin_logs."""
N_EVENTS, N_EVENT_LEVELS = range(10, 12)
"""Places in a table of events behind the addresses of its columns (EVENT_COLUMNS)."""
NEXT, END = 2, 3
"""Places in a replay behind the addresses of its tables: the event to be taken next, and the one to stop before."""
EVENT_COLUMNS = {
    "ts": np.int64, "symbol": np.int16, "kind": np.int8, "side": np.int8, "trade_px": np.int64, "trade_sz": np.int64,
    "bid_px": np.int32, "bid_sz": np.int64, "ask_px": np.int32, "ask_sz": np.int64,
}  # fmt: skip
"""As Events has them; what is read by address must be of the very type."""


def memory_table(memory: Memory) -> NDArray[np.int64]:
    """The table of one memory; it holds good as long as its arrays live and stay where they are."""
    arrays = (memory.symbols, memory.book, memory.ring, memory.trades, memory.bins, memory.bin_logs)
    assert all(array.flags.c_contiguous for array in arrays)
    sizes = (len(memory.symbols), memory.book.shape[2], memory.ring.shape[1], memory.trades.shape[1], memory.bins.shape[1])
    return np.array([*(array.ctypes.data for array in arrays), *sizes], np.int64)


def events_table(events: Events) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """The table of a stream of events, and the arrays that it points to: keep them as long as the table."""
    columns = [np.ascontiguousarray(getattr(events, name), dtype) for name, dtype in EVENT_COLUMNS.items()]
    return np.array([*(column.ctypes.data for column in columns), len(events), events.levels], np.int64), columns


def _pointer(pointee: types.Type) -> Any:
    """An intrinsic that takes an integer for a pointer to `pointee`."""

    @intrinsic
    def pointer(typingctx, address):  # pyright: ignore
        returned = types.CPointer(pointee)

        def codegen(context, builder, signature, args):  # pyright: ignore
            return builder.inttoptr(args[0], context.get_value_type(returned))

        return returned(types.int64), codegen

    return pointer


def _only(dtype: types.Type) -> Any:
    """An intrinsic that does nothing and does not compile for an array of another type or layout: nobody would notice at run time."""

    @intrinsic
    def only(typingctx, array):  # pyright: ignore
        if not (isinstance(array, types.Array) and array.dtype == dtype and array.layout == "C"):
            raise TypingError(f"expected a C-contiguous array of {dtype}, was {array}")

        def codegen(context, builder, signature, args):  # pyright: ignore
            return context.get_dummy_value()

        return types.void(array), codegen

    return only


only_ints, only_int32s, only_floats = _only(types.int64), _only(types.int32), _only(types.float64)
symbols_at = _pointer(numba.from_dtype(SYMBOL))
ints_at = _pointer(types.int64)
int32s_at = _pointer(types.int32)
int16s_at = _pointer(types.int16)
int8s_at = _pointer(types.int8)
floats_at = _pointer(types.float64)


@kernel(inline="always")
def ints(array):
    """The same int64 array without an owner: numba counts no references to it, twice for each function that it is passed to."""
    only_ints(array)
    return carray(ints_at(array.ctypes.data), array.shape)


@kernel(inline="always")
def int32s(array):
    only_int32s(array)
    return carray(int32s_at(array.ctypes.data), array.shape)


@kernel(inline="always")
def floats(array):
    only_floats(array)
    return carray(floats_at(array.ctypes.data), array.shape)


@kernel(inline="always")
def memory_at(address):
    """The memory's table at an address."""
    return carray(ints_at(address), (11,))


@kernel(inline="always")
def replay_at(address):
    """What a replay keeps at an address: the addresses of a memory's table and of a table of events, and of the events NEXT and END."""
    return carray(ints_at(address), (4,))


@kernel(inline="always")
def events_at(address):
    """The table of events at an address."""
    return carray(ints_at(address), (12,))


@kernel(inline="always")
def symbol_of(table, s):
    return carray(symbols_at(table[0]), (table[N_SYMBOLS],))[s]


@kernel(inline="always")
def book_of(table, s):
    return carray(ints_at(table[1] + 8 * s * 4 * table[N_LEVELS]), (4, table[N_LEVELS]))


@kernel(inline="always")
def ring_of(table, s):
    width = table[N_LEVELS] + RING_EXTRA
    return carray(ints_at(table[2] + 8 * s * table[N_RING] * width), (table[N_RING], width))


@kernel(inline="always")
def trades_of(table, s):
    return carray(ints_at(table[3] + 8 * s * table[N_TRADES] * 3), (table[N_TRADES], 3))


@kernel(inline="always")
def bins_of(table, s):
    return carray(ints_at(table[4] + 8 * s * table[N_BINS] * 2), (table[N_BINS], 2))


@kernel(inline="always")
def logs_of(table, s):
    return carray(floats_at(table[5] + 8 * s * table[N_BINS]), (table[N_BINS],))
