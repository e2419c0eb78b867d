"""The frozen random-projection quantizer of BEST-RQ."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.codebooks import check_codebooks, lookup_entries, nearest_entries
from w2vlab.functional.gradients import straight_through
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Compilable, Quantizer
from w2vlab.types import QuantizerOutput


class RandomProjectionQuantizer(Quantizer, Compilable):
    """Chooses the entry with the highest cosine after a random projection; projection and entries are never trained.

    Frames must have zero mean and unit variance, because few entries would be used otherwise. `normalize` brings each
    frame to them by its own statistics, which latents of any kind need. The paper normalizes each channel by statistics
    of the data, so that loud and quiet frames differ; for that the latents are `LogMelEncoder`'s, which normalizes each
    channel over the utterance, as SpeechBrain does, and `normalize` is false.

    The quantized vectors are the chosen unit entries. Their gradient is copied to the projected, normalised latents
    and passes through the frozen projection, so that the quantizer can also be used with losses that compare vectors.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.
        num_codebooks: Codebooks G, each with its own projection; the paper has one.
        codebook_size: Entries V of each codebook.
        code_dim: Width of an entry; the quantized width E is G times it.
        normalize: Normalize each frame over its channels first. False for frames that are normalized already.

    Reference:
        Chiu et al. 2022, arXiv:2202.01855, Section 3.1.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    projection: Tensor
    entries: Tensor

    def __init__(
        self,
        input_dim: int,
        num_codebooks: int = 1,
        codebook_size: int = 8192,
        code_dim: int = 16,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_codebooks(num_codebooks, codebook_size)
        if input_dim < 2:
            raise ValueError(f"`input_dim` must be at least 2 to be normalised, but is {input_dim}.")
        if code_dim < 2:
            raise ValueError(f"`code_dim` must be at least 2 for directions to differ, but is {code_dim}.")
        self.output_dim = num_codebooks * code_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.normalize = normalize
        projection = torch.stack(
            [nn.init.xavier_uniform_(torch.empty(code_dim, input_dim)) for _ in range(num_codebooks)]
        )
        entries = F.normalize(torch.randn(num_codebooks, codebook_size, code_dim), dim=-1)
        # Buffers, so that they are saved in checkpoints, without which the codes are meaningless, but are not trained.
        self.register_buffer("projection", projection)  # (G, d, C)
        self.register_buffer("entries", entries)  # (G, V, d)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: Not used: each frame is quantized by itself.

        Returns:
            `quantized` `(B, N, E)` and `codes` `(B, N, G)`.
        """
        with torch.autocast(latents.device.type, enabled=False):
            frames = at_least_float32(latents)
            if self.normalize:
                frames = F.layer_norm(frames, frames.shape[-1:])
            projected = torch.einsum("bnc,gdc->bngd", frames, at_least_float32(self.projection))
            directions = F.normalize(projected, dim=-1)  # (B, N, G, d)
            codes = nearest_entries(directions, self.entries)  # of unit vectors, the nearest has the highest cosine
            quantized = straight_through(self.lookup(codes).to(directions.dtype), directions.flatten(-2))
        return QuantizerOutput(quantized=quantized.to(latents.dtype), codes=codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`."""
        return lookup_entries(codes, self.entries)
