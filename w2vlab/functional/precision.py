"""The precision of what must not be computed in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns `tensor` in float32, or as it is where it is float64 already: half precision is raised, none lowered."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
