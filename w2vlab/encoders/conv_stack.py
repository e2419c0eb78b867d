"""The convolutions of `ConvFeatureEncoder`, each with its norm and activation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from w2vlab.functional.kernels import GELU, Conv1d, Frames, GroupNorm, LayerNorm, ReLU, WaveformConv1d
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import Compilable


class ConvBlock(nn.Module):
    """A convolution over time, a norm and the activation.

    Args:
        input_dim: Channels C of the input.
        output_dim: Channels D of the output.
        kernel_size: Samples or frames that the convolution sees.
        stride: Stride of the convolution.
        num_groups: Groups of channels that a group norm over time normalizes; 0 for none.
        layer_norm: Normalize each frame over its channels instead.
        bias: Whether the convolution has a bias.
        activation: `gelu` or `relu`.
        recompute: Recompute norm and activation in the backward pass instead of keeping them, which saves memory.
            Only if another `ConvBlock` follows.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel_size: int,
        stride: int,
        num_groups: int,
        layer_norm: bool,
        bias: bool,
        activation: str,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        # `WaveformConv1d` is the same convolution, computed faster for a single input channel.
        self.conv = (
            WaveformConv1d(output_dim, kernel_size, stride, bias)
            if input_dim == 1
            else Conv1d(input_dim, output_dim, kernel_size, stride, bias)
        )
        # The output of the norm is never kept, because the activation follows: both are recomputed from its input.
        self.norm: GroupNorm | LayerNorm | None = None
        if layer_norm:
            self.norm = LayerNorm(output_dim, recompute=True)
        elif num_groups:
            self.norm = GroupNorm(num_groups, output_dim, recompute=True)
        self.activation = GELU(recompute) if activation == "gelu" else ReLU(recompute)

    @property
    def stride(self) -> int:
        """Stride of the convolution."""
        return self.conv.stride[0]

    def num_frames(self, length: int) -> int:
        """Returns the length of the output for an input of `length`."""
        return (length - self.conv.kernel_size[0]) // self.stride + 1

    def forward(self, frames: Frames, padding_mask: Tensor | None) -> Frames:
        """Maps `frames` `(B, T, C)` to `(B, T', D)`.

        Args:
            frames: The input of the convolution.
            padding_mask: True on padding, which does not enter statistics over time, shape `(B, T')`, or None.
        """
        frames = self.conv(frames)  # (B, T', D)
        if self.norm is not None:
            frames = self.norm(frames, padding_mask)
        activated: Frames = self.activation(frames)
        return activated


class ConvStack(nn.ModuleList, Compilable):
    """The sequence of convolutions: the part of an encoder that takes only tensors, so that it can be compiled.

    Args:
        blocks: The convolutions.
        log_compression: Return `log(|x| + 1)`.
        skip_connections: Add each layer's input to its output if the widths agree.
        residual_scale: Factor of this sum.
    """

    def __init__(
        self, blocks: Iterable[ConvBlock], log_compression: bool, skip_connections: bool, residual_scale: float
    ) -> None:
        super().__init__(blocks)
        self.log_compression = log_compression
        self.skip_connections = skip_connections
        self.residual_scale = residual_scale

    def padding_masks(self, lengths: Sequence[int], size: int, device: torch.device) -> list[Tensor | None]:
        """Returns the padding `(B, T)` of the output of each block, or None if its norm has no statistics over time.

        Args:
            lengths: Samples of each row that may enter statistics.
            size: Samples of a row.
            device: Device of the masks.
        """
        masks: list[Tensor | None] = []
        for block in self.convolutions:
            lengths, size = [block.num_frames(length) for length in lengths], block.num_frames(size)
            over_time = isinstance(block.norm, nn.GroupNorm)
            masks.append(make_padding_mask(lengths, size, device) if over_time else None)
        return masks

    def forward(self, frames: Tensor, padding_masks: Sequence[Tensor | None]) -> Tensor:
        """Maps `frames` `(B, S, 1)` to `(B, T, C)`; `padding_masks` is the output of `ConvStack.padding_masks`."""
        for block, padding_mask in zip(self.convolutions, padding_masks, strict=True):
            frames = self.join(frames, block(frames, padding_mask), block.stride)
        return self.compress(frames)

    @property
    def convolutions(self) -> list[ConvBlock]:
        """The blocks."""
        return cast(list[ConvBlock], list(self))

    @property
    def works_in_pieces(self) -> bool:
        """Whether no norm sees other frames, but one of each channel over time in the first block."""
        first, *others = self.convolutions
        per_channel = isinstance(first.norm, nn.GroupNorm) and first.norm.num_groups == first.norm.num_channels
        alone = per_channel or not isinstance(first.norm, nn.GroupNorm)
        return alone and not any(isinstance(block.norm, nn.GroupNorm) for block in others)

    def join(self, frames: Tensor, output: Tensor, stride: int) -> Tensor:
        """Adds the input `(B, T, C)` of a block of `stride` to its output `(B, T', C')` if both are to be summed."""
        if self.skip_connections and output.shape[2] == frames.shape[2]:
            # The input is subsampled by the stride of the block, not by the ratio of the lengths, which for a short
            # utterance depends on its padding.
            output = (output + frames[:, ::stride][:, : output.shape[1]]) * self.residual_scale
        return output

    def compress(self, frames: Tensor) -> Tensor:
        """Returns the latents: `frames` `(B, T, C)`, or their logarithm."""
        return torch.log(frames.abs() + 1) if self.log_compression else frames
