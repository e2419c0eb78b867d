"""The run folder, and writing files to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from w2vlab.utils.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
_warned: set[str] = set()


def run_folder(trainer: Trainer) -> Path:
    """Returns the folder of all files of a run, the parent of `checkpoints/`.

    With a logger it is `<save_dir>/<name>/<version>`, as for Lightning's checkpoints; without a logger, the trainer's
    root folder. Only the process that logs knows the version.

    Raises:
        ValueError: The logger's name or version leads out of its `save_dir`.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    first = trainer.loggers[0]
    version = first.version if isinstance(first.version, str) else f"version_{first.version}"
    subfolder = Path(str(first.name), version)
    if subfolder.is_absolute() or ".." in subfolder.parts:
        raise ValueError(f"`trainer.logger` must have a name and a version below its `save_dir`, but has {subfolder}.")
    return Path(first.save_dir or trainer.default_root_dir, subfolder)


def resumes_in_same_folder(trainer: Trainer, recorded: str | None) -> bool:
    """Returns whether a run resumes in the folder of the run that wrote its checkpoint.

    Args:
        trainer: The trainer of the process that logs.
        recorded: The run folder that the checkpoint has stored; None if it has none.
    """
    if trainer.ckpt_path is None:
        return False
    folders = [Path(trainer.ckpt_path).parent.parent, *([] if recorded is None else [Path(recorded)])]
    return run_folder(trainer).resolve() in [folder.resolve() for folder in folders]


@contextmanager
def warn_on_write_failure(name: str) -> Iterator[None]:
    """Logs an `OSError` as a warning, so that a run continues if a report cannot be written, such as on a full disk.

    Args:
        name: What is written; the start of the warning, which is logged once for each name.
    """
    try:
        yield
    except OSError as problem:
        if name not in _warned:
            _warned.add(name)
            logger.warning("%s cannot be written: %s. The run continues without it.", name, problem)


def save_picture(figure: Figure, path: Path, dpi: int) -> None:
    """Saves a figure as PNG, atomically, so that the previous file is unchanged if writing fails.

    Raises:
        OSError: The file cannot be written.
    """
    with replace_atomically(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format="png")
