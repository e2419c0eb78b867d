"""Scores of codes: by a linear layer, or by cosine similarities with an embedding of each code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.code_scores import cosine_code_logits
from w2vlab.types import TargetSpec

Contexts = Tensor | Sequence[Tensor]
"""Contexts `(B, N, D)` for all codebooks, or one such tensor for each codebook."""


def _linear_of_codebooks(contexts: Contexts, linear: nn.Linear, num_codebooks: int) -> Tensor:
    """Applies a layer whose output has a part for each codebook; each part has the contexts of its codebook."""
    if isinstance(contexts, Tensor):
        return F.linear(contexts, linear.weight, linear.bias)
    parts = zip(contexts, linear.weight.chunk(num_codebooks), linear.bias.chunk(num_codebooks), strict=True)
    return torch.cat([F.linear(context, weight, bias) for context, weight, bias in parts], dim=-1)


class LinearScores(nn.Linear):
    """Scores the entries of each codebook by a linear layer of its own (BEST-RQ).

    Args:
        context_dim: Width D of the contexts.
        targets: The codebooks.

    Attributes:
        weight: The weights of all codebooks one after another, `(G V, D)`.
    """

    def __init__(self, context_dim: int, targets: TargetSpec) -> None:
        super().__init__(context_dim, targets.num_codebooks * targets.codebook_size)
        self.num_codebooks = targets.num_codebooks

    def forward(self, contexts: Contexts) -> Tensor:
        """Returns the logits `(B, N, G V)` of all entries."""
        return _linear_of_codebooks(contexts, self, self.num_codebooks)


class CosineScores(nn.Module):
    """Projects contexts, once for each codebook, and compares them with an embedding of each of its entries.

    Args:
        context_dim: Width D of the contexts.
        targets: The codebooks.
        projection_dim: Width P in which both are compared.
        temperature: tau, by which similarities are divided.

    Attributes:
        projection: The linear projections of all codebooks (fairseq: `final_proj`).
        embeddings: The embeddings, `(G, V, P)` (fairseq: `label_embs_concat`, of all codebooks one after another).
    """

    def __init__(self, context_dim: int, targets: TargetSpec, projection_dim: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.projection = nn.Linear(context_dim, targets.num_codebooks * projection_dim)
        # Uniform in [0, 1), as in fairseq.
        self.embeddings = nn.Parameter(torch.rand(targets.num_codebooks, targets.codebook_size, projection_dim))

    def project(self, contexts: Contexts) -> Tensor:
        """Returns what is compared with the embeddings, `(B, N, G, P)`."""
        num_codebooks = len(self.embeddings)
        projected = _linear_of_codebooks(contexts, self.projection, num_codebooks)  # (B, N, G * P)
        return projected.view(*projected.shape[:-1], num_codebooks, -1)

    def forward(self, contexts: Contexts) -> Tensor:
        """Returns the logits `(B, N, G V)` of all entries, in float32 or wider."""
        return cosine_code_logits(self.project(contexts), self.embeddings, self.temperature).flatten(-2)
