"""The convolutional positions of wav2vec 2.0."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from w2vlab.interfaces import Compilable


class ConvPositions(nn.Module, Compilable):
    """Relative positions from a wide grouped convolution.

    Args:
        model_dim: Width D.
        kernel_size: Frames that the convolution sees.
        num_groups: Groups of channels.
    """

    def __init__(self, model_dim: int, kernel_size: int, num_groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(model_dim, model_dim, kernel_size, padding=kernel_size // 2, groups=num_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel_size * model_dim)))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv, name="weight", dim=2)

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `frames` `(B, T, D)` to position vectors `(B, T, D)`."""
        positions = self.conv(frames.transpose(1, 2))  # (B, D, T or T + 1): an even kernel gives one too many
        return F.gelu(positions[..., : frames.shape[1]]).transpose(1, 2)
