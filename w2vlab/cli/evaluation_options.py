"""What `w2vlab evaluate` and `w2vlab compare` are told, and where their results go."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 60
"""In a log, where a stage takes longer."""

OPTIONS = """\
  --corpus NAME       Labelled speech: festvox-ru (the default; fetched once), a folder of audio with .lab files, or a
                      lhotse manifest of cuts with the alignment `phone`. Without labels, what codes alone tell is
                      measured.
  --layers LIST       all (the default), or some of them with commas between: numbers of the context network's layers
                      (0 is what goes into the first), latents, context, quantized, codes.
  --split RULE        Which utterances probes learn from and which all is measured on: hash (the default: by a hash of
                      each id, a tenth may be tested on), or a JSON file with the lists `train` and `test`, as this
                      command leaves one.
  --num_train N       Most utterances to learn from under hash (150).
  --num_test N        Most utterances to measure on under hash (50).
  --abx_cells N       Cells of the ABX task: all (the default), or at most N, drawn evenly among pairs of phones, then
                      among the cells of each, which leaves the error's expected value as it is; 0 leaves ABX out.
  --abx_utterances W  Where cells come from: test (the default), or all labelled utterances, which can take minutes
                      for each representation.
  --seed N            Of the draw of cells (0); nothing else is drawn.
  --device D          auto (the default), cpu, or cuda.
  --batch_seconds S   Most audio in a batch (40).
  --cache_dir DIR     Where fetched corpora are, as for `w2vlab fit`.
  --wandb MODE        offline (the default), online, or off.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that both commands have."""
    parser.add_argument("--corpus", default="festvox-ru")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--split", default="hash")
    parser.add_argument("--num_train", type=at_least(2), default=150)
    parser.add_argument("--num_test", type=at_least(1), default=50)
    parser.add_argument("--abx_cells", type=all_or_at_least(0), default=None)
    parser.add_argument("--abx_utterances", choices=("test", "all"), default="test")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch_seconds", type=at_least(1), default=40)
    parser.add_argument("--cache_dir", type=Path)
    parser.add_argument("--wandb", choices=("offline", "online", "off"), default="offline")
    parser.add_argument("--folder", type=Path)


class EvaluationParser(argparse.ArgumentParser):
    """Says what is wrong in a line, as the other commands do."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Prints the problem and exits with status 2."""
        self.exit(2, f"error: {message} `{self.prog} --help` shows the options.\n")


def at_least(least: int) -> Callable[[str], int]:
    """Returns what reads an option that is a whole number of at least `least`."""

    def parse(text: str) -> int:
        with suppress(ValueError):
            if (value := int(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, but is {text}.")

    return parse


def all_or_at_least(least: int) -> Callable[[str], int | None]:
    """Returns what reads an option that is `all`, which becomes None, or a whole number of at least `least`."""

    def parse(text: str) -> int | None:
        if text == "all":
            return None
        with suppress(argparse.ArgumentTypeError):
            return at_least(least)(text)
        raise argparse.ArgumentTypeError(f"must be all or a whole number of at least {least}, but is {text}.")

    return parse


def device_named(name: str) -> torch.device:
    """Returns the device that `auto`, `cpu` or `cuda` stands for on this machine.

    Raises:
        ValueError: There is no such device.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("`device` must be cpu or auto on this machine, but is cuda, and PyTorch sees no such device.")
    return torch.device("cuda" if name != "cpu" and there else "cpu")


def result_folder(checkpoint: Path) -> Path:
    """Returns where the results of a checkpoint go: `evaluation/<its name>` in the folder of its run."""
    folder = checkpoint.absolute().parent
    run = folder.parent if folder.name == "checkpoints" else folder
    return run / "evaluation" / checkpoint.stem


@dataclass
class ProgressReporter:
    """Shows stages as bars on a terminal, and in a log as a line each, with more of them in stages that take minutes.

    Attributes:
        console: Where.
        prefix: What to put before the name of each.
    """

    console: Console
    prefix: str = ""

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Callable[[float], None]]:
        """Shows one stage until it is done."""
        start = told = time.perf_counter()
        done = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(self.prefix + name, total=total)

            def advance(steps: float) -> None:
                nonlocal done, told
                progress.update(task, advance=steps)
                done += steps
                now = time.perf_counter()
                if not self.console.is_terminal and now - told > _SECONDS_BETWEEN_LINES and done < total:
                    told = now
                    self._print(f"{name}: {done:,.0f} of {total:,.0f}")

            yield advance
        if not self.console.is_terminal:
            self._print(f"{name}: {time.perf_counter() - start:.1f} s")

    def _print(self, text: str) -> None:
        self.console.print(self.prefix + text, highlight=False, soft_wrap=True)
