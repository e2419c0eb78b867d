"""Delivery of batches that outlives the processes that read them."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import DataLoader, Sampler

from w2vlab.data.dataset import SpeechDataset
from w2vlab.data.sampling import BatchPlan, EpochSampler
from w2vlab.types import AudioBatch, RunError, Seconds

logger = logging.getLogger(__name__)

MAX_DEATHS_IN_A_ROW = 3


class ResilientLoader(DataLoader[AudioBatch]):
    """Reads the planned batches in order, in processes of its own; one that dies does not end the run.

    Reading goes on in new processes, from the first batch that was not delivered, so the batches are those of an
    undisturbed run.

    Args:
        dataset: Turns a plan into a batch.
        sampler: Plans the batches; the same ones each time that it is asked in an epoch.
        num_workers: Processes that read audio; 0 reads in this one.

    Attributes:
        waited: Time for which whoever takes the batches had to wait for them so far.
    """

    def __init__(self, dataset: SpeechDataset, sampler: EpochSampler, num_workers: int) -> None:
        self.waited: Seconds = 0.0
        self._remaining = _UndeliveredPlans(sampler)
        super().__init__(
            dataset,
            sampler=self._remaining,
            batch_size=None,  # the sampler makes the batches
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[AudioBatch]:  # type: ignore[override]  # the base class promises its own iterator
        """Yields the batches of an epoch.

        Raises:
            RunError: Several processes in a row died without a batch between them.
        """
        self._remaining.delivered = 0
        in_a_row = 0
        batches: Iterator[AudioBatch] | None = None
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
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not _is_worker_death(error):
                    raise
                in_a_row += 1
                if in_a_row == MAX_DEATHS_IN_A_ROW:
                    raise RunError(
                        f"{in_a_row} processes that read audio died one after another ({error}), most likely for want "
                        "of memory: lower `num_workers` or `batch_seconds` (with --data.num_workers=0 reading happens "
                        "in the training process and shows its own error)."
                    ) from None
                logger.warning("A process that reads audio died (%s). New ones go on with the same batch.", str(error))
            else:
                in_a_row = 0
                self._remaining.delivered += 1
                yield batch
                continue
            # Behind the `except`, whose traceback would keep the old iterator, and with it its processes, alive.
            batches = self._iterator = None


class _UndeliveredPlans(Sampler[BatchPlan]):
    """What a sampler plans, without what is delivered already."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.delivered = 0
        self._sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Passes on the epoch that Lightning gives."""
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[BatchPlan]:
        yield from islice(self._sampler, self.delivered, None)


def _is_worker_death(error: Exception) -> bool:
    """Tells a worker that is gone from an error that one had, which torch passes on as "Caught … in DataLoader"."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited"))
    return not str(error).startswith("Caught")  # the other end of a connection is gone, and its process not yet


def _restore_default_sigchld() -> None:
    """Takes back torch's signal handler, which raises wherever the main thread is, such as inside a training step.

    The iterator looks by itself every few seconds whether the process that it waits for is alive.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
