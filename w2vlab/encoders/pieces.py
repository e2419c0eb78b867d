"""Encoding long audio piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from w2vlab.encoders.conv_stack import ConvBlock, ConvStack
from w2vlab.functional.kernels import GroupNorm, WindowProducts, activate_in_place, as_tensor
from w2vlab.functional.kernels.inference import linear
from w2vlab.functional.kernels.waveform import fold_moments_into_filters
from w2vlab.functional.precision import at_least_float32, autocast_dtype

_SAMPLES_AT_ONCE = 1 << 18
"""Samples that enter statistics at once: their windows take some megabytes."""


class EncodesInPieces(ABC):
    """An encoder whose memory need not grow with the length of an utterance, in evaluation mode."""

    @property
    @abstractmethod
    def works_in_pieces(self) -> bool:
        """Whether `pieces` yields more than one piece; otherwise memory grows with the length of an utterance."""

    @abstractmethod
    def pieces(self, waveform: Tensor, max_frames: int) -> Iterator[Tensor]:
        """Encodes utterances of the same length without gradients.

        Args:
            waveform: Shape `(B, S)`, without padding.
            max_frames: Latents of a piece, at most, if the encoder can work in pieces.

        Yields:
            The next latents, `(B, t, C)`. Together they equal `forward(waveform, (S,) * B)`, up to rounding.
        """


def piece_slices(num_frames: int, max_frames: int, kernel_size: int, stride: int) -> Iterator[slice]:
    """Yields the samples that the next frames are computed from.

    Args:
        num_frames: Frames in total.
        max_frames: Frames of a piece, at most; all pieces but the last have as many.
        kernel_size: Samples that a frame sees.
        stride: Samples from one frame to the next.
    """
    for first in range(0, num_frames, max_frames):
        last = min(first + max_frames, num_frames) - 1
        yield slice(first * stride, last * stride + kernel_size)


def level_of(waveform: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns mean and reciprocal standard deviation of each row of `waveform` `(B, S)`, `(B, 1)` each, in float64."""
    wide = _wide(waveform)
    size = waveform.shape[1]
    parts = torch.split(waveform, _SAMPLES_AT_ONCE, dim=1)
    mean = torch.stack([part.sum(dim=1, dtype=wide) for part in parts]).sum(dim=0)[:, None] / size  # (B, 1)
    squares = torch.stack([(part.to(wide) - mean).square_().sum(dim=1) for part in parts])
    return mean, torch.rsqrt(squares.sum(dim=0)[:, None] / size + eps)


def window_moments(
    read: Callable[[slice], Tensor], num_windows: int, kernel_size: int, stride: int
) -> tuple[Tensor, Tensor]:
    """Computes mean and covariance of the windows that a convolution of a waveform sees.

    Args:
        read: Returns some samples of the waveform, `(B, s)`.
        num_windows: Windows T in total.
        kernel_size: Samples N of a window.
        stride: Samples from one window to the next.

    Returns:
        Mean `(B, 1, N)` and covariance `(B, N, N)`, in float64.
    """
    at_once = max(1, _SAMPLES_AT_ONCE // stride)

    def windows() -> Iterator[Tensor]:
        for samples in piece_slices(num_windows, at_once, kernel_size, stride):
            part = read(samples)
            yield part.unfold(1, kernel_size, stride).to(_wide(part))  # (B, t, N)

    total: Tensor | float = 0.0
    for part in windows():
        total = total + part.sum(dim=1, keepdim=True)
    mean = total / num_windows
    products: Tensor | float = 0.0
    for part in windows():
        part = part - mean
        products = products + part.transpose(1, 2) @ part
    assert isinstance(mean, Tensor), "there is at least one window"
    assert isinstance(products, Tensor), "there is at least one window"
    return mean, products / num_windows


def pieces_of_stack(
    stack: ConvStack, read: Callable[[slice], Tensor], num_samples: int, pieces: Iterable[slice]
) -> Iterator[Tensor]:
    """Yields the output `(B, t, C)` of convolutions that can work in pieces.

    Args:
        stack: The convolutions.
        read: Returns some samples of the waveform, `(B, s)`.
        num_samples: Samples S in total.
        pieces: The samples that each piece is computed from.
    """
    first, *others = stack.convolutions
    # The norm of the first layer over time: its statistics are a pass of their own, then it is a part of the filters.
    over_time = isinstance(first.norm, GroupNorm)
    filters = _filters_over_time(first, read, first.num_frames(num_samples)) if over_time else None
    products = {}
    for block in (first, *others)[over_time:]:
        conv, dtype = block.conv, autocast_dtype(block.conv.weight)
        bias = None if conv.bias is None else conv.bias.to(dtype)
        products[block] = WindowProducts(conv.weight.to(dtype), bias, block.stride)
    for samples in pieces:
        frames = read(samples)[..., None]  # (B, s, 1)
        for block in (first, *others):
            if filters is not None and block is first:
                windows = frames[..., 0].unfold(1, block.conv.kernel_size[0], block.stride).to(filters[0].dtype)
                output = torch.stack([linear(*row) for row in zip(windows, *filters, strict=True)])
            else:
                output = products[block](frames)
                output = output if block.norm is None else as_tensor(block.norm(output))
            frames = stack.join(frames, activate_in_place(block.activation, output), block.stride)
        yield stack.compress(frames)


def _filters_over_time(block: ConvBlock, read: Callable[[slice], Tensor], num_windows: int) -> tuple[Tensor, Tensor]:
    """Returns the filters `(B, D, N)` of a block with its norm over time, and their offsets `(B, D)`."""
    conv, norm = block.conv, block.norm
    assert isinstance(norm, GroupNorm), "checked by the caller"
    mean, covariance = window_moments(read, num_windows, conv.kernel_size[0], block.stride)
    return fold_moments_into_filters(
        conv.weight[:, 0], conv.bias, norm.weight, norm.bias, mean, covariance, norm.eps, autocast_dtype(conv.weight)
    )


def _wide(tensor: Tensor) -> torch.dtype:
    return at_least_float32(tensor.new_empty(0)).dtype if tensor.device.type == "mps" else torch.float64
