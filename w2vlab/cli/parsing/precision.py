"""`trainer.precision: auto`: bfloat16 where the device multiplies it faster than float32."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Literal, Union

import torch
import torch.distributed as dist
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info

from w2vlab.types import RunError
from w2vlab.utils.distributed import is_distributed, world_size

AUTO = "auto"

_GIVEN = "W2VLAB_PRECISION"
"""Environment variable of the processes that the first one starts: what it has decided."""

_HALF, _FULL = "bf16-mixed", "32-true"

_WORTH_IT = 1.5
"""How many times as fast bfloat16 must be multiplied: below, a step gains less than its noise."""

_SIZES, _PRODUCTS = (128, 768), 6
"""Rows of the matrices of the trial, and products in each type: 60 ms on a core with AVX-512."""

_TOO_SLOW = 0.5
"""A ratio of small products at which the trial ends: without instructions, bfloat16 may take 100 times as long."""


@dataclass(frozen=True)
class Choice:
    """A precision of the trainer, and the reason for it."""

    precision: str
    reason: str

    def __str__(self) -> str:
        return f"precision auto: {self.precision}, {self.reason}"


def accept_auto(parser: LightningArgumentParser) -> None:
    """Lets `trainer.precision` be `auto`, too."""
    for action in parser._actions:
        if action.dest == "trainer.precision":
            options: Any = action
            options._typehint = Union[options._typehint, Literal["auto"]]  # noqa: UP007  # a type at run time


def resolve_precision(trainer: Namespace, saved: dict[str, Any] | None = None) -> None:
    """Replaces `auto` in the options of the trainer by a precision, and logs which one and why.

    Args:
        trainer: Options of the trainer; changed in place, so that a run records what it computes with.
        saved: Options of the run that is resumed, which keeps its precision; None for a new run.
    """
    if trainer.precision != AUTO:
        return
    of_run = (saved or {}).get("trainer") or {}
    before = of_run.get("precision", AUTO) or _FULL  # a run without the option records null
    given = os.environ.get(_GIVEN) if os.environ.get("LOCAL_RANK", "0") != "0" else None
    if given:
        choice = Choice(given, "as the first process")
    elif before != AUTO:
        choice = Choice(str(before), "as in the checkpoint")
    else:
        choice = choose(str(trainer.accelerator))
    os.environ[_GIVEN] = choice.precision
    trainer.precision = choice.precision
    rank_zero_info(str(choice))


def choose(accelerator: str) -> Choice:
    """Chooses the precision of a new run.

    Args:
        accelerator: As of `Trainer`.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(_HALF, f"because {name} multiplies bfloat16 faster than float32")
        return Choice(_FULL, f"because {name} has no bfloat16")
    if accelerator not in ("auto", "cpu") or (accelerator == "auto" and torch.backends.mps.is_available()):
        return Choice(_FULL, "because bfloat16 has only been tried on CPUs and CUDA, not on this accelerator")
    if _started_elsewhere():
        # Processes that something else has started cannot agree before they are connected, so that all look at what
        # does not vary from trial to trial.
        if _has_instructions():
            return Choice(_HALF, "because this processor has instructions for bfloat16")
        return Choice(_FULL, "because this processor has no instructions for bfloat16")
    ratio = trial()
    times = f"{ratio:.1f} times as fast as float32"
    if ratio >= _WORTH_IT:
        return Choice(_HALF, f"because this processor multiplies bfloat16 {times}")
    return Choice(_FULL, f"because this processor multiplies bfloat16 only {times}")


def trial() -> float:
    """Measures how many times as fast as float32 the CPU multiplies matrices of bfloat16, in at most 0.3 s.

    The fastest product of each type counts, and the two take turns, because other processes can only slow one down.
    """
    ratio = 0.0
    for size in _SIZES:
        full = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
        matrices = full, full.bfloat16()
        fastest = [float("inf")] * 2
        for _ in range(1 + _PRODUCTS):  # the first one is the warm-up
            for number, matrix in enumerate(matrices):
                start = time.perf_counter()
                torch.mm(matrix, matrix)
                fastest[number] = min(fastest[number], time.perf_counter() - start)
        ratio = fastest[0] / fastest[1]
        if ratio < _TOO_SLOW:
            break
    return ratio


def _has_instructions() -> bool:
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(check is not None and check() for check in checks)


def _started_elsewhere() -> bool:
    """Returns whether torchrun or SLURM has started several processes of this run."""
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        number = os.environ.get(variable, "")
        if number.isdigit() and int(number) > 1:
            return True
    return False


class SamePrecision(Callback):
    """Ends a run whose processes have chosen different precisions."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the processes.

        Raises:
            RunError: They differ.
        """
        if not is_distributed():
            return
        found: list[Any] = [None] * world_size()
        dist.all_gather_object(found, str(trainer.precision))
        if len(set(found)) > 1:
            each = "; ".join(f"{precision} on {_those(found, precision)}" for precision in sorted(set(found)))
            raise RunError(
                f"`trainer.precision` must be the same on all processes, but is {each}: with auto the nodes have "
                f"decided differently. Set it to {_FULL} or {_HALF}."
            )


def _those(found: list[Any], precision: str) -> str:
    return ", ".join(str(process) for process, other in enumerate(found) if other == precision)
