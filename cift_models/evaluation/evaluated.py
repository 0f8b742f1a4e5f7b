"""What evaluation is given: one symbol's test rows, and every model's forecasts on them, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.instruments import SECOND
from cift_models.signals import SignalRule


@dataclass(frozen=True, slots=True)
class Forecast:
    """One model's forecasts on the rows of an Evaluated.

    ready      bool[n]               rows where the model speaks; nothing else is looked at where it is false
    mean_bps   float64[n] or None    the expected move (the HMM alone has none)
    p          float64[n, 3] or None chances of down, flat, up
    rule       the signal rule that was chosen for it on the validation rows, or None: then it is not traded
    """

    ready: NDArray[np.bool_]
    mean_bps: NDArray[np.float64] | None = None
    p: NDArray[np.float64] | None = None
    rule: SignalRule | None = None

    def taken(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Forecast:
        """Some of the rows."""
        mean, p = self.mean_bps, self.p
        return replace(self, ready=self.ready[rows], mean_bps=None if mean is None else mean[rows], p=None if p is None else p[rows])


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One symbol on its test rows, in time order.

    as_of            int64[n] ns           session          int64[n] yyyymmdd (none given: one session)
    y                float64[n] bps        the move from as_of to as_of + horizon, at delay 0
    half_spread_bps  float64[n]            what crossing costs, of the mid at as_of
    mid              float64[n]            at as_of, quote currency
    bid, ask         float64[n] by delay in ns: the touch at as_of + delay; 0 is always there
    y_delay          float64[n] by delay in ns: the move from as_of + delay to as_of + delay + horizon (the label under latency)
    fee_bps          paid at each end of a trade
    bid_lots, ask_lots  float64[n] lots at the best bid and ask at as_of, or None
    """

    symbol: str
    as_of: NDArray[np.int64]
    y: NDArray[np.float64]
    half_spread_bps: NDArray[np.float64]
    mid: NDArray[np.float64]
    bid: Mapping[int, NDArray[np.float64]]
    ask: Mapping[int, NDArray[np.float64]]
    forecasts: Mapping[str, Forecast]
    y_delay: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    session: NDArray[np.int64] | None = None
    fee_bps: float = 0.0
    horizon_ns: int = SECOND
    bid_lots: NDArray[np.float64] | None = None
    ask_lots: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.as_of)
        arrays = {"y": self.y, "half_spread_bps": self.half_spread_bps, "mid": self.mid}
        arrays |= {f"bid[{d}]": a for d, a in self.bid.items()} | {f"ask[{d}]": a for d, a in self.ask.items()}
        arrays |= {f"y_delay[{d}]": a for d, a in self.y_delay.items()}
        for name, values in arrays.items():
            self._expect(name, values.shape == (n,), f"shape ({n},)", values.shape)
        for name, lots in (("bid_lots", self.bid_lots), ("ask_lots", self.ask_lots)):
            if lots is not None:
                self._expect(name, lots.shape == (n,), f"shape ({n},)", lots.shape)
        if self.session is not None:
            self._expect("session", self.session.shape == (n,), f"shape ({n},)", self.session.shape)
        self._expect("as_of", bool((np.diff(self.as_of) > 0).all()), "strictly increasing times", "a step back or a repeat")
        self._expect("y", bool(np.isfinite(self.y).all()), "finite values", "nan or infinity")
        for delay, values in self.y_delay.items():
            self._expect(f"y_delay[{delay}]", bool(np.isfinite(values).all()), "finite values", "nan or infinity")
        self._expect("bid and ask", self.bid.keys() == self.ask.keys() and 0 in self.bid, "the same delays, 0 among them", sorted(self.bid))
        for model, forecast in self.forecasts.items():
            self._expect(f"{model}.ready", forecast.ready.shape == (n,), f"shape ({n},)", forecast.ready.shape)
            for name, values, shape in (("mean_bps", forecast.mean_bps, (n,)), ("p", forecast.p, (n, 3))):
                if values is None:
                    continue
                self._expect(f"{model}.{name}", values.shape == shape, f"shape {shape}", values.shape)
                bad = forecast.ready & ~np.isfinite(values.reshape(n, -1)).all(axis=1)
                self._expect(f"{model}.{name}", not bad.any(), "finite values wherever ready", f"{int(bad.sum())} rows that are not")

    def _expect(self, what: str, holds: bool, expected: str, was: object) -> None:
        if not holds:
            raise DataError(
                f"{self.symbol}: {what}: expected {expected}, was {was}.", hint="Evaluation takes the test rows as the ledger has them."
            )

    def __len__(self) -> int:
        return len(self.as_of)

    def taken(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Evaluated:
        """Some of the rows, with what everybody says on them."""
        return replace(
            self,
            as_of=self.as_of[rows],
            y=self.y[rows],
            half_spread_bps=self.half_spread_bps[rows],
            mid=self.mid[rows],
            bid={delay: px[rows] for delay, px in self.bid.items()},
            ask={delay: px[rows] for delay, px in self.ask.items()},
            forecasts={name: forecast.taken(rows) for name, forecast in self.forecasts.items()},
            y_delay={delay: y[rows] for delay, y in self.y_delay.items()},
            session=None if self.session is None else self.session[rows],
            bid_lots=None if self.bid_lots is None else self.bid_lots[rows],
            ask_lots=None if self.ask_lots is None else self.ask_lots[rows],
        )

    @property
    def sessions(self) -> NDArray[np.int64]:
        """int64[n]; zeros where none was given."""
        return np.zeros(len(self), np.int64) if self.session is None else self.session

    @property
    def cost_bps(self) -> NDArray[np.float64]:
        """float64[n]: half-spread and fee, what the signal rule charges an entry."""
        return self.half_spread_bps + self.fee_bps

    def ready(self, models: Sequence[str]) -> NDArray[np.bool_]:
        """bool[n]: rows where every one of `models` speaks."""
        rows = np.ones(len(self), bool)
        for model in models:
            rows &= self.forecasts[model].ready
        return rows

    def masked(self, rows: NDArray[np.bool_]) -> Evaluated:
        """The same rows with nobody ready outside `rows`: how figures on common rows are made."""
        return replace(self, forecasts={name: replace(f, ready=f.ready & rows) for name, f in self.forecasts.items()})
