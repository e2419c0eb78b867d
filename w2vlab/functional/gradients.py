"""Identities whose gradient is not the identity's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.scale, None


def scale_gradient(value: Tensor, scale: float) -> Tensor:
    """Returns `value` as it is and multiplies the gradient that flows back through it by `scale`."""
    if scale == 1.0 or not value.requires_grad:  # TorchScript cannot save a function of autograd
        return value
    scaled: Tensor = _ScaleGradient.apply(value, scale)
    return scaled


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Returns exactly `value` and passes the gradient to `surrogate` unchanged (Bengio et al. 2013, arXiv:1308.3432).

    The bracket is exactly zero; `value - surrogate.detach() + surrogate`, as usually written, would round.
    """
    return value.detach() + (surrogate - surrogate.detach())


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return grad_outputs[0], *(torch.zeros_like(parameter) if needed else None for parameter, needed in wanted)


def with_zero_gradients(value: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Returns `value` as it is and gives `parameters`, which it was not computed from, a gradient of zero.

    DDP waits for a gradient of every parameter. Whatever an update leaves out is brought into the graph with this.
    """
    result: Tensor = _ZeroGradients.apply(value, *parameters)
    return result
