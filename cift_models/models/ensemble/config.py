"""What an ensemble is to be."""

from __future__ import annotations

from pydantic import Field

from cift_models.models.protocol import Config


class EnsembleConfig(Config):
    """What the weights are fitted on, and how firmly a regime's row is held to the overall row.

    direction_weight  of the direction log-loss beside the squared error (in sd): of one size, so 1 counts both
    prior_rows        the overall row counts as this many rows of every regime
    gate_t            the gate stays only where, fitted on the earlier half of the rows, it beats the overall row on the later half by this
                      many standard errors; else every regime has the overall row
    max_iter          of each search
    """

    direction_weight: float = Field(default=1.0, ge=0)
    prior_rows: float = Field(default=2000.0, ge=0)
    gate_t: float = 1.65
    max_iter: int = Field(default=500, ge=1)
