"""A logger for Weights & Biases whose errors do not end the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from w2vlab.cli.logging.wandb_server import problem_of_account, why_unreachable
from w2vlab.types import RunError

_log = logging.getLogger(__name__)


class GuardedWandbLogger(WandbLogger):
    """A `WandbLogger` that warns once in place of an error that would end the run.

    If the server cannot be reached at the start, the run is logged offline, and `wandb sync` uploads it later. After
    the start, an unreachable server is not an error, because Weights & Biases writes to local files and retries. But
    its process on this machine may die, or its disk may be full, and then every call raises. A run without an account,
    or with a wrong one, is refused in a line.
    """

    _failed = False  # a class attribute, because `guard` changes the class of instances

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of Weights & Biases, started on first access.

        Raises:
            RunError: The account is missing or wrong.
        """
        if self._experiment is None:
            self._start()
        return super().experiment

    def _start(self) -> None:
        if not self._offline:
            why = why_unreachable(self._wandb_init.get("settings"))
            if why is not None:
                self._leave_online(why)
        import wandb

        try:
            self._open()
        except wandb.Error as problem:
            if self._offline:
                raise RunError(f"Weights & Biases cannot start a run: {problem}") from problem
            if (message := problem_of_account(problem)) is not None:
                raise RunError(message) from problem
            self._leave_online(str(problem))
            self._open()

    def _leave_online(self, why: str) -> None:
        _log.warning(
            "Weights & Biases cannot be reached (%s): the run is logged offline, below %s. Upload it later with "
            "`wandb sync FOLDER`.",
            why.strip().rstrip("."),
            os.path.join(self._save_dir or ".", "wandb"),
        )
        self._offline = True

    def _open(self) -> None:
        """Starts the run, offline by an argument; Lightning would set a variable that later runs inherit."""
        offline, self._offline = self._offline, False
        if offline:
            self._wandb_init["mode"] = "offline"
        try:
            _ = super().experiment
        finally:
            self._offline = offline

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs; an error becomes a warning."""
        with self._guarded():
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Logs; an error becomes a warning."""
        with self._guarded():
            super().log_hyperparams(params)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs; an error becomes a warning."""
        with self._guarded():
            super().log_image(key, images, step, **kwargs)

    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        """Logs; an error becomes a warning."""
        with self._guarded():
            super().log_table(key, *args, **kwargs)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Uploads if that is an option; an error becomes a warning."""
        with self._guarded():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        """Closes; an error becomes a warning."""
        with self._guarded():
            super().finalize(status)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except RunError:
            raise
        except Exception as problem:  # any error here does not concern the training
            if not self._failed:
                self._failed = True
                _log.warning(
                    "Weights & Biases cannot log any more: %s: %s. The run continues, and its report has all metrics.",
                    type(problem).__name__,
                    problem,
                )
