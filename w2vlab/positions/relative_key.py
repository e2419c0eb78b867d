"""Relative positions of Shaw et al.: an embedding of the clipped distance is added to the key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from w2vlab.interfaces import AttentionPositions
from w2vlab.positions.tables import of_pairs
from w2vlab.utils.checks import check_at_least


class RelativeKeyPositions(AttentionPositions):
    """Adds an embedding of the distance to each key; farther frames have the embedding of the greatest distance.

    The defaults are those of w2v-BERT 2.0, which adds nothing to values. All heads share the embeddings, which are the
    only weights. Scores of all pairs are kept for the backward pass.

    Args:
        model_dim: Width D of the frames; supplied by the context network, not by YAML.
        num_heads: Heads H; supplied by the context network.
        left: Distances to earlier frames that have an embedding of their own, at least 0.
        right: Distances to later frames that have an embedding of their own, at least 0.

    Reference:
        Shaw et al. 2018, arXiv:1803.02155, Equations 4 and 5; in w2v-BERT 2.0: Barrault et al. 2023,
        arXiv:2312.05187.
    """

    utterances_are_independent = True

    def __init__(self, model_dim: int, num_heads: int, left: int = 64, right: int = 8) -> None:
        super().__init__()
        check_at_least(0, left=left, right=right)
        self.left = left
        self.embeddings = nn.Parameter(torch.empty(left + 1 + right, model_dim // num_heads))
        nn.init.xavier_uniform_(self.embeddings)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps queries and keys `(B, H, T, d)` to queries, keys and added scores `(B, H, T, T)`."""
        length, width = query.shape[-2:]
        embeddings = self.embeddings.to(query.dtype).T  # (d, left + 1 + right)
        scores = query * (1 / math.sqrt(width)) @ embeddings  # (B, H, T, left + 1 + right)
        shape = *query.shape[:-1], length
        # The first embedding for all distances before, the last for all after; from `-T` on, as `of_pairs` has it.
        before = torch.cat([scores[..., :1].expand(shape), scores[..., : self.left + 1]], dim=-1)[..., self.left :]
        return (
            query,
            key,
            of_pairs(torch.cat([before, scores[..., self.left + 1 :], scores[..., -1:].expand(shape)], dim=-1)),
        )
