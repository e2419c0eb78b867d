"""Context networks: latents to contexts."""

from w2vlab.contexts.conformer import ConformerContext
from w2vlab.contexts.conv import ConvContext
from w2vlab.contexts.gru import GRUContext
from w2vlab.contexts.subsampled import SubsampledContext
from w2vlab.contexts.transformer import TransformerContext

__all__ = ["ConformerContext", "ConvContext", "GRUContext", "SubsampledContext", "TransformerContext"]
