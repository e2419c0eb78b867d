"""Looks at the trials of a sweep before the first one begins."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import Callback

from w2vlab.cli.lightning_cli import W2VLightningCLI
from w2vlab.cli.parser import RunParser
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.registry import load_parts, part_classes
from w2vlab.sweeps.command import file_command, fit_options
from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.trial import Trial


class _Options(W2VLightningCLI):
    """Parses the options of a run, and builds nothing."""

    def before_instantiate_classes(self) -> None:
        """Makes no folders."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def after_instantiate_classes(self) -> None:
        """Has nothing run."""
        self.subcommand = None


class TrialCheck:
    """Parses the options of trials, builds their models without values, and notes how many updates they take.

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
        options = fit_options(file_command(self._sweep, trial))
        if options is None:
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), _no_news():
                cli = _Options(["fit", *options], Callback())
                config = cli.config["fit"]
                _build(config.model)
        except SystemExit:
            problem = said.getvalue().strip().removeprefix("error: ")
        except (ValueError, TypeError, RuntimeError, OSError) as found:
            problem = str(found)
        else:
            trial.updates = config.trainer.max_steps
            return
        raise ValueError(f"The trial {trial.name} cannot be run: {problem}\nNo trial was begun.")


@contextlib.contextmanager
def _no_news() -> Iterator[None]:
    """Keeps quiet what Lightning says of the seed of every trial."""
    log = logging.getLogger("lightning.fabric")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _build(model: object) -> None:
    """Builds a pretraining objective on the meta device, so that its parts can refuse each other."""
    name = str(model["class_path"]).rpartition(".")[2]  # type: ignore[index]
    if not issubclass(part_classes("model").get(name, PretrainingModule), PretrainingModule):
        return  # it would read the checkpoint that it begins with
    parser = RunParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    with torch.device("meta"):
        parser.instantiate_classes(parser.parse_object({"model": model}))
