"""Rotary positions: queries and keys are turned by angles in proportion to their frame."""

from __future__ import annotations

import torch
from torch import Tensor

from w2vlab.interfaces import AttentionPositions
from w2vlab.positions.tables import angles, arange_like


class RotaryPositions(AttentionPositions):
    """Turns queries and keys by angles in proportion to their frame, so that a score depends on the distance alone.

    Channels i and `i + d / 2` of a head are the two coordinates of a plane, as in most implementations; the paper has
    channels `2 i` and `2 i + 1`, which is another order of the rows of the projections. There are no weights.

    Args:
        model_dim: Width D of the frames; supplied by the context network, not by YAML.
        num_heads: Heads H, of `D / H` channels, an even number; supplied by the context network.
        base: The longest wave is about `2 pi * base` frames, above 1.
        before_projection: Turn the frames that queries and keys are projected from, head by head, as fairseq's and
            transformers' wav2vec 2.0 Conformers do, in place of queries and keys.

    Reference:
        Su et al. 2021, arXiv:2104.09864, Equations 14, 15 and 34.
    """

    utterances_are_independent = True

    def __init__(self, model_dim: int, num_heads: int, base: float = 10000.0, before_projection: bool = False) -> None:
        super().__init__()
        if not base > 1:
            raise ValueError(f"`base` must be above 1, but is {base}.")
        self.num_heads = num_heads
        self.base = base
        self.before_projection = before_projection
        width = model_dim // num_heads
        if width % 2:
            raise ValueError(
                f"`model_dim / num_heads`, the width of a head, must be even for RotaryPositions, which turn pairs of "
                f"channels, but is {width}. Set `num_heads`, or take RelativePositions."
            )

    def place(self, frames: Tensor) -> Tensor:
        """Turns frames `(B, T, D)` head by head, if that is asked for."""
        if not self.before_projection:
            return frames
        heads = frames.view(*frames.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, H, T, d)
        return rotate(heads, self.base).transpose(1, 2).flatten(2)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, None]:
        """Turns queries and keys `(B, H, T, d)`; adds nothing to scores."""
        if self.before_projection:
            return query, key, None
        return rotate(query, self.base), rotate(key, self.base), None


def rotate(vectors: Tensor, base: float = 10000.0) -> Tensor:
    """Turns vectors of frame t by the angles `t * base^(-2 i / d)`, in float32 or wider.

    Args:
        vectors: Shape `(…, T, d)` with an even d; channels i and `i + d / 2` are turned together.
        base: Of the angles.

    Returns:
        Shape `(…, T, d)`, in the precision of `vectors`.

    Reference:
        Su et al. 2021, arXiv:2104.09864, Equation 34.
    """
    turned = angles(arange_like(0, vectors.shape[-2], vectors), vectors.shape[-1], base)  # (T, d / 2)
    cosine, sine = turned.cos(), turned.sin()
    first, second = vectors.chunk(2, dim=-1)
    rotated = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return rotated.to(vectors.dtype)
