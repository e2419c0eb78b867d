"""Weights & Biases, without which a run goes on as well."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger

_log = logging.getLogger(__name__)


class GuardedWandbLogger(WandbLogger):
    """A `WandbLogger` that warns once where it would end the run.

    An unreachable server is no error here: Weights & Biases writes to its local files and tries again. Its process on
    this machine may die, though, or its disk be full, and then every call raises. A run that cannot be begun there, for
    want of an account for example, still fails: its first call is `experiment`, which is not guarded.
    """

    _failed = False  # of the class, because `guard` makes no new instance

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs unless that fails."""
        with self._guarded():
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Logs unless that fails."""
        with self._guarded():
            super().log_hyperparams(params)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs unless that fails."""
        with self._guarded():
            super().log_image(key, images, step, **kwargs)

    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        """Logs unless that fails."""
        with self._guarded():
            super().log_table(key, *args, **kwargs)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Uploads, where that was asked for, unless that fails."""
        with self._guarded():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        """Closes unless that fails."""
        with self._guarded():
            super().finalize(status)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as problem:  # whatever it is, it is not the training's
            if not self._failed:
                self._failed = True
                _log.warning(
                    "Weights & Biases takes no more: %s: %s. The run goes on, and its own report has all metrics.",
                    type(problem).__name__,
                    problem,
                )


def guard(loggers: Iterable[Logger]) -> None:
    """Has every `WandbLogger` behave like a `GuardedWandbLogger`, whoever built it and under whichever name.

    Someone's own subclass is left as it is.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous", True) is None:
            # Lightning hands it on although nobody has set it, and Weights & Biases warns of whoever sets it.
            del logger._wandb_init["anonymous"]
        if type(logger) is WandbLogger:
            logger.__class__ = GuardedWandbLogger
