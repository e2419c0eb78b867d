"""Runner of the trials of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.record import write_record
from w2vlab.sweeps.running.command import evaluation_command, trial_command, trial_environment
from w2vlab.sweeps.running.machine import Attempt, Machine
from w2vlab.sweeps.running.progress import TrialProgress
from w2vlab.sweeps.search.bayes import BayesSearch
from w2vlab.sweeps.trial import CHECKPOINT, Trial, canonical_parameters, failure_reason, find_newest
from w2vlab.utils.files import EVALUATION

_WRONG_USAGE = 2
"""Exit status of a run with invalid options, which is not retried, because it would fail again."""

_POLL_SECONDS = 0.3
_READ_SECONDS = 2.0
"""Interval for reading the files of a running trial, which may be on a slow disk."""

_GRACE_SECONDS = 60.0
"""Time for a stopped trial to write its checkpoint before it is killed."""


@dataclass(frozen=True)
class RunnerOptions:
    """Options of the runner.

    Attributes:
        retries: Additional attempts of a trial that fails.
        mode: Mode of Weights & Biases: `online` or `offline`.
        evaluate: Options of `w2vlab evaluate`, which is run after each trial; None for no evaluation.
        check: Checks a trial before it starts, for trials that are not known in advance (`bayes`).
    """

    retries: int = 1
    mode: str = "offline"
    evaluate: list[str] | None = None
    check: Callable[[Trial], None] | None = None


@dataclass
class _Job:
    """A running trial or evaluation."""

    trial: Trial
    attempt: Attempt
    progress: TrialProgress
    start: float = field(default_factory=time.monotonic)
    earlier_seconds: float = 0.0
    last_read: float = 0.0
    stopped_early: bool = False


class Runner:
    """Runs the trials of a sweep in parallel.

    Args:
        sweep: The sweep.
        folder: Folder of the sweep; each trial has a subfolder of its name.
        trials: The trials that are known at the start.
        machine: The machine that runs the trials.
        options: Options of the runner.
        search: Chooses further trials; None for a fixed list.
        count: Maximum number of trials with `search`.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        trials: Sequence[Trial],
        machine: Machine,
        options: RunnerOptions,
        search: BayesSearch | None = None,
        count: int = 0,
    ) -> None:
        self.sweep = sweep
        self.folder = folder
        self.trials = list(trials)
        self.problem: str | None = None
        """An error of the sweep, such as a metric that trials do not log; None without one."""
        self._machine = machine
        self._options = options
        self._search = search
        self._count = count
        self._jobs: list[_Job] = []
        self._stopping = False
        self._not_to_evaluate: set[str] = set()

    def stop(self) -> None:
        """Stops running trials, which write a checkpoint to resume from; a second call kills them."""
        for job in self._jobs:
            (job.attempt.kill if self._stopping else job.attempt.stop)()
        self._stopping = True

    def run(self, show: Callable[[], None]) -> None:
        """Runs until every trial has ended, or `stop` was called.

        Args:
            show: Called after each update of the trials.
        """
        self._record()
        while True:
            if not self._stopping:
                self._start_jobs()
            for job in list(self._jobs):
                self._update(job)
            if not self._stopping:
                self._stop_early()
            show()
            if not self._jobs and (self._stopping or self._next() is None):
                break
            time.sleep(_POLL_SECONDS)
        self._record()

    def end(self) -> None:
        """Stops running trials, and kills them after a grace period."""
        self.stop()
        limit = time.monotonic() + _GRACE_SECONDS
        while any(job.attempt.status() is None for job in self._jobs) and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
        for job in self._jobs:
            job.attempt.kill()
            job.trial.evaluating = False
            if not job.trial.ended:
                job.trial.state = "waiting"
        self._record()

    def _start_jobs(self) -> None:
        while len(self._jobs) < self._machine.parallel and (trial := self._next()) is not None:
            folder = self.folder / trial.name
            folder.mkdir(parents=True, exist_ok=True)
            if trial.ended:
                evaluation = self._evaluation_command(trial)
                assert evaluation is not None, "`_next` returns ended trials only to evaluate them"
                command, trial.evaluating = evaluation, True
            else:
                if self._options.check is not None:
                    self._options.check(trial)
                command = trial_command(self.sweep, trial, folder)
                trial.ran = trial.plan or trial.ran
                trial.state, trial.failure = "running", None
                trial.attempts += 1
            environment = trial_environment(self.sweep, trial, folder, self._options.mode)
            attempt = self._machine.start(command, environment, folder)
            metric = None if self.sweep.metric is None else self.sweep.metric.name
            progress = TrialProgress(trial, folder, metric)
            self._jobs.append(_Job(trial, attempt, progress, earlier_seconds=trial.seconds))
            self._record()

    def _next(self) -> Trial | None:
        """Returns the next trial to start: one that waits, one to be evaluated, or a new one."""
        running = [job.trial for job in self._jobs]
        for trial in self.trials:
            if trial.state == "waiting" and trial not in running:
                return trial
        for trial in self.trials:
            if trial not in running and self._evaluation_command(trial) is not None:
                return trial
        if self._search is None or len(self.trials) >= self._count:
            return None
        trial = self._search.next(self.trials)
        if any(
            canonical_parameters(trial.parameters) == canonical_parameters(other.parameters) for other in self.trials
        ):
            self._count = len(self.trials)  # the search space is exhausted
            return None
        self.trials.append(trial)
        return trial

    def _evaluation_command(self, trial: Trial) -> list[str] | None:
        """Returns the command that evaluates a trial; None if it is evaluated already, or is not to be evaluated."""
        if self._options.evaluate is None or trial.state not in ("finished", "stopped early") or trial.failure:
            return None
        if trial.name in self._not_to_evaluate:
            return None
        checkpoint = find_newest(self.folder / trial.name, CHECKPOINT)
        if checkpoint is not None:
            result = checkpoint.parent.parent / "evaluation" / checkpoint.stem / EVALUATION
            if not result.exists():
                return evaluation_command(checkpoint, self._options.evaluate)
        self._not_to_evaluate.add(trial.name)
        return None

    def _update(self, job: _Job) -> None:
        trial = job.trial
        status = job.attempt.status()  # before reading the metrics, so that the last rows are not missed
        now = time.monotonic()
        trial.seconds = job.earlier_seconds + now - job.start
        if status is not None or now >= job.last_read + _READ_SECONDS:
            job.last_read = now
            job.progress.update()
        metric = self.sweep.metric
        if metric is not None:
            trial.value = metric.best(trial.history)
        if status is None:
            return
        self._jobs.remove(job)
        if trial.evaluating:
            self._finish_evaluation(trial, status)
        else:
            self._finish_training(job, status)
        self._record()

    def _finish_evaluation(self, trial: Trial, status: int) -> None:
        trial.evaluating = False
        if status and not self._stopping:
            trial.failure = f"it could not be evaluated: {failure_reason(self.folder / trial.name, status)}"

    def _finish_training(self, job: _Job, status: int) -> None:
        trial = job.trial
        if status == 0 or job.stopped_early:
            trial.state = "finished" if status == 0 else "stopped early"
            problem = job.progress.missing_metric()
            if problem is not None:
                self.problem = problem
                if self.sweep.early_terminate is not None or self._search is not None:
                    self.stop()  # early stopping and search cannot work without the metric
        elif self._stopping:
            trial.state = "waiting"
            trial.attempts -= 1
        else:
            trial.failure = failure_reason(self.folder / trial.name, status)
            final = status == _WRONG_USAGE or trial.attempts > self._options.retries
            trial.state = "failed" if final else "waiting"

    def _stop_early(self) -> None:
        rule, metric = self.sweep.early_terminate, self.sweep.metric
        if rule is None or metric is None:
            return
        running = {job.trial.name: job for job in self._jobs if not (job.trial.ended or job.stopped_early)}
        histories = {trial.name: trial.history for trial in self.trials}
        for name in rule.stops(histories, list(running), metric.goal == "maximize"):
            running[name].stopped_early = True
            running[name].attempt.stop()

    def _record(self) -> None:
        write_record(self.folder, self.sweep, self.trials)
