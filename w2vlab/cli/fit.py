"""`w2vlab fit` and `w2vlab validate`: a run described by YAML and flags."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback

from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler, stop_at_once
from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.lightning.lightning_cli import W2VLightningCLI
from w2vlab.cli.logging.no_news import without_routine_messages
from w2vlab.registry import load_parts
from w2vlab.types import RunError


def run(command: str, options: list[str]) -> int:
    """Runs `fit` or `validate`.

    Errors in options and data are reported without a traceback until the first batch is computed; later errors are
    bugs, and keep it. `W2VLAB_TRACEBACK=1` always shows it.

    Args:
        command: `"fit"` or `"validate"`.
        options: What follows it on the command line.

    Returns:
        Exit status: 128 plus the signal's number if a signal ended the run.
    """
    phase = _Phase()
    try:
        with without_routine_messages(), messages_shown(), signal_handler(stop_at_once):  # until training begins
            load_parts()
            W2VLightningCLI([command, *options], phase)
    except Stopped as stop:
        sys.stderr.write(f"Ended by {stop.signal.name}.\n")
        return stop.status
    except RunError as reason:
        return report_problem(reason)
    except user_errors() as problem:
        if phase.running:
            raise
        return report_problem(problem)
    return 0


class _Phase(Callback):
    """Records whether batches are computed; data is set up between the sanity check and the first update."""

    running = False

    def on_validation_batch_start(self, *_: Any) -> None:
        self.running = True

    def on_sanity_check_end(self, *_: Any) -> None:
        self.running = False

    def on_train_batch_start(self, *_: Any) -> None:
        self.running = True
