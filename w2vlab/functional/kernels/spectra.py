"""Wide grouped convolutions over time as products of spectra."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from w2vlab.functional.kernels.inference import computes_inference
from w2vlab.functional.kernels.plain import uses_plain_kernels
from w2vlab.functional.precision import at_least_float32, autocast_dtype


class GroupedConv1d(nn.Conv1d):
    """A wide grouped convolution with as many frames in its output as in its input.

    Equals `nn.Conv1d(num_channels, num_channels, kernel_size, padding=kernel_size // 2, groups=groups)` up to rounding,
    without the last frame, which is one too many, if the kernel is even. It uses less time for a wide kernel; see
    `grouped_conv1d`.

    Args:
        num_channels: Channels D of input and output.
        kernel_size: Frames that an output frame sees.
        groups: Groups of channels.
    """

    bias: Tensor

    def __init__(self, num_channels: int, kernel_size: int, groups: int) -> None:
        super().__init__(num_channels, num_channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """Maps `input` `(B, D, T)` to `(B, D, T)`."""
        if computes_inference(input) and input.device.type == "cpu":
            output = convolve_with_spectra(input, self._spectra(), self.kernel_size[0], self.kernel_size[0] // 2)
            return output.add_(self.bias[:, None])
        output = grouped_conv1d(input, self.weight, self.kernel_size[0] // 2)[..., : input.shape[2]]
        return output + self.bias[:, None]

    def _spectra(self) -> Tensor:
        """Returns `filter_spectra(weight)`; they are computed again only if a parameter has changed."""
        sums = tuple((float(value.sum()), float(value.flatten().dot(value.flatten()))) for value in self.parameters())
        key = sums, tuple(id(parameter) for parameter in self.parameters()), self.bias.dtype
        if (kept := _kept.get(self)) is None or kept[0] != key:
            kept = _kept[self] = key, filter_spectra(self.weight)
        return kept[1]


def grouped_conv1d(inputs: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Convolves along time, in groups and at stride 1, by the Fourier transform of overlapping blocks.

    Equals `F.conv1d(inputs, weight, padding=padding, groups=groups)` up to rounding, which is the plain path.

    A kernel of 128 frames takes 128 multiplications for each frame and pair of channels; a spectrum takes one. Blocks
    are twice as long as the kernel for audio of any length, so that the spectrum of the weight stays small and
    a GPU plans one transform for all batches. Neither cuDNN nor oneDNN has a fast kernel for such a convolution.

    Args:
        inputs: Shape `(B, D, T)`.
        weight: Shape `(D, D / groups, kernel)`.
        padding: Zeros before the first frame, and as many after the last one.

    Returns:
        Shape `(B, D, T + 2 * padding - kernel + 1)`, in the precision of matrix products of the inputs.

    Reference:
        The overlap-save method: Oppenheim and Schafer, Discrete-Time Signal Processing, Section 8.7.3.
    """
    if has_torch_function((inputs, weight)):  # so that a counter of operations can count those of a convolution
        output: Tensor = handle_torch_function(grouped_conv1d, (inputs, weight), inputs, weight, padding)
        return output
    dtype, (dim, width, kernel) = autocast_dtype(inputs), weight.shape
    if uses_plain_kernels():
        return F.conv1d(inputs, weight, padding=padding, groups=dim // width)
    count = inputs.shape[2] + 2 * padding - kernel + 1
    num_blocks = -(-count // kernel)
    with torch.autocast(inputs.device.type, enabled=False):
        inputs, weight = at_least_float32(inputs), at_least_float32(weight)
        after = (num_blocks + 1) * kernel - padding - inputs.shape[2]
        blocks = F.pad(inputs, (padding, after)).unfold(2, 2 * kernel, kernel)  # (B, D, N, 2 * kernel)
        spectra = torch.fft.rfft(blocks).unflatten(1, (dim // width, width))  # (B, G, C, N, F)
        filters = torch.fft.rfft(weight, 2 * kernel).conj().unflatten(0, (dim // width, width))  # (G, D / G, C, F)
        products = torch.einsum("bgcnf,gdcf->bgdnf", spectra, filters).flatten(1, 2)
        # The second half of each block has wrapped around; the next block has it whole.
        outputs: Tensor = torch.fft.irfft(products, 2 * kernel)[..., :kernel].flatten(2)[..., :count]
        return outputs.to(dtype)


_kept: WeakKeyDictionary[nn.Module, tuple[object, Tensor]] = WeakKeyDictionary()
"""The spectra of each convolution for inference, with what they were computed from: not a part of the module, so that
they are neither saved nor copied with it."""

_BLOCKS_AT_ONCE = 32
"""Blocks of frames whose spectra are held at once in inference mode."""


def filter_spectra(weight: Tensor) -> Tensor:
    """Returns the spectra `(groups * F, D / groups, D / groups)` of a weight `(D, D / groups, kernel)`; F = kernel + 1.

    They lie in memory as `convolve_with_spectra` reads them. A spectrum is computed in float32 or wider.
    """
    dim, width, kernel = weight.shape
    filters = torch.fft.rfft(at_least_float32(weight), 2 * kernel).conj()  # (D, C, F)
    grouped: Tensor = filters.unflatten(0, (dim // width, width)).permute(0, 3, 2, 1)  # (G, F, C, D / G)
    return grouped.flatten(0, 1).resolve_conj().contiguous()


def convolve_with_spectra(inputs: Tensor, filters: Tensor, kernel: int, padding: int) -> Tensor:
    """Equals `grouped_conv1d` without its last frame if the kernel is even, up to rounding, without gradients.

    The spectra of the weight take ten times as long as all else for an utterance of some seconds, so that they are
    given. Some blocks of frames are computed at a time.

    Args:
        inputs: Shape `(B, D, T)`.
        filters: As `filter_spectra` returns them.
        kernel: Frames of the kernel.
        padding: Zeros before the first frame.

    Returns:
        Shape `(B, D, T)`.
    """
    batch, dim, length = inputs.shape
    width = filters.shape[1]
    output = torch.empty_like(inputs)
    for first in range(0, length, _BLOCKS_AT_ONCE * kernel):
        stop = min(first + _BLOCKS_AT_ONCE * kernel, length)
        num_blocks = -(-(stop - first) // kernel)
        begin, end = first - padding, first - padding + (num_blocks + 1) * kernel
        part = at_least_float32(inputs[..., max(begin, 0) : min(end, length)])
        blocks = F.pad(part, (max(-begin, 0), max(end - length, 0))).unfold(2, 2 * kernel, kernel)  # (B, D, N, 2 k)
        spectra = torch.fft.rfft(blocks).unflatten(1, (dim // width, width))  # (B, G, C, N, F)
        spectra = spectra.permute(1, 4, 0, 3, 2).reshape(len(filters), batch * num_blocks, width)
        products = torch.bmm(spectra, filters).view(-1, kernel + 1, batch, num_blocks, width)  # (G, F, B, N, C)
        products = products.permute(2, 0, 4, 3, 1).flatten(1, 2)  # (B, D, N, F)
        # The second half of each block has wrapped around; the next block has it whole.
        result = torch.fft.irfft(products, 2 * kernel)[..., :kernel].flatten(2)
        output[..., first:stop] = result[..., : stop - first]
    return output
