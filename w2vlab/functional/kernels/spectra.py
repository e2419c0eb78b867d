"""Wide grouped convolutions over time as products of spectra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function

from w2vlab.functional.kernels.dropout import computes_eagerly_on_cpu
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

    On a CPU some groups are computed at a time, and the spectra are computed again in the backward pass instead of
    being kept: those of the weight are four times as large as the weight.

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
    if computes_eagerly_on_cpu(inputs):
        convolved: Tensor = _GroupedConv1d.apply(inputs, weight, padding)
        return convolved.to(dtype)
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


_NUMBERS_AT_ONCE = 1 << 22
"""Numbers of the spectra of a weight that a CPU holds at once in training: 16 MiB, or those of one group."""


class _GroupedConv1d(torch.autograd.Function):
    """`grouped_conv1d` in float32 or wider on a CPU.

    Each frame of a block's output is a sum over taps of the frames ahead of it, so its spectrum is that of the block
    times the conjugate of the weight's. The gradient of the block is that of the output times the weight's, and the
    gradient of the weight is the block's times the conjugate of the output's gradient.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        ctx.save_for_backward(inputs, weight)
        count = inputs.shape[2] + 2 * padding - weight.shape[2] + 1
        output = at_least_float32(inputs.new_empty(0)).new_empty(*inputs.shape[:2], count)
        with torch.autocast("cpu", enabled=False):
            for some in _channels_at_once(weight):
                spectra = _spectra_of_blocks(inputs[:, some], weight.shape[1], weight.shape[2], padding, count)
                blocks = _blocks_of_spectra(spectra @ filter_spectra(weight[some]), len(inputs), weight.shape[2])
                output[:, some] = blocks[..., : weight.shape[2]].flatten(2)[..., :count]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        (gradient,), padding, (_, width, kernel) = grad_outputs, ctx.padding, weight.shape
        length, count = inputs.shape[2], gradient.shape[2]
        needs_inputs, needs_weight, _ = ctx.needs_input_grad
        grad_inputs = torch.empty_like(inputs) if needs_inputs else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        num_blocks = -(-count // kernel)
        with torch.autocast("cpu", enabled=False):
            for some in _channels_at_once(weight):
                upstream = F.pad(at_least_float32(gradient[:, some]), (0, num_blocks * kernel - count))
                upstream = _by_frequency(torch.fft.rfft(torch.unflatten(upstream, 2, (-1, kernel)), 2 * kernel), width)
                if grad_inputs is not None:
                    blocks = _blocks_of_spectra(upstream @ filter_spectra(weight[some]).mH, len(inputs), kernel)
                    padded = blocks.new_zeros(*blocks.shape[:2], num_blocks + 1, kernel)
                    padded[:, :, :-1] = blocks[..., :kernel]
                    padded[:, :, 1:] += blocks[..., kernel:]
                    padded = F.pad(padded.flatten(2), (0, max(0, padding + length - padded[0, 0].numel())))
                    grad_inputs[:, some] = padded[..., padding : padding + length].to(inputs.dtype)
                if grad_weight is not None:
                    spectra = _spectra_of_blocks(inputs[:, some], width, kernel, padding, count)
                    products = torch.unflatten(upstream.mH @ spectra, 0, (-1, kernel + 1))  # (g, F, D / G, C)
                    found = torch.fft.irfft(products.permute(0, 2, 3, 1), 2 * kernel)[..., :kernel]
                    grad_weight[some] = found.flatten(0, 1).to(weight.dtype)
        return grad_inputs, grad_weight, None


def _channels_at_once(weight: Tensor) -> Iterator[slice]:
    """Yields the channels of some groups."""
    dim, width, kernel = weight.shape
    size = width * max(1, _NUMBERS_AT_ONCE // (2 * width * width * (kernel + 1)))
    yield from (slice(first, min(first + size, dim)) for first in range(0, dim, size))


def _spectra_of_blocks(inputs: Tensor, width: int, kernel: int, padding: int, count: int) -> Tensor:
    """Returns the spectra `(g * F, B * N, C)` of overlapping blocks of inputs `(B, g * C, T)`; F = kernel + 1."""
    num_blocks = -(-count // kernel)
    after = (num_blocks + 1) * kernel - padding - inputs.shape[2]
    blocks = F.pad(at_least_float32(inputs), (padding, after)).unfold(2, 2 * kernel, kernel)  # (B, g C, N, 2 kernel)
    return _by_frequency(torch.fft.rfft(blocks), width)


def _by_frequency(spectra: Tensor, width: int) -> Tensor:
    """Lays spectra `(B, g * C, N, F)` out as `(g * F, B * N, C)`."""
    grouped: Tensor = torch.unflatten(spectra, 1, (-1, width)).permute(1, 4, 0, 3, 2)  # (g, F, B, N, C)
    return grouped.flatten(0, 1).flatten(1, 2)


def _blocks_of_spectra(spectra: Tensor, batch: int, kernel: int) -> Tensor:
    """Returns the blocks `(B, g * C, N, 2 * kernel)` of spectra `(g * F, B * N, C)`."""
    by_block = spectra.view(-1, kernel + 1, batch, spectra.shape[1] // batch, spectra.shape[2])  # (g, F, B, N, C)
    blocks: Tensor = torch.fft.irfft(by_block.permute(2, 0, 4, 3, 1).flatten(1, 2), 2 * kernel)
    return blocks


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
    batch, _, length = inputs.shape
    width = filters.shape[1]
    output = torch.empty_like(inputs)
    for first in range(0, length, _BLOCKS_AT_ONCE * kernel):
        stop = min(first + _BLOCKS_AT_ONCE * kernel, length)
        num_blocks = -(-(stop - first) // kernel)
        begin, end = first - padding, first - padding + (num_blocks + 1) * kernel
        part = at_least_float32(inputs[..., max(begin, 0) : min(end, length)])
        blocks = F.pad(part, (max(-begin, 0), max(end - length, 0))).unfold(2, 2 * kernel, kernel)  # (B, D, N, 2 k)
        products = _by_frequency(torch.fft.rfft(blocks), width) @ filters
        # The second half of each block has wrapped around; the next block has it whole.
        result = _blocks_of_spectra(products, batch, kernel)[..., :kernel].flatten(2)
        output[..., first:stop] = result[..., : stop - first]
    return output
