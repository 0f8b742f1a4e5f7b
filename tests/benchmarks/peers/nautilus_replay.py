"""NautilusTrader replays quote ticks through a strategy that counts them: ticks per second as JSON. Runs in .venv-bench (`make bench`)."""

from __future__ import annotations

import json
import sys
import time
from decimal import Decimal

import nautilus_trader
import numpy as np
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, StrategyConfig
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import QuoteTick
from nautilus_trader.model.enums import AccountType, OmsType
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy


class Counting(Strategy):
    def __init__(self, instrument_id) -> None:
        super().__init__(StrategyConfig())
        self.instrument_id_, self.seen = instrument_id, 0

    def on_start(self) -> None:
        self.subscribe_quote_ticks(self.instrument_id_)

    def on_quote_tick(self, tick: QuoteTick) -> None:
        self.seen += 1


def main(rows: int) -> None:
    instrument = TestInstrumentProvider.equity("AAPL", "XNAS")
    rng = np.random.default_rng(0)
    bid = 10_000 + np.cumsum(rng.integers(-1, 2, rows))
    ts = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1, 2_000_000, rows))
    price, size = instrument.make_price, instrument.make_qty
    prices = {p: price(p / 100) for p in range(int(bid.min()), int(bid.max()) + 2)}
    lot = size(100)
    ticks = [QuoteTick(instrument.id, prices[b], prices[b + 1], lot, lot, t, t) for b, t in zip(bid.tolist(), ts.tolist(), strict=True)]
    took = []
    for _ in range(3):
        engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
        engine.add_venue(Venue("XNAS"), OmsType.NETTING, AccountType.MARGIN, [Money(1_000_000, USD)], default_leverage=Decimal(1))
        engine.add_instrument(instrument)
        engine.add_data(ticks)
        strategy = Counting(instrument.id)
        engine.add_strategy(strategy)
        began = time.perf_counter()
        engine.run()
        took.append(time.perf_counter() - began)
        assert strategy.seen == rows
        engine.dispose()
    print(json.dumps({"version": nautilus_trader.__version__, "rows": rows, "ticks_per_s": rows / sorted(took)[1]}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
