"""What both examples share: the ledger's rows, the quotes to trade them on, and the rule that makes a forecast an order."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq


class Forecasts(NamedTuple):
    """Rows of one symbol and model, in time order. `available_at` is when a trader could first know `mean_bps`; never act before it."""

    as_of: np.ndarray
    available_at: np.ndarray
    mean_bps: np.ndarray


class Quotes(NamedTuple):
    """The touch: ts int64 ns, prices in currency, sizes in lots; a row holds until the next."""

    ts: np.ndarray
    bid_px: np.ndarray
    bid_sz: np.ndarray
    ask_px: np.ndarray
    ask_sz: np.ndarray


def read_forecasts(path: Path, symbol: str, model: str) -> Forecasts:
    """Ready rows of the ledger that `cift train` wrote (ledger.parquet beside metrics.json)."""
    rows = pq.read_table(path, columns=["symbol", "model", "ready", "as_of", "available_at", "mean_bps"])
    wanted = pc.and_(pc.and_(pc.equal(rows["symbol"], symbol), pc.equal(rows["model"], model)), rows["ready"])
    rows = rows.filter(wanted)
    order_of = np.argsort(rows["available_at"].to_numpy(), kind="stable")
    return Forecasts(*(rows[name].to_numpy()[order_of] for name in Forecasts._fields))


def read_quotes(path: Path) -> Quotes:
    """Rows of one time keep their order: the last of them stands."""
    rows = pq.read_table(path, columns=list(Quotes._fields))
    order_of = np.argsort(rows["ts"].to_numpy(), kind="stable")
    return Quotes(*(rows[name].to_numpy()[order_of] for name in Quotes._fields))


def order(position: int, mean_bps: float, half_spread_bps: float, threshold_bps: float) -> int:
    """+1 buy a unit, -1 sell one, 0 hold: cift_models.signals.SignalRule with one unit, an exit at 0 and a threshold of 0 or more."""
    if mean_bps - half_spread_bps > threshold_bps and position < 1:
        return 1
    if -mean_bps - half_spread_bps > threshold_bps and position > -1:
        return -1
    if position < 0 < mean_bps:
        return 1
    if mean_bps < 0 < position:
        return -1
    return 0


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("quotes", type=Path)
    parser.add_argument("--symbol", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tick", type=float, default=0.01)
    parser.add_argument("--threshold-bps", type=float, default=0.0)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="from available_at until the order is at the venue (hftbacktest)")
    return parser.parse_args()
