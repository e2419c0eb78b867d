"""Operations that must be computed in float32 under mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

ISLANDS = (
    "norms over time",
    "Gumbel softmax",
    "distances to codebook entries",
    "moving averages of codebooks",
    "quantizer losses",
    "cosine logits",
    "prediction losses",
    "feature penalty",
    "diversity penalty",
    "CTC",
)
"""Operations that use float32 (or float64) under mixed precision; all others may use bfloat16 or float16.

Each of them disables autocast and converts its inputs with `at_least_float32`, or gets its inputs from one that does.
"""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns `tensor` converted to float32, or unchanged if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the precision in which matrix products of `tensor` are computed."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class KeepsFloat32(nn.Module):
    """Base of a module whose tensors stay in float32 or float64 if the model is converted to half precision.

    A step of a slow moving average is smaller than a rounding step of half precision, and would be lost.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def convert(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            if converted.is_floating_point() and converted.dtype.itemsize < torch.float32.itemsize:
                return tensor.to(converted.device, torch.float32)
            return converted

        applied: Any = super()._apply(convert, recurse)  # type: ignore[no-untyped-call]
        return applied  # type: ignore[no-any-return]
