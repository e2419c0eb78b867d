"""Reductions over processes that do nothing on a single one."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor


def is_distributed() -> bool:
    """Tells whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Returns this process's number, from 0."""
    return dist.get_rank() if is_distributed() else 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sums `value` over all processes, with gradient; the same tensor on every one of them."""
    if not is_distributed():
        return value
    reduced: Tensor = differentiable.all_reduce(value.clone(), op=dist.ReduceOp.SUM)  # type: ignore[no-untyped-call]
    return reduced


def all_gather(value: Tensor) -> Tensor:
    """Stacks `value`, of the same shape on all processes, along a new first dimension, without gradient."""
    if not is_distributed():
        return value.detach()[None]
    gathered = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(gathered, value.detach().contiguous())
    return torch.stack(gathered)
