"""What a regime model is to be."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cift_models.models.protocol import Config

Emission = Literal["return", "log_variance", "log_trade_rate"]


class HMMConfig(Config):
    """Settings of RegimeHMM.

    n_states                  regimes K
    bar_s                     seconds of a bar, a multiple of the clock
    emissions                 what a state speaks through; "return" is the AR(1) and cannot be left out
    restarts                  random starts of EM; the best one is finished
    restart_bars              bars at the head of the training data on which the restarts run
    restart_iterations        EM iterations of each restart
    max_iterations            EM iterations of the best one; reached: status max_iter
    tolerance                 EM stops when an iteration gains less than this, in nats a bar
    variance_floor            least variance of an emission, in units of the symbol's train variance
    transition_pseudo_count   Dirichlet count under every transition: no probability is ever 0
    held_out_share            last part of the training bars, on which the sign of phi must hold
    min_bars                  fewer observed bars than this: one uniform regime, said in the report
    min_dwell_bars            a regime that lasts fewer bars on average is none: "no regimes today"
    """

    n_states: int = Field(3, ge=1, le=8)
    bar_s: int = Field(30, ge=1)
    emissions: tuple[Emission, ...] = ("return", "log_variance", "log_trade_rate")
    restarts: int = Field(16, ge=1)
    restart_bars: int = Field(6_000, ge=10)
    restart_iterations: int = Field(40, ge=1)
    max_iterations: int = Field(300, ge=1)
    tolerance: float = Field(1e-7, gt=0)
    variance_floor: float = Field(0.01, gt=0)
    transition_pseudo_count: float = Field(1.0, gt=0)
    held_out_share: float = Field(0.2, gt=0, lt=1)
    min_bars: int = Field(40, ge=10)
    min_dwell_bars: float = Field(3.0, ge=1)

    @model_validator(mode="after")
    def _emissions_hold_the_return_once(self) -> Self:
        if "return" not in self.emissions or len(set(self.emissions)) != len(self.emissions):
            raise ValueError(f"emissions must hold 'return' and no name twice; was {list(self.emissions)}")
        return self
