"""Codes from signs."""

from __future__ import annotations

import torch
from torch import Tensor

from w2vlab.interfaces import Quantizer
from w2vlab.types import QuantizerOutput


class SignQuantizer(Quantizer):
    """Keeps only the sign of the first latents; nothing is trained.

    Args:
        input_dim: Width C of the latents.
        num_codebooks: Latents that are kept, each a codebook of two entries.

    Reference:
        Charikar 2002, Similarity estimation techniques from rounding algorithms.
    """

    def __init__(self, input_dim: int, num_codebooks: int = 4) -> None:
        super().__init__()
        if not 1 <= num_codebooks <= input_dim:
            raise ValueError(f"`num_codebooks` must be from 1 to {input_dim}, but is {num_codebooks}.")
        self.num_codebooks = self.output_dim = num_codebooks
        self.codebook_size = 2

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes latents `(B, N, C)`."""
        kept = latents[..., : self.num_codebooks]
        codes = (kept > 0).long()
        # Straight-through: the value is the sign, the gradient is that of the latent.
        return QuantizerOutput(quantized=self.lookup(codes) + kept - kept.detach(), codes=codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns -1 for 0 and 1 for 1."""
        return codes.to(torch.float32) * 2 - 1
