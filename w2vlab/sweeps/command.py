"""The command line and the environment of a trial."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.trial import Trial, newest


def file_command(sweep: Sweep, trial: Trial) -> list[str]:
    """Returns what an agent of Weights & Biases would run for a trial.

    Raises:
        ValueError: The command has a macro that there is not.
    """
    # The agent's own functions, so that a file means the same here and there.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    own = fit_options([sweep.program if word == "${program}" else word for word in sweep.command]) is not None
    parameters = {name: _with_null(value) if own else value for name, value in trial.parameters.items()}
    arguments = create_sweep_command_args({"args": {name: {"value": v} for name, v in parameters.items()}})
    macros = {
        "${program}": [sweep.program],
        "${interpreter}": ["python"],
        "${env}": ["/usr/bin/env"],
        **{f"${{{name}}}": words for name, words in arguments.items() if name != "args_dict"},
    }
    command: list[str] = []
    for word in create_sweep_command(list(sweep.command)):
        if word.startswith("${") and word.endswith("}") and word not in macros:
            raise ValueError(f"`command` must have the macros {', '.join(macros)}, but has {word}.")
        command += macros.get(word, [word])
    return command


def _with_null(value: Any) -> Any:
    """Returns a value such that its text is YAML: an agent would pass on Python's `None` for null."""
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, list | dict) and "null" in json.dumps(value) else value


def fit_options(command: list[str]) -> list[str] | None:
    """Returns what follows `w2vlab fit` in a command; None where the command is another."""
    program, *rest = command
    own = Path(program).name == "w2vlab" and rest[:1] == ["fit"]
    return rest[1:] if own else None


def trial_command(sweep: Sweep, trial: Trial, folder: Path) -> list[str]:
    """Returns the command line of a trial in its folder, which goes on where an earlier attempt ended."""
    command = file_command(sweep, trial)
    options = fit_options(command)
    if options is None:
        found = shutil.which(command[0])
        return [found or command[0], *command[1:]]
    # `fit` decides which one, and whether it is whole. Where there is none, a checkpoint in the sweep's file counts.
    way_on = [] if newest(folder, "*.ckpt") is None else ["--ckpt_path=last"]
    return [*own_program(), "fit", *options, f"--trainer.default_root_dir={folder}", *way_on]


def evaluation_command(checkpoint: Path, options: list[str]) -> list[str]:
    """Returns the command line that evaluates a trial."""
    return [*own_program(), "evaluate", str(checkpoint), *options]


def own_program() -> list[str]:
    """Returns how this installation of w2vlab is called, whatever is first on the search path."""
    return [sys.executable, "-m", "w2vlab"]


def trial_environment(sweep: Sweep, trial: Trial, folder: Path, mode: str) -> Mapping[str, str]:
    """Returns what the environment of a trial has beside that of this process: one run of one group in W&B.

    Args:
        sweep: Names the group.
        trial: Names the run.
        folder: Of the trial.
        mode: `online` or `offline`.
    """
    # The same one in every attempt, but not in another folder, whose sweep may be of the same name, and not for a trial
    # that is begun anew.
    again = f"-{trial.repeats}" if trial.repeats else ""
    return {
        "WANDB_MODE": mode,
        "WANDB_RUN_GROUP": sweep.name,
        "WANDB_NAME": trial.name,
        "WANDB_RUN_ID": f"{trial.name[-6:]}-{_digits(folder)}{again}",
        "WANDB_RESUME": "allow",
        # A process of its own for each run: that of a program which has called us would end with that program.
        "WANDB_SERVICE": "",
        # For a command that is not `w2vlab fit`: where to put what is to be found again.
        "W2VLAB_TRIAL_FOLDER": str(folder.absolute()),
        "PYTHONUNBUFFERED": "1",
    }


def _digits(folder: Path) -> str:
    from hashlib import sha256

    return sha256(os.fsencode(folder.absolute())).hexdigest()[:6]
