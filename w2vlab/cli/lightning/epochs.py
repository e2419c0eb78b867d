"""Trainer options relative to an epoch, whose length is known only after the data is set up."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from w2vlab.data import SpeechDataModule
from w2vlab.utils.messages import W2VLabWarning, count


def resolve_epochs(trainer: pl.Trainer, datamodule: SpeechDataModule) -> None:
    """Implements fractions of an epoch, `overfit_batches` and validation intervals as Lightning documents them.

    Lightning itself needs loaders with a known length for that, and replaces the sampler for `overfit_batches`.

    Args:
        trainer: The trainer before it runs; changed in place.
        datamodule: The data of the run.

    Raises:
        ValueError: An interval between validations is 0.
    """
    intervals = {
        "val_check_interval": interval_of(trainer),
        "check_val_every_n_epoch": trainer.check_val_every_n_epoch,
    }
    for name, interval in intervals.items():
        if interval is not None and interval <= 0 < trainer.limit_val_batches:
            raise ValueError(
                f"`trainer.{name}` must be above 0, but is {interval}. For a run without validation set "
                "`trainer.limit_val_batches` to 0."
            )
    options: Any = trainer  # attributes set by connectors have no type annotation
    if options.overfit_batches > 0:
        # The trainer has already set its limits of batches. An epoch may be a single update, so count across epochs.
        datamodule.repeat_first_epoch()
        options.overfit_batches = 0.0
        if _is_number(interval_of(trainer)) and not options.fast_dev_run:
            trainer.check_val_every_n_epoch = None
    options.callbacks += [_SharesOfAnEpoch(datamodule), _NoValidation()]


class _SharesOfAnEpoch(pl.Callback):
    """Converts fractions of an epoch to numbers of batches of complete updates, after the data is set up.

    Epochs differ by a few batches; the number of the first one is used.
    """

    def __init__(self, datamodule: SpeechDataModule) -> None:
        self.datamodule = datamodule

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING:
            return
        if _is_share(trainer.limit_val_batches):
            whole = self.datamodule.micro_batches_to_validate()
            trainer.limit_val_batches = max(1, int(whole * trainer.limit_val_batches))
        limit: Any = trainer.limit_train_batches
        interval: Any = interval_of(trainer)
        if not (_is_share(limit) or _is_share(interval)):
            return
        epoch = self.datamodule.batches_of_an_epoch()
        if _is_share(limit):
            trainer.limit_train_batches = limit = _whole_updates(epoch * limit, trainer.accumulate_grad_batches)
        if _is_share(interval):
            limited = min(epoch, limit) if _is_number(limit) else epoch
            trainer.val_check_interval = _whole_updates(limited * interval, trainer.accumulate_grad_batches)


class _NoValidation(pl.Callback):
    """Warns if a run has no validation, and therefore no best checkpoint, although validation is enabled."""

    def __init__(self) -> None:
        self.warned = False
        self.validated = False

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Compares the length of the run with the interval."""
        interval = self._interval(trainer)
        if interval is not None and 0 <= trainer.max_steps < interval:
            self._warn(
                f"`trainer.val_check_interval` is {count(interval, 'update')}, but the run has {trainer.max_steps}: "
                "there will be no validation and no best checkpoint. Lower it."
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Compares the first epoch, or the rest of it in a resumed run, with the interval.

        Lightning restarts its count in each epoch, and does not warn.
        """
        interval = self._interval(trainer)
        epoch: Any = trainer.fit_loop.epoch_loop  # its type annotations lack these counters
        updates = epoch.batch_progress.current.processed // trainer.accumulate_grad_batches
        cut_short = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if (
            interval is not None
            and trainer.check_val_every_n_epoch is not None
            and updates < interval
            and trainer.current_epoch == 0
            and not cut_short
        ):
            self._warn(
                f"`trainer.val_check_interval` is {count(interval, 'update')}, but an epoch has {updates}: there "
                "will be no validation and no best checkpoint. Set `trainer.check_val_every_n_epoch` to null to count "
                "over epochs."
            )

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Records the validation."""
        self.validated |= not trainer.sanity_checking

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Warns if it could not be predicted: there were too few epochs, or shorter ones."""
        trained = trainer.ckpt_path is None and trainer.global_step > 0
        if trained and trainer.enable_validation and not self.validated:
            self._warn(
                f"The run had no validation in {count(trainer.global_step, 'update')}, so there is no best checkpoint. "
                "Lower `trainer.val_check_interval`, and set `trainer.check_val_every_n_epoch` to null to count over "
                "epochs."
            )

    def _interval(self, trainer: pl.Trainer) -> int | None:
        """Returns the updates between two validations; None if they are not counted in updates."""
        interval = interval_of(trainer)
        if interval is None or not trainer.enable_validation or not _is_number(interval):
            return None
        return -(-int(interval) // trainer.accumulate_grad_batches)

    def _warn(self, text: str) -> None:
        if not self.warned:
            self.warned = True
            rank_zero_warn(text, category=W2VLabWarning)


def interval_of(trainer: pl.Trainer) -> int | float | None:
    """Returns `val_check_interval`, batches or a fraction of the epoch; None if it is a time."""
    timed = getattr(trainer, "_val_check_time_interval", None) is not None
    return None if timed else trainer.val_check_interval


def _is_share(value: Any) -> bool:
    """Returns whether a limit is a fraction of an epoch, not a number of batches or the whole epoch."""
    return isinstance(value, float) and 0 < value < 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole_updates(batches: float, accumulate: int) -> int:
    return max(1, int(batches) // accumulate) * accumulate
