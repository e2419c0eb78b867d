"""HuBERT's scores of codes: cosine similarities of projected contexts with an embedding of each code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from w2vlab.functional.code_scores import cosine_code_logits
from w2vlab.types import TargetSpec


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

    def project(self, context: Tensor) -> Tensor:
        """Returns what is compared with the embeddings, `(B, N, G, P)`, for contexts `(B, N, D)`."""
        projected: Tensor = self.projection(context)
        return projected.view(*projected.shape[:-1], len(self.embeddings), -1)

    def forward(self, context: Tensor) -> Tensor:
        """Returns the logits `(B, N, G V)` of all entries, in float32 or wider."""
        return cosine_code_logits(self.project(context), self.embeddings, self.temperature).flatten(-2)
