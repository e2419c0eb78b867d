"""What is seen of a sweep: its plan, and how far its trials are."""

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

from w2vlab.comparable import depends_on_objective, describe_objective_differences
from w2vlab.sweeps import EarlierTrials, Runner, Sweep, Trial, varied_paths
from w2vlab.sweeps.again import SET_ASIDE
from w2vlab.sweeps.command import file_command
from w2vlab.sweeps.trial import format_value, value_at
from w2vlab.wording import count, one_line

_MOST_ROWS = 40


def print_plan(sweep: Sweep, trials: Sequence[Trial], earlier: EarlierTrials, console: Console) -> None:
    """Prints the trials of a sweep and their commands, and what becomes of those that were run before."""
    _say(console, f"{sweep.name}: {count(len(trials), 'trial')} ({sweep.method})", style="bold")
    changed = {trial.name: texts for trial, texts in earlier.changed}
    for trial in trials:
        values = ((".".join(path), value_at(trial.parameters, path)) for path in sweep.parameters)
        settings = ", ".join(f"{name}={format_value(value)}" for name, value in values)
        _say(console, f"{trial.name}: {settings}{_becomes(trial, earlier)}")
        _say(console, f"    {shlex.join(file_command(sweep, trial))}")
        if trial.name in changed:
            _say(console, f"    was run with other options: {', '.join(changed[trial.name])}")


def _becomes(trial: Trial, earlier: EarlierTrials) -> str:
    """Says what becomes of a trial that was run before."""
    if trial in earlier.dropped:
        return " (dropped)"
    if trial in earlier.repeated or trial in earlier.lost:
        return " (begins anew)"
    return f" ({trial.state})" if trial.ended else " (goes on)" if trial.started else ""


def print_again(earlier: EarlierTrials, console: Console) -> None:
    """Says which trials begin anew, and which are dropped."""
    for trial in earlier.repeated:
        _say(console, f"{trial.name}: begins anew, and what it had left is kept in {SET_ASIDE}/")
    for trial in earlier.lost:
        _say(console, f"{trial.name}: begins anew, because what it had left is not there any more")
    for trial in earlier.dropped:
        _say(console, f"{trial.name}: dropped")


def warn_of_losses(sweep: Sweep, trials: Sequence[Trial], console: Console) -> None:
    """Warns of a sweep that chooses between trials by a loss which means something else in each of them."""
    chooses = sweep.early_terminate is not None or sweep.method == "bayes"
    if sweep.metric is not None and chooses and (unlike := _unlike(sweep.metric.name, trials)):
        what = "`method` bayes chooses trials" if sweep.method == "bayes" else "`early_terminate` stops trials"
        _say(console, f"warning: {what} by {sweep.metric.name}, which cannot be compared: they differ in {unlike}.")


def _unlike(metric: str, trials: Sequence[Trial]) -> str:
    """Says in what trials differ that the meaning of a metric depends on; nothing where they can be compared by it."""
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


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(one_line(text), style=style), soft_wrap=True)


class SweepView:
    """Shows a sweep: a live table on a terminal, and in a log a line for everything that happens.

    Args:
        runner: Runs it.
        console: Where.
    """

    def __init__(self, runner: Runner, console: Console) -> None:
        self._runner = runner
        self._varied = varied_paths(runner.sweep)
        self._console = console
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._table, transient=True)
        # What an earlier run of the sweep has finished is no news.
        self._told = {trial.name: _what_happens(trial) for trial in runner.trials}

    def __enter__(self) -> SweepView:
        """Begins to show."""
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
        """Tells, in a log, what has changed."""
        for trial in self._runner.trials:
            now = _what_happens(trial)
            if self._told.get(trial.name, "waiting") != now and not self._console.is_terminal:
                value = "" if trial.value is None or not trial.ended else f", {self._metric_name}: {trial.value:.6g}"
                _say(self._console, f"{trial.name}: {now}{value}")
            self._told[trial.name] = now

    def print_end(self) -> None:
        """Prints the table as it is in the end, and why trials failed."""
        self._console.print(self._table(most=len(self._runner.trials)))
        ended = self._compared(self._runner.trials)
        if len(ended) > 1 and (unlike := _unlike(self._metric_name, ended)):
            _say(
                self._console, f"No trial is the best: {self._metric_name} cannot be compared, they differ in {unlike}."
            )
        for trial in self._runner.trials:
            if trial.failure is not None:
                _say(self._console, f"{trial.name} {_attempts(trial)}: {trial.failure}")

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
        for trial in _nearest_to_work(trials, most):
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


def _nearest_to_work(trials: Sequence[Trial], most: int) -> list[Trial]:
    """Returns at most so many trials in their order: those that run and their neighbours."""
    if len(trials) <= most:
        return list(trials)
    first = next((i for i, trial in enumerate(trials) if not trial.ended), len(trials))
    start = max(0, min(first - most // 4, len(trials) - most))
    return list(trials[start : start + most])


def _state(trial: Trial) -> str:
    return "evaluating" if trial.evaluating else trial.state


def _what_happens(trial: Trial) -> str:
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
