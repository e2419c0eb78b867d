"""Loggers whose errors do not end the run, and the folder of a run without a logger."""

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
from w2vlab.cli.logging.wandb_logger import GuardedWandbLogger
from w2vlab.utils.files import replace_atomically


class GuardedCSVLogger(CSVLogger):
    """A `CSVLogger` that warns once in place of an error that would end the run, such as a full disk.

    Rows that could not be written are kept, and written with the next ones when there is space again.
    """

    def log_hyperparams(self, params: Any = None) -> None:
        """Buffers them for the file."""
        with warn_on_write_failure("The table of the CSV logger"):
            super().log_hyperparams(params)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Buffers a row for the file."""
        with warn_on_write_failure("The table of the CSV logger"):
            super().log_metrics(metrics, step)

    def _get_next_version(self) -> int:
        return _create_version_folder(self.root_dir, super()._get_next_version())

    @rank_zero_only
    def save(self) -> None:
        """Writes; on an error, the file stays as it was."""
        with warn_on_write_failure("The table of the CSV logger"):
            writer = self.experiment
            if type(writer) is ExperimentWriter:
                writer.__class__ = _WholeRows
            super().save()


def _create_version_folder(root: str, number: int) -> int:
    """Creates the folder of a run, with the next free number if this one was just taken; returns it.

    Only the first process does so; the others do not use the number.
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
    """Leaves no incomplete row in the file if it cannot write, and never loses rows."""

    _size: int | None = None  # of the complete rows; a class attribute, because instances change their class

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
    """A `TensorBoardLogger` that warns once in place of an error that would end the run."""

    def _get_next_version(self) -> int:
        return _create_version_folder(self.root_dir, super()._get_next_version())

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Logs; an error becomes a warning."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().log_hyperparams(*args, **kwargs)

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Logs; an error becomes a warning."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().log_metrics(*args, **kwargs)

    def save(self) -> None:
        """Writes; an error becomes a warning."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().save()

    def finalize(self, status: str) -> None:
        """Closes; an error becomes a warning."""
        with warn_on_write_failure("The log for TensorBoard"):
            super().finalize(status)


class FolderOnlyLogger(Logger):
    """Gives a run without a logger a folder, `<save_dir>/w2vlab/version_<number>`, and logs nothing.

    Args:
        save_dir: The folder of all runs.
        version: The run's number or the name of its folder; None for the first free number.
    """

    def __init__(self, save_dir: str, version: int | str | None = None) -> None:
        super().__init__()
        self._save_dir = save_dir
        self._version = version

    @property
    def name(self) -> str:
        """The folder of runs without a logger, the same as that of these loggers."""
        return "w2vlab"

    @property
    def save_dir(self) -> str:
        """The folder of all runs."""
        return self._save_dir

    @property
    def version(self) -> int | str:
        """The run's number, or the name of its folder, which the first process creates."""
        if self._version is None:
            runs = Path(self._save_dir, self.name)
            numbers = (path.name.removeprefix("version_") for path in runs.glob("version_*"))
            self._version = _create_version_folder(
                str(runs), max((int(text) + 1 for text in numbers if text.isdecimal()), default=0)
            )
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
    """Makes loggers of Lightning warn in place of errors that would end the run.

    Subclasses from other packages are left unchanged.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous", True) is None:
            # Lightning passes it on although it is unset, and Weights & Biases warns if it is passed.
            del logger._wandb_init["anonymous"]
        if type(logger) in _GUARDED:
            logger.__class__ = _GUARDED[type(logger)]


def has_fixed_folder(trainer: Trainer) -> bool:
    """Whether an option names the run's folder; otherwise the logger chooses a new one on first access."""
    if not trainer.loggers:
        return False
    first: Any = trainer.loggers[0]
    return getattr(first, "_id" if isinstance(first, WandbLogger) else "_version", None) is not None


def add_folder_logger(trainer: Trainer) -> None:
    """Gives a run without a logger a folder below the root folder."""
    if not trainer.loggers and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.loggers = [FolderOnlyLogger(trainer.default_root_dir)]
