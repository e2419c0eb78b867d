"""A sweep that is run again: changed, removed and repeated trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.running.test_runner import log_of, nothing, sweep_of
from w2vlab.sweeps import (
    EarlierTrials,
    LocalMachine,
    Plan,
    Runner,
    RunnerOptions,
    check_earlier_trials,
    merge_earlier_trials,
    planned_trials,
    read_trials,
)
from w2vlab.sweeps.plan import describe_changes
from w2vlab.sweeps.running.command import file_command

GRID = "  kind: {values: [plain]}\n  level: {values: [1, 2]}\n"


def prepared(
    tmp_path: Path, parameters: str = GRID, rest: str = "", repeat: Sequence[str] = (), drop: Sequence[str] = ()
) -> tuple[EarlierTrials, Runner]:
    """Returns the classified trials, and a runner for them; each trial has a configuration file."""
    sweep, folder = sweep_of(tmp_path, parameters, rest), tmp_path / "sweep"
    recipe = tmp_path / "recipe.yaml"
    sweep = replace(sweep, command=(*sweep.command, f"--config={recipe}"))
    folder.mkdir(exist_ok=True)
    planned = planned_trials(sweep, None)
    for trial in planned:
        trial.plan = Plan.of_command(file_command(sweep, trial))
    trials = merge_earlier_trials(planned, read_trials(folder))
    earlier = check_earlier_trials(folder, trials, planned, repeat, drop)
    return earlier, Runner(sweep, folder, trials, LocalMachine([], 1), RunnerOptions(retries=0))


def run(earlier: EarlierTrials, runner: Runner) -> Runner:
    earlier.refuse_changed(runner.folder)
    runner.trials = earlier.apply(runner.folder, runner.trials)
    runner.run(nothing)
    return runner


@pytest.fixture
def done(tmp_path: Path) -> Runner:
    (tmp_path / "recipe.yaml").write_text("a: 1")
    return run(*prepared(tmp_path))


def starts(runner: Runner) -> list[int]:
    return [log_of(runner, trial).count("begins at 0") for trial in runner.trials]


def test_the_record_has_the_options_of_each_trial(done: Runner) -> None:
    record = json.loads((done.folder / "sweep.json").read_text())
    first, second = record["trials"]
    assert first["ran"]["command"][2:] == ["--kind=plain", "--level=1", f"--config={done.folder.parent}/recipe.yaml"]
    # Common options are stored once.
    assert (first["ran"]["options"], second["ran"]["options"]) == ({"level": "1"}, {"level": "2"})
    assert record["options"]["kind"] == "plain"
    assert any(name.startswith("content of ") for name in record["options"])
    assert [trial.ran for trial in read_trials(done.folder)] == [trial.plan for trial in done.trials]


def test_the_same_command_again_repeats_nothing(done: Runner, tmp_path: Path) -> None:
    earlier, runner = prepared(tmp_path)
    assert earlier == EarlierTrials()
    assert starts(run(earlier, runner)) == [1, 1]


def test_an_edited_file_with_the_same_command_is_listed_and_refused(done: Runner, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 2")
    earlier, runner = prepared(tmp_path)
    with pytest.raises(ValueError, match=r"were run with other options") as refused:
        run(earlier, runner)
    message = str(refused.value)
    assert all(f"  {trial.name}: content of {tmp_path}/recipe.yaml " in message for trial in done.trials)
    assert "--repeat=changed" in message
    assert starts(runner) == [1, 1]


def test_an_edited_command_is_listed_and_its_trials_can_be_repeated(done: Runner, tmp_path: Path) -> None:
    more = GRID + "  updates: {value: 8}\n"
    earlier, _ = prepared(tmp_path, more)
    assert earlier.changed == []  # another parameter gives other trials, in other folders
    earlier, runner = prepared(tmp_path)
    runner.trials[0].plan = Plan(done.trials[0].plan.command, {**done.trials[0].plan.options, "lr": "0.1"})  # type: ignore[union-attr]
    earlier = check_earlier_trials(runner.folder, runner.trials, runner.trials)
    with pytest.raises(ValueError, match=r": lr null -> 0\.1\n") as refused:
        earlier.refuse_changed(runner.folder)
    assert str(refused.value).count("\n  ") == 1
    earlier = check_earlier_trials(runner.folder, runner.trials, runner.trials, ["changed"])
    run(earlier, runner)
    assert starts(runner) == [1, 1]  # the old log was set aside with its folder
    assert [trial.repeats for trial in runner.trials] == [1, 0]
    kept = runner.folder / "set_aside" / f"{runner.trials[0].name}-1"
    assert (kept / "run" / "metrics.jsonl").is_file()


def test_a_trial_whose_folder_was_deleted_runs_again(done: Runner, tmp_path: Path) -> None:
    shutil.rmtree(done.folder / done.trials[0].name)
    earlier, runner = prepared(tmp_path)
    assert [trial.name for trial in earlier.lost] == [done.trials[0].name]
    run(earlier, runner)
    assert starts(runner) == [1, 1]
    assert [(trial.state, trial.attempts, trial.repeats) for trial in runner.trials] == [
        ("finished", 1, 1),
        ("finished", 1, 0),
    ]


def test_trials_that_are_not_in_the_file_can_be_dropped(done: Runner, tmp_path: Path) -> None:
    less = GRID.replace("[1, 2]", "[2]")
    earlier, runner = prepared(tmp_path, less)
    assert [trial.parameters["level"] for trial in run(earlier, runner).trials] == [2, 1]
    gone = done.trials[0].name
    earlier, runner = prepared(tmp_path, less, drop=["gone"])
    assert [trial.parameters["level"] for trial in run(earlier, runner).trials] == [2]
    assert [trial.parameters["level"] for trial in read_trials(runner.folder)] == [2]
    assert not (runner.folder / gone).exists()
    assert (runner.folder / "set_aside" / f"{gone}-1").is_dir()
    # If it is added again, it starts from scratch.
    assert starts(run(*prepared(tmp_path))) == [1, 1]


def test_a_trial_that_is_in_neither_file_nor_folder_is_dropped(done: Runner, tmp_path: Path) -> None:
    shutil.rmtree(done.folder / done.trials[0].name)
    earlier, runner = prepared(tmp_path, GRID.replace("[1, 2]", "[2]"))
    assert [trial.parameters["level"] for trial in run(earlier, runner).trials] == [2]


def test_trials_are_repeated_by_name(done: Runner, tmp_path: Path) -> None:
    earlier, runner = prepared(tmp_path, repeat=["*level=2*", done.trials[1].name])
    assert [trial.name for trial in earlier.repeated] == [done.trials[1].name]
    run(earlier, runner)
    assert [trial.repeats for trial in read_trials(runner.folder)] == [0, 1]


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        (GRID, {"repeat": ["nothing"]}, r"`repeat` must be names of trials.*but there is no trial nothing"),
        (GRID, {"drop": ["change"]}, r"no trial change\. Did you mean changed\?"),
        (GRID, {"drop": ["*level=1*"]}, r"`drop` must name trials that are not in the file any more, but .*level=1"),
        (GRID.replace("[1, 2]", "[2]"), {"repeat": ["*level=1*"]}, r"`repeat` must name trials of the file, but"),
    ],
)
def test_invalid_names(done: Runner, tmp_path: Path, parameters: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, parameters, **options)


def test_changes_are_unknown_with_a_record_of_an_earlier_version(done: Runner, tmp_path: Path) -> None:
    path = done.folder / "sweep.json"
    record = json.loads(path.read_text())
    del record["options"]
    for trial in record["trials"]:
        del trial["ran"], trial["repeats"]
    path.write_text(json.dumps(record))
    (tmp_path / "recipe.yaml").write_text("a: 2")
    earlier, _ = prepared(tmp_path)
    assert earlier == EarlierTrials()


def test_changes_of_options_are_described() -> None:
    before = Plan.of_run(["w2vlab", "fit"], {"a": 1, "b": [1], "data.num_workers": 2, "trainer.logger": "x"})
    same = Plan.of_run(["w2vlab", "fit", "--c"], {"a": 1, "b": [1], "c": None, "data.num_workers": 4})
    assert describe_changes(before, same) == []
    other = Plan.of_run(["w2vlab", "fit"], {"a": 1.5, "b": [1, 2], "d": "x" * 1000})
    assert describe_changes(before, other) == ["a 1 -> 1.5", "b [1] -> [1, 2]", f"d null -> {'x' * 59}…"]
    many = Plan.of_run([], {f"o{number}": number for number in range(100)})
    assert describe_changes(before, many)[-1] == "and 96 more"
