"""Transformer: what is left of the next second's move after the linear and Hawkes forecasts, from a sliding window of steps."""

from cift_models.models.transformer.config import TransformerConfig
from cift_models.models.transformer.model import OrderFlowTransformer

__all__ = ["OrderFlowTransformer", "TransformerConfig"]
