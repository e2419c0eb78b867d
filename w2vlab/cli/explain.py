"""`w2vlab explain`: what a configuration comes to, before anything is run."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from contextlib import suppress

from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from w2vlab.cli.explain_text import print_explanation
from w2vlab.cli.explanation import explain
from w2vlab.cli.fit import USER_ERRORS
from w2vlab.cli.lightning_cli import W2VLightningCLI
from w2vlab.cli.no_news import only_news
from w2vlab.cli.parsed import ParsedOptions, build_pretraining, is_pretraining
from w2vlab.cli.problems import report_problem
from w2vlab.data import SpeechDataModule
from w2vlab.registry import load_parts

_HELP = """\
Usage: w2vlab explain [--json] [--no_gradients] [--devices N] [--speed S] [any option of `w2vlab fit`]

Says what a configuration comes to, without data and without training: shapes, parameters, which loss trains which part,
receptive field, bits of the codes, masked fraction, size of an update, what it costs, losses at the start, schedules.

  w2vlab explain --config quickstart
  w2vlab explain --config wav2vec2_base --devices 8 --speed 500

Options:
  --json          Print everything as JSON.
  --no_gradients  Leave out which loss trains which part. It takes the first step on two seconds of noise, with the
                  memory of the parameters and of one gradient for each term of the objective.
  --devices N     Devices of the run, whatever this machine has.
  --speed S       Seconds of audio that one device trains on in a second; says how long the run takes. A few updates of
                  `w2vlab fit` log it, for all devices together, as train/audio_seconds_per_second.
"""


class _Options(ParsedOptions):
    """Parses what `fit` takes and builds the model, and nothing that touches a disk or a device."""

    settings: Namespace

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of a run; none of them needs data."""
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"data.corpus": "none"})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, and leaves checkpoints alone."""
        self.config = self._parsed(parser)

    def instantiate_classes(self) -> None:
        """Builds the model and checks the settings of the data."""
        self.settings = self.config[self.config.subcommand]
        if not is_pretraining(self.settings.model):
            kind = self.settings.model.class_path.rpartition(".")[2]
            raise ValueError(
                f"`model` must be a pretraining objective to be explained, but is {kind}. Explain the run that its "
                "pretrained model comes from."
            )
        sys.stderr.writelines(f"{line}\n" for line in self._carried_over(self.settings))
        self.datamodule = SpeechDataModule(**self.settings.data)
        self.model = build_pretraining(self.settings.model)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names the command whose options these are."""
        return {"fit": W2VLightningCLI.subcommands()["fit"]}


def _own_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("w2vlab explain", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no_gradients", action="store_true")
    parser.add_argument("--devices", type=_positive(int))
    parser.add_argument("--speed", type=_positive(float))
    return parser


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with suppress(ValueError):
            if (value := kind(text)) > 0 and math.isfinite(value):
                return value
        raise argparse.ArgumentTypeError(f"must be a positive number, but is {text}.")

    return parse


def run(options: list[str]) -> int:
    """Explains the configuration that `options` describe.

    Args:
        options: What follows `explain` on the command line.

    Returns:
        Exit status: 0 done, 1 the configuration cannot be built, 2 wrong usage.
    """
    if options in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    own, options = _own_options().parse_known_args(options)
    try:
        load_parts()
        with only_news():
            cli = _Options(["fit", *options], Callback())
        explanation = explain(
            cli.model, cli.datamodule, cli.settings.trainer, not own.no_gradients, own.devices, own.speed
        )
    except USER_ERRORS as problem:
        return report_problem(problem)
    if own.json:
        json.dump(explanation.as_dict(), sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        print_explanation(explanation)
    return 0
