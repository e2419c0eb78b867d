"""Layer norms whose output is computed again in the backward pass, where a linear layer would keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from w2vlab.functional.kernels.dropout import computes_eagerly_on_cpu


@dataclass(frozen=True)
class _Normalised:
    """The output of a norm, as what it is computed from; autograd keeps that anyway, for the norm itself."""

    frames: Tensor
    norm: nn.LayerNorm

    def tensor(self) -> Tensor:
        with torch.no_grad():
            return F.layer_norm(
                self.frames, self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps
            )


_sources: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""What the outputs of norms that are alive are computed from."""

_keeps_outputs = False


class Norm(nn.LayerNorm):
    """Equals `nn.LayerNorm`, which is the plain path; `keeping_no_norm` recognizes its output.

    Args:
        num_channels: Channels of a frame.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels)

    def forward(self, input: Tensor) -> Tensor:
        """Maps `input` `(..., C)` to the same shape."""
        normalised = super().forward(input)
        if (
            computes_eagerly_on_cpu(input)  # first, because a compiler cannot trace what follows
            and not _keeps_outputs
            and self.training
            and torch.is_grad_enabled()
            and input.dtype == normalised.dtype == self.weight.dtype
        ):
            _sources[normalised] = _Normalised(input.detach(), self)
        return normalised


def keeping_no_norm(frames: Tensor) -> AbstractContextManager[None]:
    """Lets autograd compute `frames` again in the backward pass of what is done inside, if a `Norm` returned them.

    A layer norm keeps its input, and the linear layer after it keeps the output: a tenth of what a Transformer layer
    of wav2vec 2.0 keeps for the two norms together. To compute a norm takes a hundredth of the time of the linear
    layer. The gradients are the same bits. A compiler decides itself what it keeps, and cannot trace the search.
    """
    source = None if torch.compiler.is_compiling() or _keeps_outputs else _sources.get(frames)  # type: ignore[no-untyped-call]
    return nullcontext() if source is None else _computed_again(frames, source)


@contextmanager
def _computed_again(frames: Tensor, source: _Normalised) -> Iterator[None]:
    address, shape = frames.data_ptr(), frames.shape

    def pack(tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        if tensor.data_ptr() == address and tensor.numel() == shape.numel() and tensor.is_contiguous():
            size = tensor.shape  # `F.linear` joins the axes before the last one
            return lambda: source.tensor().view(size)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept if isinstance(kept, Tensor) else kept()):
        yield


@contextmanager
def norms_are_kept() -> Iterator[None]:
    """Keeps the outputs of norms inside, as activation checkpointing needs, which counts what is kept."""
    global _keeps_outputs
    before, _keeps_outputs = _keeps_outputs, True
    try:
        yield
    finally:
        _keeps_outputs = before
