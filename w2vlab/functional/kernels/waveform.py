"""The convolution of a waveform, whose output is recomputed, and the norm over time that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from w2vlab.functional.kernels.convolution import Conv1d
from w2vlab.functional.kernels.plain import uses_plain_kernels
from w2vlab.functional.kernels.recompute import Frames, Recomputed, as_tensor, recompute
from w2vlab.functional.precision import autocast_dtype


@dataclass(frozen=True)
class ConvolvedWaveform(Recomputed):
    """The output `(B, T, D)` of a `WaveformConv1d`, as products of windows and filters.

    Attributes:
        windows: What each filter sees at each frame, shape `(B, T, kernel)`.
        filters: Shape `(D, kernel)`.
        bias: Of the filters, shape `(D,)`, or None.
    """

    windows: Tensor
    filters: Tensor
    bias: Tensor | None


class WaveformConv1d(Conv1d):
    """A convolution of frames of one channel, such as a waveform, whose output is recomputed in the backward pass.

    Equals `nn.Conv1d(1, out_channels, kernel_size, stride, bias=bias)` up to rounding, with the channels of input and
    output on the last axis. It uses less memory and time, because a product of a few samples costs less than to write
    and to read its output, which is the largest tensor of an encoder.

    Args:
        out_channels: Channels D of the output.
        kernel_size: Samples that an output frame sees.
        stride: Samples from one window to the next.
        bias: Whether the convolution has a bias.
    """

    def __init__(self, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(1, out_channels, kernel_size, stride, bias)

    def forward(self, input: Frames) -> Frames:  # type: ignore[override]
        """Maps `input` `(B, S, 1)` to `(B, (S - kernel) // stride + 1, D)`."""
        if uses_plain_kernels():
            return super().forward(input)
        dtype = autocast_dtype(self.weight)
        windows = as_tensor(input)[..., 0].unfold(1, self.kernel_size[0], self.stride[0])  # (B, T, kernel)
        filters = self.weight[:, 0]
        shared = (filters.t().to(dtype), *(() if self.bias is None else (self.bias.to(dtype),)))
        product = recompute(_product, windows.to(dtype), shared=shared, per_frame=True)
        assert isinstance(product, Recomputed)
        return ConvolvedWaveform(
            product.steps, product.per_utterance, product.shared, windows=windows, filters=filters, bias=self.bias
        )


def _product(windows: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    frames = windows @ filters  # (B, T, D)
    return frames if bias is None else frames + bias


def fold_norm_into_filters(
    windows: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    offset: Tensor,
    padding_mask: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Folds a norm of each channel over time into the filters that give the channels.

    The output of the returned filters and offsets equals `nn.GroupNorm(D, D)` of the output of `filters` and `bias`,
    up to rounding. The mean of a filter's output is its output for the mean window, and the variance is a quadratic
    form in the covariance of the windows' few samples, so the output is not read for its statistics. These are in
    float64, or in float32 if the model is in half precision: neighbouring samples are nearly alike, and the output of
    a filter may be small beside them.

    Args:
        windows: What each filter sees at each frame, shape `(B, T, N)`.
        filters: Shape `(D, N)`.
        bias: Of the filters, shape `(D,)`, or None; the norm subtracts it again.
        scale: Of the norm, shape `(D,)`.
        offset: Of the norm, shape `(D,)`.
        padding_mask: True on padding, which does not enter the statistics, shape `(B, T)`, or None.
        eps: Added to the variance.

    Returns:
        The filters of each utterance, `(B, D, N)`, and their offsets, `(B, D)`, in the precision of the windows.
    """
    with torch.autocast(windows.device.type, enabled=False):
        half = windows.dtype.itemsize < 4
        wide = torch.float32 if half or windows.device.type == "mps" else torch.float64  # MPS has no float64
        samples = windows.to(wide)
        if padding_mask is None:
            count: Tensor | int = samples.shape[1]
            mean = samples.mean(dim=1, keepdim=True)  # (B, 1, N)
            centred = samples - mean
        else:
            valid = ~padding_mask[..., None]  # (B, T, 1)
            count = valid.sum(dim=1, keepdim=True)  # (B, 1, 1)
            mean = (samples * valid).sum(dim=1, keepdim=True) / count
            centred = (samples - mean) * valid
        covariance = centred.transpose(1, 2) @ centred / count  # (B, N, N)
        return fold_moments_into_filters(filters, bias, scale, offset, mean, covariance, eps, windows.dtype)


def fold_moments_into_filters(
    filters: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    offset: Tensor,
    mean: Tensor,
    covariance: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """`fold_norm_into_filters`, given the moments of the windows.

    Args:
        filters: Shape `(D, N)`.
        bias: Of the filters, shape `(D,)`, or None; the norm subtracts it again.
        scale: Of the norm, shape `(D,)`.
        offset: Of the norm, shape `(D,)`.
        mean: Of the windows, shape `(B, 1, N)`.
        covariance: Of the windows, shape `(B, N, N)`.
        eps: Added to the variance.
        dtype: Precision of the result.

    Returns:
        The filters of each utterance, `(B, D, N)`, and their offsets, `(B, D)`.
    """
    with torch.autocast(mean.device.type, enabled=False):
        wide = mean.dtype
        weight = filters.to(wide)
        variance = ((weight @ covariance) * weight).sum(dim=2)  # (B, D)
        factor = scale.to(wide) * torch.rsqrt(variance + eps)  # (B, D)
        means = (mean @ weight.t())[:, 0]  # (B, D)
        if bias is not None:  # so that it stays in the graph, with a gradient of zero
            means = means + (bias - bias)
        return (factor[..., None] * weight).to(dtype), (offset.to(wide) - means * factor).to(dtype)
