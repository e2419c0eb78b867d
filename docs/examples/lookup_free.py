"""A quantizer from outside w2vlab: one part, one file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from w2vlab.functional.gradients import straight_through
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Quantizer
from w2vlab.types import QuantizerOutput


class LookupFreeQuantizer(Quantizer):
    """Projects a latent to a few scalars and keeps their signs, which are the bits of its code.

    There are no entries to search or to train. The gradient of the signs is straight-through.

    Args:
        input_dim: Width C of the latents, which is also the width E of the quantized vectors; supplied by the module.
        num_bits: Signs of one code; a codebook has V = 2 ** num_bits entries.
        num_codebooks: Codebooks G.
        gamma: Weight of the commitment loss, which moves the scalars to -1 and 1.

    Reference:
        Yu et al. 2023, arXiv:2310.05737, Section 3.2, without its entropy term.
    """

    utterances_are_independent = True

    def __init__(self, input_dim: int, num_bits: int = 8, num_codebooks: int = 1, gamma: float = 0.25) -> None:
        super().__init__()
        if num_bits < 1:
            raise ValueError(f"`num_bits` must be at least 1, but is {num_bits}.")
        if num_codebooks < 1:
            raise ValueError(f"`num_codebooks` must be at least 1, but is {num_codebooks}.")
        if gamma < 0:
            raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
        self.output_dim = input_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = 2**num_bits
        self.num_bits = num_bits
        self.gamma = gamma
        self.project_in = nn.Linear(input_dim, num_codebooks * num_bits)
        self.project_out = nn.Linear(num_codebooks * num_bits, input_dim)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: Not used: each frame is quantized independently.

        Returns:
            `quantized` `(B, N, C)`, `codes` `(B, N, G)` and the loss `commitment` `(B, N)`.
        """
        scalars = self.project_in(latents)  # (B, N, G * bits)
        with torch.autocast(latents.device.type, enabled=False):
            scalars = at_least_float32(scalars)
            bits = scalars > 0
            signs = 2 * bits.to(scalars.dtype) - 1
            commitment = self.gamma * (scalars - signs).square().mean(dim=-1)  # (B, N)
            kept = straight_through(signs, scalars)
        codes = (bits.unflatten(-1, (self.num_codebooks, self.num_bits)) * self._powers(bits)).sum(dim=-1)  # (B, N, G)
        return QuantizerOutput(
            quantized=self.project_out(kept.to(latents.dtype)), codes=codes, losses={"commitment": commitment}
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`."""
        bits = codes[..., None].bitwise_and(self._powers(codes)) > 0  # (…, G, bits)
        vectors: Tensor = self.project_out(2 * bits.flatten(-2).to(self.project_out.weight.dtype) - 1)
        return vectors

    def _powers(self, like: Tensor) -> Tensor:
        """Returns the value of each bit."""
        return 2 ** torch.arange(self.num_bits, device=like.device)  # (bits,)
