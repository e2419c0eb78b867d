"""Convolutions over time as matrix products over windows of frames that lie in place, none of them copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2vlab.functional.convolution_kernels import WeightGradient, convolve, convolve_in_graph, frames_gradient

_COMPUTED_AT_ONCE = 1 << 22
"""Numbers that are computed again at once on a CPU, so that they take no more than 16 MiB."""


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
    dtype = autocast_dtype(weight)
    bias = None if bias is None else bias.to(dtype)
    if not torch.compiler.is_compiling():
        output: Tensor = _Convolution.apply(
            frames.finish, len(frames.inputs), stride, weight.to(dtype), bias, *frames.inputs, *frames.parameters
        )
        return output
    # What a compiler computes again it decides by itself.
    if weight.shape[2] == stride == 1:
        return F.linear(frames.done(), weight[..., 0], bias)
    convolved: Tensor = convolve_in_graph(frames.done().to(dtype), weight.to(dtype), bias, stride)
    return convolved


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
        return convolve(frames, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        _, needs_bias, *needs = ctx.needs_input_grad[3:]
        gradient = grad_outputs[0].contiguous()
        inputs, parameters = kept[: ctx.num_inputs], kept[ctx.num_inputs :]
        grads: list[Tensor | None] = [None] * len(kept)
        total = WeightGradient(weight, ctx.stride)
        size = len(gradient)
        if gradient.device.type == "cpu":  # where a few utterances at once are as fast as all of them
            of_one = gradient.shape[1] * ctx.stride * weight.shape[1]
            size = min(size, _COMPUTED_AT_ONCE // max(1, of_one))
        size = max(1, size)
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
            total.add(frames, gradient[some])
            wanted = {number: leaf for number, leaf in enumerate(leaves) if leaf is not None and leaf.requires_grad}
            if not wanted:
                continue
            grad_frames = frames_gradient(frames, gradient[some], weight, ctx.stride)
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
        grad_bias = gradient.sum(dim=(0, 1)) if needs_bias else None
        return None, None, None, total.total(), grad_bias, *grads


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
