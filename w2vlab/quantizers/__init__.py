"""Quantizers: latents to entries of finite codebooks."""

from w2vlab.quantizers.gumbel import GumbelQuantizer
from w2vlab.quantizers.identity import IdentityQuantizer
from w2vlab.quantizers.kmeans import KMeansQuantizer

__all__ = ["GumbelQuantizer", "IdentityQuantizer", "KMeansQuantizer"]
