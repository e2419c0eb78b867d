"""Trials on a Ray cluster of this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tests.sweeps.running.test_runner import log_of, nothing, stopping_once, sweep_of
from w2vlab.sweeps import RayMachine, Runner, RunnerOptions, planned_trials

try:
    import ray
except ImportError:
    pytest.skip("ray is not installed: pip install -e '.[sweep]'", allow_module_level=True)


@pytest.fixture(scope="module")
def machine() -> Iterator[RayMachine]:
    made = RayMachine("local", parallel=1)
    yield made
    ray.shutdown()


def test_trials_are_retried_and_end_as_on_one_machine(machine, tmp_path):
    sweep, folder = sweep_of(tmp_path, "  kind: {values: [dies_once, fails, plain]}\n"), tmp_path / "sweep"
    folder.mkdir()
    runner = Runner(sweep, folder, planned_trials(sweep, None), machine, RunnerOptions(retries=1))
    runner.run(nothing)
    assert [(trial.state, trial.attempts) for trial in runner.trials] == [
        ("finished", 2),
        ("failed", 2),
        ("finished", 1),
    ]
    assert "begins at 3" in log_of(runner, runner.trials[0])
    assert runner.trials[1].failure == "exit status 1: this cannot work"


def test_a_trial_is_stopped_on_its_node(machine, tmp_path):
    sweep, folder = sweep_of(tmp_path, "  kind: {values: [waits]}\n"), tmp_path / "sweep"
    folder.mkdir()
    runner = Runner(sweep, folder, planned_trials(sweep, None), machine, RunnerOptions())
    runner.run(stopping_once(runner))
    assert runner.trials[0].state == "waiting"
    assert "stopped" in log_of(runner, runner.trials[0])


def test_a_trial_is_killed_on_its_node(machine, tmp_path):
    attempt = machine.start([sys.executable, "-c", "import time; time.sleep(600)"], {}, tmp_path)
    time.sleep(1)
    assert attempt.status() is None
    attempt.kill()
    while attempt.status() is None:
        time.sleep(0.1)
    assert attempt.status() == -9


def test_more_trials_than_resources_are_refused(machine):
    with pytest.raises(ValueError, match=r"`parallel` must be at most the 0 trials of 1 processor and 3 GPUs"):
        RayMachine("local", parallel=1, gpus=3)
