"""Continuous targets."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from w2vlab.interfaces import Quantizer
from w2vlab.types import QuantizerOutput


class IdentityQuantizer(Quantizer):
    """Leaves the latents as they are: wav2vec, and wav2vec 2.0 with continuous targets.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862; Baevski et al. 2020, arXiv:2006.11477, Table 4.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim
        self.num_codebooks = 0
        self.codebook_size = 0

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Returns `latents` `(B, N, C)` as `quantized`, with no codes: `(B, N, 0)`."""
        return QuantizerOutput(quantized=latents, codes=latents.new_zeros((*latents.shape[:-1], 0)).long())

    def lookup(self, codes: Tensor) -> Tensor:
        """Raises, because this quantizer has no codebook.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("`IdentityQuantizer` has no codebook to look codes up in; its targets are continuous.")
