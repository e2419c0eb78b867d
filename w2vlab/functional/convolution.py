"""Convolutions over time as matrix products over windows of frames that lie in place, none of them copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2vlab.functional.precision import at_least_float32


@dataclass
class Waiting:
    """Frames of which something cheap is still to be computed by whoever wants them, so that it can be done twice.

    Attributes:
        inputs: What is kept, the utterances on the first axis of each; None where there is no such input.
        finish: Turns one or more utterances of `inputs`, and `parameters`, into frames `(B, T, C)`. It draws nothing,
            and no utterance changes another one's frames.
        parameters: What all utterances have in common.
    """

    inputs: tuple[Tensor | None, ...]
    finish: Callable[..., Tensor]
    parameters: tuple[Tensor, ...] = ()

    def done(self) -> Tensor:
        """Returns the frames."""
        return self.finish(*self.inputs, *self.parameters)


def ready(frames: Tensor) -> Waiting:
    """Returns frames `(B, T, C)` to which nothing is to be done."""
    return Waiting((frames,), _as_they_are)


def _as_they_are(frames: Tensor) -> Tensor:
    return frames


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the precision in which matrix products of `tensor` are computed."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def conv_over_time(frames: Waiting, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolves frames whose channels are the last axis; what they wait for is computed again, and never kept.

    On a CPU a window of `stride` frames that begins at a multiple of `stride` is one row of a matrix that is already
    there, so taps 0 to `stride - 1` are one matrix product, the next `stride` taps another one, and so on; the two
    gradients are such products as well. That takes the time of the arithmetic, where the gradients of PyTorch's
    convolution take twice that. On a GPU it is cuDNN's convolution of images one pixel high, channels last, in half the
    time that its convolution of `(B, C, T)` takes.

    Args:
        frames: Of shape `(B, T, C)` once finished.
        weight: As of `nn.Conv1d`, shape `(D, C, kernel)`.
        bias: Shape `(D,)`, or None.
        stride: Frames from one window to the next.

    Returns:
        Shape `(B, (T - kernel) // stride + 1, D)`.
    """
    if torch.compiler.is_compiling():  # which decides by itself what to compute again
        return _by_library(frames.done(), weight, bias, stride)
    dtype = autocast_dtype(weight)
    bias = None if bias is None else bias.to(dtype)
    output: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        frames.finish, len(frames.inputs), stride, weight.to(dtype), bias, *frames.inputs, *frames.parameters
    )
    return output


def _by_library(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    if weight.shape[2] == stride == 1:
        return F.linear(frames, weight[..., 0], bias)
    return _as_frames(F.conv2d(_as_image(frames), weight[:, :, None], bias, (1, stride)))


def _as_image(frames: Tensor) -> Tensor:
    """Views frames `(B, T, C)` as `(B, C, 1, T)`, in memory as they are: channels last."""
    return frames.transpose(1, 2)[:, :, None]


def _as_frames(image: Tensor) -> Tensor:
    return image[:, :, 0].transpose(1, 2)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        finish: Callable[..., Tensor],
        num_inputs: int,
        stride: int,
        weight: Tensor,
        bias: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        ctx.finish, ctx.num_inputs, ctx.stride = finish, num_inputs, stride
        ctx.save_for_backward(weight, *tensors)
        frames = finish(*tensors).to(weight.dtype).contiguous()
        if frames.device.type == "cuda":
            return _by_library(frames, weight, bias, stride)
        matrix = _as_matrix(weight)
        batch, length, _ = frames.shape
        shape = batch, (length - weight.shape[2]) // stride + 1, len(weight)
        output = frames.new_empty(shape) if bias is None else bias.repeat(*shape[:2], 1)
        for windows, columns in _pieces(frames, weight.shape[2], stride):
            _multiply(output, windows, matrix[:, columns].t(), add=columns.start > 0 or bias is not None)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        _, needs_bias, *needs = ctx.needs_input_grad[3:]
        gradient = grad_outputs[0].contiguous()
        inputs, parameters = kept[: ctx.num_inputs], kept[ctx.num_inputs :]
        grads: list[Tensor | None] = [None] * len(kept)
        # What is summed over utterances, in float32 at the least.
        wide = at_least_float32(gradient.new_empty(0)).dtype
        grad_matrix = gradient.new_zeros(len(weight), weight.shape[1] * weight.shape[2], dtype=wide)
        # One utterance at a time where that costs nothing: what is computed again is large.
        size = 1 if gradient.device.type == "cpu" else len(gradient)
        for first in range(0, len(gradient), size):
            some = slice(first, first + size)
            tensors = [None if tensor is None else tensor[some] for tensor in inputs] + parameters
            leaves = [
                None if tensor is None else tensor.detach().requires_grad_(need)
                for tensor, need in zip(tensors, needs, strict=True)
            ]
            with torch.enable_grad():
                finished = ctx.finish(*leaves)
            frames = finished.detach().to(weight.dtype).contiguous()
            _add_weight_gradient(grad_matrix, frames, gradient[some], weight, ctx.stride)
            wanted = {number: leaf for number, leaf in enumerate(leaves) if leaf is not None and leaf.requires_grad}
            if not wanted:
                continue
            grad_frames = _frames_gradient(frames, gradient[some], weight, ctx.stride)
            del frames
            found = torch.autograd.grad(finished, list(wanted.values()), grad_frames.to(finished.dtype))
            for number, grad in zip(wanted, found, strict=True):
                before = grads[number]
                if number >= ctx.num_inputs:
                    grads[number] = grad if before is None else before + grad
                elif size == len(gradient):
                    grads[number] = grad
                else:
                    if before is None:
                        before = grads[number] = torch.empty_like(inputs[number])
                    before[some] = grad
        grad_weight = grad_matrix.view(len(weight), weight.shape[2], -1).transpose(1, 2).to(weight.dtype)
        grad_bias = gradient.sum(dim=(0, 1)) if needs_bias else None
        return None, None, None, grad_weight, grad_bias, *grads


def _as_matrix(weight: Tensor) -> Tensor:
    """Lays a weight `(D, C, kernel)` out as a matrix `(D, kernel * C)`."""
    return weight.transpose(1, 2).reshape(len(weight), -1)


def _pieces(frames: Tensor, kernel: int, stride: int) -> Iterator[tuple[Tensor, slice]]:
    """Yields windows `(B, T', taps * C)`, views of contiguous `frames`, and the columns of the matrix for them."""
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
    if frames.device.type == "cuda":
        return _gradient_by_library(frames, gradient, weight, stride, of_frames=True)
    kernel, covered = weight.shape[2], gradient.shape[1] * stride
    result = torch.empty_like(frames)
    if kernel < stride:
        result.zero_()
    else:  # all but the rest behind the last window is written by the first product
        result[:, covered:] = 0
    matrix = _as_matrix(weight)
    for windows, columns in _pieces(result, kernel, stride):
        _multiply(windows, gradient, matrix[:, columns], add=columns.start > 0)
    return result


def _add_weight_gradient(matrix: Tensor, frames: Tensor, gradient: Tensor, weight: Tensor, stride: int) -> None:
    if frames.device.type == "cuda":
        matrix += _as_matrix(_gradient_by_library(frames, gradient, weight, stride, of_frames=False))
        return
    for windows, columns in _pieces(frames, weight.shape[2], stride):
        part = matrix[:, columns]
        for left, right in zip(gradient, windows, strict=True):
            if part.dtype == right.dtype:
                torch.addmm(part, left.t(), right, out=part)
            else:
                part += left.t() @ right


def _gradient_by_library(frames: Tensor, gradient: Tensor, weight: Tensor, stride: int, of_frames: bool) -> Tensor:
    """Returns the gradient of `frames` `(B, T, C)`, or that of `weight` `(D, C, kernel)`."""
    if weight.shape[2] == stride == 1:
        if of_frames:
            return gradient @ weight[..., 0]
        return (gradient.flatten(0, 1).t() @ frames.flatten(0, 1))[..., None]
    grads = torch.ops.aten.convolution_backward(
        _as_image(gradient),
        _as_image(frames),
        weight[:, :, None],
        None,
        (1, stride),
        (0, 0),
        (1, 1),
        False,
        (0, 0),
        1,
        (of_frames, not of_frames, False),
    )
    return _as_frames(grads[0]) if of_frames else grads[1][:, :, 0]


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
        variance = ((weight @ covariance) * weight).sum(dim=2)  # (B, D)
        factor = scale.to(wide) * torch.rsqrt(variance + eps)  # (B, D)
        means = (mean @ weight.t())[:, 0]  # (B, D)
        if bias is not None:  # which stays in the graph, with a gradient of zero
            means = means + (bias - bias)
        return (factor[..., None] * weight).to(windows.dtype), (offset.to(wide) - means * factor).to(windows.dtype)
