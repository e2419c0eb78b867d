"""`w2vlab sweep`: all trials of a sweep file, without a server."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from w2vlab.cli.evaluation_options import EvaluationParser, at_least
from w2vlab.cli.fit import USER_ERRORS, messages_shown
from w2vlab.cli.problems import report_problem
from w2vlab.cli.sweep_check import TrialCheck
from w2vlab.cli.sweep_table import SweepView, print_again, print_plan, warn_of_losses
from w2vlab.cli.wandb_mode import OFFLINE, mode_of_environment
from w2vlab.files import folder_name
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

_HELP = """\
Usage: w2vlab sweep FILE [OPTIONS]

Runs every trial of a sweep file on this machine or on a Ray cluster. The file is in the format of Weights & Biases'
sweeps, and `wandb sweep FILE` with `wandb agent` runs the same one from a server.

  w2vlab sweep sweeps/quantizers_small --dry-run
  w2vlab sweep sweeps/quantizers_small --parallel 2 --evaluate

What was interrupted is begun again with the same command: finished trials stay as they are, others go on from their
last checkpoints. A trial that fails is tried again from there, then reported; the others go on. Where the options of
trials have changed since they were begun, by another command or an edited file behind it, the sweep is refused: its
table would hold different things. When all have ended, `w2vlab report FOLDER` makes the table.

Options:
  --folder DIR        Where everything goes (runs/sweeps/NAME).
  --devices D         auto (the default: all GPUs, or without one the processors), cpu, or numbers of GPUs with commas
                      between. A trial has one GPU, or a share of the processors.
  --parallel N        Trials at a time (one a GPU; 1 on the processors).
  --seeds N           Every trial under the seeds 1 to N, whatever the file says.
  --count N           Most trials (the file's `run_cap`); needed by random and bayes.
  --retries N         Further attempts of a trial that fails (1).
  --repeat TRIALS     Begin these anew: their names with commas between and * for any letters, or the word changed, for
                      all whose options have changed. What they have left is kept in FOLDER/set_aside/.
  --drop TRIALS       Take these out of the sweep, or all that the file has no more: gone.
  --evaluate          Run `w2vlab evaluate` on the last checkpoint of each trial, with the options that follow:
                      --evaluate="--abx_cells 300 --layers context".
  --wandb MODE        offline or online: one run a trial, in one group. By default what WANDB_MODE says, else offline.
  --ray ADDRESS       Run on a Ray cluster: auto, or its address (pip install 'w2vlab[sweep]'); the folder must be on
                      a disk that its nodes share. --cpus N (1) and --gpus X (0) say what a trial has.
  --dry-run           Show the trials and their commands, and begin none.
"""

_INTERRUPTED = 130


@messages_shown()
def run(options: list[str]) -> int:
    """Runs a sweep.

    Args:
        options: What follows `sweep` on the command line.

    Returns:
        Exit status: 0 all trials have ended well, 1 some failed or the sweep cannot be run, 2 wrong usage, 130 ended
        by SIGINT or SIGTERM.
    """
    if options in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    own = _parse(options)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        sweep = read_sweep(find_file(own.file, "FILE", SWEEP_FOLDERS))
        sweep = sweep if own.seeds is None else sweep.with_seeds(own.seeds)
        folder: Path = own.folder or Path("runs", "sweeps", folder_name(sweep.name))
        with ExitStack() as stack:
            lock = None if own.dry_run else stack.enter_context(lock_folder(folder))
            check = TrialCheck(sweep)
            count = own.count or sweep.run_cap
            trials, earlier, search = _trials(sweep, count, check, own, folder)
            if own.dry_run:
                print_plan(sweep, trials, earlier, console)
                return 0
            earlier.refuse_changed(folder)
            print_again(earlier, console)
            trials = earlier.apply(folder, trials)
            warn_of_losses(sweep, trials, console)
            machine = _machine(own, lock)
            evaluate = None if own.evaluate is None else [*shlex.split(own.evaluate), "--wandb=off"]
            mode = own.wandb or mode_of_environment() or OFFLINE
            runner_options = RunnerOptions(own.retries, mode, evaluate, check)
            runner = Runner(sweep, folder, trials, machine, runner_options, search, count or 0)
            return _run(runner, console, shlex.join(["w2vlab", "sweep", *options]))
    except (*USER_ERRORS, OSError) as problem:
        return report_problem(problem)


def _trials(
    sweep: Sweep, count: int | None, check: TrialCheck, own: argparse.Namespace, folder: Path
) -> tuple[list[Trial], EarlierTrials, BayesSearch | None]:
    """Returns the trials that are known before the first one, all of them looked at, and what finds more."""
    earlier = read_trials(folder)
    if sweep.method != "bayes":
        planned = planned_trials(sweep, count)
        check.all(planned)
        trials = merge_earlier_trials(planned, earlier)
        return trials, check_earlier_trials(folder, trials, planned, own.repeat, own.drop), None
    if count is None:
        raise ValueError("`--count` or the file's `run_cap` must be given for the method bayes, but neither is.")
    search = BayesSearch(sweep)
    # Later ones are looked at when they are chosen: a mistake in a name is in every one.
    check(search.next(earlier))
    trials = merge_earlier_trials([], [trial for trial in earlier if trial.ended])
    for trial in trials:
        with suppress(ValueError):  # it was run all the same
            check(trial)
    return trials, check_earlier_trials(folder, trials, trials, own.repeat, own.drop), search


def _machine(own: argparse.Namespace, lock: int | None) -> Machine:
    if own.ray is not None:
        return RayMachine(own.ray, own.parallel, own.cpus, own.gpus)
    return LocalMachine(_devices(own.devices), own.parallel, lock)


def _devices(text: str) -> list[str]:
    """Returns the GPUs by the names that `CUDA_VISIBLE_DEVICES` takes; none for the processors.

    Raises:
        ValueError: There is no such GPU.
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
            f"`devices` must be auto, cpu, or some of the GPUs {', '.join(there) or '(there is none)'} with commas "
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
        console.print(f"Interrupted. Go on with: {command}", soft_wrap=True, highlight=False, markup=False)
        return _INTERRUPTED
    console.print(f"The table: w2vlab report {shlex.quote(str(runner.folder))}", soft_wrap=True, highlight=False)
    return 1 if failed else 0


@contextmanager
def _signals_to(runner: Runner) -> Iterator[None]:
    """Has SIGINT and SIGTERM end the trials with a checkpoint; a second one ends them at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        runner.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parse(options: Sequence[str]) -> argparse.Namespace:
    parser = EvaluationParser("w2vlab sweep", add_help=False, allow_abbrev=False)
    parser.add_argument("file")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--parallel", type=at_least(1))
    parser.add_argument("--seeds", type=at_least(1))
    parser.add_argument("--count", type=at_least(1))
    parser.add_argument("--retries", type=at_least(0), default=1)
    parser.add_argument("--repeat", type=_names, default=[])
    parser.add_argument("--drop", type=_names, default=[])
    parser.add_argument("--evaluate", nargs="?", const="")
    parser.add_argument("--wandb", choices=("offline", "online"))
    parser.add_argument("--ray")
    parser.add_argument("--cpus", type=at_least(1), default=1)
    parser.add_argument("--gpus", type=float, default=0)
    parser.add_argument("--dry-run", "--dry_run", action="store_true")
    return parser.parse_args(options)
