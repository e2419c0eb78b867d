"""`w2vlab sweep`: all trials of a sweep file, without a server."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.evaluation_options import EvaluateOptions
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.logging.wandb_mode import OFFLINE, mode_of_environment
from w2vlab.cli.parsing.command_parser import WITHOUT_VALUE, CommandParser, names
from w2vlab.recipes import SWEEP_FOLDERS, find_file
from w2vlab.sweeps import (
    BayesSearch,
    EarlierTrials,
    LocalMachine,
    Machine,
    RayMachine,
    Runner,
    RunnerOptions,
    Sweep,
    Trial,
    check_earlier_trials,
    lock_folder,
    merge_earlier_trials,
    planned_trials,
    read_sweep,
    read_trials,
)
from w2vlab.sweeps.table import SweepView, print_again, print_plan, warn_of_losses
from w2vlab.utils.checks import check_at_least
from w2vlab.utils.files import folder_name

if TYPE_CHECKING:
    from w2vlab.cli.sweep_check import TrialCheck

_INTERRUPTED = 130


@dataclass(kw_only=True)
class SweepOptions:
    """Runs every trial of a sweep file on this machine or on a Ray cluster.

    The file is in the format of Weights & Biases' sweeps, so that `wandb sweep FILE` with `wandb agent` runs the same
    one from a server.

      w2vlab sweep sweeps/quantizers_small --dry-run
      w2vlab sweep sweeps/quantizers_small --parallel 2 --evaluate

    The same command resumes a sweep that was interrupted: finished trials are kept, others resume from their last
    checkpoints. A trial that fails is retried from there, then reported, and the others continue. If the options of
    trials have changed since they began, by another command or by an edited file that it names, the sweep is refused,
    because its table would mix different runs. When all trials have ended, `w2vlab report FOLDER` makes the table.

    Attributes:
        file: The sweep file, or the name of a shipped one.
        folder: Folder of the sweep; by default runs/sweeps/NAME.
        devices: auto (all GPUs, or without one the processors), cpu, or numbers of GPUs with commas between. A trial
            has one GPU, or a share of the processors.
        parallel: Trials at a time; by default one a GPU, and 1 on the processors.
        seeds: Number of seeds: every trial runs with seeds 1 to this number, which override those of the file.
        count: Most trials; by default the file's `run_cap`. Needed by the methods random and bayes.
        retries: Further attempts of a trial that fails.
        repeat: Trials to run again from the beginning: their names, with commas between and * for any letters, or the
            word changed, for all whose options have changed. Their files are kept in FOLDER/set_aside/.
        drop: Trials to take out of the sweep: their names as for `repeat`, or the word gone, for all that the file does
            not have any more.
        evaluate: Run `w2vlab evaluate` on the last checkpoint of each trial, with these options:
            --evaluate="--abx_cells 300 --layers context"; --evaluate alone for the default ones.
        wandb: Mode of Weights & Biases, with one run a trial, in one group; by default that of WANDB_MODE, else
            offline.
        ray: Address of a Ray cluster to run on, or auto (pip install 'w2vlab[sweep]'). The folder must be on a disk
            that its nodes share.
        cpus: Processors of a trial on a Ray cluster.
        gpus: GPUs of a trial on a Ray cluster.
        dry_run: Show the trials and their commands, and run none.
    """

    file: str
    folder: Path | None = None
    devices: str = "auto"
    parallel: int | None = None
    seeds: int | None = None
    count: int | None = None
    retries: int = 1
    repeat: list[str] | str = field(default_factory=list)
    drop: list[str] | str = field(default_factory=list)
    evaluate: str | None = field(default=None, metadata={WITHOUT_VALUE: ""})
    wandb: Literal["offline", "online"] | None = None
    ray: str | None = None
    cpus: int = 1
    gpus: float = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, parallel=self.parallel, seeds=self.seeds, count=self.count, cpus=self.cpus)
        check_at_least(0, retries=self.retries)
        self.repeat = names(self.repeat, "repeat") if self.repeat else []
        self.drop = names(self.drop, "drop") if self.drop else []


def run(words: Sequence[str]) -> int:
    """Runs a sweep.

    Args:
        words: What follows `sweep` on the command line.

    Returns:
        Exit status: 0 all trials have succeeded, 1 some failed or the sweep cannot be run, 2 wrong usage, 130 ended
        by SIGINT or SIGTERM.
    """
    options = CommandParser(SweepOptions, "sweep", "file").parse(words)
    try:
        if options.evaluate:  # wrong options are reported before the first trial, not after it
            CommandParser(EvaluateOptions, "evaluate", "checkpoint").parse(["…", *shlex.split(options.evaluate)])
        with messages_shown():
            return run_sweep(options, shlex.join(["w2vlab", "sweep", *words]))
    except user_errors(OSError) as problem:
        return report_problem(problem)


def run_sweep(options: SweepOptions, command: str) -> int:
    """Runs the trials of a sweep.

    Args:
        options: The options.
        command: Command line that resumes the sweep, shown if it is interrupted.

    Returns:
        Exit status, as `run`.

    Raises:
        ValueError: The file, one of its trials or an option cannot be used.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.cli.lightning.parsed import check_run
    from w2vlab.cli.sweep_check import TrialCheck
    from w2vlab.registry import load_parts

    console = output_console(120)
    sweep = read_sweep(find_file(options.file, "FILE", SWEEP_FOLDERS))
    sweep = sweep if options.seeds is None else sweep.with_seeds(options.seeds)
    folder: Path = options.folder or Path("runs", "sweeps", folder_name(sweep.name))
    with ExitStack() as stack:
        lock = None if options.dry_run else stack.enter_context(lock_folder(folder))
        load_parts()
        check = TrialCheck(sweep, check_run)
        count = options.count or sweep.run_cap
        trials, earlier, search = _trials(sweep, count, check, options, folder)
        if options.dry_run:
            print_plan(sweep, trials, earlier, console)
            return 0
        earlier.refuse_changed(folder)
        print_again(earlier, console)
        trials = earlier.apply(folder, trials)
        warn_of_losses(sweep, trials, console)
        machine = _machine(options, lock)
        evaluate = None if options.evaluate is None else [*shlex.split(options.evaluate), "--wandb=off"]
        mode = options.wandb or mode_of_environment() or OFFLINE
        runner_options = RunnerOptions(options.retries, mode, evaluate, check)
        runner = Runner(sweep, folder, trials, machine, runner_options, search, count or 0)
        return _run(runner, console, command)


def _trials(
    sweep: Sweep, count: int | None, check: TrialCheck, options: SweepOptions, folder: Path
) -> tuple[list[Trial], EarlierTrials, BayesSearch | None]:
    """Returns the trials that are known before the first one, all of them checked, and the search for more."""
    repeat, drop = list(options.repeat), list(options.drop)
    earlier = read_trials(folder)
    if sweep.method != "bayes":
        planned = planned_trials(sweep, count)
        check.all(planned)
        trials = merge_earlier_trials(planned, earlier)
        return trials, check_earlier_trials(folder, trials, planned, repeat, drop), None
    if count is None:
        raise ValueError("`--count` or the file's `run_cap` must be given for the method bayes, but neither is.")
    search = BayesSearch(sweep)
    # Later ones are checked when they are chosen; a mistake in a name is in every trial.
    check(search.next(earlier))
    trials = merge_earlier_trials([], [trial for trial in earlier if trial.ended])
    for trial in trials:
        with suppress(ValueError):  # it was run before
            check(trial)
    return trials, check_earlier_trials(folder, trials, trials, repeat, drop), search


def _machine(options: SweepOptions, lock: int | None) -> Machine:
    if options.ray is not None:
        return RayMachine(options.ray, options.parallel, options.cpus, options.gpus)
    return LocalMachine(_devices(options.devices), options.parallel, lock)


def _devices(text: str) -> list[str]:
    """Returns the GPUs by the names that `CUDA_VISIBLE_DEVICES` takes; none for the processors.

    Raises:
        ValueError: The GPU does not exist.
    """
    import torch

    if text == "cpu":
        return []
    number = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    there = visible[:number] if visible else [str(device) for device in range(number)]
    if text == "auto":
        return there
    asked = [name.strip() for name in text.split(",")]
    unknown = [name for name in asked if name not in there]
    if unknown or len(set(asked)) != len(asked):
        raise ValueError(
            f"`devices` must be auto, cpu, or some of the GPUs {', '.join(there) or '(none)'} with commas "
            f"between, each once, but is {text}."
        )
    return asked


def _run(runner: Runner, console: Console, command: str) -> int:
    with _signals_to(runner), SweepView(runner, console) as view:
        try:
            runner.run(view.update)
        except BaseException:
            runner.end()
            raise
    view.print_end()
    waiting = [trial for trial in runner.trials if not trial.ended]
    failed = [trial for trial in runner.trials if trial.failure is not None]
    if runner.problem is not None:
        return report_problem(ValueError(runner.problem))
    if waiting:
        console.print(f"Interrupted. Resume with: {command}", soft_wrap=True, highlight=False, markup=False)
        return _INTERRUPTED
    console.print(f"The table: w2vlab report {shlex.quote(str(runner.folder))}", soft_wrap=True, highlight=False)
    return 1 if failed else 0


@contextmanager
def _signals_to(runner: Runner) -> Iterator[None]:
    """Makes SIGINT and SIGTERM end the trials with a checkpoint; a second one ends them at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        runner.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
