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
from w2vlab.sweeps.trial import Trial, find_newest


def file_command(sweep: Sweep, trial: Trial) -> list[str]:
    """Returns the command that a W&B agent would run for a trial.

    Raises:
        ValueError: The command has an unknown macro.
    """
    # The functions of the agent itself, so that a file has the same meaning here.
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
    """Returns a value whose text is valid YAML, because a W&B agent would pass Python's `None` for null."""
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, list | dict) and "null" in json.dumps(value) else value


def fit_options(command: list[str]) -> list[str] | None:
    """Returns the options of a `w2vlab fit` command; None for another command."""
    program, *rest = command
    own = Path(program).name == "w2vlab" and rest[:1] == ["fit"]
    return rest[1:] if own else None


def trial_command(sweep: Sweep, trial: Trial, folder: Path) -> list[str]:
    """Returns the command line of a trial, which resumes from the last checkpoint in its folder."""
    command = file_command(sweep, trial)
    options = fit_options(command)
    if options is None:
        found = shutil.which(command[0])
        return [found or command[0], *command[1:]]
    # `fit` finds the last intact checkpoint. Without a checkpoint, a `ckpt_path` in the sweep file is used.
    resume = [] if find_newest(folder, "*.ckpt") is None else ["--ckpt_path=last"]
    return [*own_program(), "fit", *options, f"--trainer.default_root_dir={folder}", *resume]


def evaluation_command(checkpoint: Path, options: list[str]) -> list[str]:
    """Returns the command line that evaluates a trial."""
    return [*own_program(), "evaluate", str(checkpoint), *options]


def own_program() -> list[str]:
    """Returns the command that starts this installation of w2vlab, regardless of `PATH`."""
    return [sys.executable, "-m", "w2vlab"]


def trial_environment(sweep: Sweep, trial: Trial, folder: Path, mode: str) -> Mapping[str, str]:
    """Returns the additional environment variables of a trial, which make it one W&B run in the group of the sweep.

    Args:
        sweep: The sweep, whose name is the W&B group.
        trial: The trial, whose name is the name of the W&B run.
        folder: Folder of the trial.
        mode: `online` or `offline`.
    """
    # The W&B run id is the same in every attempt, but differs in another folder, whose sweep may have the same name,
    # and for a repeated trial.
    repeat = f"-{trial.repeats}" if trial.repeats else ""
    return {
        "WANDB_MODE": mode,
        "WANDB_RUN_GROUP": sweep.name,
        "WANDB_NAME": trial.name,
        "WANDB_RUN_ID": f"{trial.name[-6:]}-{_hash(folder)}{repeat}",
        "WANDB_RESUME": "allow",
        # A separate W&B service process for each run, because an inherited one ends with the program that started it.
        "WANDB_SERVICE": "",
        # The output folder for commands other than `w2vlab fit`.
        "W2VLAB_TRIAL_FOLDER": str(folder.absolute()),
        "PYTHONUNBUFFERED": "1",
    }


def _hash(folder: Path) -> str:
    from hashlib import sha256

    return sha256(os.fsencode(folder.absolute())).hexdigest()[:6]
