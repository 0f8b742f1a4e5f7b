"""The usual lines of a capture, read from their bytes in one compiled pass: no object is made for a number.

`scan` reads what Binance sends all day (depth diffs, best bid and ask, trades, as compact JSON) and stops at everything else: a line that
is written otherwise, a message that is not one of the three, a symbol that it does not know, a price off its grid. Those are read by
`message.read_line`, slowly and exactly; both say the same of a line that both can read (a test compares them, on damaged lines too).

Nothing is read behind the buffer: its last byte is a line feed, which no loop passes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel

KIND, RECV, EVENT, SYMBOL, AFTER, UNTIL, FIRST, MIDDLE, END, SIDE, FINER, LINE, AT, TO = range(14)
"""Columns of a message: what it is, receive time ns, exchange time ms (0: it has none), symbol's number, id before its first change, id of
its last, its numbers [FIRST:MIDDLE] of bids and [MIDDLE:END] of asks (a trade's one is [FIRST:END]), aggressor, how many of its sizes were
finer than a lot, line, bytes [AT:TO]."""
WIDTH = 14
DEPTH, TICKER, TRADE, SNAPSHOT, NOT_A_TRADE, DAMAGED, UNKNOWN = 1, 2, 3, 4, 5, 6, 7
"""Kinds: a change to the book, best bid and ask, a trade, the whole book, a trade message that reports none (X is not MARKET, p or q is 0),
a line that cannot be read, a message of another stream. `scan` itself gives the first three."""
WHOLE, FULL, DAY, OTHER = 0, 1, 2, 3
"""Why `scan` stopped: all lines are read; no room for another message; a line of the next day; a line that is not a usual one."""
SPOT, USDM, COINM = 0, 1, 2
"""Markets."""
MAX_TICKS = 2**31 - 2
"""Highest price of a book: events.EMPTY_ASK is the next."""


def _word(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _key(text: str) -> int:
    """A name of one or two letters as `_members` forms it."""
    return int.from_bytes(text.encode(), "big")


_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _SQUARE, _UNSQUARE, _LF, _AT_SIGN, _BLANK, _POINT, _BACKSLASH, _TILDE, _ZERO, _NINE, _t, _f = (
    ord(c) for c in '",:{}[]\n@ .\\~09tf'
)
_DEPTH_UPDATE, _BOOK_TICKER, _TRADE, _MARKET, _TRUE, _FALSE, _DEPTH, _MS = (
    _word(text) for text in ("depthUpdate", "bookTicker", "trade", "MARKET", "true", "false", "depth", "ms")
)
_WRAPPED, _DATA = _word('{"stream":"'), _word('","data":{')
_EVENT, _SENT, _TRADED, _SYMBOL, _PAIR, _BEGINS, _ENDS, _BEFORE, _BID, _BID_SIZE, _ASK, _ASK_SIZE, _PRICE, _SIZE, _SORT, _MAKER = (
    _key(text) for text in ("e", "E", "T", "s", "ps", "U", "u", "pu", "b", "B", "a", "A", "p", "q", "X", "m")
)
(
    _HAS_EVENT, _HAS_SENT, _HAS_TRADED, _HAS_SYMBOL, _HAS_PAIR, _HAS_BEGINS, _HAS_ENDS, _HAS_BEFORE, _HAS_BIDS, _HAS_ASKS, _HAS_BID,
    _HAS_BID_SIZE, _HAS_ASK, _HAS_ASK_SIZE, _HAS_PRICE, _HAS_SIZE, _HAS_SORT, _HAS_MAKER, _HAS_BUYER, _HAS_SELLER,
) = (1 << i for i in range(20))  # fmt: skip
_IS_DEPTH = _HAS_SYMBOL | _HAS_EVENT | _HAS_SENT | _HAS_BEGINS | _HAS_ENDS | _HAS_BIDS | _HAS_ASKS
_IS_TICKER = _HAS_SYMBOL | _HAS_ENDS | _HAS_BID | _HAS_BID_SIZE | _HAS_ASK | _HAS_ASK_SIZE
_IS_TRADE = _HAS_SYMBOL | _HAS_EVENT | _HAS_SENT | _HAS_TRADED | _HAS_PRICE | _HAS_SIZE | _HAS_MAKER
_NUMBERS = _HAS_BIDS | _HAS_ASKS | _HAS_BID | _HAS_BID_SIZE | _HAS_ASK | _HAS_ASK_SIZE | _HAS_PRICE | _HAS_SIZE
_ORDERS = _HAS_BUYER | _HAS_SELLER
"""b and a as numbers: the orders of a trade, which spot named until 2023."""
_OURS = np.array(
    [_EVENT, _SENT, _TRADED, _SYMBOL, _PAIR, _BEGINS, _ENDS, _BEFORE, _BID, _BID_SIZE, _ASK, _ASK_SIZE, _PRICE, _SIZE, _SORT, _MAKER]
)
_POW10 = 10 ** np.arange(19, dtype=np.int64)


@kernel
def _number(buf, i, digits):
    """(value, next place) of a JSON integer of at most so many digits (19 may wrap around); next place -1 where there is none."""
    start = i
    value = 0
    digit = np.int64(buf[i]) - _ZERO
    while 0 <= digit <= 9:
        value = value * 10 + digit
        i += 1
        digit = np.int64(buf[i]) - _ZERO
    if i == start or i - start > digits or (buf[start] == _ZERO and i - start > 1):
        return 0, -1
    return value, i


@kernel
def _decimal(buf, i, places):
    """(value x 10**places, place behind the closing quote, whether digits were cut) of a decimal whose text begins at i.

    The place is -1 where it is no such number.
    """
    start = i
    value = 0
    digit = np.int64(buf[i]) - _ZERO
    while 0 <= digit <= 9:
        value = value * 10 + digit
        i += 1
        digit = np.int64(buf[i]) - _ZERO
    whole = i - start
    if whole == 0 or whole + places > 18:
        return 0, -1, False
    left = places
    cut = False
    if digit == _POINT - _ZERO:
        i += 1
        fraction = i
        digit = np.int64(buf[i]) - _ZERO
        while left > 0 and 0 <= digit <= 9:
            value = value * 10 + digit
            left -= 1
            i += 1
            digit = np.int64(buf[i]) - _ZERO
        while 0 <= digit <= 9:
            cut |= digit > 0
            i += 1
            digit = np.int64(buf[i]) - _ZERO
        if i == fraction:
            return 0, -1, False
    if buf[i] != _QUOTE:
        return 0, -1, False
    return value * _POW10[left], i + 1, cut


@kernel
def _text(buf, i):
    """Place of the quote that closes a string of plain ASCII, whose text begins at i; -1 where it holds anything else."""
    while buf[i] != _QUOTE:
        if buf[i] < _BLANK or buf[i] > _TILDE or buf[i] == _BACKSLASH:
            return -1
        i += 1
    return i


@kernel
def _is(buf, i, to, word):
    """Whether the bytes [i:to] are a word."""
    if to - i != len(word):
        return False
    for k in range(len(word)):  # noqa: SIM110 - a generator is nothing for the compiler
        if buf[i + k] != word[k]:
            return False
    return True


@kernel
def levels(
    buf: NDArray[np.uint8], i: int, grid: NDArray[np.int64], px: NDArray[np.int64], sz: NDArray[np.int64], m: int
) -> tuple[int, int, int]:
    """Read [["price","size"], ...] from behind its first bracket at i into px (ticks) and sz (lots) from m on.

    Returns (place behind it, m then, how many sizes were finer than a lot); the place is -1 where it is not such an array on `grid`.
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
        if i < 0 or value > MAX_TICKS or buf[i] != _UNSQUARE:
            return -1, m, finer
        px[m], sz[m] = value, lots
        finer += int(cut)
        m += 1
        i += 2
        if buf[i - 1] == _UNSQUARE:
            return i, m, finer
        if buf[i - 1] != _COMMA:
            return -1, m, finer


@kernel
def _is_ours(key):
    """Whether a name means something to us: then a value of another type than ours is not for us to pass over."""
    ours = False
    for k in range(len(_OURS)):
        ours |= _OURS[k] == key
    return ours


@kernel
def _members(buf, i, names, name_to, grid, out, px, sz, m):
    """Read the members of a message from behind its brace; figures go to `out` and px, sz.

    Returns (place behind its closing brace, which members it has, m); the place is -1 where it is not a usual message.
    """
    seen = 0
    symbol = -1
    while True:
        if buf[i] != _QUOTE:
            return -1, seen, m
        key_at = i + 1
        key_to = _text(buf, key_at)
        # The names of ours have one letter or two; the longer ones are those of a snapshot or a wrapper.
        if key_to < 0 or key_to - key_at < 1 or key_to - key_at > 2 or buf[key_to + 1] != _COLON:
            return -1, seen, m
        key = np.int64(buf[key_at])
        if key_to - key_at == 2:
            key = key << 8 | np.int64(buf[key_at + 1])
        i = key_to + 2
        value = buf[i]
        has = 0
        if _ZERO <= value <= _NINE:
            number, i = _number(buf, i, 18)
            if i < 0:
                return -1, seen, m
            if key == _TRADED:
                has = _HAS_TRADED
                out[EVENT] = number
            elif key == _SENT:
                has = _HAS_SENT
                if not seen & _HAS_TRADED:
                    out[EVENT] = number
            elif key == _BEFORE:
                has = _HAS_BEFORE
                out[AFTER] = number
            elif key == _BEGINS:
                has = _HAS_BEGINS
                if not seen & _HAS_BEFORE:
                    out[AFTER] = number - 1
            elif key == _ENDS:
                has = _HAS_ENDS
                out[UNTIL] = number
            elif key == _BID:
                has = _HAS_BUYER
            elif key == _ASK:
                has = _HAS_SELLER
            elif _is_ours(key):
                return -1, seen, m
        elif value == _QUOTE and key == _SYMBOL:
            has = _HAS_SYMBOL
            to = _text(buf, i + 1)
            for k in range(len(name_to)):
                if to > 0 and _is(buf, i + 1, to, names[k, : name_to[k]]):
                    symbol = k
                    break
            if symbol < 0:
                return -1, seen, m
            out[SYMBOL] = symbol
            i = to + 1
        elif value == _QUOTE and key == _EVENT:
            has = _HAS_EVENT
            to = _text(buf, i + 1)
            if to < 0:
                return -1, seen, m
            if _is(buf, i + 1, to, _DEPTH_UPDATE):
                out[KIND] = DEPTH
            elif _is(buf, i + 1, to, _BOOK_TICKER):
                out[KIND] = TICKER
            elif _is(buf, i + 1, to, _TRADE):
                out[KIND] = TRADE
            else:
                return -1, seen, m
            i = to + 1
        elif value == _QUOTE:
            place, is_size = m, False
            if key == _BID:
                has = _HAS_BID
            elif key == _BID_SIZE:
                has, is_size = _HAS_BID_SIZE, True
            elif key == _ASK:
                has, place = _HAS_ASK, m + 1
            elif key == _ASK_SIZE:
                has, place, is_size = _HAS_ASK_SIZE, m + 1, True
            elif key == _PRICE:
                has = _HAS_PRICE
            elif key == _SIZE:
                has, is_size = _HAS_SIZE, True
            if has:
                if symbol < 0 or seen & (_HAS_BIDS | _HAS_ASKS):
                    return -1, seen, m
                number, i, cut = _decimal(buf, i + 1, grid[symbol, 2] if is_size else grid[symbol, 0])
                if i < 0 or (cut and not is_size):
                    return -1, seen, m
                if is_size:
                    sz[place] = number
                    out[FINER] += int(cut)
                elif key == _PRICE:
                    px[place] = number
                else:
                    if number % grid[symbol, 1] or number // grid[symbol, 1] > MAX_TICKS:
                        return -1, seen, m
                    px[place] = number // grid[symbol, 1]
            else:
                to = _text(buf, i + 1)
                if to < 0:
                    return -1, seen, m
                if key == _PAIR:
                    has = _HAS_PAIR
                elif key == _SORT and _is(buf, i + 1, to, _MARKET):
                    has = _HAS_SORT
                elif _is_ours(key):
                    return -1, seen, m
                i = to + 1
        elif value == _SQUARE:
            if symbol < 0 or (key == _BID and seen & _HAS_ASKS):
                return -1, seen, m
            begin = m
            i, m, finer = levels(buf, i + 1, grid[symbol], px, sz, m)
            if i < 0:
                return -1, seen, m
            out[FINER] += finer
            if key == _BID:
                has = _HAS_BIDS
                out[FIRST], out[MIDDLE] = begin, m
            elif key == _ASK:
                has = _HAS_ASKS
                out[END] = m
            else:
                return -1, seen, m
        elif (value == _t and _is(buf, i, i + 4, _TRUE)) or (value == _f and _is(buf, i, i + 5, _FALSE)):
            if key == _MAKER:
                has = _HAS_MAKER
                out[SIDE] = -1 if value == _t else 1
            elif _is_ours(key):
                return -1, seen, m
            i += 4 if value == _t else 5
        else:
            return -1, seen, m
        if seen & has:
            return -1, seen, m
        seen |= has
        if buf[i] == _CLOSE:
            return i + 1, seen, m
        if buf[i] != _COMMA:
            return -1, seen, m
        i += 1


@kernel
def _stream(buf, i):
    """(kind, place behind the brace of the data) of a combined stream whose name begins at i; kind 0 where it is none of ours."""
    start = i
    while buf[i] != _AT_SIGN:
        if buf[i] <= _BLANK or buf[i] > _TILDE or buf[i] == _QUOTE or buf[i] == _BACKSLASH:
            return 0, i
        i += 1
    behind = i + 1
    to = _text(buf, behind)
    if to < 0 or i == start:
        return 0, i
    kind = 0
    if _is(buf, behind, to, _TRADE):
        kind = TRADE
    elif _is(buf, behind, to, _BOOK_TICKER):
        kind = TICKER
    elif _is(buf, behind, min(to, behind + len(_DEPTH)), _DEPTH):
        # depth@100ms; never depth20@100ms, which says the best levels only.
        i = behind + len(_DEPTH)
        kind = DEPTH
        if i < to:
            _, digits_to = _number(buf, i + 1, 18)
            if buf[i] != _AT_SIGN or digits_to < 0 or not _is(buf, digits_to, to, _MS):
                kind = 0
    if not _is(buf, to, to + len(_DATA), _DATA):
        kind = 0
    return kind, to + len(_DATA)


@kernel
def _fits(market, kind, seen):
    """Whether a message has what its kind and market need, and nothing that another kind or market has."""
    futures = market != SPOT
    if (seen & _HAS_PAIR > 0) != (market == COINM and kind != TRADE):
        return False
    if kind == DEPTH:
        needs, futures_need = _IS_DEPTH, _HAS_BEFORE | _HAS_TRADED
    elif kind == TICKER:
        needs, futures_need = _IS_TICKER, _HAS_TRADED
    elif kind == TRADE:
        needs, futures_need = _IS_TRADE, _HAS_SORT
    else:
        return False
    if seen & _ORDERS and kind != TRADE:
        return False
    return seen & (needs | _NUMBERS) == needs and seen & futures_need == (futures_need if futures else 0)


@kernel
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
        if n >= len(messages):
            return FULL, at, line, n, m
        recv, i = _number(buf, at, 19)
        if i < 0 or recv < recv_from or recv >= recv_to or buf[i] != _BLANK or buf[i + 1] != _OPEN:
            return OTHER, at, line, n, m
        if recv * unit >= day_end:
            return DAY, at, line, n, m
        out = messages[n]
        out[KIND], out[EVENT], out[FINER] = 0, 0, 0
        i += 1
        kind = 0
        wrapped = _is(buf, i, i + len(_WRAPPED), _WRAPPED)
        if wrapped:
            kind, i = _stream(buf, i + len(_WRAPPED))
            if kind == 0:
                return OTHER, at, line, n, m
        else:
            i += 1
        i, seen, behind = _members(buf, i, names, name_to, grid, out, px, sz, m)
        if i >= 0 and wrapped:
            i = i + 1 if buf[i] == _CLOSE else -1
        if i < 0 or buf[i] != _LF:
            return OTHER, at, line, n, m
        if seen & _HAS_EVENT:
            if wrapped and kind != out[KIND]:
                return OTHER, at, line, n, m
            kind = out[KIND]
        elif not wrapped:
            kind = TICKER  # of spot, which does not say so
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
