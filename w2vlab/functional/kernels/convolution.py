"""Convolutions over time, and linear layers, whose input may be recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from w2vlab.functional.kernels.inference import linear
from w2vlab.functional.kernels.pieces import Piece, PiecewiseGradients, pieces
from w2vlab.functional.kernels.plain import uses_plain_kernels
from w2vlab.functional.kernels.products import WeightGradient, convolve, convolve_in_graph, frames_gradient
from w2vlab.functional.kernels.recompute import Frames, Recomputed, Step, as_recomputed, as_tensor, run_steps
from w2vlab.functional.kernels.weights import in_precision, kept_copy
from w2vlab.functional.precision import autocast_dtype


def conv1d(frames: Frames, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolves frames over time; the channels are the last axis.

    Equals `F.conv1d(frames.transpose(1, 2), weight, bias, stride).transpose(1, 2)` up to rounding, which is the plain
    path. Recomputed frames are not kept for the backward pass, so that it uses less memory.

    On a CPU a window of `stride` frames that begins at a multiple of `stride` is one row of a matrix that is already in
    memory. So taps 0 to `stride - 1` are one matrix product, the next `stride` taps another one, and so on; the two
    gradients are such products as well. This takes half the time of the gradients of PyTorch's convolution. On a GPU it
    is cuDNN's convolution of images one pixel high, channels last, in half the time of its convolution of `(B, C, T)`.

    Args:
        frames: Shape `(B, T, C)`.
        weight: As of `nn.Conv1d`, shape `(D, C, kernel)`, or as of `nn.Linear`, shape `(D, C)`, for a kernel of 1.
        bias: Shape `(D,)`, or None.
        stride: Frames from one window to the next.

    Returns:
        Shape `(B, (T - kernel) // stride + 1, D)`.
    """
    if uses_plain_kernels():
        return F.conv1d(as_tensor(frames).transpose(1, 2), _with_taps(weight), bias, stride).transpose(1, 2)
    dtype = autocast_dtype(weight)
    if torch.compiler.is_compiling():  # the compiler decides what is recomputed
        bias = None if bias is None else bias.to(dtype)
        weight = _with_taps(weight)
        if weight.shape[2] == stride == 1:
            return F.linear(as_tensor(frames), weight[..., 0], bias)
        convolved: Tensor = convolve_in_graph(as_tensor(frames).to(dtype), weight.to(dtype), bias, stride)
        return convolved
    recomputed = as_recomputed(frames)
    tensors = *recomputed.per_utterance, *recomputed.shared
    output: Tensor = _Conv1d.apply(
        recomputed.steps, len(recomputed.per_utterance), stride, dtype, weight, bias, *tensors
    )
    return output


def _with_taps(weight: Tensor) -> Tensor:
    """Returns a weight `(D, C, kernel)`; that of a linear layer `(D, C)` has one tap."""
    return weight if weight.dim() == 3 else weight[..., None]


class Conv1d(nn.Conv1d):
    """A convolution over time of frames `(B, T, C)`.

    Equals `nn.Conv1d(in_channels, out_channels, kernel_size, stride, bias=bias)` up to rounding, with the channels of
    input and output on the last axis; see `conv1d`.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels D of the output.
        kernel_size: Frames that an output frame sees.
        stride: Frames from one window to the next.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias)

    def forward(self, input: Frames) -> Tensor:
        """Maps `input` `(B, T, C)` to `(B, (T - kernel) // stride + 1, D)`."""
        return conv1d(input, self.weight, self.bias, self.stride[0])


class Linear(nn.Linear):
    """Equals `nn.Linear` up to rounding, with less memory for a recomputed input, and less time in inference mode."""

    def forward(self, input: Frames) -> Tensor:
        """Maps `input` `(B, T, C)` to `(B, T, D)`; a tensor may have any shape `(..., C)`."""
        if isinstance(input, Recomputed):
            return conv1d(input, self.weight, self.bias)
        return linear(input, kept_copy(self.weight), self.bias)


class _Conv1d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        steps: tuple[Step, ...],
        num_per_utterance: int,
        stride: int,
        dtype: torch.dtype,
        parameter: Tensor,
        bias: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        # The gradient of the weight is computed in float32 or wider, and need not pass through the precision `dtype`.
        ctx.steps, ctx.num_per_utterance, ctx.stride, ctx.shape = steps, num_per_utterance, stride, parameter.shape
        weight = parameter if parameter.dtype == dtype else in_precision(parameter, dtype)
        ctx.save_for_backward(weight, *tensors)
        weight, bias = _with_taps(weight), None if bias is None else bias.to(dtype)
        per_utterance, shared = tensors[:num_per_utterance], tensors[num_per_utterance:]
        output: Tensor | None = None
        for piece in _pieces(ctx, per_utterance, weight):
            frames = run_steps(steps, piece.of_inputs(per_utterance), shared)
            part = convolve(frames.to(weight.dtype).contiguous(), weight, bias, stride)
            del frames
            if piece.is_all:
                return part
            if output is None:
                output = part.new_empty(piece.batch, piece.num_outputs, len(weight))
            output[piece.rows, piece.outputs] = part
        assert output is not None, "there is a piece"
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        weight = _with_taps(weight)
        needs_weight, needs_bias, *needs = ctx.needs_input_grad[4:]
        gradient = grad_outputs[0].contiguous()
        num_per_utterance = ctx.num_per_utterance
        per_utterance, shared = kept[:num_per_utterance], kept[num_per_utterance:]
        weight_gradient = WeightGradient(weight, ctx.stride) if needs_weight else None
        gradients = PiecewiseGradients(per_utterance, shared)
        for piece in _pieces(ctx, per_utterance, weight):
            leaves = [
                None if tensor is None else tensor.detach().requires_grad_(need)
                for tensor, need in zip((*piece.of_inputs(per_utterance), *shared), needs, strict=True)
            ]
            with torch.enable_grad():
                recomputed = run_steps(ctx.steps, leaves[:num_per_utterance], leaves[num_per_utterance:])
            frames = recomputed.detach().to(weight.dtype).contiguous()
            upstream = gradient[piece.rows, piece.outputs]
            if weight_gradient is not None:
                weight_gradient.add(frames, upstream)
            wanted = {number: leaf for number, leaf in enumerate(leaves) if leaf is not None and leaf.requires_grad}
            if not wanted:
                continue
            grad_frames = frames_gradient(frames, upstream, weight, ctx.stride)
            del frames
            found = torch.autograd.grad(recomputed, list(wanted.values()), grad_frames.to(recomputed.dtype))
            del recomputed, grad_frames
            for number, grad in zip(wanted, found, strict=True):
                gradients.add(number, piece, grad)
        grad_bias = gradient.sum(dim=(0, 1)) if needs_bias else None
        grad_weight = None if weight_gradient is None else weight_gradient.total().reshape(ctx.shape)
        return None, None, None, None, grad_weight, grad_bias, *gradients.totals()


def _pieces(ctx: Any, per_utterance: Sequence[Tensor | None], weight: Tensor) -> Iterator[Piece]:
    first = per_utterance[0]
    assert first is not None, "what the steps begin with"
    divide = all(step.per_frame for step in ctx.steps)
    return pieces(first, weight.shape[1], weight.shape[2], ctx.stride, divide)
