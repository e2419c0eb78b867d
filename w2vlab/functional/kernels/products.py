"""The arithmetic of a convolution over time and of its gradients: matrix products over views, or cuDNN.

Each function here equals `F.conv1d` with channels last, or a gradient of it, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def convolve(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolves contiguous `frames` `(B, T, C)` with `weight` `(D, C, kernel)`: `(B, T', D)`."""
    if frames.device.type == "cuda":
        return _by_library(frames, weight, bias, stride)
    matrix = _as_matrix(weight)
    batch, length, _ = frames.shape
    shape = batch, (length - weight.shape[2]) // stride + 1, len(weight)
    if _is_half(frames) and weight.shape[2] == stride == 1:
        return F.linear(frames, matrix, bias)  # one product, for which the weight is not copied for each utterance
    output = frames.new_empty(shape) if bias is None else bias.repeat(*shape[:2], 1)
    for windows, columns in _pieces(frames, weight.shape[2], stride):
        _multiply(output, windows, matrix[:, columns].t(), add=columns.start > 0 or bias is not None)
    return output


class WeightGradient:
    """The gradient of a weight: a sum over utterances, in float32 or wider.

    Args:
        weight: Shape `(D, C, kernel)`.
        stride: Frames from one window to the next.
    """

    def __init__(self, weight: Tensor, stride: int) -> None:
        self.weight, self.stride = weight, stride
        dtype = at_least_float32(weight.new_empty(0)).dtype
        self._matrix = weight.new_zeros(len(weight), weight.shape[1] * weight.shape[2], dtype=dtype)

    def add(self, frames: Tensor, gradient: Tensor) -> None:
        """Adds the gradient of some utterances: contiguous `frames` `(B, T, C)`, and `gradient` `(B, T', D)`."""
        if frames.device.type == "cuda":
            found = _gradient_by_library(frames, gradient, self.weight, self.stride, of_frames=False)
            self._matrix += _as_matrix(found)
            return
        if _is_half(frames) and self.weight.shape[2] == self.stride == 1:
            self._matrix += gradient.flatten(0, 1).t() @ frames.flatten(0, 1)
            return
        for windows, columns in _pieces(frames, self.weight.shape[2], self.stride):
            part = self._matrix[:, columns]
            for left, right in zip(gradient, windows, strict=True):
                if part.dtype == right.dtype:
                    torch.addmm(part, left.t(), right, out=part)
                else:
                    part += left.t() @ right

    def total(self) -> Tensor:
        """Returns the sum, shape `(D, C, kernel)`, in float32 or wider."""
        of_taps = self._matrix.view(len(self.weight), self.weight.shape[2], -1)
        return of_taps.transpose(1, 2)


def frames_gradient(frames: Tensor, gradient: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Returns the gradient of `frames` `(B, T, C)`, given that of the output, `(B, T', D)`."""
    if frames.device.type == "cuda":
        return _gradient_by_library(frames, gradient, weight, stride, of_frames=True)
    kernel, covered = weight.shape[2], gradient.shape[1] * stride
    if _is_half(gradient) and kernel == stride == 1:
        return gradient @ weight[..., 0]
    result = torch.empty_like(frames)
    if kernel < stride:
        result.zero_()
    else:  # the first product writes everything but the frames after the last window
        result[:, covered:] = 0
    matrix = _as_matrix(weight)
    for windows, columns in _pieces(result, kernel, stride):
        _multiply(windows, gradient, matrix[:, columns], add=columns.start > 0)
    return result


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
    if _is_half(left):
        for row in range(len(left)):  # oneDNN would copy the weight for each utterance
            torch.addmm(output[row], left[row], right, beta=int(add), out=output[row])
    else:
        torch.baddbmm(output, left, right.expand(len(left), -1, -1), beta=int(add), out=output)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype.itemsize < 4


def _by_library(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    if weight.shape[2] == stride == 1:
        return F.linear(frames, weight[..., 0], bias)
    return _as_frames(F.conv2d(_as_image(frames), weight[:, :, None], bias, (1, stride)))


def _as_image(frames: Tensor) -> Tensor:
    """Views frames `(B, T, C)` as `(B, C, 1, T)`, in memory as they are: channels last."""
    return frames.transpose(1, 2)[:, :, None]


def _as_frames(image: Tensor) -> Tensor:
    return image[:, :, 0].transpose(1, 2)


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


@torch.library.custom_op(
    "w2vlab::convolve", mutates_args=(), schema="(Tensor frames, Tensor weight, Tensor? bias, int stride) -> Tensor"
)
def convolve_in_graph(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`convolve` as one operation for a compiler, which otherwise transposes frames to channels first and back."""
    return convolve(frames.contiguous(), weight, bias, stride)


@torch.library.custom_op(
    "w2vlab::convolve_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor frames, Tensor weight, int stride, bool of_frames) -> Tensor",
)
def _gradient_in_graph(gradient: Tensor, frames: Tensor, weight: Tensor, stride: int, of_frames: bool) -> Tensor:
    frames, gradient = frames.contiguous(), gradient.contiguous()
    if of_frames:
        return frames_gradient(frames, gradient, weight, stride).contiguous()
    total = WeightGradient(weight, stride)
    total.add(frames, gradient)
    return total.total().to(weight.dtype).contiguous()


@convolve_in_graph.register_fake
def _(frames: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    length = (frames.shape[1] - weight.shape[2]) // stride + 1
    return frames.new_empty(frames.shape[0], length, weight.shape[0])


@_gradient_in_graph.register_fake
def _(gradient: Tensor, frames: Tensor, weight: Tensor, stride: int, of_frames: bool) -> Tensor:
    return frames.new_empty(frames.shape) if of_frames else weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    frames, weight, _, ctx.stride = inputs
    ctx.save_for_backward(frames, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    frames, weight = ctx.saved_tensors
    needs_frames, needs_weight, needs_bias, _ = ctx.needs_input_grad
    return (
        _gradient_in_graph(gradient, frames, weight, ctx.stride, True) if needs_frames else None,
        _gradient_in_graph(gradient, frames, weight, ctx.stride, False) if needs_weight else None,
        gradient.sum(dim=(0, 1)) if needs_bias else None,
        None,
    )


convolve_in_graph.register_autograd(_backward, setup_context=_keep)
