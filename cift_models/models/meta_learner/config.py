"""What a meta-learner is to be."""

from __future__ import annotations

from pydantic import Field

from cift_models.models.protocol import Config


class MetaLearnerConfig(Config):
    """Small trees, slowly: there is little left to find above the blend, and much noise.

    depth             of a tree
    eta               share of a tree that is added
    rounds            most trees of a fit that early stopping watches
    rounds_unwatched  trees of a fit without early-stopping rows (an out-of-fold fit: b6 lies in its future). Watched, the recorded day's
                      stops at 7; 100 trees take R2 from .0251/.0395/.0150 to .0182/.0389/.0106 (over linear and Hawkes)
    min_rows          least number of rows in a leaf
    patience          rounds without gain on the early-stopping rows that end a fit
    """

    depth: int = Field(default=2, ge=1, le=4)
    eta: float = Field(default=0.05, gt=0, le=1)
    rounds: int = Field(default=200, ge=1)
    rounds_unwatched: int = Field(default=10, ge=1)
    min_rows: int = Field(default=200, ge=1)
    patience: int = Field(default=30, ge=1)
