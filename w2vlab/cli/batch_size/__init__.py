"""`w2vlab batch-size`: the size of batches, chosen by a short trial on this machine."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.lightning.memory import use_large_pages
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.utils.checks import check_at_least


@dataclass(kw_only=True)
class BatchSizeOptions:
    """Chooses the size of batches by a short trial on this machine. CONFIG is a recipe; any option of `w2vlab fit` too.

    It measures the memory and the time of whole training steps on noise. The result is options of the data with
    which short and long batches take the same time, the largest batches fit in memory, and an update keeps its audio.
    Nothing is trained, and no corpus is needed. The trial runs on one device, without the communication of several.

      w2vlab batch-size wav2vec2_base --out batches.yaml
      w2vlab fit --config wav2vec2_base --config batches.yaml

    Attributes:
        out: File for the result, a further `--config` of `w2vlab fit`; by default it is only printed.
        memory: Most memory of a process, in GiB; by default 90 % of the device's, or of what is available to a CPU,
            divided by the number of processes.
        seconds_per_micro_batch: Longest time of a micro-batch, in seconds.
        rounds: How often each batch is timed; the median counts.
    """

    out: Path | None = None
    memory: float | None = None
    seconds_per_micro_batch: float | None = None
    rounds: int = 5

    def __post_init__(self) -> None:
        check_at_least(1, rounds=self.rounds)
        for name in ("memory", "seconds_per_micro_batch"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be a positive number, but is {value}.")


def run(words: Sequence[str]) -> int:
    """Chooses the size of batches.

    Args:
        words: What follows `batch-size` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage, 130, 143 or 138 ended by SIGINT, SIGTERM or SIGUSR1.
    """
    parser = CommandParser(BatchSizeOptions, "batch-size CONFIG", with_config=False)
    if {"-h", "--help"} & set(words):
        parser.parse(["--help"])
    own_words, fit_words = parser.split(words)
    options = parser.parse(own_words)
    if fit_words and not fit_words[0].startswith("-"):
        fit_words = [f"--config={fit_words[0]}", *fit_words[1:]]
    if not fit_words:
        parser.parser.fail("`CONFIG` must be given: w2vlab batch-size wav2vec2_base")
    if options.out is not None and not options.out.parent.is_dir():
        parser.parser.fail(f"`out` must be in a folder that exists, but is {options.out}.")
    if options.out is not None and options.out.is_dir():
        parser.parser.fail(f"`out` must be a file, but {options.out} is a folder.")
    use_large_pages()
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler, stop_at_once
    from w2vlab.cli.batch_size.trial import choose
    from w2vlab.cli.logging.no_news import without_routine_messages
    from w2vlab.types import RunError

    try:
        with without_routine_messages(), messages_shown(), signal_handler(stop_at_once):
            choose(fit_words, options.out, options.memory, options.seconds_per_micro_batch, options.rounds)
    except Stopped as stop:
        sys.stderr.write(f"\nEnded by {stop.signal.name}.\n")
        return stop.status
    except user_errors(OSError, RunError) as problem:
        return report_problem(problem)
    return 0
