"""The console script: finds the command and leaves the rest to its file."""

from __future__ import annotations

import sys

from w2vlab import __version__
from w2vlab.registry import known_names

_COMMANDS = ("fit", "validate", "explain", "parts")

_HELP = """\
Usage: w2vlab COMMAND [OPTIONS]

Pretraining of wav2vec-family speech models from interchangeable parts.

Commands:
  fit       Train a model:           w2vlab fit --config configs/quickstart.yaml
  validate  Score a checkpoint:      w2vlab validate --config configs/quickstart.yaml --ckpt_path=last
  explain   Say what it comes to:    w2vlab explain --config configs/quickstart.yaml
  parts     List what can be chosen: w2vlab parts quantizer

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
        Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    args = sys.argv[1:] if args is None else args
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    try:
        # Commands are imported when they are called: PyTorch takes seconds, and `parts` and the help do without.
        if command in ("fit", "validate"):
            from w2vlab.cli import fit

            return fit.run(command, rest)
        if command == "explain":
            from w2vlab.cli import explain

            return explain.run(rest)
        if command == "parts":
            from w2vlab.cli import parts

            return parts.run(rest)
    except SystemExit as end:  # the parsers end this way
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    if command in ("-h", "--help", "--version"):
        sys.stdout.write(f"w2vlab {__version__}\n" if command == "--version" else _HELP)
        return 0
    sys.stderr.write(f"error: Unknown command '{command}'. {known_names(command, _COMMANDS)}\n")
    return 2
