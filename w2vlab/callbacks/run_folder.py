"""Where a run keeps its files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer

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
