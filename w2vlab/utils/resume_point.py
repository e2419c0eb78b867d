"""The point from which a run resumes, after a complete update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer


@dataclass(frozen=True)
class ResumePoint:
    """The point after the last complete update of a run; an incomplete update is repeated.

    Attributes:
        epoch: Index of the epoch.
        batches: Completed micro-batches of that epoch, on each process.
        is_last: Whether the epoch is complete.
        validation_is_due: Whether the validation at this point was not completed.
        lost: Micro-batches after this point, which are repeated.
    """

    epoch: int
    batches: int
    is_last: bool
    validation_is_due: bool
    lost: int = 0

    @property
    def ahead(self) -> tuple[int, int]:
        """The epoch of the next micro-batch, and the number of completed micro-batches in it."""
        return (self.epoch + 1, 0) if self.is_last else (self.epoch, self.batches)


def resume_point(trainer: Trainer) -> ResumePoint:
    """Reads the resume point from the progress of a trainer, at any moment except within an optimizer step.

    An epoch ends with the data or with `limit_train_batches`. It does not end if `max_steps` or a callback ends the
    run, although Lightning counts it as ended: a resumed run continues in it.
    """
    loop: Any = trainer.fit_loop  # its type annotations lack these counters
    epochs, progress = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    done, started = progress.current.processed, progress.current.ready
    # `is_last_batch` is known as soon as a batch is started.
    is_last = done > 0 and done == started and (progress.is_last_batch or done == trainer.num_training_batches)
    inside = epochs.processed < epochs.started
    if not inside and (is_last or not done):
        return ResumePoint(epochs.processed, 0, is_last=False, validation_is_due=False)
    accumulate: int = trainer.accumulate_grad_batches
    whole = done if is_last else done - done % accumulate
    due = inside and whole == started and _validation_is_due(trainer)
    epoch = epochs.processed if inside else epochs.processed - 1
    if is_last and not due:
        return ResumePoint(epoch + 1, 0, is_last=False, validation_is_due=False)
    return ResumePoint(epoch, whole, is_last, due, lost=done - whole)


def _validation_is_due(trainer: Trainer) -> bool:
    loop = trainer.fit_loop.epoch_loop
    if trainer.validating:
        progress = loop.val_loop.batch_progress
        return not (progress.is_last_batch and progress.current.completed == progress.current.ready)
    return validation_follows(trainer)


def validation_follows(trainer: Trainer) -> bool:
    """Returns, at the end of a micro-batch, whether a validation comes next."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and bool(trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher))


def updates_of_run(trainer: Trainer) -> int | None:
    """Returns the updates of a run, by its last one or by its epochs; None if neither is set, as with `max_time`.

    Epochs differ by a few micro-batches, so with `max_epochs` it is an estimate.
    """
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        batches = trainer.num_training_batches
        if math.isinf(batches):
            counting = getattr(trainer.datamodule, "batches_of_an_epoch", None)  # type: ignore[attr-defined]
            batches = math.inf if counting is None else counting()
        if not math.isinf(batches):
            limits.append(math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs)
    return min(limits, default=None)


def validates_at(place: ResumePoint, total: int, trainer: Trainer) -> bool:
    """Returns whether a run that resumes at the end of an epoch validates there.

    Lightning itself decides this only after the data is set up, which is too late.

    Args:
        place: The end of an epoch.
        total: Completed micro-batches of all epochs, on each process.
        trainer: The trainer before training.
    """
    timed = getattr(trainer, "_val_check_time_interval", None) is not None  # the time starts from zero again
    if timed or not trainer.enable_validation:
        return False
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if every is None:
        return total % int(interval) == 0
    if isinstance(interval, float):  # a fraction of the epoch
        interval = max(1, int(place.batches * interval))
    return (place.epoch + 1) % every == 0 and place.batches % interval == 0
