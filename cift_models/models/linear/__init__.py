"""Ridge on raw and signed-log flows: the base that every other model adds to."""

from cift_models.models.linear.config import LinearConfig
from cift_models.models.linear.model import Linear

__all__ = ["Linear", "LinearConfig"]
