"""What a simulated market is to be."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

PRICE_SCALE = 10_000
"""Price units in one unit of quote currency (Instrument.price_scale)."""

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def _first_pair(fields: dict[str, Any]) -> tuple[str, str] | None:
    symbols = fields.get("symbols", ())
    return (symbols[0], symbols[1]) if len(symbols) > 1 else None


PLANTS = ("usual", "clear", "nothing")
"""What `SimulateConfig.planting` knows."""


class SimulateConfig(BaseModel):
    """Everything that decides a simulated market, to the byte. Frozen; refuses unknown fields.

    Controls: `branching_60s=0` makes the trades a seasonal Poisson stream; `martingale()` makes a market that nothing can forecast,
    `clear()` one whose signals show in two hours.
    An R2 is a share of the variance of the 1-s move of the mid, on whole seconds from the open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of every draw. A session and symbol keeps its stream when sessions or symbols are added after it.",
    )
    symbols: tuple[str, ...] = Field(default=("AAA", "BBB", "CCC"), min_length=1, description="Names, in the order of every axis S.")
    sessions: int = Field(default=2, ge=1, description="Trading sessions, one a weekday.")
    session_minutes: int = Field(default=180, ge=2, le=900, description="Length of a session in minutes; it opens at 09:00 UTC.")
    first_day: date = Field(default=date(2024, 1, 8), description="Date of the first session; a weekend moves to the Monday after.")
    levels: int = Field(default=2, ge=1, le=50, description="Levels of each side of the book, one tick apart.")

    trades_hz: float = Field(default=0.8, gt=0, le=50, description="Trades a second and symbol, both sides, mean over a session.")
    quotes_hz: float = Field(default=2.5, gt=0, le=200, description="Changes of one queue a second and symbol.")
    moves_hz: float = Field(
        default=0.7, gt=0, le=50, description="Price moves by news a second and symbol in a calm regime (volatile: times volatility_ratio)."
    )
    volatility_bps: float = Field(
        default=2.0, gt=0, le=20, description="Root mean square of the 1-s move in bps, over the regimes' long-run shares."
    )
    price: float = Field(default=100.0, ge=1, le=10_000, description="Centre of the opening prices, quote currency.")
    tick_size: float = Field(
        default=0.001, ge=1 / PRICE_SCALE, description="Price increment, quote currency, a multiple of .0001. At price 100, .001 is .1 bp."
    )
    spread_ticks: int = Field(
        default=4, ge=2, le=100, description="The usual spread in ticks; it lies in spread_ticks - 1 ... spread_ticks + 2."
    )
    queue_lots: float = Field(default=500.0, ge=200, description="Mean size of a queue in shares; sizes are round lots of 100.")
    trade_lots: float = Field(default=200.0, ge=100, description="Mean size of a trade in shares, before it is cut to the queue it meets.")

    baseline_depth: float = Field(
        default=0.9, ge=0, le=2.9, description="Depth of the U of the trades' baseline over a session: 1 + depth ((2 x - 1)^2 - 1/3)."
    )
    branching_60s: Share = Field(default=0.6, description="n(60 s): direct children of a trade, of its side, within 60 s. 0: Poisson.")
    kernel_exponent: float = Field(
        default=0.6, gt=0, le=3, description="theta of the Lomax kernel n (theta / tau0) (1 + t / tau0)^(-1 - theta)."
    )
    kernel_scale_s: float = Field(default=0.1, gt=0, le=10, description="tau0 of the Lomax kernel, seconds.")

    linear_r2: Share = Field(default=0.03, description="Planted: linear in the queue imbalance at the best level.")
    interaction_r2: Share = Field(default=0.02, description="Planted: sign(queue imbalance) x sign(signed volume of 10 s).")
    impact_r2: Share = Field(
        default=0.005,
        description="Planted: a trade moves the mid its way, and trades foretell trades. Not reached where branching_60s is small.",
    )
    edge_r2: Share = Field(default=0.015, description="Planted: moves of the edge's first symbol that its second one repeats in part.")
    edge_lag_ms: int = Field(default=2000, ge=1, le=60_000, description="Milliseconds from a move to its repetition.")
    edge: tuple[str, str] | None = Field(
        default_factory=_first_pair, description="(leader, follower); default the first two symbols, None where there is one."
    )

    regime_minutes: float = Field(
        default=10.0, ge=0.5, description="Mean dwell of a regime in minutes; regimes change at 30-s bars from the open."
    )
    ar: tuple[float, float, float] = Field(
        default=(0.3, -0.3, 0.0), description="AR(1) coefficient of 30-s moves while trending, mean-reverting, volatile."
    )
    volatility_ratio: float = Field(
        default=2.5, ge=1, le=10, description="Volatility of the volatile regime over that of the two calm ones."
    )

    @model_validator(mode="after")
    def _is_possible(self) -> SimulateConfig:
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"symbols must differ; were {list(self.symbols)}")
        units = self.tick_size * PRICE_SCALE
        if abs(units - round(units)) > 1e-6:
            raise ValueError(f"tick_size must be a multiple of {1 / PRICE_SCALE}; was {self.tick_size}")
        if any(abs(phi) >= 0.9 for phi in self.ar):
            raise ValueError(f"ar must lie in (-.9, .9); was {self.ar}")
        if self.edge is not None and (self.edge[0] == self.edge[1] or not set(self.edge) <= set(self.symbols)):
            raise ValueError(f"edge must name two different symbols of {list(self.symbols)}; was {self.edge}")
        if self.branching_total >= 0.98:
            raise ValueError(
                f"branching_60s {self.branching_60s} needs a total branching ratio of {self.branching_total:.3f}; expected below .98: "
                "lower it, or raise kernel_exponent"
            )
        return self

    @property
    def branching_total(self) -> float:
        """The kernel's integral to infinity, from its integral to 60 s."""
        return self.branching_60s / (1.0 - (1.0 + 60.0 / self.kernel_scale_s) ** -self.kernel_exponent)

    @property
    def tick_units(self) -> int:
        """Price units in one tick."""
        return round(self.tick_size * PRICE_SCALE)

    @property
    def seconds(self) -> int:
        """Length of a session in seconds: T of every path."""
        return 60 * self.session_minutes

    def martingale(self) -> SimulateConfig:
        """The control: same market, nothing planted in the price. Trades still cluster and volatility still has regimes."""
        nothing = {"linear_r2": 0.0, "interaction_r2": 0.0, "impact_r2": 0.0, "edge_r2": 0.0, "ar": (0.0, 0.0, 0.0)}
        return self.model_copy(update=nothing)

    def clear(self) -> SimulateConfig:
        """The control of power for a session of two hours: the same signals four times as strong, in regimes that are shorter and calmer.

        Two hours have 1,800 test rows: the signals then stand out as 3 % of the variance do on 13,000 (t about 20). Regimes of two minutes:
        a block of ten minutes has its share of each, so that what is learned in some blocks holds in the others. The volatile one is half
        again as volatile, not 2.5 times: the calm ones have to hold the signals, which keep one size.
        """
        planted = {name: 4 * getattr(self, name) for name in ("linear_r2", "interaction_r2", "impact_r2", "edge_r2")}
        return self.model_copy(update={**planted, "volatility_ratio": 1.5, "regime_minutes": 2.0})

    def planting(self, what: str) -> SimulateConfig:
        """usual: as it is; clear: `clear()`; nothing: `martingale()`."""
        return {"usual": lambda: self, "clear": self.clear, "nothing": self.martingale}[what]()
