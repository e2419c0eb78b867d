"""Loggers, without which a run goes on as well, and the folder of a run that has none."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from w2vlab.callbacks.run_folder import warn_on_write_failure
from w2vlab.cli.wandb_logger import GuardedWandbLogger
from w2vlab.files import replace_atomically


class GuardedCSVLogger(CSVLogger):
    """A `CSVLogger` that warns once where it would end the run, of a full disk for example.

    What could not be written is kept, and written with the next rows when there is space again.
    """

    def log_hyperparams(self, params: Any = None) -> None:
        """Keeps them for the file."""
        with warn_on_write_failure("The table of the CSV logger"):
            super().log_hyperparams(params)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keeps a row for the file."""
        with warn_on_write_failure("The table of the CSV logger"):
            super().log_metrics(metrics, step)

    def _get_next_version(self) -> int:
        return _taken(self.root_dir, super()._get_next_version())

    @rank_zero_only
    def save(self) -> None:
        """Writes unless that fails; then the file is as it was before."""
        with warn_on_write_failure("The table of the CSV logger"):
            writer = self.experiment
            if type(writer) is ExperimentWriter:
                writer.__class__ = _WholeRows
            super().save()


def _taken(root: str, number: int) -> int:
    """Makes the folder of a run, with the next number where another run has just taken that one; returns its number.

    Only the first process does: on others the number is not used.
    """
    if getattr(rank_zero_only, "rank", 0) != 0 or "://" in root:
        return number
    runs = Path(root)
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            (runs / f"version_{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return number


class _WholeRows(ExperimentWriter):
    """Leaves no part of a row behind where it cannot write, and never less than there was."""

    _size: int | None = None  # of what is whole in the file; of the class, because no new instance is made

    def save(self) -> None:
        path = Path(self.metrics_file_path)
        self._size = path.stat().st_size if path.is_file() else None
        keys = list(self.metrics_keys)
        try:
            super().save()
        except OSError:
            with suppress(OSError):
                if self._size is None:
                    path.unlink(missing_ok=True)
                else:
                    os.truncate(path, min(self._size, path.stat().st_size))
            if self._header() != self.metrics_keys:
                self.metrics_keys = keys
            raise

    def _header(self) -> list[str] | None:
        with suppress(OSError), open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            return next(csv.reader(file), None)
        return None

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with replace_atomically(path) as unfinished:
            with path.open(newline="") as old, unfinished.open("w", newline="") as new:
                writer = csv.DictWriter(new, fieldnames=fieldnames)
                writer.writeheader()
                writer.writerows(csv.DictReader(old))
            self._size = unfinished.stat().st_size


class GuardedTensorBoardLogger(TensorBoardLogger):
    """A `TensorBoardLogger` that warns once where it would end the run."""

    def _get_next_version(self) -> int:
        return _taken(self.root_dir, super()._get_next_version())

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Logs unless that fails."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().log_hyperparams(*args, **kwargs)

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Logs unless that fails."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().log_metrics(*args, **kwargs)

    def save(self) -> None:
        """Writes unless that fails."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().save()

    def finalize(self, status: str) -> None:
        """Closes unless that fails."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().finalize(status)


class OnlyAFolder(Logger):
    """Gives a run without a logger a folder of its own, `<save_dir>/w2vlab/version_<number>`, and logs nothing.

    Args:
        save_dir: The folder of all runs.
        version: The run's number or the name of its folder; None for the first number that is free.
    """

    def __init__(self, save_dir: str, version: int | str | None = None) -> None:
        super().__init__()
        self._save_dir = save_dir
        self._version = version

    @property
    def name(self) -> str:
        """The folder of runs without a logger, the same as that of the loggers here."""
        return "w2vlab"

    @property
    def save_dir(self) -> str:
        """The folder of all runs."""
        return self._save_dir

    @property
    def version(self) -> int | str:
        """The run's number, or the name of its folder, which the first process makes, so that no other run has it."""
        if self._version is None:
            runs = Path(self._save_dir, self.name)
            numbers = (path.name.removeprefix("version_") for path in runs.glob("version_*"))
            self._version = _taken(str(runs), max((int(text) + 1 for text in numbers if text.isdecimal()), default=0))
        return self._version

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Does nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""


_GUARDED: dict[type[Logger], type[Logger]] = {
    CSVLogger: GuardedCSVLogger,
    TensorBoardLogger: GuardedTensorBoardLogger,
    WandbLogger: GuardedWandbLogger,
}


def guard(loggers: Iterable[Logger]) -> None:
    """Has loggers of Lightning warn where they would end the run, whoever built them and under whichever name.

    Someone's own subclass is left as it is.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous", True) is None:
            # Lightning hands it on although nobody has set it, and Weights & Biases warns of whoever sets it.
            del logger._wandb_init["anonymous"]
        if type(logger) in _GUARDED:
            logger.__class__ = _GUARDED[type(logger)]


def has_given_folder(trainer: Trainer) -> bool:
    """Tells whether an option names the run's folder; else the logger chooses a new one when it is asked."""
    if not trainer.loggers:
        return False
    first: Any = trainer.loggers[0]
    return getattr(first, "_id" if isinstance(first, WandbLogger) else "_version", None) is not None


def give_a_folder(trainer: Trainer) -> None:
    """Has a run without a logger keep its files in a folder of its own below the root folder."""
    if not trainer.loggers and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.loggers = [OnlyAFolder(trainer.default_root_dir)]
