"""A data loader that restarts worker processes that die."""

from __future__ import annotations

import logging
import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from w2vlab.data.batches.packing import Packed, pack
from w2vlab.types import RunError, Seconds

logger = logging.getLogger(__name__)

MAX_DEATHS_IN_A_ROW = 3

Batch = TypeVar("Batch", covariant=True)


class ResilientLoader(DataLoader[Batch]):
    """Reads the planned batches in order in worker processes, and restarts the workers if one of them dies.

    The new workers begin with the first batch that was not delivered, so that the batches are the same as without the
    failure.

    Args:
        dataset: Reads a batch from its plan.
        sampler: Plans the batches; must yield the same ones each time it is iterated in an epoch, and have a method
            `set_epoch`.
        num_workers: Worker processes; 0 reads in this process.
        ahead: Batches that all workers together prefetch; at least two per worker.

    Attributes:
        waited: Total time in seconds that the consumer has waited for batches.
    """

    def __init__(self, dataset: Dataset[Batch], sampler: Sampler[Any], num_workers: int, ahead: int = 0) -> None:
        self.waited: Seconds = 0.0
        self._remaining = _UndeliveredPlans(sampler)
        super().__init__(
            dataset,
            sampler=self._remaining,
            batch_size=None,  # the sampler makes the batches
            num_workers=num_workers,
            collate_fn=pack if num_workers else None,
            prefetch_factor=max(2, math.ceil(ahead / num_workers)) if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # the base class promises its own iterator
        """Yields the batches of an epoch.

        Raises:
            RunError: Workers have died several times in a row without delivering a batch.
        """
        self._remaining.delivered = 0
        in_a_row = 0
        batches: Iterator[Batch | Packed] | None = None
        while True:
            try:
                asked = time.perf_counter()
                try:
                    if batches is None:
                        batches = super().__iter__()
                        _restore_default_sigchld()
                    batch = next(batches)
                finally:
                    self.waited += time.perf_counter() - asked
            except StopIteration:
                return
            except Exception as error:
                if (inner := _error_in_worker(error)) is not None:
                    raise inner from None
                if not isinstance(error, RuntimeError | ConnectionError | EOFError) or not _is_worker_death(error):
                    raise
                in_a_row += 1
                if in_a_row == MAX_DEATHS_IN_A_ROW:
                    raise RunError(
                        f"{in_a_row} data loader workers died one after another ({error}), most likely because memory "
                        "ran out: lower `num_workers` or `batch_seconds` (with `num_workers` 0 this process "
                        "reads the audio itself, and the original error is shown)."
                    ) from None
                logger.warning("A data loader worker died (%s). New workers resume with the same batch.", str(error))
            else:
                in_a_row = 0
                self._remaining.delivered += 1
                yield batch.unpack() if isinstance(batch, Packed) else batch
                continue
            # Not inside `except`, because the traceback would keep the old iterator and its workers alive.
            batches = self._iterator = None


class _UndeliveredPlans(Sampler[Any]):
    """Yields the plans of a sampler without those of the batches that were already delivered."""

    def __init__(self, sampler: Sampler[Any]) -> None:
        self.delivered = 0
        self._sampler: Any = sampler

    def set_epoch(self, epoch: int) -> None:
        """Passes Lightning's call on to the sampler."""
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        yield from islice(self._sampler, self.delivered, None)


def _is_worker_death(error: Exception) -> bool:
    """Returns whether a worker has died; PyTorch passes an error inside a worker on as "Caught … in DataLoader"."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited"))
    return not str(error).startswith("Caught")  # the connection is closed although the process has not ended yet


def _error_in_worker(error: Exception) -> Exception | None:
    """Returns the error that a worker has raised, without the traceback that PyTorch puts into its message.

    None if it is another one.
    """
    found = re.match(r"Caught (\w+) in DataLoader worker process \d+\.\n", str(error))
    if found is None:
        return None
    message = re.search(rf".*\n(?:\w+\.)*{found[1]}: (.*)", str(error).rstrip(), re.DOTALL)
    if message is None:
        return None
    inner = type(error)(message[1])
    inner.add_note(str(error))  # which is shown with a traceback only
    return inner


def _restore_default_sigchld() -> None:
    """Removes PyTorch's SIGCHLD handler, because it raises anywhere in the main thread, even inside a training step.

    The loader's iterator checks every few seconds whether its workers are alive, so dead workers are still noticed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
