"""What a symbol is listed as: the grid of its prices and sizes, from Binance's exchangeInfo or, for the symbols recorded here, built in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cift_models.errors import FeedError
from cift_models.instruments import Instrument

MARKETS = ("spot", "usdm", "coinm")
"""Markets, in the order of scan.SPOT, USDM, COINM."""
BUILT_IN: dict[str, tuple[str, str, int]] = {
    "BTCUSDT.SPOT": ("0.01", "0.00001", 0),
    "ETHUSDT.SPOT": ("0.01", "0.0001", 0),
    "BTCUSDT.USDM": ("0.1", "0.001", 0),
    "ETHUSDT.USDM": ("0.01", "0.001", 0),
    "BTCUSD_PERP.COINM": ("0.1", "1", 100),
    "ETHUSD_PERP.COINM": ("0.01", "1", 10),
}
"""Tick size, lot step and USD of a contract as Binance listed them in August 2024; Binance does change them."""
_DECIMAL = re.compile(r"(\d{1,12})(?:\.(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol's grid.

    symbol         with its market: BTCUSDT.SPOT, for spot and USD-M send the same name
    price_places   decimal places of a price in price units; a tick is tick_units of them
    lot_places     decimal places of a size in lots
    contract_usd   what one contract is worth (COIN-M), 0 where a size counts coins
    """

    symbol: str
    price_places: int
    tick_units: int
    lot_places: int
    contract_usd: int

    def instrument(self, levels: int, fee_bps: float) -> Instrument:
        unit = "contracts" if self.contract_usd else "coins"
        return Instrument(self.symbol, 10**self.price_places, self.tick_units, 10**self.lot_places, unit, fee_bps, "always", levels)


def canonical(symbol: str, market: str) -> str:
    """BTCUSDT on spot is BTCUSDT.SPOT."""
    return f"{symbol.upper()}.{market.upper()}"


def listing(symbol: str, tick: str, step: str, contract_usd: int) -> Listing:
    """A listing from the text of its tick size and lot step. Raises ValueError where one is not a decimal above 0."""
    places, units = _grid(tick)
    lots, step_units = _grid(step)
    # Sizes are counted in the last decimal place of the step: a step of 5 or .05 is still told apart.
    return Listing(symbol, places, units, lots if step_units else 0, contract_usd)


def built_in() -> dict[str, Listing]:
    """Listings of the six symbols that are known without a file."""
    return {symbol: listing(symbol, *what) for symbol, what in BUILT_IN.items()}


def read_exchange_info(path: Path, market: str) -> dict[str, Listing]:
    """Listings of one market from the body that its `exchangeInfo` answers, by canonical symbol.

    Raises FeedError where it is no such body or of another market: spot symbols have no contractType, COIN-M ones have a contractSize.
    """
    import orjson

    try:
        data = orjson.loads(path.read_bytes())
        found = {canonical(s["symbol"], market): (s, _listing(s, market)) for s in data["symbols"]}
    except OSError as error:
        raise FeedError(f"{path}: {error.strerror or error}.", hint="Expected the JSON of Binance's exchangeInfo.", path=path) from error
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise FeedError(
            f"{path.name} is no exchangeInfo of Binance: {type(error).__name__} {error}.",
            hint="Expected {symbols: [{symbol, filters: [PRICE_FILTER.tickSize, LOT_SIZE.stepSize], contractSize on COIN-M}]}.",
            path=path,
        ) from error
    for name, (symbol, _) in found.items():
        its = "coinm" if "contractSize" in symbol else "usdm" if "contractType" in symbol else "spot"
        if its != market:
            raise FeedError(
                f"{path.name} lists {name.split('.')[0]} of {its}, asked was {market}.",
                hint=f"Pass the exchangeInfo of {market}: spot api/v3, USD-M fapi/v1, COIN-M dapi/v1.",
                path=path,
            )
    return {name: what for name, (_, what) in found.items()}


def find(listings: Mapping[str, Listing], symbol: str, market: str) -> Listing:
    """The listing of a symbol. Raises FeedError where it is not there."""
    name = canonical(symbol, market)
    if name not in listings:
        known = ", ".join(sorted(listings)[:8])
        raise FeedError(
            f"The tick and the lot of {name} are not known.",
            hint=f"Pass instruments=FILE, the JSON that Binance's exchangeInfo answers for {market}; known are {known or 'none'}.",
        )
    return listings[name]


def _listing(symbol: Mapping[str, Any], market: str) -> Listing:
    filters = {f["filterType"]: f for f in symbol["filters"]}
    contract = int(symbol.get("contractSize", 0))
    return listing(canonical(symbol["symbol"], market), filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"], contract)


def _grid(step: str) -> tuple[int, int]:
    """(decimal places, units of the last of them) of a step: "0.50" is (1, 5), "10" is (0, 10)."""
    match = _DECIMAL.fullmatch(step)
    if not match:
        raise ValueError(f"{step!r} is no decimal")
    fraction = (match[2] or "").rstrip("0")
    units = int(match[1] + fraction)
    if not units:
        raise ValueError(f"a step of {step!r}")
    return len(fraction), units
