"""Looks at the trials of a sweep before the first one begins."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback

from w2vlab.cli.no_news import only_news
from w2vlab.cli.parsed import ParsedOptions, build_pretraining, is_pretraining
from w2vlab.cli.problems import message_of
from w2vlab.options import flat
from w2vlab.registry import load_parts
from w2vlab.sweeps.command import file_command, fit_options
from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.plan import Plan
from w2vlab.sweeps.trial import Trial


class TrialCheck:
    """Parses the options of trials, builds their models without values, and notes what they are to be run with.

    A command that is not `w2vlab fit` is left to itself.

    Args:
        sweep: Whose trials they are.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        load_parts()

    def all(self, trials: Sequence[Trial]) -> None:
        """Looks at many trials.

        Raises:
            ValueError: One of them cannot be run; the message names it and what is wrong.
        """
        for trial in trials:
            self(trial)

    def __call__(self, trial: Trial) -> None:
        """Looks at one trial.

        Raises:
            ValueError: It cannot be run.
        """
        command = file_command(self._sweep, trial)
        options = fit_options(command)
        if options is None:
            trial.plan = Plan.of_command(command)
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), only_news():
                cli = ParsedOptions(["fit", *options], Callback())
                config = cli.config["fit"]
                if is_pretraining(config.model):  # another one would read the checkpoint that it begins with
                    with torch.device("meta"):  # so that parts can refuse each other
                        build_pretraining(config.model)
        except SystemExit:
            problem = said.getvalue().strip().removeprefix("error: ")
        except (ValueError, TypeError, RuntimeError, OSError) as found:
            problem = message_of(found)
        else:
            trial.updates = config.trainer.max_steps if config.trainer.max_steps >= 0 else None
            trial.plan = Plan.of_run(command, _plain_options(cli))
            return
        raise ValueError(f"The trial {trial.name} cannot be run: {problem}\nNo trial was begun.")


def _plain_options(cli: ParsedOptions) -> dict[str, Any]:
    """Returns every option of a run by its flat name, as plain data."""
    text = cli.parser.dump(cli.config, skip_none=False, skip_validation=True, skip_link_targets=False, format="json")
    return dict(flat("", json.loads(text)["fit"]))
