"""The convolutional positions of wav2vec 2.0."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from w2vlab.functional.kernels import GroupedConv1d


class ConvPositions(nn.Module):
    """Relative positions: a wide grouped convolution with weight normalization, and GELU.

    Args:
        model_dim: Width D.
        kernel_size: Frames that the convolution sees.
        num_groups: Groups of channels.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 2.
    """

    def __init__(self, model_dim: int, kernel_size: int, num_groups: int) -> None:
        super().__init__()
        conv = GroupedConv1d(model_dim, kernel_size, num_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel_size * model_dim)))
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, name="weight", dim=2)

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `frames` `(B, T, D)` to position vectors `(B, T, D)`."""
        positions = self.conv(frames.transpose(1, 2))  # (B, D, T)
        return F.gelu(positions).transpose(1, 2)
