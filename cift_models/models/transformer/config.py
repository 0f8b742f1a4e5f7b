"""What a transformer is to be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cift_models.models.protocol import Config


class TransformerConfig(Config):
    """Shape, recipe and symmetry. The defaults are the nano size (about 36,000 parameters at five book levels): a CPU fits it in seconds.

    selection_t is the heart of the recipe: after each step the input row of a channel shrinks by as much as a channel with this
    t-statistic over the training rows would pull it up, so that weaker channels leave the network (a group lasso, by proximal steps).
    """

    width: int = Field(32, ge=4, description="Numbers in each of the two streams (odd and even under the mirror of the book).")
    heads: int = Field(4, ge=1, description="Attention heads; width / heads must be even.")
    layers: int = Field(2, ge=1, description="Layers.")
    hidden: int = Field(32, ge=1, description="Feed-forward units of each stream.")
    window: int = Field(32, ge=2, description="Steps that attention sees, the present one included.")
    mirror: Literal["learned", "hard"] = Field(
        "learned",
        description="hard: f(mirror x) = -f(x) exactly; learned: a part that breaks the symmetry is kept where held-out rows show it.",
    )
    epochs: int = Field(8, ge=1, description="Passes over the training rows.")
    patience: int = Field(
        3, ge=1, description="Epochs without a better loss on the rows held out before the fit stops, once selection is at work."
    )
    chunk: int = Field(256, ge=2, description="Labelled steps of a training chunk; a multiple of window.")
    batch: int = Field(4, ge=1, description="Chunks a step of the optimiser.")
    learning_rate: float = Field(4e-3, gt=0, description="Peak of the cosine schedule of AdamW.")
    weight_decay: float = Field(0.1, ge=0, description="Decay of the inner matrices.")
    selection_t: float = Field(2.4, ge=0, description="Channels weaker than about this t-statistic leave the network; 0 keeps all.")
    averaging: float = Field(0.99, ge=0, lt=1, description="Decay a step of the running mean of the weights that is served.")
    seeds: int = Field(1, ge=1, le=16, description="Networks whose mean is the forecast.")

    @model_validator(mode="after")
    def fits_together(self) -> TransformerConfig:
        if self.width % (2 * self.heads):
            raise ValueError(f"width ({self.width}) must be a multiple of 2 * heads ({2 * self.heads})")
        if self.chunk % self.window:
            raise ValueError(f"chunk ({self.chunk}) must be a multiple of window ({self.window})")
        return self
