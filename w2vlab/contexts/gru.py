"""The recurrent aggregator of CPC, and of wav2vec as an option."""

from __future__ import annotations

import warnings
from typing import ClassVar

from torch import Tensor, nn

from w2vlab.interfaces import ContextNetwork
from w2vlab.utils.checks import check_at_least
from w2vlab.utils.messages import W2VLabWarning


class GRUContext(ContextNetwork):
    """Gated recurrent units over the latents: each context depends on all frames so far.

    The defaults are the width of fairseq's `aggregator=gru` of wav2vec (which runs over the batch in place of time, so
    that its weights cannot be read here); CPC has a width of 256.

    Args:
        input_dim: Width of the latents; supplied by the module, not by YAML.
        output_dim: Width D of the state, which is the context (fairseq: `gru_dim`).
        num_layers: Recurrent layers.
        dropout: Dropout between layers.

    Reference:
        van den Oord et al. 2018, arXiv:1807.03748; Schneider et al. 2019, arXiv:1904.05862.
    """

    causal: ClassVar[bool] = True

    def __init__(self, input_dim: int, output_dim: int = 512, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        check_at_least(1, output_dim=output_dim, num_layers=num_layers)
        if num_layers == 1 and dropout:
            warnings.warn(
                "`dropout` has no effect: it is applied between layers, and `num_layers` is 1.",
                category=W2VLabWarning,
                stacklevel=2,
            )
            dropout = 0.0
        self.model_dim = input_dim
        self.output_dim = output_dim
        self.gru = nn.GRU(input_dim, output_dim, num_layers, batch_first=True, dropout=dropout)

    @property
    def utterances_are_independent(self) -> bool:
        """Whether there is no dropout, which PyTorch's layers draw for a whole batch."""
        return self.gru.dropout == 0

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps `frames` to contexts.

        Args:
            frames: Shape `(B, T, C)`.
            padding_mask: Not used: padding comes last, and no state depends on later frames.

        Returns:
            Contexts, shape `(B, T, D)`.
        """
        contexts: Tensor = self.gru(frames)[0]  # (B, T, D)
        return contexts
