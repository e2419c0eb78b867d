"""The residual quantizer of SoundStream."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from w2vlab.functional.codebooks import check_codebooks
from w2vlab.functional.gradients import straight_through
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Quantizer
from w2vlab.quantizers.ema_codebook import EMACodebook
from w2vlab.types import QuantizerOutput


class ResidualQuantizer(Quantizer):
    """A sequence of codebooks, each of which quantizes the residual of the previous ones.

    The quantized vector is the sum of the chosen entries, so codebooks are in order of importance. Each one is a
    codebook of `EMAQuantizer`, on the full width: it learns by moving averages, and dead entries are revived. A
    codebook is initialized one update after the previous one, because the residuals of a random codebook differ from
    those that it will quantize.

    Args:
        input_dim: Width C of the latents, which is also the width E of the quantized vectors; supplied by the module,
            not by YAML.
        num_codebooks: Codebooks G in sequence.
        codebook_size: Entries V of each codebook.
        decay: Decay of the moving averages in an update.
        gamma: Weight of the commitment loss, which pulls each residual towards its entry: a mean over the width and
            over the codebooks.
        revive_below: An entry is moved to a latent of the current update if its moving count falls below this share of
            the average entry's; 0 for never.
        eps: Added to every count before it divides (Laplace smoothing).

    Reference:
        Zeghidour et al. 2021, arXiv:2107.03312, Section III.C; the defaults are its 8 codebooks of 1024 entries.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    def __init__(
        self,
        input_dim: int,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        decay: float = 0.99,
        gamma: float = 0.25,
        revive_below: float = 0.03,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_codebooks(num_codebooks, codebook_size)
        if gamma < 0:
            raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
        self.output_dim = input_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.gamma = gamma
        self.stages = nn.ModuleList(
            EMACodebook(1, codebook_size, input_dim, decay, revive_below, eps) for _ in range(num_codebooks)
        )

    @property
    def codebooks(self) -> list[EMACodebook]:
        """The codebooks, first to last."""
        return cast(list[EMACodebook], list(self.stages))

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: True on padding, shape `(B, N)`; the codebooks do not learn from it.

        Returns:
            `quantized` `(B, N, C)`, `codes` `(B, N, G)` in the order of the codebooks, and the loss `commitment`
            `(B, N)`.
        """
        codes: list[Tensor] = []
        errors: list[Tensor] = []
        ready: Tensor | None = None
        with torch.autocast(latents.device.type, enabled=False):
            residual = at_least_float32(latents)
            for stage in self.codebooks:
                code = stage(residual[:, :, None], padding_mask, ready)  # (B, N, 1)
                residual = residual - at_least_float32(stage.entries[0, code[..., 0]])  # (B, N, C)
                codes.append(code)
                errors.append(residual.square().mean(dim=-1))
                ready = stage.initialized.all()
        commitment = torch.stack(errors).mean(dim=0)
        chosen = torch.cat(codes, dim=-1)  # (B, N, G)
        quantized = straight_through(self.lookup(chosen).to(latents.dtype), latents)
        return QuantizerOutput(quantized=quantized, codes=chosen, losses={"commitment": self.gamma * commitment})

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`: the sum of one entry of each codebook."""
        vectors = torch.zeros((), device=codes.device)
        for stage, code in zip(self.codebooks, codes.unbind(-1), strict=True):
            vectors = vectors + stage.entries[0, code]  # (…, E)
        return vectors
