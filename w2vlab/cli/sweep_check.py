"""Checks the trials of a sweep before the first one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.plan import Plan
from w2vlab.sweeps.running.command import file_command, fit_options
from w2vlab.sweeps.trial import Trial

CheckRun = Callable[[Sequence[str]], tuple[int | None, dict[str, Any]]]
"""From the options of `w2vlab fit` to the number of updates and every option by its flat name, as plain data."""


class TrialCheck:
    """Checks the options of trials, and records what the trials are run with.

    A command other than `w2vlab fit` is not checked.

    Args:
        sweep: The sweep of the trials.
        check_run: Checks the options of a run; raises a `ValueError` if it cannot be run.
    """

    def __init__(self, sweep: Sweep, check_run: CheckRun) -> None:
        self._sweep = sweep
        self._check_run = check_run

    def all(self, trials: Sequence[Trial]) -> None:
        """Checks many trials.

        Raises:
            ValueError: One of them cannot be run; the message names it and the problem.
        """
        for trial in trials:
            self(trial)

    def __call__(self, trial: Trial) -> None:
        """Checks one trial.

        Raises:
            ValueError: It cannot be run.
        """
        command = file_command(self._sweep, trial)
        options = fit_options(command)
        if options is None:
            trial.plan = Plan.of_command(command)
            return
        try:
            trial.updates, run_options = self._check_run(options)
        except ValueError as problem:
            raise ValueError(
                f"The trial {trial.name} cannot be run: {problem}\nNo trial was started."
            ) from problem.__cause__
        trial.plan = Plan.of_run(command, run_options)
