"""The convolutional positions of wav2vec 2.0 and data2vec."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from w2vlab.functional.kernels import GroupedConv1d
from w2vlab.utils.checks import check_at_least


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

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps `frames` `(B, T, D)`, zero on padding, to position vectors `(B, T, D)`."""
        positions = self.conv(frames.transpose(1, 2))  # (B, D, T)
        return F.gelu(positions).transpose(1, 2)


class StackedConvPositions(nn.Module):
    """Relative positions of data2vec: several grouped convolutions, each with a layer norm and GELU.

    The norms have no weights. Padding is zero for each convolution, so that an utterance has the same positions alone
    and in a padded batch; in the published implementations it is zero for the first one only.

    Args:
        model_dim: Width D.
        num_layers: Convolutions.
        kernel_size: Frames that a convolution sees.
        num_groups: Groups of channels.

    Reference:
        Baevski et al. 2022, arXiv:2202.03555, in its released code (`pos_conv_depth`).
    """

    def __init__(self, model_dim: int, num_layers: int, kernel_size: int, num_groups: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GroupedConv1d(model_dim, kernel_size, num_groups) for _ in range(num_layers))

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps `frames` `(B, T, D)` to position vectors `(B, T, D)`; `padding_mask` `(B, T)` is True on padding."""
        for layer in self.layers:
            if padding_mask is not None:
                frames = frames.masked_fill(padding_mask[..., None], 0.0)
            frames = layer(frames.transpose(1, 2)).transpose(1, 2)  # (B, T, D)
            frames = F.gelu(F.layer_norm(frames, frames.shape[-1:]))
        return frames


def conv_positions(model_dim: int, num_layers: int, kernel_size: int, num_groups: int) -> nn.Module | None:
    """Builds the positions of wav2vec 2.0 for a single layer, those of data2vec for several, and None for no layer.

    Raises:
        ValueError: A size cannot be.
    """
    check_at_least(0, position_layers=num_layers)
    if num_layers == 0:
        return None
    check_at_least(1, position_groups=num_groups, position_kernel=kernel_size)
    if model_dim % num_groups:
        raise ValueError(f"`model_dim` must be a multiple of `position_groups` ({num_groups}), but is {model_dim}.")
    if num_layers == 1:
        return ConvPositions(model_dim, kernel_size, num_groups)
    return StackedConvPositions(model_dim, num_layers, kernel_size, num_groups)
