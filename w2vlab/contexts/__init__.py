"""Context networks: latents to contexts."""

from w2vlab.contexts.conv import ConvContext
from w2vlab.contexts.transformer import TransformerContext

__all__ = ["ConvContext", "TransformerContext"]
