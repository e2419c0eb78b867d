"""The convolutional positions of wav2vec 2.0."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import handle_torch_function, has_torch_function

from w2vlab.functional.convolution import autocast_dtype
from w2vlab.functional.precision import at_least_float32


class ConvPositions(nn.Module):
    """Relative positions from a wide grouped convolution, computed as products of spectra.

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
        # An even kernel gives one frame too many.
        positions = correlate(frames.transpose(1, 2), self.conv.weight, self.conv.padding[0])[..., : frames.shape[1]]
        assert self.conv.bias is not None
        return F.gelu(positions + self.conv.bias[:, None]).transpose(1, 2)


def correlate(inputs: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Convolves along time, in groups and at stride 1, by the Fourier transform of overlapping blocks.

    A kernel of 128 frames takes its width in multiplications a frame and channel pair; a spectrum takes one. Blocks are
    twice as long as the kernel whatever the length of the audio, so that the spectrum of the weight stays small and a
    GPU plans one transform for all batches. Neither cuDNN nor oneDNN has a fast kernel for such a convolution.

    Args:
        inputs: Shape `(B, D, T)`.
        weight: Shape `(D, D / groups, kernel)`.
        padding: Zeros before the first frame, and as many behind the last one.

    Returns:
        Shape `(B, D, T + 2 * padding - kernel + 1)`, in the precision of matrix products of the inputs.

    Reference:
        The overlap-save method: Oppenheim and Schafer, Discrete-Time Signal Processing, Section 8.7.3.
    """
    if has_torch_function((inputs, weight)):  # so that whoever counts operations can count those of a convolution
        positions: Tensor = handle_torch_function(correlate, (inputs, weight), inputs, weight, padding)
        return positions
    dtype, (dim, width, kernel) = autocast_dtype(inputs), weight.shape
    count = inputs.shape[2] + 2 * padding - kernel + 1
    num_blocks = -(-count // kernel)
    with torch.autocast(inputs.device.type, enabled=False):
        inputs, weight = at_least_float32(inputs), at_least_float32(weight)
        behind = (num_blocks + 1) * kernel - padding - inputs.shape[2]
        blocks = F.pad(inputs, (padding, behind)).unfold(2, 2 * kernel, kernel)  # (B, D, N, 2 * kernel)
        spectra = torch.fft.rfft(blocks).unflatten(1, (dim // width, width))  # (B, G, C, N, F)
        filters = torch.fft.rfft(weight, 2 * kernel).conj().unflatten(0, (dim // width, width))  # (G, D / G, C, F)
        products = torch.einsum("bgcnf,gdcf->bgdnf", spectra, filters).flatten(1, 2)
        # The second half of each block has wrapped around; the next block has it whole.
        outputs: Tensor = torch.fft.irfft(products, 2 * kernel)[..., :kernel].flatten(2)[..., :count]
        return outputs.to(dtype)
