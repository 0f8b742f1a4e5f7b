"""CIFT's ledger in NautilusTrader: each forecast arrives at its `available_at`, and market orders cross the spread of the quotes.

    python docs/examples/nautilus_ledger.py LEDGER.parquet QUOTES.parquet --symbol AAPL --model linear

QUOTES.parquet has ts (ns), bid_px, bid_sz, ask_px, ask_sz; docs/examples/README.md says how to write it. Prints the fills as JSON.
Needs nautilus_trader 1.221.0 (`make bench` installs it into .venv-bench).
"""

from __future__ import annotations

import json
from decimal import Decimal

from ledger_rows import Forecasts, Quotes, arguments, order, read_forecasts, read_quotes
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, StrategyConfig
from nautilus_trader.core.data import Data
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import CustomData, DataType, QuoteTick
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import ClientId, InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

CIFT = ClientId("CIFT")


class Forecast(Data):
    """One row of the ledger. ts_init is `available_at`: the engine shows the row to nobody before."""

    def __init__(self, as_of: int, available_at: int, mean_bps: float, last: bool) -> None:
        self.mean_bps, self.last = mean_bps, last
        self._ts_event, self._ts_init = as_of, available_at

    @property
    def ts_event(self) -> int:
        return self._ts_event

    @property
    def ts_init(self) -> int:
        return self._ts_init


class OnForecast(Strategy):
    """Hold at most one unit; leave at the last forecast."""

    def __init__(self, instrument: Equity, threshold_bps: float) -> None:
        super().__init__(StrategyConfig())
        self.instrument, self.threshold_bps = instrument, threshold_bps
        self.position_units = 0
        self.seen: list[int] = []
        self.fills: list[dict] = []

    def on_start(self) -> None:
        self.subscribe_quote_ticks(self.instrument.id)
        self.subscribe_data(DataType(Forecast), client_id=CIFT)

    def on_data(self, data: Data) -> None:
        if not isinstance(data, Forecast):
            return
        self.seen.append(self.clock.timestamp_ns())
        quote = self.cache.quote_tick(self.instrument.id)
        if quote is None:
            return
        bid, ask = float(quote.bid_price), float(quote.ask_price)
        self.send(order(self.position_units, data.mean_bps, 1e4 * (ask - bid) / (ask + bid), self.threshold_bps))
        if data.last:
            self.send(-self.position_units)

    def send(self, side: int) -> None:
        if side:
            asked = OrderSide.BUY if side > 0 else OrderSide.SELL
            self.position_units += side  # market orders fill, though their events come later
            self.submit_order(self.order_factory.market(self.instrument.id, asked, self.instrument.make_qty(1)))

    def on_order_filled(self, event) -> None:
        side = 1 if event.order_side == OrderSide.BUY else -1
        self.fills.append({"ts": event.ts_event, "side": side, "price": float(event.last_px)})


def run(forecasts: Forecasts, quotes: Quotes, symbol: str, tick: float, threshold_bps: float) -> OnForecast:
    digits = max(0, -Decimal(str(tick)).as_tuple().exponent)
    venue = Venue("CIFT")
    instrument = Equity(InstrumentId(Symbol(symbol), venue), Symbol(symbol), USD, digits, Price(tick, digits), Quantity.from_int(1), 0, 0)
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(venue, OmsType.NETTING, AccountType.MARGIN, [Money(10_000_000, USD)], default_leverage=Decimal(1))
    engine.add_instrument(instrument)
    # Quotes first: at one nanosecond the market is known before the forecast that was made of it.
    engine.add_data(
        [
            QuoteTick(
                instrument.id,
                instrument.make_price(b),
                instrument.make_price(a),
                Quantity.from_int(int(bs)),
                Quantity.from_int(int(s)),
                t,
                t,
            )
            for t, b, bs, a, s in zip(*(column.tolist() for column in quotes), strict=True)
        ]
    )
    n = len(forecasts.as_of)
    rows = zip(*(column.tolist() for column in forecasts), strict=True)
    engine.add_data(
        [CustomData(DataType(Forecast), Forecast(as_of, at, mean, i == n - 1)) for i, (as_of, at, mean) in enumerate(rows)], client_id=CIFT
    )
    strategy = OnForecast(instrument, threshold_bps)
    engine.add_strategy(strategy)
    engine.run()
    engine.dispose()
    return strategy


def main() -> None:
    given = arguments(__doc__)
    forecasts = read_forecasts(given.ledger, given.symbol, given.model)
    done = run(forecasts, read_quotes(given.quotes), given.symbol, given.tick, given.threshold_bps)
    net = -sum(fill["side"] * fill["price"] for fill in done.fills)
    print(json.dumps({"forecasts": len(done.seen), "seen_at": done.seen, "fills": done.fills, "net": net}))


if __name__ == "__main__":
    main()
