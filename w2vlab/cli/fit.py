"""`w2vlab fit` and `w2vlab validate`: a run described by YAML and flags."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from w2vlab.callbacks.stopping import Stopped, signal_handler, stop_at_once
from w2vlab.cli.lightning_cli import W2VLightningCLI
from w2vlab.cli.no_news import only_news
from w2vlab.cli.problems import report_problem
from w2vlab.registry import load_parts
from w2vlab.types import RunError

USER_ERRORS = (ValueError, RuntimeError, FileNotFoundError, MisconfigurationException)
"""What constructors, options and data raise where the user can change something."""


def run(command: str, options: list[str]) -> int:
    """Runs `fit` or `validate`.

    What is wrong with the options or the data is told without a traceback, until batches are computed; from then on an
    error is a bug and keeps it. `W2VLAB_TRACEBACK=1` shows it always.

    Args:
        command: `"fit"` or `"validate"`.
        options: What follows it on the command line.

    Returns:
        Exit status: 128 and the signal's number where a signal ended it.
    """
    phase = _Phase()
    try:
        with only_news(), messages_shown(), signal_handler(stop_at_once):  # until training begins
            load_parts()
            W2VLightningCLI([command, *options], phase)
    except Stopped as stop:
        sys.stderr.write(f"Ended by {stop.signal.name}.\n")
        return stop.status
    except RunError as reason:
        return report_problem(reason)
    except USER_ERRORS as problem:
        if phase.running:
            raise
        return report_problem(problem)
    return 0


@contextmanager
def messages_shown(level: int = logging.INFO) -> Iterator[None]:
    """Shows what the package's loggers say, from `level` on, on the standard error stream; not beyond this context."""
    messages, handler = logging.getLogger("w2vlab"), logging.StreamHandler()
    messages.setLevel(logging.INFO)
    handler.setLevel(level)
    messages.addHandler(handler)
    try:
        yield
    finally:
        messages.removeHandler(handler)


class _Phase(Callback):
    """Knows whether batches are being computed; between the sanity check and the first update the data is set up."""

    running = False

    def on_validation_batch_start(self, *_: Any) -> None:
        self.running = True

    def on_sanity_check_end(self, *_: Any) -> None:
        self.running = False

    def on_train_batch_start(self, *_: Any) -> None:
        self.running = True
