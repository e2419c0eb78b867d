"""Angles of positions, and scores by distance as scores of pairs of frames."""

from __future__ import annotations

import torch
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def angles(positions: Tensor, width: int, base: float) -> Tensor:
    """Returns the angles `p * base^(-2 i / width)` of positions p, for i from 0 to `width / 2 - 1`.

    Args:
        positions: Floating-point numbers p, shape `(T,)`; in float32 or wider, because a position of half precision is
            exact to 256 only.
        width: Twice the number of angles.
        base: The longest wave is about `2 pi * base` frames.

    Returns:
        Shape `(T, width / 2)`.
    """
    exponents = torch.arange(0, width, 2, dtype=positions.dtype, device=positions.device) / width
    return positions[:, None] * base**-exponents


def arange_like(first: int, last: int, like: Tensor) -> Tensor:
    """Returns the integers from `first` to `last - 1` in the precision of `like`, in float32 or wider."""
    return torch.arange(first, last, dtype=at_least_float32(like.new_empty(0)).dtype, device=like.device)


def of_pairs(by_distance: Tensor) -> Tensor:
    """Arranges scores of distances as scores of pairs of frames, without indices.

    A row that is one number shorter moves each query's scores by one distance against those of the query before.

    Args:
        by_distance: The score of query i and distance `j - i` is in column `T + j - i`, shape `(…, T, W)` with W of at
            least `2 T`.

    Returns:
        The scores of queries i and keys j, shape `(…, T, T)`.

    Reference:
        Dai et al. 2019, arXiv:1901.02860, Appendix B.
    """
    length, width = by_distance.shape[-2:]
    moved = by_distance.flatten(-2)[..., length : length * width]
    return moved.view(*by_distance.shape[:-2], length, width - 1)[..., :length].contiguous()
