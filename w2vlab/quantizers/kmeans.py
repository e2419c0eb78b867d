"""The k-means quantizer of vq-wav2vec."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from w2vlab.functional.codebooks import check_codebooks, group_width, lookup_entries, nearest_entries
from w2vlab.functional.gradients import straight_through
from w2vlab.functional.lengths import group_norm_over_time
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Compilable, Quantizer
from w2vlab.types import QuantizerOutput


class KMeansQuantizer(Quantizer, Compilable):
    """Chooses the nearest entry of each codebook; the gradient is copied past the choice.

    The gradient of the quantized vectors is copied to the latents (straight-through) and does not reach the codebook.
    The codebook is trained by its own loss alone, which pulls each chosen entry towards its latent; the commitment
    loss, weighted by `gamma`, pulls the latent towards its entry.

    Args:
        input_dim: Width C of the latents, which is also the width E of the quantized vectors; supplied by the module,
            not by YAML.
        num_codebooks: Codebooks G (fairseq: `vq_groups`).
        codebook_size: Entries V of each codebook (fairseq: `vq_vars`).
        shared_codebook: All groups read the same entries (fairseq: `combine_groups`).
        gamma: Weight of the commitment loss.

    Reference:
        Baevski et al. 2019, arXiv:1910.05453, Section 3.2; van den Oord et al. 2017, arXiv:1711.00937. The paper writes
        sums of squared norms; as in the released code these are means over the width.
    """

    utterances_are_independent = True

    def __init__(
        self,
        input_dim: int,
        num_codebooks: int = 2,
        codebook_size: int = 320,
        shared_codebook: bool = False,
        gamma: float = 0.25,
    ) -> None:
        super().__init__()
        check_codebooks(num_codebooks, codebook_size)
        width = group_width(input_dim, num_codebooks)
        if gamma < 0:
            raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
        self.output_dim = input_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.gamma = gamma
        num_tables = 1 if shared_codebook else num_codebooks
        self.entries = nn.Parameter(0.01 * torch.randn(num_tables, codebook_size, width))
        self.projection = nn.Conv1d(input_dim, input_dim, 1, groups=num_codebooks, bias=False)
        self.norm = nn.GroupNorm(num_codebooks, input_dim)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: True on padding, shape `(B, N)`; it is excluded from the normalisation over time.

        Returns:
            `quantized` `(B, N, C)`, `codes` `(B, N, G)` and the loss `kmeans` `(B, N)`.
        """
        projected = self.projection(latents.transpose(1, 2)).transpose(1, 2).contiguous()  # (B, N, C)
        projected = group_norm_over_time(
            projected, self.num_codebooks, self.norm.weight, self.norm.bias, padding_mask, self.norm.eps
        )
        groups = projected.view(*projected.shape[:2], self.num_codebooks, -1)  # (B, N, G, C / G)
        codes = nearest_entries(groups, self.entries)  # (B, N, G)
        chosen = self.lookup(codes)
        with torch.autocast(latents.device.type, enabled=False):
            encoded, entry = at_least_float32(projected), at_least_float32(chosen)
            codebook = (entry - encoded.detach()).square().mean(dim=-1)
            commitment = (encoded - entry.detach()).square().mean(dim=-1)
        quantized = straight_through(chosen.to(projected.dtype), projected)
        return QuantizerOutput(quantized=quantized, codes=codes, losses={"kmeans": codebook + self.gamma * commitment})

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`."""
        return lookup_entries(codes, self.entries)
