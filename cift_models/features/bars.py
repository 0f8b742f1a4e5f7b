"""OHLCV of the trades since the last decision instant."""
from __future__ import annotations
from cift_models.features.feature_set import FeatureSet
def names(features: FeatureSet) -> tuple[str, ...]:
    return ("bar_open", "bar_high", "bar_low", "bar_close", "bar_vwap", "volume", "n_trades")
