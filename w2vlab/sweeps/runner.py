"""Runs the trials of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2vlab.files import EVALUATION
from w2vlab.sweeps.bayes import BayesSearch
from w2vlab.sweeps.command import evaluation_command, trial_command, trial_environment
from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.machine import Attempt, Machine
from w2vlab.sweeps.progress import TrialProgress
from w2vlab.sweeps.record import write_record
from w2vlab.sweeps.trial import CHECKPOINT, Trial, identity, newest, why_it_failed

_WRONG_USAGE = 2
"""The exit status of a run whose options are wrong: it would be the same at the next attempt."""

_POLL_SECONDS = 0.3
_LOOK_SECONDS = 2.0
"""How often the files of a trial that runs are looked at: they may be on a slow disk."""

_GRACE_SECONDS = 60.0
"""How long a trial that is asked to end has for its checkpoint."""


@dataclass(frozen=True)
class RunnerOptions:
    """How trials are run.

    Attributes:
        retries: Further attempts of a trial that fails.
        mode: Of Weights & Biases: `online` or `offline`.
        evaluate: Options of `w2vlab evaluate`, which follows each trial; None for no evaluation.
        check: Looks at a trial before it is begun, where that has not been done: with `bayes`.
    """

    retries: int = 1
    mode: str = "offline"
    evaluate: list[str] | None = None
    check: Callable[[Trial], None] | None = None


@dataclass
class _Job:
    """A trial that runs."""

    trial: Trial
    attempt: Attempt
    progress: TrialProgress
    start: float = field(default_factory=time.monotonic)
    before: float = 0.0
    looked: float = 0.0
    stopped_early: bool = False


class Runner:
    """Runs trials side by side until none is left.

    Args:
        sweep: The sweep.
        folder: Of the sweep; each trial has one of its name in it.
        trials: Those that are known at the start.
        machine: Where they run.
        options: How.
        search: Chooses further trials.
        count: Most trials of the search.
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
        """What ended the sweep before its trials had."""
        self._machine = machine
        self._options = options
        self._search = search
        self._count = count
        self._jobs: list[_Job] = []
        self._stopping = False
        self._not_to_evaluate: set[str] = set()

    def stop(self) -> None:
        """Asks for the end: trials that run write a checkpoint and wait for the next time. At once when asked again."""
        for job in self._jobs:
            (job.attempt.kill if self._stopping else job.attempt.stop)()
        self._stopping = True

    def run(self, show: Callable[[], None]) -> None:
        """Runs until every trial has ended, or `stop` was called.

        Args:
            show: Called whenever something may have changed.
        """
        self._record()
        while True:
            if not self._stopping:
                self._begin()
            for job in list(self._jobs):
                self._look(job)
            if not self._stopping:
                self._stop_early()
            show()
            if not self._jobs and (self._stopping or self._next() is None):
                break
            time.sleep(_POLL_SECONDS)
        self._record()

    def end(self) -> None:
        """Ends what still runs: gently, then for good."""
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

    def _begin(self) -> None:
        while len(self._jobs) < self._machine.parallel and (trial := self._next()) is not None:
            folder = self.folder / trial.name
            folder.mkdir(parents=True, exist_ok=True)
            if trial.ended:
                evaluation = self._evaluation(trial)
                assert evaluation is not None, "or it would not have been next"
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
            self._jobs.append(_Job(trial, attempt, TrialProgress(trial, folder, metric), before=trial.seconds))
            self._record()

    def _next(self) -> Trial | None:
        """Returns the trial to begin: one that waits, one to be evaluated, or a new one."""
        running = [job.trial for job in self._jobs]
        for trial in self.trials:
            if trial.state == "waiting" and trial not in running:
                return trial
        for trial in self.trials:
            if trial not in running and self._evaluation(trial) is not None:
                return trial
        if self._search is None or len(self.trials) >= self._count:
            return None
        trial = self._search.next(self.trials)
        if any(identity(trial.parameters) == identity(other.parameters) for other in self.trials):
            self._count = len(self.trials)  # nothing new is to be had
            return None
        self.trials.append(trial)
        return trial

    def _evaluation(self, trial: Trial) -> list[str] | None:
        """Returns the command that evaluates a trial; None where that is done, not wanted or not possible."""
        if self._options.evaluate is None or trial.state not in ("finished", "stopped early") or trial.failure:
            return None
        if trial.name in self._not_to_evaluate:
            return None
        checkpoint = newest(self.folder / trial.name, CHECKPOINT)
        if checkpoint is not None:
            done = checkpoint.parent.parent / "evaluation" / checkpoint.stem / EVALUATION
            if not done.exists():
                return evaluation_command(checkpoint, self._options.evaluate)
        self._not_to_evaluate.add(trial.name)
        return None

    def _look(self, job: _Job) -> None:
        trial = job.trial
        status = job.attempt.status()  # before the rows, so that none is missed
        now = time.monotonic()
        trial.seconds = job.before + now - job.start
        if status is not None or now >= job.looked + _LOOK_SECONDS:
            job.looked = now
            job.progress.look()
        metric = self.sweep.metric
        if metric is not None:
            trial.value = metric.best(trial.history)
        if status is None:
            return
        self._jobs.remove(job)
        if trial.evaluating:
            self._evaluated(trial, status)
        else:
            self._trained(job, status)
        self._record()

    def _evaluated(self, trial: Trial, status: int) -> None:
        trial.evaluating = False
        if status and not self._stopping:
            trial.failure = f"it could not be evaluated: {why_it_failed(self.folder / trial.name, status)}"

    def _trained(self, job: _Job, status: int) -> None:
        trial = job.trial
        if status == 0 or job.stopped_early:
            trial.state = "finished" if status == 0 else "stopped early"
            problem = job.progress.missing_metric()
            if problem is not None:
                self.problem = problem
                if self.sweep.early_terminate is not None or self._search is not None:
                    self.stop()  # whatever follows would be chosen by nothing
        elif self._stopping:
            trial.state = "waiting"
            trial.attempts -= 1
        else:
            trial.failure = why_it_failed(self.folder / trial.name, status)
            final = status == _WRONG_USAGE or trial.attempts > self._options.retries
            trial.state = "failed" if final else "waiting"

    def _stop_early(self) -> None:
        rule, metric = self.sweep.early_terminate, self.sweep.metric
        if rule is None or metric is None:
            return
        running = {j.trial.name: j for j in self._jobs if not (j.trial.ended or j.stopped_early)}
        histories = {trial.name: trial.history for trial in self.trials}
        for name in rule.stops(histories, list(running), metric.goal == "maximize"):
            running[name].stopped_early = True
            running[name].attempt.stop()

    def _record(self) -> None:
        write_record(self.folder, self.sweep, self.trials)
