"""The command of a trial: that of a W&B agent, and the options that are added."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2vlab.sweeps import planned_trials, read_sweep
from w2vlab.sweeps.running.command import file_command, fit_options, trial_command, trial_environment


def sweep_of(tmp_path: Path, command: str):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: s\nprogram: w2vlab\n{command}method: grid\nparameters:\n"
        "  model.size: {values: [[1, 2]]}\n  flag: {value: false}\n",
        encoding="utf-8",
    )
    return read_sweep(path)


def test_arguments_are_those_of_a_wandb_agent(tmp_path):
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


def test_the_default_command_is_that_of_a_wandb_agent(tmp_path):
    sweep = sweep_of(tmp_path, "")
    (trial,) = planned_trials(sweep, None)
    words = ["/usr/bin/env", "python", "w2vlab", "--model.size=[1, 2]", "--flag=False"]
    assert file_command(sweep, trial) == words
    assert fit_options(words) is None
    assert trial_command(sweep, trial, tmp_path) == words


def test_environment_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    sweep = sweep_of(tmp_path, 'command: ["${program}", "${envvar:WHERE}", "${args_no_boolean_flags}"]\n')
    (trial,) = planned_trials(sweep, None)
    assert file_command(sweep, trial) == ["w2vlab", "there", "--model.size=[1, 2]"]


def test_null_is_null_for_fit_and_as_with_a_wandb_agent_for_others(tmp_path):
    path = tmp_path / "sweep.yaml"
    text = "method: grid\nprogram: {}\ncommand: ['${{program}}', fit, '${{args}}']\nparameters:\n"
    values = "  a: {value: null}\n  b: {value: [null, true]}\n  c: {value: {x: null}}\n  d: {value: [true, 1]}\n"
    commands = {}
    for program in ("w2vlab", "other"):
        path.write_text(text.format(program) + values)
        sweep = read_sweep(path)
        (trial,) = planned_trials(sweep, None)
        commands[program] = file_command(sweep, trial)[2:]
        assert trial.parameters["a"] is None
    assert commands["w2vlab"] == ["--a=null", "--b=[null, true]", '--c={"x": null}', "--d=[True, 1]"]
    assert commands["other"] == ["--a=None", "--b=[None, True]", "--c={'x': None}", "--d=[True, 1]"]


def test_a_repeated_trial_is_another_wandb_run(tmp_path):
    sweep = sweep_of(tmp_path, "")
    (trial,) = planned_trials(sweep, None)
    first = trial_environment(sweep, trial, tmp_path, "offline")["WANDB_RUN_ID"]
    trial.repeats = 1
    assert trial_environment(sweep, trial, tmp_path, "offline")["WANDB_RUN_ID"] == f"{first}-1"


def test_an_unknown_macro_is_refused(tmp_path):
    sweep = sweep_of(tmp_path, 'command: ["${program}", "${arg}"]\n')
    (trial,) = planned_trials(sweep, None)
    with pytest.raises(ValueError, match=r"`command` must have the macros .*but has \$\{arg\}"):
        file_command(sweep, trial)


def test_all_attempts_are_one_wandb_run(tmp_path):
    sweep = sweep_of(tmp_path, "")
    (trial,) = planned_trials(sweep, None)
    first, second = (trial_environment(sweep, trial, tmp_path / "a", "offline") for _ in range(2))
    elsewhere = trial_environment(sweep, trial, tmp_path / "b", "offline")
    assert first == second
    assert first["WANDB_SERVICE"] == ""
    assert first["WANDB_RUN_ID"] != elsewhere["WANDB_RUN_ID"]
    assert (first["WANDB_RUN_GROUP"], first["WANDB_MODE"]) == ("s", "offline")
