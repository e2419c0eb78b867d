"""The plan and the progress of a sweep, as text."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from w2vlab.sweeps import EarlierTrials, Runner, Sweep, Trial, varied_paths
from w2vlab.sweeps.again import SET_ASIDE
from w2vlab.sweeps.running.command import file_command
from w2vlab.sweeps.trial import format_value, value_at
from w2vlab.utils.comparable import depends_on_objective, describe_objective_differences
from w2vlab.utils.messages import count, one_line

_MOST_ROWS = 40


def print_plan(sweep: Sweep, trials: Sequence[Trial], earlier: EarlierTrials, console: Console) -> None:
    """Prints the trials of a sweep and their commands, and the state of those that were run before."""
    _print(console, f"{sweep.name}: {count(len(trials), 'trial')} ({sweep.method})", style="bold")
    changed = {trial.name: texts for trial, texts in earlier.changed}
    for trial in trials:
        values = ((".".join(path), value_at(trial.parameters, path)) for path in sweep.parameters)
        settings = ", ".join(f"{name}={format_value(value)}" for name, value in values)
        _print(console, f"{trial.name}: {settings}{_becomes(trial, earlier)}")
        _print(console, f"    {shlex.join(file_command(sweep, trial))}")
        if trial.name in changed:
            _print(console, f"    was run with other options: {', '.join(changed[trial.name])}")


def _becomes(trial: Trial, earlier: EarlierTrials) -> str:
    """Describes what happens to a trial that was run before."""
    if trial in earlier.dropped:
        return " (dropped)"
    if trial in earlier.repeated or trial in earlier.lost:
        return " (restarts)"
    return f" ({trial.state})" if trial.ended else " (resumes)" if trial.started else ""


def print_again(earlier: EarlierTrials, console: Console) -> None:
    """Prints which trials restart, and which are dropped."""
    for trial in earlier.repeated:
        _print(console, f"{trial.name}: restarts, and its files are kept in {SET_ASIDE}/")
    for trial in earlier.lost:
        _print(console, f"{trial.name}: restarts, because its files are missing")
    for trial in earlier.dropped:
        _print(console, f"{trial.name}: dropped")


def warn_of_losses(sweep: Sweep, trials: Sequence[Trial], console: Console) -> None:
    """Warns of a sweep that chooses between trials by a loss that is not comparable between them."""
    chooses = sweep.early_terminate is not None or sweep.method == "bayes"
    if sweep.metric is not None and chooses and (unlike := _unlike(sweep.metric.name, trials)):
        what = "`method` bayes chooses trials" if sweep.method == "bayes" else "`early_terminate` stops trials"
        _print(console, f"warning: {what} by {sweep.metric.name}, which cannot be compared: they differ in {unlike}.")


def _unlike(metric: str, trials: Sequence[Trial]) -> str:
    """Returns in what trials differ that the meaning of a metric depends on; empty if it is comparable."""
    if not depends_on_objective(metric) and "/codebook/" not in metric:
        return ""
    plans = [trial.ran or trial.plan for trial in trials]
    if known := [plan.options for plan in plans if plan is not None]:
        return (
            describe_objective_differences(known)
            if len(known) == len(plans)
            else "what an earlier version has not recorded"
        )
    return ""


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(one_line(text), style=style), soft_wrap=True)


class SweepView:
    """Shows a sweep: a live table on a terminal, and in a log a line for every event.

    Args:
        runner: Runs it.
        console: Where.
    """

    def __init__(self, runner: Runner, console: Console) -> None:
        self._runner = runner
        self._varied = varied_paths(runner.sweep)
        self._console = console
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._table, transient=True)
        # Trials that were finished before are not reported again.
        self._reported = {trial.name: _event(trial) for trial in runner.trials}

    def __enter__(self) -> SweepView:
        """Starts the live table."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the live table."""
        if self._console.is_terminal:
            self._live.stop()

    def update(self) -> None:
        """Prints, in a log, the changes."""
        for trial in self._runner.trials:
            now = _event(trial)
            if self._reported.get(trial.name, "waiting") != now and not self._console.is_terminal:
                value = "" if trial.value is None or not trial.ended else f", {self._metric_name}: {trial.value:.6g}"
                _print(self._console, f"{trial.name}: {now}{value}")
            self._reported[trial.name] = now

    def print_end(self) -> None:
        """Prints the final table, and why trials failed."""
        self._console.print(self._table(most=len(self._runner.trials)))
        ended = self._compared(self._runner.trials)
        if len(ended) > 1 and (unlike := _unlike(self._metric_name, ended)):
            _print(
                self._console, f"No trial is the best: {self._metric_name} cannot be compared, they differ in {unlike}."
            )
        for trial in self._runner.trials:
            if trial.failure is not None:
                _print(self._console, f"{trial.name} {_attempts(trial)}: {trial.failure}")

    @property
    def _metric_name(self) -> str:
        metric = self._runner.sweep.metric
        return "value" if metric is None else metric.name

    def _table(self, most: int = _MOST_ROWS) -> Table:
        trials = self._runner.trials
        counts = Counter(_state(trial) for trial in trials)
        title = f"{self._runner.sweep.name}: " + ", ".join(f"{number} {state}" for state, number in counts.items())
        # As `Text`, because a string may hold markup of rich.
        table = Table(title=Text(one_line(title)))
        for head in (*map(_short, self._varied), "state", "update", "time", self._metric_name):
            table.add_column(Text(one_line(head)))
        best = self._best(trials)
        for trial in _around_running(trials, most):
            of = "" if trial.updates is None else f" of {trial.updates}"
            value = "" if trial.value is None else f"{trial.value:.5g}"
            table.add_row(
                *(Text(one_line(format_value(value_at(trial.parameters, path)))) for path in self._varied),
                _state(trial),
                f"{trial.update}{of}" if trial.update else "",
                str(timedelta(seconds=round(trial.seconds))) if trial.seconds else "",
                f"{value} (best)" if trial is best else value,
            )
        if len(trials) > most:
            table.caption = f"{len(trials) - most} more"
        return table

    def _compared(self, trials: Iterable[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.ended and trial.state != "failed" and trial.value is not None]

    def _best(self, trials: Iterable[Trial]) -> Trial | None:
        metric = self._runner.sweep.metric
        ended = self._compared(trials)
        if metric is None or len(ended) < 2 or _unlike(metric.name, ended):
            return None
        best = metric.best([trial.value for trial in ended if trial.value is not None])
        return next(trial for trial in ended if trial.value == best)


def _around_running(trials: Sequence[Trial], most: int) -> list[Trial]:
    """Returns at most this many trials in their order: those that run and their neighbours."""
    if len(trials) <= most:
        return list(trials)
    first = next((i for i, trial in enumerate(trials) if not trial.ended), len(trials))
    start = max(0, min(first - most // 4, len(trials) - most))
    return list(trials[start : start + most])


def _state(trial: Trial) -> str:
    return "evaluating" if trial.evaluating else trial.state


def _event(trial: Trial) -> str:
    state = _state(trial)
    if state == "running" and trial.attempts > 1:
        return f"running, attempt {trial.attempts}"
    if trial.failure is not None and state in ("waiting", "failed"):
        return f"{state} {_attempts(trial)}: {trial.failure}"
    return state


def _attempts(trial: Trial) -> str:
    return f"after {count(trial.attempts, 'attempt')}"


def _short(path: tuple[str, ...]) -> str:
    return ".".join(path).removesuffix(".class_path").removeprefix("model.")
