"""The quantizer of VQ-VAE whose codebooks learn by moving averages."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from w2vlab.functional.codebooks import check_codebooks, group_width, lookup_entries
from w2vlab.functional.gradients import straight_through
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Quantizer
from w2vlab.quantizers.ema_codebook import EMACodebook, Start
from w2vlab.types import QuantizerOutput


class EMAQuantizer(Quantizer):
    """k-means by moving averages: each entry follows the latents that choose it, and dead entries are revived.

    The gradient of the quantized vectors is copied to the latents (straight-through). Codebooks have no gradient and no
    loss: once an update each entry moves to the moving average of its latents over all processes and micro-batches.
    There are no learnable parameters. The codebooks of DinoSR and SpidR have `decay: 0.9`, `revive_below: 0`, `eps: 0`,
    `start: random` and `keep_unused: true`.

    Args:
        input_dim: Width C of the latents, which is also the width E of the quantized vectors; supplied by the module,
            not by YAML.
        num_codebooks: Codebooks G; each one quantizes its own part of a latent.
        codebook_size: Entries V of each codebook.
        decay: Decay of the moving averages in an update. At 0.99 they extend over about 100 updates.
        gamma: Weight of the commitment loss, which pulls latents towards their entries: a mean over the width.
        revive_below: An entry is moved to a latent of the current update if its moving count falls below this share of
            the average entry's; 0 for never. SoundStream's threshold is a number of latents (2), which depends on the
            batch size; this one does not. An unused entry falls below 0.03 within 350 updates at a decay of 0.99.
        eps: Added to every count before it divides (Laplace smoothing); 0 for none, which needs `keep_unused`.
        start: Entries start at latents of the first update (`latents`), or at random vectors, of which each component
            has mean 0 and variance 1 over the entries of a codebook (`random`, DinoSR).
        keep_unused: Whether an entry that no latent of an update chose keeps its weight against later latents, in place
            of its decay (DinoSR).

    Reference:
        van den Oord et al. 2017, arXiv:1711.00937, Appendix A.1; revival: Zeghidour et al. 2021, arXiv:2107.03312;
        DinoSR: Liu et al. 2023, arXiv:2305.10005, and its released code.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    def __init__(
        self,
        input_dim: int,
        num_codebooks: int = 2,
        codebook_size: int = 320,
        decay: float = 0.99,
        gamma: float = 0.25,
        revive_below: float = 0.03,
        eps: float = 1e-5,
        start: Start = "latents",
        keep_unused: bool = False,
    ) -> None:
        super().__init__()
        check_codebooks(num_codebooks, codebook_size)
        if gamma < 0:
            raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
        self.output_dim = input_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.gamma = gamma
        width = group_width(input_dim, num_codebooks)
        self.codebook = EMACodebook(num_codebooks, codebook_size, width, decay, revive_below, eps, start, keep_unused)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: True on padding, shape `(B, N)`; the codebooks do not learn from it.

        Returns:
            `quantized` `(B, N, C)`, `codes` `(B, N, G)` and the loss `commitment` `(B, N)`.
        """
        groups = latents.reshape(*latents.shape[:2], self.num_codebooks, -1)  # (B, N, G, C / G)
        codes = self.codebook(groups, padding_mask)  # (B, N, G)
        chosen = self.lookup(codes)
        with torch.autocast(latents.device.type, enabled=False):
            commitment = (at_least_float32(latents) - at_least_float32(chosen)).square().mean(dim=-1)
        quantized = straight_through(chosen.to(latents.dtype), latents)
        return QuantizerOutput(quantized=quantized, codes=codes, losses={"commitment": self.gamma * commitment})

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`."""
        return lookup_entries(codes, self.codebook.entries)
