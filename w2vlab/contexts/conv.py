"""The causal convolutional aggregator of wav2vec and vq-wav2vec."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.kernels import GELU, Conv1d, Dropout, GroupNorm, ReLU
from w2vlab.interfaces import Compilable, ContextNetwork

# (width, kernel) of each layer of wav2vec large: 12 layers that see 79 frames, 810 ms.
WAV2VEC_LARGE_LAYERS = tuple((512, kernel) for kernel in range(2, 14))

Activation = Literal["relu", "gelu"]
Padding = Literal["replicate", "zeros"]


class CausalConvBlock(nn.Module, Compilable):
    """A convolution that sees its own frame and earlier ones, dropout, a group norm and the activation.

    Args:
        input_dim: Channels in.
        output_dim: Channels out.
        kernel_size: Frames that the convolution sees.
        activation: `gelu` or `relu`.
        padding: Frames before the first one: copies of it (`replicate`) or zeros (`zeros`).
        dropout: Dropout after the convolution.
        residual_scale: Factor of the sum of input and output; None for no residual connection.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel_size: int,
        activation: str,
        padding: str,
        dropout: float,
        residual_scale: float | None,
    ) -> None:
        super().__init__()
        self.conv = Conv1d(input_dim, output_dim, kernel_size)
        self.norm = GroupNorm(1, output_dim)
        self.dropout = Dropout(dropout)
        self.activation = GELU() if activation == "gelu" else ReLU()
        self.replicate = padding == "replicate"
        self.residual_scale = residual_scale
        self.shortcut: nn.Module = nn.Identity()
        if residual_scale is not None and input_dim != output_dim:
            self.shortcut = Conv1d(input_dim, output_dim, 1, bias=False)

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Maps `frames` `(B, T, C)` to `(B, T, C')`."""
        before = frames[:, :1].expand(-1, self.conv.kernel_size[0] - 1, -1)
        if not self.replicate:
            before = torch.zeros_like(before)
        padded = torch.cat([before, frames], dim=1)  # (B, T + kernel - 1, C)
        convolved = self.dropout(self.conv(padded))  # (B, T, C')
        output: Tensor = self.activation(self.norm(convolved, padding_mask))
        if self.residual_scale is not None:
            output = (output + self.shortcut(frames)) * self.residual_scale
        return output


class ConvContext(ContextNetwork):
    """Causal convolutions over the latents (the aggregator of wav2vec).

    Its convolutions see the past only; its group norm, as published, takes statistics over the whole utterance.

    Args:
        input_dim: Width of the latents; supplied by the module, not by YAML.
        layers: Width and kernel of each convolution.
        activation: `relu` (wav2vec), or `gelu` (vq-wav2vec).
        padding: Frames before the first one: copies of it (`replicate`, as published) or zeros (`zeros`).
        dropout: Dropout after each convolution.
        skip_connections: Add each layer's input to its output.
        residual_scale: The sum of a skip connection is multiplied by the square root of this.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862, Section 2.1.
    """

    utterances_are_independent = True

    causal: ClassVar[bool] = True

    def __init__(
        self,
        input_dim: int,
        layers: Sequence[tuple[int, int]] = WAV2VEC_LARGE_LAYERS,
        activation: Activation = "relu",
        padding: Padding = "replicate",
        dropout: float = 0.0,
        skip_connections: bool = True,
        residual_scale: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, Activation)
        check_choice("padding", padding, Padding)
        if residual_scale <= 0:
            raise ValueError(f"`residual_scale` must be above 0, but is {residual_scale}.")
        if not layers:
            raise ValueError("`layers` must have at least one (width, kernel), but is empty.")
        for width, kernel in layers:
            if min(width, kernel) < 1:
                raise ValueError(f"`layers` must hold positive numbers, but one is {[width, kernel]}.")
        self.model_dim = input_dim
        self.output_dim = layers[-1][0]
        scale = math.sqrt(residual_scale) if skip_connections else None
        self.blocks = nn.ModuleList()
        for width, kernel in layers:
            self.blocks.append(CausalConvBlock(input_dim, width, kernel, activation, padding, dropout, scale))
            input_dim = width

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps `frames` `(B, T, C)` to contexts `(B, T, D)`; `padding_mask` `(B, T)` is True on padding."""
        for block in self.blocks:
            frames = block(frames, padding_mask)
        return frames
