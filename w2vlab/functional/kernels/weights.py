"""Weights in the precision of autocast, cast once an update and not in every forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook

from w2vlab.functional.kernels.plain import uses_plain_kernels
from w2vlab.functional.precision import autocast_dtype


@dataclass(frozen=True)
class _Copy:
    """A parameter in another precision.

    Attributes:
        of: The parameter.
        version: Its version counter, which every operation in place increments.
        data: Its memory, and its place in it, which another assignment of `data` replaces.
        copy: Its values.
    """

    of: ReferenceType[Tensor]
    version: int
    data: Tensor
    copy: Tensor

    def is_of(self, weight: Tensor, dtype: torch.dtype) -> bool:
        """Returns whether this is `weight`, as it is now, in the precision `dtype`."""
        data = self.data
        same_memory = data.untyped_storage()._cdata == weight.untyped_storage()._cdata
        same_place = (data.storage_offset(), data.stride()) == (weight.storage_offset(), weight.stride())
        return (
            self.of() is weight
            and self.version == weight._version
            and same_memory
            and same_place
            and self.copy.dtype == dtype
            and self.copy.device == weight.device
            and self.copy.shape == weight.shape
        )


_owners: WeakSet[object] = WeakSet()
"""For whom copies are kept at the moment."""

_copies: dict[int, _Copy] = {}
"""Copies of the parameters by their id, while there is an owner."""


_hook: Any = None
"""The hook of all optimizers, once copies have been kept."""


def _clear_after_a_step(*_: Any) -> None:
    _copies.clear()


def keep_copies(owner: object) -> None:
    """Keeps the copies of weights that autocast needs until `free_copies(owner)`, so that each weight is cast once.

    The weights must not change meanwhile in a way that PyTorch does not count: through `parameter.data` or a NumPy
    array of the same memory. All other changes are seen, and the weight is cast again: operations in place, such as
    moving averages and `load_state_dict` use, steps of optimizers (also of fused ones, which PyTorch does not count),
    and another tensor assigned to `data`. An update calls `free_copies` before its optimizer step, so that no copy
    outlives it. If none are kept, each forward pass casts.

    Only parameters have copies: a weight that is computed, such as by weight norm, is cast when it is used. Compiled
    code casts inside of its graph. Sharded parameters must not be used meanwhile, because whole copies of all layers
    would stay in memory.

    Args:
        owner: Who keeps them; a second call for the same one changes nothing.
    """
    global _hook
    _owners.add(owner)
    if _hook is None:
        _hook = register_optimizer_step_post_hook(_clear_after_a_step)


def free_copies(owner: object) -> None:
    """Frees the copies, unless others still keep them; without effect if `owner` keeps none."""
    _owners.discard(owner)
    if not _owners:
        _copies.clear()


class _Scope:
    """The owner of the copies of a `weights_cast_once()`."""


@contextmanager
def weights_cast_once() -> Iterator[None]:
    """Keeps the copies of weights inside, as by `keep_copies`: for many forward passes with the same weights."""
    scope = _Scope()
    keep_copies(scope)
    try:
        yield
    finally:
        free_copies(scope)


def in_precision(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a weight in the precision `dtype`, without gradient: itself, a kept copy, or a new one."""
    if weight.dtype == dtype or not _has_copy(weight):
        return weight.detach().to(dtype)
    kept = _copies.get(id(weight))
    if kept is None or not kept.is_of(weight, dtype):
        with torch.inference_mode(False):  # a copy that is made in a validation can be used in training, too
            copy = weight.detach().to(dtype)
        kept = _copies[id(weight)] = _Copy(ref(weight), weight._version, weight.detach(), copy)
    return kept.copy


def _has_copy(weight: Tensor) -> bool:
    return (
        len(_owners) > 0 and type(weight) is nn.Parameter and not weight.is_inference()
    )  # one that counts its changes


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
        copy = in_precision(weight, dtype)
        return copy.view_as(copy)  # the kept tensor itself must not enter a graph

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None  # autograd casts it to the precision of the weight


def kept_copy(weight: Tensor) -> Tensor:
    """Returns the copy of a parameter for autocast, with its gradient; the weight itself if none are kept.

    Autocast then casts it in the product, and keeps the copy to the end of the forward pass.
    """
    if torch.compiler.is_compiling() or uses_plain_kernels() or not _has_copy(weight):
        return weight
    if weight.dtype == autocast_dtype(weight):
        return weight
    cast: Tensor = _Cast.apply(weight, autocast_dtype(weight))
    return cast
