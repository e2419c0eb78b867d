"""Loaders whose batches hold the update that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from torch.utils.data import Sampler

from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.data.batches.sampling import BatchPlan, EpochSampler, GroupPlan
from w2vlab.types import AudioBatch
from w2vlab.utils.checks import check_at_least


class WholeUpdates(Iterable[AudioBatch]):
    """Puts all micro-batches of an update into the first one, as `AudioBatch.update`.

    Models need them if `accumulate_grad_batches` is above 1: the loss of each micro-batch is divided by the number of
    predictions of the whole update. `SpeechDataModule` has such loaders; any other loader is wrapped with this class.

    Args:
        loader: Yields the micro-batches of this process, such as a `DataLoader`.
        accumulate: Micro-batches of an update on this process, the trainer's `accumulate_grad_batches`.

    Raises:
        ValueError: `accumulate` is below 1.
    """

    def __init__(self, loader: Iterable[AudioBatch], accumulate: int) -> None:
        check_at_least(1, accumulate=accumulate)
        self.loader = loader
        self.accumulate = accumulate

    def __iter__(self) -> Iterator[AudioBatch]:
        """Yields the batches of `loader`, the first of each update with all of them."""
        return _with_updates(iter(self.loader), lambda: self.accumulate)

    def __len__(self) -> int:
        """Returns the number of batches.

        Raises:
            TypeError: `loader` has no length.
        """
        return len(self.loader)  # type: ignore[arg-type]

    @property
    def sampler(self) -> Any:
        """The sampler of `loader`, to which Lightning passes the number of each epoch; None without one."""
        return getattr(self.loader, "sampler", None)


class UpdateLoader(ResilientLoader[AudioBatch]):
    """A `ResilientLoader` that puts all micro-batches of an update into the first one.

    While an update is computed, the next one is read.

    Args:
        dataset: As for `ResilientLoader`.
        sampler: As for `ResilientLoader`.
        num_workers: As for `ResilientLoader`.
        accumulate: Returns the batches of an update on this process: micro-batches, or groups of them. It is asked at
            every update, because Lightning's `GradientAccumulationScheduler` changes them between epochs.
        updates_done: Returns the updates of the run that are done; it is asked when an epoch is begun or resumed.
    """

    def __init__(
        self,
        dataset: SpeechDataset,
        sampler: EpochSampler,
        num_workers: int,
        accumulate: Callable[[], int],
        updates_done: Callable[[], int],
    ) -> None:
        self._numbered = _NumberedPlans(sampler, accumulate)
        super().__init__(dataset, self._numbered, num_workers, ahead=accumulate())
        self._accumulate = accumulate
        self._updates_done = updates_done

    def __iter__(self) -> Iterator[AudioBatch]:  # type: ignore[override]  # as in the base class
        """Yields the batches of an epoch, the first of each update with all of them."""
        # Now, and not when the first batch is read: workers that are restarted begin within the epoch.
        self._numbered.first_update = self._updates_done()
        return _with_updates(super().__iter__(), self._accumulate)


class _NumberedPlans(Sampler[BatchPlan | GroupPlan]):
    """Adds to each plan of an epoch the number of its update, which worker processes draw for.

    A number is wrong if the micro-batches of an update are changed after the plan was made; what was drawn for it is
    then not used.
    """

    def __init__(self, sampler: EpochSampler, accumulate: Callable[[], int]) -> None:
        self.first_update = 0
        self._sampler = sampler
        self._accumulate = accumulate

    def set_epoch(self, epoch: int) -> None:
        """Passes Lightning's call on to the sampler."""
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[BatchPlan | GroupPlan]:
        plans, update = iter(self._sampler), self.first_update
        while plan_of_update := list(islice(plans, self._accumulate())):
            for plan in plan_of_update:
                yield plan.of_update(update)
            update += 1


def _with_updates(batches: Iterator[AudioBatch], accumulate: Callable[[], int]) -> Iterator[AudioBatch]:
    while update := tuple(islice(batches, size := accumulate())):
        first, *rest = update
        yield first if size == 1 else replace(first, update=update)
        yield from rest
