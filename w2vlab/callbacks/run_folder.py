"""Where a run keeps its files."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """Returns the folder that everything about a run goes to: the one that holds `checkpoints/`.

    With a logger it is `<save_dir>/<name>/<version>`, the rule by which Lightning places checkpoints; without one, the
    trainer's root folder. Only the process that logs knows the version.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
