"""Quantizers: latents to entries of finite codebooks."""

from w2vlab.quantizers.centers import CentersQuantizer
from w2vlab.quantizers.ema import EMAQuantizer
from w2vlab.quantizers.file_targets import FileTargets
from w2vlab.quantizers.finite_scalar import FiniteScalarQuantizer
from w2vlab.quantizers.gumbel import GumbelQuantizer
from w2vlab.quantizers.identity import IdentityQuantizer
from w2vlab.quantizers.kmeans import KMeansQuantizer
from w2vlab.quantizers.random_projection import RandomProjectionQuantizer
from w2vlab.quantizers.residual import ResidualQuantizer

__all__ = [
    "CentersQuantizer",
    "EMAQuantizer",
    "FileTargets",
    "FiniteScalarQuantizer",
    "GumbelQuantizer",
    "IdentityQuantizer",
    "KMeansQuantizer",
    "RandomProjectionQuantizer",
    "ResidualQuantizer",
]
