"""Convolutions over time as matrix products over windows of frames that lie in place, none of them copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Prepare = Callable[..., Tensor]
"""Turns frames, and the parameters that follow them, into those that a convolution sees."""


def conv_over_time(
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    prepare: Prepare | None = None,
    parameters: tuple[Tensor, ...] = (),
) -> Tensor:
    """Convolves frames whose channels are the last axis, and computes again what is cheap in place of keeping it.

    A window of `stride` frames that begins at a multiple of `stride` is one row of a matrix that is already there, so
    taps 0 to `stride - 1` are one matrix product, the next `stride` taps another one, and so on; the two gradients are
    such products as well. That takes the time of the arithmetic, where the gradients of PyTorch's convolution take
    twice that on a CPU.

    Args:
        frames: Shape `(B, T, C)`.
        weight: As of `nn.Conv1d`, shape `(D, C, kernel)`.
        bias: Shape `(D,)`, or None.
        stride: Frames from one window to the next.
        prepare: What is done to the frames before, such as a norm and an activation; called once more in the backward
            pass, so only its input is kept. It may draw nothing, and sees all tensors that need a gradient as arguments.
        parameters: Further arguments of `prepare`.

    Returns:
        Shape `(B, (T - kernel) // stride + 1, D)`.
    """
    if torch.compiler.is_compiling():  # which decides by itself what to compute again
        prepared = frames if prepare is None else prepare(frames, *parameters)
        return F.conv1d(prepared.transpose(1, 2), weight, bias, stride).transpose(1, 2)
    if torch.is_autocast_enabled(frames.device.type):
        dtype = torch.get_autocast_dtype(frames.device.type)
        frames, weight = frames.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if weight.shape[1] == 1 and prepare is None:  # rows of a few samples are no matrix worth multiplying in place
        frames = frames[..., 0].unfold(1, weight.shape[2], stride)  # (B, T', kernel)
        weight, stride = weight.transpose(1, 2), 1
    output: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        prepare, stride, frames, weight, bias, *parameters
    )
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        prepare: Prepare | None,
        stride: int,
        frames: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.prepare, ctx.stride = prepare, stride
        ctx.save_for_backward(frames, weight, *parameters)
        prepared = (frames if prepare is None else prepare(frames, *parameters)).contiguous()
        matrix = _as_matrix(weight)
        kernel, dim = weight.shape[2], weight.shape[0]
        batch, length, _ = prepared.shape
        shape = (batch, (length - kernel) // stride + 1, dim)
        output = prepared.new_empty(shape) if bias is None else bias.repeat(*shape[:2], 1)
        for windows, rows in _pieces(prepared, kernel, stride):
            _multiply(output, windows, matrix[rows], add=rows.start > 0 or bias is not None)
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        frames, weight, *parameters = ctx.saved_tensors
        needs_frames, needs_weight, needs_bias, *needs_parameters = ctx.needs_input_grad[2:]
        gradient = grad_outputs[0].contiguous()
        inner, prepared = [], frames
        if ctx.prepare is not None:
            needs = (needs_frames, *needs_parameters)
            leaves = [t.detach().requires_grad_(need) for t, need in zip((frames, *parameters), needs, strict=True)]
            with torch.enable_grad():
                prepared = ctx.prepare(*leaves)
            inner = [leaf for leaf in leaves if leaf.requires_grad]
        kept = prepared.detach().contiguous()
        grad_weight = _weight_gradient(kept, gradient, weight, ctx.stride) if needs_weight else None
        grad_bias = gradient.sum(dim=(0, 1)) if needs_bias else None
        if ctx.prepare is None:
            grad_frames = _frames_gradient(kept, gradient, weight, ctx.stride) if needs_frames else None
            return None, None, grad_frames, grad_weight, grad_bias
        found: Iterator[Tensor] = iter(())
        if inner:
            grad_prepared = _frames_gradient(kept, gradient, weight, ctx.stride)
            found = iter(torch.autograd.grad(prepared, inner, grad_prepared))
        grads = [next(found) if need else None for need in (needs_frames, *needs_parameters)]
        return None, None, grads[0], grad_weight, grad_bias, *grads[1:]


def _as_matrix(weight: Tensor) -> Tensor:
    """Lays a weight `(D, C, kernel)` out as a matrix `(kernel * C, D)`."""
    return weight.permute(2, 1, 0).reshape(-1, weight.shape[0])


def _pieces(frames: Tensor, kernel: int, stride: int) -> Iterator[tuple[Tensor, slice]]:
    """Yields windows `(B, T', taps * C)`, views of contiguous `frames` `(B, T, C)`, and the rows of the matrix for them."""
    batch, length, dim = frames.shape
    count = (length - kernel) // stride + 1
    for first in range(0, kernel, stride):
        taps = min(stride, kernel - first)
        windows = frames.as_strided(
            (batch, count, taps * dim), (length * dim, stride * dim, 1), frames.storage_offset() + first * dim
        )
        yield windows, slice(first * dim, (first + taps) * dim)


def _multiply(output: Tensor, left: Tensor, right: Tensor, add: bool) -> None:
    """Writes, or adds, `left` `(B, T, N)` times `right` `(N, D)` to `output` `(B, T, D)`, which may be a view."""
    torch.baddbmm(output, left, right.expand(len(left), -1, -1), beta=int(add), out=output)


def _frames_gradient(frames: Tensor, gradient: Tensor, weight: Tensor, stride: int) -> Tensor:
    kernel, covered = weight.shape[2], gradient.shape[1] * stride
    result = torch.empty_like(frames)
    if kernel < stride:
        result.zero_()
    else:  # all but the rest behind the last window is written by the first product
        result[:, covered:] = 0
    transposed = _as_matrix(weight).t()
    for windows, rows in _pieces(result, kernel, stride):
        _multiply(windows, gradient, transposed[:, rows], add=rows.start > 0)
    return result


def _weight_gradient(frames: Tensor, gradient: Tensor, weight: Tensor, stride: int) -> Tensor:
    dim, channels, kernel = weight.shape
    result = gradient.new_empty(kernel * channels, dim)
    for windows, rows in _pieces(frames, kernel, stride):
        part = result[rows]
        for row, (left, right) in enumerate(zip(windows, gradient, strict=True)):
            torch.addmm(part, left.t(), right, beta=int(row > 0), out=part)
    return result.view(kernel, channels, dim).permute(2, 1, 0)


def normalised_filters(
    windows: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    offset: Tensor,
    padding_mask: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Takes a norm of each channel over time into the filters that give the channels.

    A filter's output over all windows has the mean that it gives of the mean window, and a variance that is a quadratic
    form in the covariance of the windows' few samples. So the filters, scaled and offset, give normalised channels at
    once, and what they give is not read again for its statistics. In float64, unless the model is in half precision:
    neighbouring samples are nearly alike, and what a filter leaves of them may be small.

    Args:
        windows: What each filter sees at each frame, shape `(B, T, N)`.
        filters: Shape `(D, N)`.
        bias: Of the filters, shape `(D,)`, or None; the norm takes it out again.
        scale: Of the norm, shape `(D,)`.
        offset: Of the norm, shape `(D,)`.
        padding_mask: True on frames that do not count, shape `(B, T)`, or None.
        eps: Added to the variance.

    Returns:
        The filters of each utterance, `(B, D, N)`, and their offsets, `(B, D)`, in the precision of the windows.
    """
    with torch.autocast(windows.device.type, enabled=False):
        half = windows.dtype.itemsize < 4
        wide = torch.float32 if half or windows.device.type == "mps" else torch.float64  # which MPS does not have
        samples, weight = windows.to(wide), filters.to(wide)
        count: Tensor | int = samples.shape[1]
        if padding_mask is not None:
            valid = ~padding_mask[..., None]  # (B, T, 1)
            samples, count = samples * valid, valid.sum(dim=1, keepdim=True)  # (B, 1, 1)
        mean = samples.sum(dim=1, keepdim=True) / count  # (B, 1, N)
        centred = samples - mean
        if padding_mask is not None:
            centred = centred * valid
        covariance = centred.transpose(1, 2) @ centred / count  # (B, N, N)
        variance = ((weight @ covariance) * weight).sum(dim=2)  # (B, D)
        factor = scale.to(wide) * torch.rsqrt(variance + eps)  # (B, D)
        means = (mean @ weight.t())[:, 0]  # (B, D)
        if bias is not None:  # which stays in the graph, with a gradient of zero
            means = means + (bias - bias)
        return (factor[..., None] * weight).to(windows.dtype), (offset.to(wide) - means * factor).to(windows.dtype)
