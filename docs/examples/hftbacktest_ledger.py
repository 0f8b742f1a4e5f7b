"""CIFT's ledger in hftbacktest: orders leave at `available_at`, reach the venue --delay-ms later, and cross the spread that stands then.

    python docs/examples/hftbacktest_ledger.py LEDGER.parquet QUOTES.parquet --symbol AAPL --model linear --delay-ms 100

QUOTES.parquet has ts (ns), bid_px, bid_sz, ask_px, ask_sz; docs/examples/README.md says how to write it. Prints the fills as JSON.
Needs hftbacktest 2.4.4 (`make bench` installs it into .venv-bench).
"""

from __future__ import annotations

import json

import numpy as np
from hftbacktest import (
    BUY_EVENT,
    DEPTH_EVENT,
    EXCH_EVENT,
    FILLED,
    GTC,
    LOCAL_EVENT,
    MARKET,
    SELL_EVENT,
    BacktestAsset,
    HashMapMarketDepthBacktest,
    event_dtype,
)
from ledger_rows import Forecasts, Quotes, arguments, order, read_forecasts, read_quotes

ANSWER_NS = 1
"""The fill is known at once: the next forecast must find the position as it is."""


def depth_events(quotes: Quotes) -> np.ndarray:
    """The touch as depth changes: the price that is left is emptied (size 0), then the new one is set; bid and ask of a row at one time."""
    parts, row = [], []
    for side, px, sz in ((BUY_EVENT, quotes.bid_px, quotes.bid_sz), (SELL_EVENT, quotes.ask_px, quotes.ask_sz)):
        left = np.flatnonzero(px[1:] != px[:-1]) + 1
        for at, price, size in ((left, px[left - 1], np.zeros(len(left))), (np.arange(len(px)), px, sz)):
            part = np.zeros(len(at), event_dtype)
            part["ev"] = DEPTH_EVENT | EXCH_EVENT | LOCAL_EVENT | side
            part["exch_ts"] = part["local_ts"] = quotes.ts[at]
            part["px"], part["qty"] = price, size
            parts.append(part)
            row.append(at)
    # By row, not by time: rows of one nanosecond stay apart, and within a row a price is left before the next is set.
    return np.concatenate(parts)[np.argsort(np.concatenate(row), kind="stable")]


def run(forecasts: Forecasts, quotes: Quotes, tick: float, threshold_bps: float, delay_ns: int) -> list[dict]:
    events = depth_events(quotes)  # hftbacktest reads this memory and does not hold it: keep it until the end
    asset = (
        BacktestAsset()
        .data(events)
        .linear_asset(1.0)
        .constant_order_latency(delay_ns, ANSWER_NS)
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0, 0.0)
        .tick_size(tick)
        .lot_size(1.0)
    )
    market = HashMapMarketDepthBacktest([asset])
    fills: list[dict] = []
    position, last = 0, len(forecasts.as_of) - 1

    def send(side: int) -> int:
        number = len(fills) + 1
        submit = market.submit_buy_order if side > 0 else market.submit_sell_order
        submit(0, number, market.depth(0).best_ask if side > 0 else market.depth(0).best_bid, 1.0, GTC, MARKET, True)
        done = market.orders(0).get(number)
        if done is None or done.status != FILLED:
            raise SystemExit(f"order {number} was not filled: there is no quote at its time")
        fills.append({"ts": int(done.exch_timestamp), "side": side, "price": float(done.exec_price)})
        return side

    market.elapse(0)  # starts the clock at the first event; before, it shows the end of time
    for i, (at, mean) in enumerate(zip(forecasts.available_at.tolist(), forecasts.mean_bps.tolist(), strict=True)):
        wait = at - int(market.current_timestamp)
        if wait > 0:
            market.elapse(wait)
        bid, ask = market.depth(0).best_bid, market.depth(0).best_ask
        if not (np.isfinite(bid) and np.isfinite(ask)):
            continue
        side = order(position, mean, 1e4 * (ask - bid) / (ask + bid), threshold_bps)
        if side:
            position += send(side)
        if i == last and position:
            position += send(-position)
    market.close()
    return fills


def main() -> None:
    given = arguments(__doc__)
    forecasts = read_forecasts(given.ledger, given.symbol, given.model)
    fills = run(forecasts, read_quotes(given.quotes), given.tick, given.threshold_bps, round(1e6 * given.delay_ms))
    print(json.dumps({"forecasts": len(forecasts.as_of), "fills": fills, "net": -sum(f["side"] * f["price"] for f in fills)}))


if __name__ == "__main__":
    main()
