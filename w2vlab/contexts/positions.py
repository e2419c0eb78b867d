"""The convolutional positions of wav2vec 2.0."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from w2vlab.functional.convolution import autocast_dtype
from w2vlab.functional.precision import at_least_float32


class ConvPositions(nn.Module):
    """Relative positions from a wide grouped convolution.

    On a GPU it is computed as products of spectra, in float32 at the least: cuDNN has no fast kernel for it.

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
        inputs, length = frames.transpose(1, 2), frames.shape[1]  # (B, D, T)
        if frames.device.type == "cuda":
            positions = correlate(inputs, self.conv.weight, self.conv.padding[0])[..., :length]
            assert self.conv.bias is not None
            positions = positions + self.conv.bias[:, None]
        else:
            positions = self.conv(inputs)[..., :length]  # an even kernel gives one frame too many
        return F.gelu(positions).transpose(1, 2)


def correlate(inputs: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Convolves along time, in groups and at stride 1, by the Fourier transform.

    Args:
        inputs: Shape `(B, D, T)`.
        weight: Shape `(D, D / groups, kernel)`, in the precision that the products are computed in.
        padding: Zeros before the first frame, and as many behind the last one.

    Returns:
        Shape `(B, D, T + 2 * padding - kernel + 1)`, in the precision of matrix products of the inputs.
    """
    dtype, (dim, width, kernel) = autocast_dtype(inputs), weight.shape
    count = inputs.shape[2] + 2 * padding - kernel + 1
    with torch.autocast(inputs.device.type, enabled=False):
        inputs, weight = at_least_float32(inputs), at_least_float32(weight)
        # Long enough that what wraps around meets zeros.
        size = _fast_size(inputs.shape[2] + kernel - 1)
        spectrum = torch.fft.rfft(inputs, size).unflatten(1, (dim // width, width))  # (B, G, C, F)
        filters = torch.fft.rfft(weight, size).conj().unflatten(0, (dim // width, width))  # (G, D / G, C, F)
        product = torch.einsum("bgcf,gdcf->bgdf", spectrum, filters).flatten(1, 2)
        # The first outputs have part of their window before the first frame: they are at the end.
        outputs: Tensor = torch.fft.irfft(product, size).roll(padding, dims=-1)[..., :count]
        return outputs.to(dtype)


def _fast_size(size: int) -> int:
    """Returns 4, 5, 6 or 7 times a power of two, at least `size`: fast, and few enough to be planned once for all."""
    power = max(0, (size - 1).bit_length() - 3)
    return next(factor << power for factor in (4, 5, 6, 7, 8) if factor << power >= size)
