"""Norms of frames, in float32 or wider, whose output is recomputed in the backward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.kernels.plain import uses_plain_kernels
from w2vlab.functional.kernels.recompute import Frames, as_tensor, recompute
from w2vlab.functional.kernels.waveform import ConvolvedWaveform, fold_norm_into_filters
from w2vlab.functional.lengths import group_norm_over_time
from w2vlab.functional.precision import at_least_float32


class GroupNorm(nn.GroupNorm):
    """A group norm of frames `(B, T, C)` over channels and time that leaves padding out.

    Equals `nn.GroupNorm(num_groups, num_channels)` of each utterance without its padding, up to rounding, with the
    channels on the last axis. If each channel is a group and the input is the output of a `WaveformConv1d`, the norm is
    folded into the filters of that convolution: the output of the convolution then need not be read for its statistics.

    Args:
        num_groups: Groups of channels.
        num_channels: Channels C.
        recompute: Return frames that the following `Conv1d` or `Linear` of this package computes again in its backward
            pass, which uses less memory. False if anything else follows but an activation of this package.
    """

    def __init__(self, num_groups: int, num_channels: int, recompute: bool = False) -> None:
        super().__init__(num_groups, num_channels)
        self.recompute = recompute

    def forward(self, input: Frames, padding_mask: Tensor | None = None) -> Frames:  # type: ignore[override]
        """Maps `input` `(B, T, C)` to the same shape; `padding_mask` `(B, T)` is True on padding."""
        if uses_plain_kernels() and padding_mask is None:
            frames = as_tensor(input)
            return super().forward(frames.transpose(1, 2)).transpose(1, 2).to(frames.dtype)
        if isinstance(input, ConvolvedWaveform) and self.num_groups == self.num_channels:
            normalised = self._of_waveform(input, padding_mask)
        else:
            normalised = recompute(self._normalise, input, (padding_mask,), (self.weight, self.bias))
        return normalised if self.recompute else as_tensor(normalised)

    def _normalise(self, frames: Tensor, padding_mask: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm_over_time(frames, self.num_groups, weight, bias, padding_mask, self.eps)

    def _of_waveform(self, input: ConvolvedWaveform, padding_mask: Tensor | None) -> Frames:
        filters, offsets = fold_norm_into_filters(
            input.windows, input.filters, input.bias, self.weight, self.bias, padding_mask, self.eps
        )
        windows = input.per_utterance[0]
        assert windows is not None
        own = offsets[:, None].to(windows.dtype), filters.transpose(1, 2).to(windows.dtype)
        return recompute(_windows_times_filters, windows, own, per_frame=True)


class LayerNorm(nn.LayerNorm):
    """A norm of each frame over its channels.

    Equals `nn.LayerNorm(num_channels)` in float32 or wider, rounded to the precision of the input.

    Args:
        num_channels: Channels C.
        recompute: Return frames that the following `Conv1d` or `Linear` of this package computes again in its backward
            pass, which uses less memory. False if anything else follows but an activation of this package.
    """

    def __init__(self, num_channels: int, recompute: bool = False) -> None:
        super().__init__(num_channels)
        self.recompute = recompute

    def forward(self, input: Frames, padding_mask: Tensor | None = None) -> Frames:  # type: ignore[override]
        """Maps `input` `(B, T, C)` to the same shape; `padding_mask` is not used, as a frame is normalised alone."""
        if uses_plain_kernels():
            frames = as_tensor(input)
            return super().forward(frames).to(frames.dtype)
        normalised = recompute(self._normalise, input, shared=(self.weight, self.bias), per_frame=True)
        return normalised if self.recompute else as_tensor(normalised)

    def _normalise(self, frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast(frames.device.type, enabled=False):
            weight, bias = at_least_float32(weight), at_least_float32(bias)
            normalised = F.layer_norm(at_least_float32(frames), self.normalized_shape, weight, bias, self.eps)
        return normalised.to(frames.dtype)


def _windows_times_filters(windows: Tensor, offsets: Tensor, filters: Tensor) -> Tensor:
    return torch.baddbmm(offsets, windows, filters)  # (B, T, D)
