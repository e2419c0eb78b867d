"""Finite scalar quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from w2vlab.functional.codebooks import check_codebooks
from w2vlab.functional.gradients import straight_through
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Compilable, Quantizer
from w2vlab.types import QuantizerOutput


class FiniteScalarQuantizer(Quantizer, Compilable):
    """Rounds each of a few bounded scalars to a few levels; the gradient is copied past the rounding (FSQ).

    The latent is projected to G times `len(levels)` scalars, each is bounded by a hyperbolic tangent and rounded, and
    the result is projected back. The combinations of the levels are the entries of a codebook that is not learned and
    needs neither a commitment loss nor revival.

    Args:
        input_dim: Width C of the latents, which is also the width E of the quantized vectors; supplied by the module,
            not by YAML.
        levels: Levels of each scalar, 3 or more; a codebook has their product V of entries. The default's 1000 are
            the paper's for about 2^10.
        num_codebooks: Codebooks G, all with the same levels.

    Reference:
        Mentzer et al. 2023, arXiv:2309.15505, Sections 3.1 and 3.2. The rounding is vector-quantize-pytorch's.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    def __init__(self, input_dim: int, levels: Sequence[int] = (8, 5, 5, 5), num_codebooks: int = 1) -> None:
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(f"`levels` must be one or more numbers of at least 3, but is {list(levels)}.")
        check_codebooks(num_codebooks, math.prod(levels))
        # The import takes seconds, so that it is done only if the quantizer is used.
        from vector_quantize_pytorch.finite_scalar_quantization import FSQ

        self.output_dim = input_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = math.prod(levels)
        num_scalars = num_codebooks * len(levels)
        self.project_in = nn.Linear(input_dim, num_scalars)
        # It has no parameters. Its tables follow from the arguments, so that they need values even on the meta device.
        with torch.device("cpu"):
            self.rounding = FSQ(levels=list(levels), num_codebooks=num_codebooks, keep_num_codebooks_dim=True)
        self.project_out = nn.Linear(num_scalars, input_dim)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: Not used: each frame is quantized by itself.

        Returns:
            `quantized` `(B, N, C)` and `codes` `(B, N, G)`.
        """
        scalars = self.project_in(latents)  # (B, N, G * scalars of a codebook)
        with torch.autocast(latents.device.type, enabled=False):
            rounded, codes = self.rounding(at_least_float32(scalars))
        # A NaN has no valid code. Clamp it, so that the run ends at the check of the loss and not at an index error.
        codes = codes.long().clamp(0, self.codebook_size - 1)
        projected = self.project_out(rounded)
        # Take the vectors from `lookup`, so that they equal those of the codes bit for bit: matrix products of other
        # shapes may round differently.
        quantized = straight_through(self.lookup(codes).to(projected.dtype), projected)
        return QuantizerOutput(quantized=quantized, codes=codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`."""
        with torch.autocast(codes.device.type, enabled=False):
            levels = at_least_float32(self.rounding.get_buffer("implicit_codebook"))  # (V, scalars of a codebook)
            weight = at_least_float32(self.project_out.weight).view(-1, self.num_codebooks, levels.shape[1])
            entries = torch.einsum("vl,egl->gve", levels, weight)  # (G, V, E)
            vectors = at_least_float32(self.project_out.bias)  # (E,)
            for codebook, code in enumerate(codes.unbind(-1)):
                vectors = vectors + entries[codebook, code]  # (…, E)
        return vectors
