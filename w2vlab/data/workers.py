"""How many processes read audio, by the cores of the machine."""

from __future__ import annotations

import os
from typing import Literal

import torch
from lightning.pytorch import Trainer

from w2vlab.utils.checks import check_at_least
from w2vlab.utils.limits import num_cores
from w2vlab.utils.messages import count

Workers = int | Literal["auto"]
"""Worker processes of a loader, or `auto`: as many as the cores of the machine allow."""

_MAX_WITH_GPU = 8
"""Workers of a process that trains on a GPU: decoding for a GPU takes two or three, a slow disk more."""

_CORES_FOR_TWO = 8
"""Cores of a process that trains on a CPU from which on it has two workers; training is slower than one reads."""


def check_workers(num_workers: Workers) -> Workers:
    """Returns `num_workers` if it is valid.

    Raises:
        ValueError: It is neither `auto` nor an integer of at least 0.
    """
    if num_workers != "auto":
        if isinstance(num_workers, str):
            raise ValueError(f"`num_workers` must be auto or an integer of at least 0, but is {num_workers!r}.")
        check_at_least(0, num_workers=num_workers)
    return num_workers


def cores_of_each(trainer: Trainer | None) -> int:
    """Returns the cores of each training process: the usable ones, divided by the processes of this node.

    SLURM gives each process cores of its own, `SLURM_CPUS_PER_TASK`.
    """
    own = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if own.isdigit() and int(own) > 0:
        return min(num_cores(), int(own))
    return max(1, num_cores() // (1 if trainer is None else max(1, trainer.num_devices)))


def workers_of_each(num_workers: Workers, trainer: Trainer | None) -> int:
    """Returns the worker processes of each training process.

    `auto` is none with a single core, because a worker would take it from the training. Otherwise it is one for each
    core but one with a GPU, up to 8. On a CPU the training uses all cores and takes many times as long as reading: one
    worker, or two from 8 cores on.

    Args:
        num_workers: `data.num_workers`.
        trainer: The trainer; None for a single process on a CPU.
    """
    if num_workers != "auto":
        return num_workers
    cores = cores_of_each(trainer)
    if cores == 1:
        return 0
    if _trains_on_cpu(trainer):
        return 2 if cores >= _CORES_FOR_TWO else 1
    return min(cores - 1, _MAX_WITH_GPU)


def describe_workers(num_workers: Workers, trainer: Trainer | None) -> str:
    """Returns what `auto` has decided in words, to be added to a line on the data; nothing for a given number."""
    if num_workers != "auto":
        return ""
    workers, cores = workers_of_each(num_workers, trainer), cores_of_each(trainer)
    by = f"by {count(workers, 'worker')}" if workers else "in the training process"
    return f", read {by} (auto: {count(cores, 'core')})"


def _trains_on_cpu(trainer: Trainer | None) -> bool:
    return (torch.device("cpu") if trainer is None else trainer.strategy.root_device).type == "cpu"
