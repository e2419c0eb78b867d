"""Relative positions of Transformer-XL: scores of sinusoids of the distance between two frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from w2vlab.functional.kernels import Linear
from w2vlab.interfaces import AttentionPositions
from w2vlab.positions.tables import angles, arange_like, of_pairs


class RelativePositions(AttentionPositions):
    """Adds a score of the distance between two frames, from projected sinusoids, and two biases of the queries.

    With query q, key k and the projected sinusoids r of the distance, a score is `(q + u) k + (q + v) r`. Its weights
    are the projection and the biases u and v. Scores of all pairs are kept for the backward pass.

    Args:
        model_dim: Width D of the frames, an even number; supplied by the context network, not by YAML.
        num_heads: Heads H; supplied by the context network.

    Reference:
        Dai et al. 2019, arXiv:1901.02860, Section 3.3; in a Conformer: Gulati et al. 2020, arXiv:2005.08100.
    """

    utterances_are_independent = True

    def __init__(self, model_dim: int, num_heads: int) -> None:
        super().__init__()
        if model_dim % 2:
            raise ValueError(
                f"`model_dim` must be even for RelativePositions, which have sines and cosines, but is {model_dim}."
            )
        self.projection = Linear(model_dim, model_dim, bias=False)
        self.content_bias = nn.Parameter(torch.empty(num_heads, model_dim // num_heads))  # u
        self.distance_bias = nn.Parameter(torch.empty(num_heads, model_dim // num_heads))  # v
        nn.init.xavier_uniform_(self.content_bias)
        nn.init.xavier_uniform_(self.distance_bias)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps queries and keys `(B, H, T, d)` to queries, keys and added scores `(B, H, T, T)`."""
        heads, length, width = query.shape[1:]
        sinusoids = distance_sinusoids(length, heads * width, query)  # (2 T, D)
        projected = self.projection(sinusoids.to(self.projection.weight.dtype))
        distances = projected.view(2 * length, heads, width).permute(1, 2, 0)  # (H, d, 2 T)
        content, distance = (bias.to(query.dtype)[:, None] for bias in (self.content_bias, self.distance_bias))
        scores = (query + distance) * (1 / math.sqrt(width)) @ distances.to(query.dtype)  # (B, H, T, 2 T)
        return query + content, key, of_pairs(scores)


def distance_sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Returns sines and cosines, in turn, of the distances `i - j` from query i to key j, in float32 or wider.

    Args:
        length: Frames T.
        width: Sines and cosines D of a distance, an even number.
        like: Decides device and precision.

    Returns:
        Row `T + j - i` is of distance `i - j`, shape `(2 T, D)`.

    Reference:
        Vaswani et al. 2017, arXiv:1706.03762, Section 3.5.
    """
    turned = angles(arange_like(-length, length, like).neg(), width, 10000.0)  # (2 T, D / 2)
    return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(1)
