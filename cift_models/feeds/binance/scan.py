"""The usual lines of a capture, read from their bytes in one compiled pass: no object is made for a number.

`scan` reads what Binance sends all day (depth diffs, best bid and ask, trades, as compact JSON) and stops at everything else: a line that
is written otherwise, a message that is not one of the three, a symbol that it does not know, a number off its grid. Those are read by
`message.read_line`, slowly and exactly; both give the same figures for a line that both can read (a test compares them).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

KIND, RECV, EVENT, SYMBOL, AFTER, UNTIL, FIRST, MIDDLE, END, SIDE, FINER, LINE, AT, TO = range(14)
"""Columns of a message: what it is, receive time ns, exchange time ms (0: it has none), symbol's number, id before its first change, id of
its last, its numbers [FIRST:MIDDLE] of bids and [MIDDLE:END] of asks (a trade's one is [FIRST:END]), aggressor, how many of its sizes were
finer than a lot, line, bytes [AT:TO]."""
WIDTH = 14
DEPTH, TICKER, TRADE, SNAPSHOT, NOT_A_TRADE, DAMAGED, UNKNOWN = 1, 2, 3, 4, 5, 6, 7
"""Kinds: a change to the book, best bid and ask, a trade, the whole book, a trade message that reports none (X is not MARKET, p or q is 0),
a line that cannot be read, a message of another stream. `scan` itself gives the first three."""
WHOLE, DAY, OTHER = 0, 1, 2
"""Why `scan` stopped: all lines are read; a line of the next day; a line that is not a usual one."""
SPOT, USDM, COINM = 0, 1, 2
"""Markets."""

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _SQUARE, _UNSQUARE, _LF, _AT_SIGN = (ord(c) for c in '",:{}[]\n@')
_POW10 = 10 ** np.arange(19, dtype=np.int64)
_E, _T, _S, _PS, _U, _FINAL, _PU, _B, _A, _BSZ, _ASZ, _P, _Q, _X, _M, _EV, _ID = (1 << i for i in range(17))
_ARRAY_B, _ARRAY_A = 1 << 17, 1 << 18
_DEPTH_UPDATE, _BOOK_TICKER, _TRADE, _MARKET, _TRUE, _FALSE, _WRAPPED, _DATA, _MS = (
    np.frombuffer(word, np.uint8)
    for word in (b"depthUpdate", b"bookTicker", b"trade", b"MARKET", b"true", b"false", b'{"stream":"', b'","data":{', b"ms")
)
_IS_DEPTH = _S | _EV | _E | _U | _FINAL | _B | _A | _ARRAY_B | _ARRAY_A
_IS_TICKER = _S | _FINAL | _B | _BSZ | _A | _ASZ
_IS_TRADE = _S | _EV | _E | _T | _P | _Q | _M


@njit(cache=True, nogil=True)
def _number(buf, i, digits):
    """(value, next place) of a JSON integer of at most so many digits (19 may wrap around); next place -1 where there is none."""
    start = i
    value = 0
    digit = np.int64(buf[i]) - 48
    while 0 <= digit <= 9:
        value = value * 10 + digit
        i += 1
        digit = np.int64(buf[i]) - 48
    if i == start or i - start > digits or (buf[start] == 48 and i - start > 1):
        return 0, -1
    return value, i


@njit(cache=True, nogil=True)
def _decimal(buf, i, places):
    """(value x 10**places, place behind the closing quote, whether digits were cut) of a decimal whose text begins at i.

    The place is -1 where it is no such number.
    """
    start = i
    value = 0
    digit = np.int64(buf[i]) - 48
    while 0 <= digit <= 9:
        value = value * 10 + digit
        i += 1
        digit = np.int64(buf[i]) - 48
    whole = i - start
    if whole == 0 or whole + places > 18:
        return 0, -1, False
    left = places
    cut = False
    if digit == -2:
        i += 1
        fraction = i
        digit = np.int64(buf[i]) - 48
        while left > 0 and 0 <= digit <= 9:
            value = value * 10 + digit
            left -= 1
            i += 1
            digit = np.int64(buf[i]) - 48
        while 0 <= digit <= 9:
            cut |= digit > 0
            i += 1
            digit = np.int64(buf[i]) - 48
        if i == fraction:
            return 0, -1, False
    if buf[i] != _QUOTE:
        return 0, -1, False
    return value * _POW10[left], i + 1, cut


@njit(cache=True, nogil=True)
def _text(buf, i):
    """Place of the quote that closes a string of plain ASCII, whose text begins at i; -1 where it holds anything else."""
    while buf[i] != _QUOTE:
        if buf[i] < 32 or buf[i] > 126 or buf[i] == 92:
            return -1
        i += 1
    return i


@njit(cache=True, nogil=True)
def _is(buf, i, to, word):
    """Whether the bytes [i:to] are a word."""
    if to - i != len(word):
        return False
    for k in range(len(word)):
        if buf[i + k] != word[k]:
            return False
    return True


@njit(cache=True, nogil=True)
def _levels(buf, i, grid, px, sz, m):
    """Read an array of [price, size] from behind its bracket into px, sz from m on.

    Returns (place behind it, m, how many sizes were finer than a lot); the place is -1 where it is not such an array.
    """
    finer = 0
    if buf[i] == _UNSQUARE:
        return i + 1, m, finer
    price_places, tick, lot_places = grid[0], grid[1], grid[2]
    while True:
        if m >= len(px) or buf[i] != _SQUARE or buf[i + 1] != _QUOTE:
            return -1, m, finer
        value, i, between = _decimal(buf, i + 2, price_places)
        if i < 0 or between or buf[i] != _COMMA or buf[i + 1] != _QUOTE:
            return -1, m, finer
        if tick != 1:
            if value % tick:
                return -1, m, finer
            value //= tick
        lots, i, cut = _decimal(buf, i + 2, lot_places)
        if i < 0 or value > 2147483646 or buf[i] != _UNSQUARE:
            return -1, m, finer
        px[m], sz[m] = value, lots
        finer += cut
        m += 1
        i += 2
        if buf[i - 1] == _UNSQUARE:
            return i, m, finer
        if buf[i - 1] != _COMMA:
            return -1, m, finer


@njit(cache=True, nogil=True)
def _members(buf, i, names, name_to, grid, out, px, sz, m):
    """Read the members of an object from behind its brace. Returns (place behind its closing brace, which members it has, m).

    Numbers go to out and px, sz; place -1 where the object is not a usual one.
    """
    seen = 0
    symbol = -1
    while True:
        if buf[i] != _QUOTE:
            return -1, seen, m
        key_at = i + 1
        key_to = _text(buf, key_at)
        if key_to < 0 or buf[key_to + 1] != _COLON:
            return -1, seen, m
        i = key_to + 2
        length = key_to - key_at
        if length > 2:  # the long names are those of a snapshot or a wrapper
            return -1, seen, m
        c = buf[key_at] if length == 1 else np.uint8(0)
        value = buf[i]
        bit = 0
        if length == 1 and (c == 69 or c == 84 or c == 85 or c == 117 or c == 116):  # E T U u t
            number, i = _number(buf, i, 18)
            if i < 0:
                return -1, seen, m
            if c == 84:
                bit = _T
                out[EVENT] = number
            elif c == 69:
                bit = _E
                if not seen & _T:
                    out[EVENT] = number
            elif c == 85:
                bit = _U
                if not seen & _PU:
                    out[AFTER] = number - 1
            elif c == 117:
                bit = _FINAL
                out[UNTIL] = number
            else:
                bit = _ID
        elif length == 2 and buf[key_at] == 112 and buf[key_at + 1] == 117:  # pu
            out[AFTER], i = _number(buf, i, 18)
            if i < 0:
                return -1, seen, m
            bit = _PU
        elif value == _SQUARE:
            if symbol < 0 or length != 1:
                return -1, seen, m
            if c == 98:  # b
                bit = _B | _ARRAY_B
                if seen & _A:
                    return -1, seen, m
                out[FIRST] = m
                i, m, finer = _levels(buf, i + 1, grid[symbol], px, sz, m)
                out[FINER] += finer
                out[MIDDLE] = m
            elif c == 97:  # a
                bit = _A | _ARRAY_A
                i, m, finer = _levels(buf, i + 1, grid[symbol], px, sz, m)
                out[FINER] += finer
                out[END] = m
            else:
                return -1, seen, m
            if i < 0:
                return -1, seen, m
        elif value == _QUOTE and length == 1 and (c == 98 or c == 66 or c == 97 or c == 65 or c == 112 or c == 113):  # b B a A p q
            if symbol < 0:
                return -1, seen, m
            lots = c == 66 or c == 65 or c == 113
            number, i, cut = _decimal(buf, i + 1, grid[symbol, 2] if lots else grid[symbol, 0])
            if i < 0 or (cut and not lots):
                return -1, seen, m
            out[FINER] += cut
            if c == 98 or c == 97:
                if number % grid[symbol, 1]:
                    return -1, seen, m
                number //= grid[symbol, 1]
                if number > 2147483646:
                    return -1, seen, m
            at = m + 1 if c == 97 or c == 65 else m
            if lots:
                sz[at] = number
            else:
                px[at] = number
            bit = _B if c == 98 else _BSZ if c == 66 else _A if c == 97 else _ASZ if c == 65 else _P if c == 112 else _Q
        elif value == _QUOTE:
            to = _text(buf, i + 1)
            if to < 0:
                return -1, seen, m
            if length == 1 and c == 115:  # s
                bit = _S
                for k in range(len(name_to)):
                    if _is(buf, i + 1, to, names[k, : name_to[k]]):
                        symbol = k
                        break
                if symbol < 0:
                    return -1, seen, m
                out[SYMBOL] = symbol
            elif length == 1 and c == 101:  # e
                bit = _EV
                if _is(buf, i + 1, to, _DEPTH_UPDATE):
                    out[KIND] = DEPTH
                elif _is(buf, i + 1, to, _BOOK_TICKER):
                    out[KIND] = TICKER
                elif _is(buf, i + 1, to, _TRADE):
                    out[KIND] = TRADE
                else:
                    return -1, seen, m
            elif length == 1 and c == 88:  # X
                bit = _X
                if not _is(buf, i + 1, to, _MARKET):
                    return -1, seen, m
            elif length == 2 and buf[key_at] == 112 and buf[key_at + 1] == 115:
                bit = _PS
            i = to + 1
        elif value == 116 and _is(buf, i, i + 4, _TRUE) or value == 102 and _is(buf, i, i + 5, _FALSE):
            if length == 1 and c == 109:  # m
                bit = _M
                out[SIDE] = -1 if value == 116 else 1
            i += 4 if value == 116 else 5
        else:
            number, i = _number(buf, i, 18)
            if i < 0:
                return -1, seen, m
        if seen & bit:
            return -1, seen, m
        seen |= bit
        if buf[i] == _CLOSE:
            return i + 1, seen, m
        if buf[i] != _COMMA:
            return -1, seen, m
        i += 1


@njit(cache=True, nogil=True)
def _stream(buf, i):
    """(kind, place behind the opening brace of the data) of a combined stream whose name begins at i; kind 0 where it is another stream."""
    start = i
    while buf[i] != _AT_SIGN:
        if buf[i] < 33 or buf[i] > 126 or buf[i] == _QUOTE or buf[i] == 92:
            return 0, i
        i += 1
    i += 1
    to = _text(buf, i)
    if to < 0 or i == start + 1:
        return 0, i
    kind = 0
    if _is(buf, i, to, _TRADE):
        kind = TRADE
    elif _is(buf, i, to, _BOOK_TICKER):
        kind = TICKER
    elif _is(buf, i, min(to, i + 5), _DEPTH_UPDATE[:5]):
        # depth5, depth10 and depth20 are the best levels only: never a change to the whole book.
        kind = DEPTH
        if to > i + 5:
            _, behind = _number(buf, i + 6, 18)
            if buf[i + 5] != _AT_SIGN or behind < 0 or not _is(buf, behind, to, _MS):
                kind = 0
    if not _is(buf, to, to + len(_DATA), _DATA):
        kind = 0
    return kind, to + len(_DATA)


@njit(cache=True, nogil=True)
def _fits(market, kind, seen):
    """Whether a message has what its kind and market need, and nothing that another market sends."""
    if (seen & _PS > 0) != (market == COINM and kind != TRADE):
        return False
    futures = market != SPOT
    if kind == DEPTH:
        needs, never = _IS_DEPTH, _BSZ | _ASZ | _P | _Q
        return seen & needs == needs and not seen & never and (seen & _PU > 0) == futures and (seen & _T > 0) == futures
    if kind == TICKER:
        needs, never = _IS_TICKER, _ARRAY_A | _ARRAY_B | _P | _Q
        return seen & needs == needs and not seen & never and (seen & _T > 0) == futures
    needs, never = _IS_TRADE, _A | _B | _ASZ | _BSZ
    return kind == TRADE and seen & needs == needs and not seen & never and (seen & _X > 0) == futures


@njit(cache=True, nogil=True)
def scan(
    buf: NDArray[np.uint8],
    at: int,
    line: int,
    market: int,
    names: NDArray[np.uint8],
    name_to: NDArray[np.int64],
    grid: NDArray[np.int64],
    unit: int,
    recv_from: int,
    recv_to: int,
    day_end: int,
    messages: NDArray[np.int64],
    n: int,
    px: NDArray[np.int64],
    sz: NDArray[np.int64],
    m: int,
) -> tuple[int, int, int, int, int]:
    """Read usual lines from byte `at` on. Returns (why it stopped, place of the line not read, its number, messages, numbers).

    buf        whole lines, the last byte is a line feed
    line       number of the line at `at`
    names      known symbols as bytes [S, width], name_to their lengths, grid [S, 3]: decimal places of a price, price units in a tick,
               decimal places of a size
    unit       ns in a unit of the receive time, which must be in recv_from .. recv_to - 1; day_end: the first ns of the next day
    messages   rows n.. are written, one a line; px, sz from m on: ticks (a trade's price: price units) and lots
    """
    end = len(buf)
    while at < end:
        recv, i = _number(buf, at, 19)
        if i < 0 or recv < recv_from or recv >= recv_to or buf[i] != 32 or buf[i + 1] != _OPEN:
            return OTHER, at, line, n, m
        if recv * unit >= day_end:
            return DAY, at, line, n, m
        out = messages[n]
        out[KIND], out[EVENT], out[FINER] = 0, 0, 0
        kind = 0
        wrapped = _is(buf, i + 1, i + 1 + len(_WRAPPED), _WRAPPED)
        if wrapped:
            kind, i = _stream(buf, i + 1 + len(_WRAPPED))
            if kind == 0:
                return OTHER, at, line, n, m
        else:
            i += 2
        i, seen, behind = _members(buf, i, names, name_to, grid, out, px, sz, m)
        if i >= 0 and wrapped:
            i = i + 1 if buf[i] == _CLOSE else -1
        if i < 0 or buf[i] != _LF:
            return OTHER, at, line, n, m
        if not seen & _EV and not wrapped:
            kind = TICKER
        elif seen & _EV:
            if wrapped and kind != out[KIND]:
                return OTHER, at, line, n, m
            kind = out[KIND]
        if not _fits(market, kind, seen):
            return OTHER, at, line, n, m
        if kind == DEPTH:
            if out[UNTIL] < out[AFTER]:
                return OTHER, at, line, n, m
            m = behind
        elif kind == TICKER:
            out[FIRST], out[MIDDLE], out[END] = m, m + 1, m + 2
            m += 2
        else:
            if px[m] == 0 or sz[m] == 0:
                return OTHER, at, line, n, m
            out[FIRST], out[MIDDLE], out[END] = m, m + 1, m + 1
            m += 1
        out[KIND], out[RECV], out[LINE], out[AT], out[TO] = kind, recv * unit, line, at, i
        n += 1
        line += 1
        at = i + 1
    return WHOLE, at, line, n, m
