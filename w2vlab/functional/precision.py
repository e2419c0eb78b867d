"""Operations that must be computed in float32 under mixed precision."""

from __future__ import annotations

import torch
from torch import Tensor

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
