"""A resumed run continues in the same folder, and as the same run of Weights & Biases."""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from pathlib import Path
from zlib import crc32

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from w2vlab.callbacks.fault_tolerance.checkpoint import find_run_checkpoint
from w2vlab.callbacks.fault_tolerance.run_lock import RunLock
from w2vlab.cli.resuming.resume import Start
from w2vlab.types import RunError
from w2vlab.utils.distributed import all_gather, is_distributed
from w2vlab.utils.files import write_atomically

_ASIDE = ".before"
"""Ending of the name of a table while its logger is created, because the logger would delete the table."""


class SameCheckpoint(Callback):
    """Ends a run whose processes would resume from different checkpoints, because each searches for its own.

    Attributes:
        start: The checkpoint of this process; None if it starts from the beginning.
    """

    def __init__(self) -> None:
        self.start: Start | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the processes before they could wait for each other forever.

        Raises:
            RunError: They differ.
        """
        if not is_distributed():
            return
        device = trainer.strategy.root_device
        processes: dict[tuple[int, int], list[int]] = {}
        for process, place in enumerate(all_gather(torch.tensor(self._place(), device=device)).tolist()):
            processes.setdefault(tuple(place), []).append(process)
        if len(processes) > 1:
            found = "; ".join(
                f"{self._in_words(*place)} on {', '.join(map(str, those))}" for place, those in processes.items()
            )
            raise RunError(
                f"`ckpt_path` must be the same checkpoint on all processes, but they would resume from: {found}. The "
                "folder of the run must be on a disk that all nodes share: set `trainer.default_root_dir` to one."
            )

    def _in_words(self, update: int, name: int) -> str:
        if update < 0:
            return "the beginning"
        if self.start is None or update != self.start.update or [update, name] == self._place():
            return f"update {update}"
        return f"update {update} of another run"

    def _place(self) -> list[int]:
        """Returns the update, and a checksum of the names of run and file without the mount point of the disk."""
        if self.start is None:
            return [-1, 0]
        return [self.start.update, crc32("/".join(self.start.checkpoint.absolute().parts[-3:]).encode())]


def continue_run(trainer: Trainer, start: Start, new_run: bool, lock: RunLock) -> bool:
    """Makes the loggers of a resumed run continue the run that wrote its checkpoint, and logs which run it is.

    It is the same run if its logger keeps runs in the folder that has the old run. It is a new run if
    `default_root_dir`, the logger or its project differ, if the logger has a given id, if `new_run` asks for it, and if
    the checkpoint is not the newest of the run, because later updates must not be lost. It is a new run in Weights &
    Biases, too, if another logger has numbered the old one, because other folders have the same number.

    Args:
        trainer: The trainer, before any of its loggers has started.
        start: The checkpoint of the run.
        new_run: Whether to start a new run in any case.
        lock: Locks the folder, on the process that logs.

    Returns:
        Whether it is the same run.

    Raises:
        ValueError: The old run is still running, or a new run would have the same folder.
    """
    folder, loggers = start.folder, trainer.loggers
    if folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]  # which writes no files
        return False
    first = loggers[0]
    ids = {folder.name} if _is_a_number(first, folder) else {None, folder.name}
    same = _keeps_runs_in(first, trainer, folder.parent) and _version_of(first) in ids
    if same and not new_run and start.is_newest:
        if getattr(rank_zero_only, "rank", 0) == 0:
            lock.acquire(folder)
        _continue(first, folder, start.update)
        rank_zero_info(f"The run continues in {folder}; --new_run=true would start a new run with another folder.")
        return True
    _refuse_the_same_place(trainer, start, folder if same and _version_of(first) else None, new_run)
    why = ""
    if same and not new_run:
        why = f": {start.checkpoint.name} is older than the newest checkpoint there"
    rank_zero_info(f"It is a new run, and {folder} stays as it is{why}.")
    return False


def _refuse_the_same_place(trainer: Trainer, start: Start, named: Path | None, new_run: bool) -> None:
    """Refuses a new run whose options name a folder of the old run."""
    if named is not None:
        raise ValueError(
            f"The logger's `version` (`id` of Weights & Biases) must be another for a new run, but is {named.name}: "
            f"{named} would be written over. Change it, or leave it out."
        )
    checkpoint = find_run_checkpoint(trainer)
    folder = None if checkpoint is None or checkpoint.dirpath is None else Path(str(checkpoint.dirpath))
    if (
        (new_run or not start.is_newest)
        and folder is not None
        and folder.resolve() == start.checkpoint.parent.resolve()
    ):
        raise ValueError(
            f"`checkpoint.dirpath` must be another folder for a new run, but is {folder}, whose checkpoints would be "
            "written over. Change it, or leave it out."
        )


def _keeps_runs_in(logger: Logger, trainer: Trainer, folder: Path) -> bool:
    if not isinstance(logger, WandbLogger) and not hasattr(logger, "_version"):
        return False  # how such a logger would continue a run is unknown
    place = Path(logger.save_dir or trainer.default_root_dir, str(logger.name))
    return place.resolve() == folder.resolve()


def _is_a_number(logger: Logger, folder: Path) -> bool:
    """Whether another logger, or none, has numbered a run that Weights & Biases would continue."""
    return isinstance(logger, WandbLogger) and re.fullmatch(r"version_\d+", folder.name) is not None


def _version_of(logger: Logger) -> str | None:
    """Returns the name of the run in the options; None if the logger chooses it. Asking the logger would choose it."""
    if isinstance(logger, WandbLogger):
        return logger._id or os.environ.get("WANDB_RUN_ID") or None
    version: int | str | None = logger._version  # type: ignore[attr-defined]  # as Lightning's call it
    return f"version_{version}" if isinstance(version, int) else version


def _continue(logger: Logger, folder: Path, update: int) -> None:
    if isinstance(logger, WandbLogger):
        logger._id = logger._wandb_init["id"] = folder.name
        if logger._wandb_init.get("resume") is None:  # LightningCLI may have set it
            logger._wandb_init["resume"] = "allow"
        return
    logger._version = folder.name  # type: ignore[attr-defined]
    if isinstance(logger, CSVLogger):
        _keep_table(logger, folder / "metrics.csv", update)
    elif isinstance(logger, TensorBoardLogger):
        logger._kwargs.setdefault("purge_step", update)  # later steps are logged again


@rank_zero_only
def _keep_table(logger: CSVLogger, path: Path, update: int) -> None:
    """Creates the writer of an existing table, and keeps its rows up to the checkpoint; Lightning would delete them.

    A row's step counts from 0, so that of the checkpoint's last update is one less than its number.
    """
    aside = path.with_name(path.name + _ASIDE)
    if path.is_file():
        os.replace(path, aside)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty")
        writer = logger.experiment
    if not aside.is_file():
        return
    whole_lines = (
        aside.read_bytes().rpartition(b"\n")[0].decode(errors="replace")
    )  # a killed process may leave half of one
    reader = csv.DictReader(io.StringIO(whole_lines, newline=""))
    names = list(reader.fieldnames or ())
    rows = [row for row in reader if _step(row) < update]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, names)
    table.writeheader()
    table.writerows(rows)
    if rows:
        write_atomically(path, text.getvalue(), newline="")
        writer.metrics_keys = names
    aside.unlink()


def _step(row: dict[str, str]) -> float:
    """Returns the step of a row; infinity for a damaged row, so that it is dropped."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")
