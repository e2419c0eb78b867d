"""The command of a trial: an agent's, and what is added to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2vlab.sweeps import planned_trials, read_sweep
from w2vlab.sweeps.command import file_command, fit_options, trial_command, trial_environment


def sweep_of(tmp_path: Path, command: str):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: s\nprogram: w2vlab\n{command}method: grid\nparameters:\n"
        "  model.size: {values: [[1, 2]]}\n  flag: {value: false}\n",
        encoding="utf-8",
    )
    return read_sweep(path)


def test_arguments_are_those_of_an_agent(tmp_path):
    sweep = sweep_of(tmp_path, 'command: ["${program}", fit, --config=a.yaml, "${args}"]\n')
    (trial,) = planned_trials(sweep, None)
    words = ["w2vlab", "fit", "--config=a.yaml", "--model.size=[1, 2]", "--flag=False"]
    assert file_command(sweep, trial) == words
    assert fit_options(words) == words[2:]
    folder = tmp_path / "t"
    first = ["-m", "w2vlab", *words[1:], f"--trainer.default_root_dir={folder}"]
    assert trial_command(sweep, trial, folder)[1:] == first
    checkpoint = folder / "w2vlab" / "id" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert trial_command(sweep, trial, folder)[1:] == [*first, "--ckpt_path=last"]


def test_without_a_command_it_is_the_agents_own(tmp_path):
    sweep = sweep_of(tmp_path, "")
    (trial,) = planned_trials(sweep, None)
    words = ["/usr/bin/env", "python", "w2vlab", "--model.size=[1, 2]", "--flag=False"]
    assert file_command(sweep, trial) == words
    assert fit_options(words) is None
    assert trial_command(sweep, trial, tmp_path) == words


def test_variables_of_the_environment_are_put_in(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    sweep = sweep_of(tmp_path, 'command: ["${program}", "${envvar:WHERE}", "${args_no_boolean_flags}"]\n')
    (trial,) = planned_trials(sweep, None)
    assert file_command(sweep, trial) == ["w2vlab", "there", "--model.size=[1, 2]"]


def test_an_unknown_macro_is_refused(tmp_path):
    sweep = sweep_of(tmp_path, 'command: ["${program}", "${arg}"]\n')
    (trial,) = planned_trials(sweep, None)
    with pytest.raises(ValueError, match=r"`command` must have the macros .*but has \$\{arg\}"):
        file_command(sweep, trial)


def test_every_attempt_is_one_run_of_one_group(tmp_path):
    sweep = sweep_of(tmp_path, "")
    (trial,) = planned_trials(sweep, None)
    first, second = (trial_environment(sweep, trial, tmp_path / "a", "offline") for _ in range(2))
    elsewhere = trial_environment(sweep, trial, tmp_path / "b", "offline")
    assert first == second
    assert first["WANDB_SERVICE"] == ""
    assert first["WANDB_RUN_ID"] != elsewhere["WANDB_RUN_ID"]
    assert (first["WANDB_RUN_GROUP"], first["WANDB_MODE"]) == ("s", "offline")
