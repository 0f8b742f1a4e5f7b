"""What a ridge is to be."""

from __future__ import annotations

from pydantic import Field

from cift_models.models.protocol import Config


class LinearConfig(Config):
    """`alphas` are tried by leave-one-out; `clip` bounds a standardised column (without it R2 falls from .0141 to .0098)."""

    alphas: tuple[float, ...] = Field(default=tuple(10 ** (i / 2) for i in range(11)), min_length=1)
    clip: float = Field(default=5.0, gt=0)
