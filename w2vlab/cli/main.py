"""The console script: dispatches to the file of the command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType

from w2vlab import __version__
from w2vlab.cli.lightning.allocator import restart_with_settings
from w2vlab.cli.lightning.memory import frozen_objects, use_large_pages, without_garbage_collection
from w2vlab.registry import known_names
from w2vlab.utils.messages import warnings_in_a_line

_COMMANDS = (
    *("fit", "validate", "evaluate", "compare", "prepare", "encode", "cluster", "hubert", "export", "import"),
    *("sweep", "report", "explain", "batch-size", "parts", "configs", "doctor"),
)

_MODULES = {
    **{"import": "import_", "batch-size": "batch_size", "explain": "batch_size.speed"},
    **{name: f"corpus.{name}" for name in ("prepare", "encode", "cluster", "hubert")},
}
"""The module of a command that is not named like it."""

_HELP = """\
Usage: w2vlab COMMAND [OPTIONS]

Pretraining of wav2vec-family speech models from interchangeable parts.

Commands:
  fit       Train a model:                  w2vlab fit --config quickstart
  validate  Score a checkpoint:             w2vlab validate --config quickstart --ckpt_path=last
  evaluate  Measure a checkpoint:           w2vlab evaluate runs/w2vlab/ID/checkpoints/last.ckpt
  compare   Compare several checkpoints:    w2vlab compare ONE.ckpt ANOTHER.ckpt
  prepare   Fetch, cut or shard a corpus:   w2vlab prepare CORPUS FOLDER --shards
  encode    Features, codes or units:       w2vlab encode last.ckpt CORPUS FOLDER --what codes
  cluster   K-means of the frames:          w2vlab cluster mfcc CORPUS centers.safetensors --k 100
  hubert    Cluster, encode, fit, repeat:   w2vlab hubert hubert_small --iterations 2
  export    Write for another project:      w2vlab export last.ckpt FOLDER --format huggingface
  import    Read from another project:      w2vlab import FOLDER model.ckpt
  sweep     Train the runs of a sweep:      w2vlab sweep sweeps/quantizers_small
  report    Compare runs in a table:        w2vlab report runs/sweeps/quantizers_small
  explain   Describe a configuration:       w2vlab explain --config quickstart
  batch-size Choose a size of batches:      w2vlab batch-size quickstart --out batches.yaml
  parts     List the parts to choose from:  w2vlab parts quantizer
  configs   List the shipped recipes:       w2vlab configs; w2vlab configs copy quickstart
  doctor    Check the installation:         w2vlab doctor

Options:
  -h, --help  Show this help; `w2vlab fit --help` shows the options of a command.
  --version   Show the version.

Swap a part with one flag:             w2vlab fit --config FILE --model.quantizer=KMeansQuantizer
See the options of a part:             w2vlab fit --model=MaskedPrediction --model.quantizer.help KMeansQuantizer
See the run with every default filled: w2vlab fit --config FILE --print_config
"""


def main(args: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: What follows `w2vlab` on the command line; by default from `sys.argv`.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage; 130, 143 or 138 ended by SIGINT, SIGTERM or SIGUSR1.
    """
    if args is None:
        args = sys.argv[1:]
        if args[:1] in (["fit"], ["batch-size"]):  # which tries what `fit` would do
            restart_with_settings()
    with warnings_in_a_line():
        return _run(args)


def _run(args: list[str]) -> int:
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    try:
        # Commands are imported on call, because PyTorch takes seconds, and `parts` and the help do not need it.
        if command in ("fit", "validate"):
            use_large_pages()
            with _ended_by_signals(), without_garbage_collection():
                _import_logger(rest)
                from w2vlab.cli import fit

            with frozen_objects():
                return fit.run(command, rest)
        if command in _COMMANDS:
            status: int = import_module(f"w2vlab.cli.{_MODULES.get(command, command)}").run(rest)
            return status
    except SystemExit as end:  # raised by the parsers
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as problem:
        from w2vlab.cli.errors.packages import load_failure
        from w2vlab.cli.errors.problems import report_problem

        if load_failure(problem) is None:
            raise
        return report_problem(problem)  # a missing or broken package
    if command in ("-h", "--help", "--version"):
        sys.stdout.write(f"w2vlab {__version__}\n" if command == "--version" else _HELP)
        return 0
    sys.stderr.write(f"error: Unknown command '{command}'. {known_names(command, _COMMANDS)}\n")
    return 2


def _import_logger(options: list[str]) -> None:
    """Imports the modules that Weights & Biases imports when a run starts, unless an option names another logger.

    For each of its models, pydantic searches all modules that are loaded. After PyTorch's are, that takes five times as
    long.
    """
    if any(option.startswith(f"--{name}") for option in options for name in ("trainer.logger", "help", "print_config")):
        return
    with suppress(Exception):  # a run that needs it reports the error later
        import wandb.sdk.launch.inputs.internal  # noqa: F401


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Makes signals end the process with the exit status that they have during a run, while libraries are imported."""

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"\n{signal.Signals(number).name}: ended before the run had started.\n".encode())
        os._exit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
