"""A capture file: its bytes in pieces, and what its name and first lines say."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cift_models.errors import FeedError
from cift_models.feeds.binance.listing import MARKETS
from cift_models.feeds.binance.message import EXPECTED, Damaged, OtherMarket, first_time, read_line

NAME = re.compile(r"(?:(spot|usdm|um|coinm|cm)_)?(?P<symbol>[a-z0-9_\-.]+?)_\d{8}(?:\..*)?", re.IGNORECASE)
"""spot_btcusdt_20240808.gz, or btcusdt_20220811.dat of the recorder that did not say the market."""
PREFIXES = {"spot": "spot", "usdm": "usdm", "um": "usdm", "coinm": "coinm", "cm": "coinm"}
PIECE = 8 << 20
"""Bytes that are read at once: enough to make the cost of a push vanish, few enough to stay in a cache while they are read again."""
_LOOK = 1 << 20
"""Bytes in which a message must name a symbol."""


class Capture(NamedTuple):
    """What a file is: its market, the symbol of the first message that names one, as sent, and when its first line was received, ns."""

    market: str
    symbol: str
    begins: int


def pieces(path: Path, size: int = PIECE) -> Iterator[tuple[bytes, float]]:
    """Yield (bytes, share of the file read), gzip or plain. Raises FeedError where it cannot be read, or is cut or damaged."""
    try:
        whole = max(1, path.stat().st_size)
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            while piece := file.read(size):
                yield piece, min(1.0, raw.tell() / whole)
    except EOFError as error:
        raise FeedError(
            f"{path.name} is cut: the gzip stream has no end.",
            hint="Copy it again; or, if the recorder was killed, unpack what is there (zcat) and pass that: a plain file is read too.",
            path=path,
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FeedError(f"{path.name} is damaged: {error}.", hint="Copy it again.", path=path) from error
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}.", hint="Expected a readable capture, gzip or plain.", path=path) from error


def look(path: Path, market: str | None) -> Capture:
    """What a file is, from its name, `market` (which wins) and its first lines. Raises FeedError."""
    name = NAME.fullmatch(path.name)
    said = market or (PREFIXES[name[1].lower()] if name and name[1] else "")
    if said not in MARKETS:
        what = f"the market {market!r}" if market else f"the market of {path.name}"
        raise FeedError(
            f"{what} is not known.",
            hint=f"Pass market={'|'.join(MARKETS)}, or name the file spot_..., usdm_... or cm_...: spot and USD-M send the same symbols.",
            path=path,
        )
    piece, _ = next(pieces(path, _LOOK), (b"", 1.0))
    lines = piece.split(b"\n")
    try:
        _, begins = first_time(lines[0])
    except Damaged as error:
        raise FeedError(f"{path.name} is no capture: {error if piece else 'it is empty'}.", hint=EXPECTED, path=path) from error
    for line in lines[:-1] or lines:
        try:
            if symbol := read_line(line, MARKETS.index(said)).symbol:
                return Capture(said, symbol, begins)
        except Damaged:
            continue
        except OtherMarket as error:
            raise FeedError(
                f"{path.name} holds messages that {error} sends; it was said to be {said}.",
                hint="Pass the market that was recorded (market=spot|usdm|coinm).",
                path=path,
            ) from error
    raise FeedError(
        f"{path.name}: none of its first lines is a depth, best bid and ask or trade message of Binance.",
        hint="Expected a capture of the streams @depth, @bookTicker and @trade.",
        path=path,
    )
