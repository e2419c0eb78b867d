"""The precision of what must not be computed in half precision."""

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
"""What stays in float32 (or float64) under mixed precision, by name; everything else may run in bfloat16 or float16.

Each one begins with `torch.autocast(…, enabled=False)` and `at_least_float32`, or is given float32 by one that does.
"""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns `tensor` in float32, or as it is where it is float64 already: half precision is raised, none lowered."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the precision in which matrix products of `tensor` are computed."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
