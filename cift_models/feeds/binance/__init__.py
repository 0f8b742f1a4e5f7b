"""Binance: raw captures and live streams of spot, USD-M and COIN-M, one state machine for both."""

from cift_models.feeds.binance.read import identify, read_binance
from cift_models.feeds.binance.rows import Rows
from cift_models.feeds.binance.stream import BinanceStream

__all__ = ["BinanceStream", "Rows", "identify", "read_binance"]
