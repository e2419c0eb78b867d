"""Identity functions with modified gradients."""

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
    """Returns `value` unchanged, and multiplies its gradient in the backward pass by `scale`."""
    if scale == 1.0 or not value.requires_grad:  # TorchScript cannot save a function of autograd
        return value
    scaled: Tensor = _ScaleGradient.apply(value, scale)
    return scaled


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Returns `value`, with the gradient of `surrogate`: the straight-through estimator.

    The term in brackets is exactly zero; the usual `value - surrogate.detach() + surrogate` has a rounding error.

    Reference:
        Bengio et al. 2013, arXiv:1308.3432.
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
    """Returns `value` unchanged, and gives `parameters`, on which it does not depend, zero gradients.

    DDP waits for the gradients of all parameters, so parameters that an update does not use need zero gradients.
    """
    result: Tensor = _ZeroGradients.apply(value, *parameters)
    return result
