"""What canonical files do not say of a symbol: `instruments.csv` (or `.json`, a list of objects with the same names) beside them.

    symbol,tick_size,lot_size,unit,fee_bps,calendar,levels
    AAPL,0.01,1,shares,0,us_equity,10

tick_size    smallest step of a quoted price, quote currency
lot_size     smallest step of a size: 1, 0.1, 0.01, ...
unit         what a size counts: shares, coins, contracts
fee_bps      fee of taking
calendar     regular hours (instruments.CALENDARS)
levels       levels of the book's files; 1 where there is none
price_scale  optional, a power of ten: a trade price is a whole number of 1 / price_scale (default: as fine as the tick needs). Give it
             where trades lie between ticks
trade_side   optional: `sent` (default) or `inferred`, where the feed does not say which side took
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from cift_models.errors import FeedError, InputError
from cift_models.files import write_atomic
from cift_models.instruments import CALENDARS, INFERRED, SENT, Instrument

NAMES = ("instruments.csv", "instruments.json")
"""Names under which the file is looked for."""
REQUIRED = ("symbol", "tick_size", "lot_size", "unit", "fee_bps", "calendar", "levels")
OPTIONAL = ("price_scale", "trade_side")
MOST_SCALE = 10**12
"""Greatest price and lot scale."""


def read_instruments(path: Path) -> dict[str, Instrument]:
    """Instruments by symbol. Raises FeedError, which names the row and the column."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text), strict=True))
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}.", hint=_how(REQUIRED, None), path=path) from error
    except (ValueError, csv.Error) as error:
        raise FeedError(f"{path.name} cannot be read: {error}.", hint=_how(REQUIRED, None), path=path) from error
    out: dict[str, Instrument] = {}
    for number, row in enumerate(rows, 1):
        one = _instrument(path, number, row)
        if one.symbol in out:
            raise FeedError(f"{path.name}, row {number}: {one.symbol} stands there twice.", hint="Keep one row a symbol.", path=path)
        out[one.symbol] = one
    return out


def find_instrument(symbol: str, folder: Path, path: Path | None = None, levels: int = 1) -> Instrument:
    """The instrument of a symbol out of `path`, or of the file beside the data. `levels` is what a missing row is advised to say.

    Raises FeedError that shows the line to write.
    """
    where = path or next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if where is None:
        raise FeedError(
            f"{folder / NAMES[0]} is missing: nothing says what {symbol} is.",
            hint=f"Write it, with two lines:\n{','.join(REQUIRED)}\n{_line(symbol, levels)}",
            path=folder / NAMES[0],
        )
    known = read_instruments(Path(where))
    if symbol not in known:
        raise FeedError(
            f"{Path(where).name} has no {symbol}; it has {', '.join(sorted(known)[:8]) or 'no row'}.",
            hint=_how(REQUIRED, symbol, levels),
            path=where,
        )
    return known[symbol]


def write_instrument(folder: Path, instrument: Instrument) -> Path:
    """Add an instrument to the folder's instruments.csv, in the place of what stood there of its symbol. Returns the file.

    Raises InputError for an instrument that the file cannot say (a scale that is no power of ten).
    """
    for name in ("price_scale", "lot_scale"):
        if not _power_of_ten(getattr(instrument, name)):
            raise InputError(
                f"{instrument.symbol}: {name} is {getattr(instrument, name)}.", hint="Decimal files need powers of ten, at most 10**12."
            )
    path = folder / NAMES[0]
    rows = read_instruments(path) if path.is_file() else {}
    rows[instrument.symbol] = instrument
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(REQUIRED + OPTIONAL)
    for _, one in sorted(rows.items()):
        tick, lot = Decimal(one.tick_units) / one.price_scale, Decimal(1) / one.lot_scale
        writer.writerow(
            [one.symbol, f"{tick:f}", f"{lot:f}", one.unit, one.fee_bps, one.calendar, one.levels, one.price_scale, one.trade_side]
        )
    write_atomic(path, out.getvalue().encode())
    return path


def _instrument(path: Path, number: int, row: Mapping[Any, Any]) -> Instrument:
    def bad(column: str, expected: str) -> NoReturn:
        shown = str(row.get(column))[:40]
        raise FeedError(
            f"{path.name}, row {number}, column {column}: {shown!r}. Expected {expected}.", hint=_how(REQUIRED, None), path=path
        )

    odd = [str(c) for c in row if c not in REQUIRED + OPTIONAL] + [f"{c} (missing)" for c in REQUIRED if row.get(c) in (None, "")]
    if odd:
        raise FeedError(f"{path.name}, row {number}: columns {', '.join(odd[:6])}.", hint=_how(REQUIRED, None), path=path)
    said = {c: str(row[c]).strip() for c in REQUIRED + OPTIONAL if row.get(c) not in (None, "")}

    def number_of(column: str) -> Decimal:
        try:
            value = Decimal(said[column])
        except InvalidOperation:
            bad(column, "a number")
        if not value.is_finite():
            bad(column, "a number")
        return value

    tick, lot = number_of("tick_size"), number_of("lot_size")
    if not 0 < tick < 10**9 or tick.normalize().as_tuple().exponent < -12:  # type: ignore[operator]
        bad("tick_size", "a price step above 0 with at most 12 decimals, like 0.01")
    if not (0 < lot <= 1 and _power_of_ten(int(1 / lot)) and 1 / lot == int(1 / lot)):
        bad("lot_size", "1, 0.1, 0.01, ... (1 where sizes come in larger steps)")
    scale = number_of("price_scale") if "price_scale" in said else Decimal(10) ** max(0, -int(tick.normalize().as_tuple().exponent))
    if scale != int(scale) or not _power_of_ten(int(scale)):
        bad("price_scale", "1, 10, 100, ... up to 10**12")
    if tick * scale != int(tick * scale):
        bad("price_scale", f"one of which a tick of {said['tick_size']} is a whole number")
    levels = number_of("levels")
    if levels != int(levels) or not 1 <= levels <= 1000:
        bad("levels", "1 to 1000")
    if said["calendar"] not in CALENDARS:
        bad("calendar", f"one of {', '.join(CALENDARS)}")
    side = said.get("trade_side", SENT)
    if side not in (SENT, INFERRED):
        bad("trade_side", f"{SENT} or {INFERRED}")
    fee = float(number_of("fee_bps"))
    if not math.isfinite(fee):
        bad("fee_bps", "a number")
    return Instrument(said["symbol"], int(scale), int(tick * scale), int(1 / lot), said["unit"], fee, said["calendar"], int(levels), side)


def _json(text: str) -> list[dict[str, Any]]:
    rows = json.loads(text, parse_float=Decimal, parse_constant=lambda name: name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of objects")
    return rows


def _power_of_ten(n: int) -> bool:
    return 1 <= n <= MOST_SCALE and str(n).strip("0") == "1"


def _line(symbol: str, levels: int) -> str:
    return f"{symbol},0.01,1,shares,0,us_equity,{levels}"


def _how(columns: tuple[str, ...], symbol: str | None, levels: int = 1) -> str:
    header = f"Its columns are {', '.join(columns)}, and {' and '.join(OPTIONAL)} where they are needed"
    return f"{header}. Add a line such as\n{_line(symbol, levels)}" if symbol else f"{header}, as in\n{_line('AAPL', 10)}"
