"""Products, activations and sums without gradients: faster on a CPU, and with fewer copies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.kernels.plain import uses_plain_kernels


def computes_inference(tensor: Tensor) -> bool:
    """Returns whether results may be overwritten: in inference mode, outside of traced and compiled code."""
    if torch.compiler.is_compiling() or uses_plain_kernels():  # first, because a compiler cannot trace what follows
        return False
    return torch.is_inference_mode_enabled() and type(tensor) in (Tensor, nn.Parameter)


def linear(frames: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Equals `F.linear`, up to rounding.

    In inference mode on a CPU, float32 is multiplied by oneDNN, as PyTorch does for half precision and for
    convolutions. The library of PyTorch's float32 linear layers, MKL, takes 5 to 15 % longer on AMD processors (Zen 4).

    Args:
        frames: Shape `(…, C)`; rows may overlap in memory.
        weight: Shape `(D, C)`.
        bias: Shape `(D,)`, or None.

    Returns:
        Shape `(…, D)`.
    """
    if _multiplies_by_onednn(frames, weight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(frames, weight, bias, "none", [], "")
        return product
    return F.linear(frames, weight, bias)


def _multiplies_by_onednn(frames: Tensor, weight: Tensor) -> bool:
    return (
        computes_inference(frames)
        and frames.device.type == "cpu"
        and frames.dtype == weight.dtype == torch.float32
        and frames.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not public: Inductor calls it
    )


def add_residual(frames: Tensor, update: Tensor) -> Tensor:
    """Returns `frames + update`; in inference mode it overwrites `update`, the output of the layer before."""
    if computes_inference(update) and update.dtype == frames.dtype and update.shape == frames.shape:
        return update.add_(frames)
    return frames + update


def activate_in_place(activation: nn.Module, frames: Tensor) -> Tensor:
    """Returns `activation(frames)` for a `GELU` or `ReLU` without gradients; it overwrites `frames`."""
    if isinstance(activation, nn.ReLU):
        return frames.relu_()
    activated: Tensor = torch.ops.aten.gelu_(frames)
    return activated


class WindowProducts:
    """A convolution without gradient: `conv1d` as one product of overlapping windows, which are rows of a view.

    Args:
        weight: As of `nn.Conv1d`, shape `(D, C, kernel)`.
        bias: Shape `(D,)`, or None.
        stride: Frames from one window to the next.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int) -> None:
        self.kernel, self.stride, self.bias = weight.shape[2], stride, bias
        self.matrix = weight.transpose(1, 2).reshape(len(weight), -1)  # (D, kernel * C), copied once

    def __call__(self, frames: Tensor) -> Tensor:
        """Maps `frames` `(B, T, C)` to `(B, (T - kernel) // stride + 1, D)`."""
        batch, length, dim = frames.shape
        count = (length - self.kernel) // self.stride + 1
        frames = frames.to(self.matrix.dtype).contiguous()
        outputs = []
        for row in range(batch):
            offset = frames.storage_offset() + row * length * dim
            windows = frames.as_strided((count, self.kernel * dim), (self.stride * dim, 1), offset)
            outputs.append(linear(windows, self.matrix, self.bias))
        return outputs[0][None] if batch == 1 else torch.stack(outputs)  # (B, T', D)
