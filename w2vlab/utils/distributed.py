"""Reductions over processes; on a single process they return their input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    """Returns whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Returns the rank of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def class_name(module: nn.Module) -> str:
    """Returns the name of the class of a module, without the prefix that PyTorch gives it in shards."""
    return next(cls.__name__ for cls in type(module).__mro__ if not cls.__name__.startswith("FSDP"))


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sums `value` over all processes, with gradient; the result is the same on all of them."""
    if not is_distributed():
        return value
    reduced: Tensor = _Sum.apply(value)
    return reduced


class _Sum(torch.autograd.Function):
    """The sum over processes. Each value is in the sum of every process, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        gradient: Tensor = _Sum.apply(grad_outputs[0])
        return gradient


class AsyncCount:
    """An integer of the host, summed over all processes while other work is computed.

    Args:
        count: The integer of this process.
        device: Where the sum is needed.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._sum = torch.full((), count, dtype=torch.int64, device=device)  # without a copy from the host
        self._work = dist.all_reduce(self._sum, async_op=True) if is_distributed() else None

    def wait(self) -> Tensor:
        """Returns the sum, `()`, on every process. On a GPU the stream waits for it, and the host does not."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._sum


def all_gather(value: Tensor) -> Tensor:
    """Stacks `value`, of the same shape on all processes, along a new first dimension, without gradient."""
    if not is_distributed():
        return value.detach()[None]
    gathered = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(gathered, value.detach().contiguous())
    return torch.stack(gathered)


@contextmanager
def same_error_on_all_processes(kind: type[Exception]) -> Iterator[None]:
    """Raises the error of one process on the others, too, as a `kind`, so that they do not wait for it for ever."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages: list[Any] = [None]
    if is_distributed():
        messages = [None] * world_size()
        dist.all_gather_object(messages, None if error is None else str(error))
    if error is not None:
        raise error
    for message in messages:
        if message is not None:
            raise kind(message)
