"""Loggers, callbacks and folders in the options of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jsonargparse import Namespace

from w2vlab.cli.resuming.run_roots import RunRoots
from w2vlab.utils.files import RUNS


def has_model_summary(config: Namespace) -> bool:
    """Returns whether one of the callbacks already prints a summary of the model."""
    given = config.trainer.callbacks or []
    return any("ModelSummary" in str(getattr(callback, "class_path", "")) for callback in given)


def written_folders(config: Namespace) -> Iterator[tuple[str, str]]:
    """Yields the folders that a run writes to, each with the option that names it."""
    folders = [
        ("trainer.default_root_dir", config.trainer.default_root_dir),
        *(
            ("trainer.logger.save_dir", (logger.get("init_args") or {}).get("save_dir"))
            for logger in logger_options(config)
        ),
        ("checkpoint.dirpath", (config.get("checkpoint") or {}).get("dirpath")),
    ]
    yield from ((option, str(folder)) for option, folder in folders if folder and "://" not in str(folder))


def logger_options(config: Namespace) -> list[Namespace]:
    """Returns the options of the loggers."""
    loggers = config.trainer.logger
    return [logger for logger in (loggers if isinstance(loggers, list) else [loggers]) if isinstance(logger, Namespace)]


def follows_root(logger: Namespace) -> bool:
    """Returns whether a logger has the default folder, which is replaced by `trainer.default_root_dir`."""
    return (logger.get("init_args") or {}).get("save_dir") == RUNS


def run_roots(config: Namespace) -> RunRoots:
    """Returns the folders in which the run saves its files."""
    root = Path(config.trainer.default_root_dir)
    first = next(iter(logger_options(config)), None)
    save_dir = None if first is None or follows_root(first) else (first.get("init_args") or {}).get("save_dir")
    dirpath = config.checkpoint.dirpath
    return RunRoots(root, root if save_dir is None else Path(save_dir), None if dirpath is None else Path(dirpath))
