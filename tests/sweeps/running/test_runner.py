"""Running trials: in parallel, with retries, resumes and early stopping."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2vlab.sweeps import LocalMachine, Runner, RunnerOptions, lock_folder, planned_trials, read_sweep, read_trials
from w2vlab.sweeps import merge_earlier_trials as merged_with

FAKE = Path(__file__).parents[1] / "fake_run.py"


def sweep_of(tmp_path: Path, parameters: str, rest: str = ""):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: toy\nprogram: {FAKE}\ncommand: [{sys.executable}, '${{program}}', '${{args}}']\nmethod: grid\n"
        f"metric: {{name: val/loss/total, goal: minimize}}\n{rest}parameters:\n{parameters}",
        encoding="utf-8",
    )
    return read_sweep(path)


def runner_of(tmp_path: Path, parameters: str, rest: str = "", parallel: int = 1, retries: int = 1) -> Runner:
    sweep, folder = sweep_of(tmp_path, parameters, rest), tmp_path / "sweep"
    folder.mkdir(exist_ok=True)
    trials = merged_with(planned_trials(sweep, None), read_trials(folder))
    return Runner(sweep, folder, trials, LocalMachine([], parallel), RunnerOptions(retries))


def log_of(runner: Runner, trial) -> str:
    return (runner.folder / trial.name / "log.txt").read_text()


def stopping_once(runner: Runner) -> Callable[[], None]:
    """Stops a runner once, when its first trial has reached the third update."""
    asked: list[bool] = []

    def show() -> None:
        if not asked and runner.trials[0].update == 3 and runner.trials[0].state == "running":
            asked.append(True)
            runner.stop()

    return show


def nothing() -> None:
    """Shows nothing."""


def test_a_failed_trial_is_resumed_and_does_not_stop_the_others(tmp_path):
    runner = runner_of(tmp_path, "  kind: {values: [fails_once, dies_once, fails, misused, plain]}\n")
    runner.run(nothing)
    by_kind = {trial.parameters["kind"]: trial for trial in runner.trials}
    assert {kind: (trial.state, trial.attempts) for kind, trial in by_kind.items()} == {
        "fails_once": ("finished", 2),
        "dies_once": ("finished", 2),
        "fails": ("failed", 2),
        "misused": ("failed", 1),  # not retried, because invalid options fail again
        "plain": ("finished", 1),
    }
    assert "begins at 0" in log_of(runner, by_kind["dies_once"])
    assert "begins at 3" in log_of(runner, by_kind["dies_once"])
    assert by_kind["fails"].failure == "exit status 1: this cannot work"
    assert by_kind["misused"].failure == "exit status 2: Unknown argument --kind"
    assert by_kind["plain"].failure is None
    assert by_kind["fails_once"].value == pytest.approx(1 / 5)
    assert by_kind["fails_once"].history == pytest.approx([1 / update for update in range(1, 6)])
    record = json.loads((runner.folder / "sweep.json").read_text())
    assert record["name"] == "toy"
    assert record["metric"] == {"name": "val/loss/total", "goal": "minimize"}
    assert {t["name"]: t["state"] for t in record["trials"]} == {t.name: t.state for t in runner.trials}


def test_a_restarted_sweep_does_not_repeat_finished_trials(tmp_path):
    first = runner_of(tmp_path, "  kind: {values: [plain, fails]}\n", retries=0)
    first.run(nothing)
    second = runner_of(tmp_path, "  kind: {values: [plain, fails, other]}\n", retries=0)
    assert [trial.state for trial in second.trials] == ["finished", "waiting", "waiting"]
    second.run(nothing)
    plain, fails, other = second.trials
    assert log_of(second, plain).count("begins") == 1
    assert log_of(second, fails).count("begins") == 2
    assert (plain.state, fails.state, other.state) == ("finished", "failed", "finished")
    # Trials that the file no longer has stay in the record.
    third = runner_of(tmp_path, "  kind: {values: [other]}\n")
    assert {trial.name for trial in third.trials} == {trial.name for trial in second.trials}


def test_interrupted_trials_wait_and_are_resumed(tmp_path):
    runner = runner_of(tmp_path, "  kind: {values: [waits, plain]}\n", parallel=1)
    runner.run(stopping_once(runner))
    assert [(trial.state, trial.attempts) for trial in runner.trials] == [("waiting", 0), ("waiting", 0)]
    assert "stopped" in log_of(runner, runner.trials[0])
    again = runner_of(tmp_path, "  kind: {values: [waits, plain]}\n")
    again.run(nothing)
    assert [(trial.state, trial.attempts) for trial in again.trials] == [("finished", 1), ("finished", 1)]
    assert "begins at 3" in log_of(again, again.trials[0])


def test_a_second_stop_kills_trials(tmp_path):
    runner = runner_of(tmp_path, "  kind: {values: [waits]}\n")

    def interrupt() -> None:
        if runner.trials[0].update == 3:
            runner.stop()
            runner.stop()

    runner.run(interrupt)
    assert runner.trials[0].state == "waiting"


def test_an_error_of_the_sweep_ends_its_trials(tmp_path):
    runner = runner_of(tmp_path, "  kind: {values: [waits]}\n")

    def break_down() -> None:
        if runner.trials[0].update == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runner.run(break_down)
    runner.end()
    assert read_trials(runner.folder)[0].state == "waiting"
    assert "stopped" in log_of(runner, runner.trials[0])


def test_trials_that_are_not_among_the_best_are_stopped_early(tmp_path):
    rest = "early_terminate: {type: hyperband, min_iter: 3, eta: 2}\n"
    # In the order of the grid: the bad one is last, when the others have values to compare it with.
    runner = runner_of(tmp_path, "  kind: {values: [plain, waits]}\n  level: {values: [1, 2, 3, 9]}\n", rest)
    runner.trials = [t for t in runner.trials if t.parameters["kind"] == "plain" or t.parameters["level"] == 9]
    runner.run(nothing)
    worst = runner.trials[-1]
    assert worst.parameters == {"kind": "waits", "level": 9}
    assert worst.state == "stopped early"
    assert "stopped" in log_of(runner, worst)
    assert runner.trials[0].state == "finished"


def test_parallel_trials_share_the_processors(tmp_path):
    processors = len(os.sched_getaffinity(0))
    parallel = min(2, processors)
    lines = "  kind: {values: [waits_for_file]}\n  level: {values: [1, 2, 3]}\n"
    runner = runner_of(tmp_path, lines, parallel=parallel)
    most = 0

    def count() -> None:
        """Lets the trials end as soon as `parallel` of them run, so that none ends before another has started."""
        nonlocal most
        most = max(most, sum(trial.state == "running" for trial in runner.trials))
        if most == parallel:
            (runner.folder / "go").touch()

    runner.run(count)
    assert most == parallel
    for trial in runner.trials:
        assert f"with {processors // parallel} threads" in log_of(runner, trial)
        # The process may have read its affinity before it was set.
        assert int((runner.folder / trial.name / "run" / "processors").read_text()) <= processors


def test_trials_are_evaluated_also_those_that_were_finished_before(tmp_path, monkeypatch):
    parameters = "  kind: {values: [plain, fails]}\n  level: {values: [1, 2]}\n"
    first = runner_of(tmp_path, parameters, retries=0)
    first.run(nothing)
    asked = set()

    def evaluation(checkpoint: Path, options: list[str]) -> list[str]:
        assert checkpoint.name == "last.ckpt"
        asked.add(str(checkpoint))
        if "level=2" in str(checkpoint):
            return [sys.executable, "-c", "import sys; sys.exit('error: no labels')"]
        done = checkpoint.parents[1] / "evaluation" / "last" / "evaluation.json"
        write = f"p.parent.mkdir(parents=True); p.write_text('{options[0]}')"
        code = f"import pathlib; p = pathlib.Path({str(done)!r}); {write}"
        return [sys.executable, "-c", code]

    monkeypatch.setattr("w2vlab.sweeps.running.runner.evaluation_command", evaluation)
    sweep, folder = first.sweep, first.folder
    trials = merged_with(planned_trials(sweep, None), read_trials(folder))
    for trial in trials:
        trial.state = "finished" if trial.parameters["kind"] == "plain" else "failed"
    second = Runner(sweep, folder, trials, LocalMachine([], 1), RunnerOptions(evaluate=["--layers=context"]))
    second.run(nothing)
    evaluated = [path.read_text() for path in folder.rglob("evaluation.json")]
    assert evaluated == ["--layers=context"]
    assert len(asked) == 2
    states = {(t.parameters["kind"], t.parameters["level"]): (t.state, t.failure) for t in second.trials}
    assert states["plain", 1] == ("finished", None)
    # A trial whose evaluation failed is still finished, and is not evaluated again and again.
    assert states["plain", 2] == ("finished", "it could not be evaluated: exit status 1: no labels")
    assert log_of(second, second.trials[0]).count("begins") == 1


def test_more_parallel_trials_than_devices_are_refused():
    with pytest.raises(ValueError, match=r"`parallel` must be at most the number of GPUs, 2, but is 3"):
        LocalMachine(["0", "1"], 3)
    with pytest.raises(ValueError, match=r"`parallel` must be at most the number of processors"):
        LocalMachine([], 10_000)


def test_each_trial_has_one_gpu(tmp_path):
    machine = LocalMachine(["4", "7"])
    assert machine.parallel == 2
    command = [sys.executable, "-c", "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.5)"]
    folders = [tmp_path / str(number) for number in range(2)]
    for folder in folders:
        folder.mkdir()
    attempts = [machine.start(command, {}, folder) for folder in folders]
    while any(attempt.status() is None for attempt in attempts):
        pass
    assert [(folder / "log.txt").read_text() for folder in folders] == ["4\n", "7\n"]


def test_a_metric_that_no_trial_logs_is_an_error(tmp_path):
    runner = runner_of(tmp_path, "  kind: {values: [plain]}\n")
    path = tmp_path / "sweep.yaml"
    path.write_text(path.read_text().replace("val/loss/total", "val/accuracyy"), encoding="utf-8")
    runner = Runner(
        read_sweep(path), runner.folder, planned_trials(read_sweep(path), None), LocalMachine([], 1), RunnerOptions()
    )
    runner.run(nothing)
    assert runner.problem is not None
    assert "logged no val/accuracyy. Known: val/accuracy, val/loss/total. Did you mean val/accuracy?" in runner.problem


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    refused = pytest.raises(ValueError, match=rf"`folder` must not be in use.*process {os.getpid()}")
    with lock_folder(tmp_path), refused, lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_a_trial_of_an_ended_sweep_holds_the_lock(tmp_path):
    with lock_folder(tmp_path) as lock:
        attempt = LocalMachine([], 1, lock).start([sys.executable, "-c", "import time; time.sleep(600)"], {}, tmp_path)
    with pytest.raises(ValueError, match="or one of its trials still runs"), lock_folder(tmp_path):
        pass
    attempt.kill()
    with lock_folder(tmp_path):
        pass


def test_an_invalid_record_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text('{"trials": [{"name": "a"}]}')
    with pytest.raises(
        ValueError, match=r"sweep\.json must be the record of a sweep, but is not \(ValueError: KeyError"
    ):
        read_trials(tmp_path)
