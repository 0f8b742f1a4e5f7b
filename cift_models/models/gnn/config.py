"""What a lead-lag GNN is to be."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, model_validator

from cift_models.models.protocol import Config


class LeadLagConfig(Config):
    """Bins, lags, graph, network and fit.

    bin_ms         width of a bin of the common clock; the decision clock must be a multiple of it
    bucket_bins    ends of the lag buckets in bins, from the instant back: a 1-2-5 series from 50 ms to 3 s
    neighbours     sources that a target listens to beside itself: those with the largest prior statistic
    heads, channels   of the GATv2 layer. Four heads of 4 find the planted edge of the simulated market on each of four seeds (R2 .0169 on
                   average where the edge alone is worth .0151), two of 8 miss it on one (.0114), one of 8 on three (.0048)
    clip           features are clipped at this many train standard deviations
    absent_share   share of training graphs in which each node sees itself alone, so that absence is nothing new
    epochs, epoch_steps, patience   a fit takes at most `epochs` times `epoch_steps` steps of the optimiser, whatever the rows, and
                   stops after `patience` epochs without a better loss on the judged rows
    batch, learning_rate, weight_decay   instants in a step; AdamW
    max_rows       the most recent decision rows that a fit looks at
    max_bins       the most recent bins that the prior looks at
    shifts, level  circular time shifts of the null of the prior's maximum statistic, and its quantile
    """

    bin_ms: int = Field(50, ge=1)
    bucket_bins: tuple[int, ...] = (1, 2, 4, 10, 20, 40, 60)
    neighbours: int = Field(4, ge=0)
    heads: int = Field(4, ge=1)
    channels: int = Field(4, ge=1)
    clip: float = Field(5.0, gt=0)
    absent_share: float = Field(0.2, ge=0, lt=1)
    epochs: int = Field(20, ge=1)
    epoch_steps: int = Field(25, ge=1)
    patience: int = Field(5, ge=1)
    batch: int = Field(512, ge=1)
    learning_rate: float = Field(1e-2, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    max_rows: int = Field(200_000, ge=1)
    max_bins: int = Field(2_000_000, ge=1)
    shifts: int = Field(400, ge=20)
    level: float = Field(0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def buckets_grow(self) -> LeadLagConfig:
        ends = (0, *self.bucket_bins)
        if len(ends) < 2 or any(b <= a for a, b in pairwise(ends)):
            raise ValueError(f"bucket_bins must grow from 1 or more; was {self.bucket_bins}")
        return self

    @property
    def bin_ns(self) -> int:
        return self.bin_ms * 1_000_000
