"""Where a run keeps its files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from w2vlab.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
_told: set[str] = set()


def run_folder(trainer: Trainer) -> Path:
    """Returns the folder that everything about a run goes to: the one that holds `checkpoints/`.

    With a logger it is `<save_dir>/<name>/<version>`, the rule by which Lightning places checkpoints; without one, the
    trainer's root folder. Only the process that logs knows the version.

    Raises:
        ValueError: The logger's name or version is a way out of its folder.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    first = trainer.loggers[0]
    version = first.version if isinstance(first.version, str) else f"version_{first.version}"
    below = Path(str(first.name), version)
    if below.is_absolute() or ".." in below.parts:
        raise ValueError(f"`trainer.logger` must have a name and a version below its `save_dir`, but has {below}.")
    return Path(first.save_dir or trainer.default_root_dir, below)


def continues(trainer: Trainer, recorded: str | None) -> bool:
    """Tells whether a run keeps its files in the folder of the run that wrote the checkpoint that it resumes from.

    Args:
        trainer: The trainer of the process that logs.
        recorded: The folder that the checkpoint has of the run that wrote it; None where it has none.
    """
    if trainer.ckpt_path is None:
        return False
    folders = [Path(trainer.ckpt_path).parent.parent, *([] if recorded is None else [Path(recorded)])]
    return run_folder(trainer).resolve() in [folder.resolve() for folder in folders]


@contextmanager
def may_fail(what: str) -> Iterator[None]:
    """Has a run go on where something that only tells of it cannot be written, on a full disk for example.

    Args:
        what: Begins the warning, which comes once.
    """
    try:
        yield
    except OSError as problem:
        if what not in _told:
            _told.add(what)
            logger.warning("%s cannot be written: %s. The run goes on without.", what, problem)


def save_picture(figure: Figure, path: Path, dpi: int) -> None:
    """Saves a figure as a PNG such that the one before it stays whole where that fails.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format="png")
