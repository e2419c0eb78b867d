"""`w2vlab explain`: a description of a configuration, before anything is run."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from w2vlab.cli.errors.problems import report_problem, user_errors
from w2vlab.cli.parsing.command_parser import WITHOUT_VALUE, CommandParser
from w2vlab.utils.checks import check_at_least


@dataclass(kw_only=True)
class ExplainOptions:
    """Describes a configuration, without data and without training. It takes any option of `w2vlab fit`, too.

    It shows shapes, parameters, which loss trains which part, the receptive field, bits of the codes, the masked
    fraction, the size of an update and its cost, losses before training, and schedules.

      w2vlab explain --config quickstart
      w2vlab explain --config wav2vec2_base --devices 8 --speed 500
      w2vlab explain --config quickstart --speed

    Attributes:
        json: Print everything as JSON.
        no_gradients: Leave out which loss trains which part. It takes the first step on two seconds of noise, with the
            memory of the parameters and of one gradient for each term of the objective.
        devices: Number of devices of the run, independent of this machine; by default that of the trainer's options.
        speed: Seconds of audio that one device trains on in a second, for the duration of the run. A few updates of
            `w2vlab fit` log it, for all devices together, as train/audio_seconds_per_second. Without a value, it is
            measured by a trial of half a minute on one device of this machine, which also says what limits it: data,
            host, memory or products. `--data.corpus` is read, too, if it is given.
    """

    json: bool = False
    no_gradients: bool = False
    devices: int | None = None
    speed: float | Literal["measure"] | None = field(default=None, metadata={WITHOUT_VALUE: "measure"})

    def __post_init__(self) -> None:
        check_at_least(1, devices=self.devices)
        if isinstance(self.speed, int | float) and not (self.speed > 0 and math.isfinite(self.speed)):
            raise ValueError(f"`speed` must be a positive number, but is {self.speed}.")


def run(words: Sequence[str], measure: Callable[[Any, Any], Any]) -> int:
    """Explains the configuration of a command line.

    Args:
        words: What follows `explain` on the command line.
        measure: Measures the speed of a run, by its options and its data module.

    Returns:
        Exit status: 0 done, 1 the configuration cannot be built or measured, 2 wrong usage; 130, 143 or 138 ended by
        SIGINT, SIGTERM or SIGUSR1.
    """
    parser = CommandParser(ExplainOptions, "explain", with_config=False)
    if {"-h", "--help"} & set(words):
        parser.parse(["--help"])
    own_words, fit_words = parser.split(words)
    own = parser.parse(own_words)
    # Imported here, because help and wrong options need not wait for PyTorch.
    from lightning.pytorch import Callback

    from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler, stop_at_once
    from w2vlab.cli.lightning.parsed import ExplainedRun
    from w2vlab.cli.logging.console import output_console
    from w2vlab.cli.logging.no_news import without_routine_messages
    from w2vlab.explain.explanation import explain
    from w2vlab.explain.speed.result import print_speed
    from w2vlab.explain.text import print_explanation
    from w2vlab.registry import load_parts

    try:
        load_parts()
        with without_routine_messages(), signal_handler(stop_at_once):
            cli = ExplainedRun(["fit", *fit_words], Callback())
            measured, speed = None, own.speed
            if speed == "measure":
                measured = measure(cli.settings, cli.datamodule)
                speed = float(f"{measured.rate:.3g}")
        explanation = explain(cli.model, cli.datamodule, cli.settings.trainer, not own.no_gradients, own.devices, speed)
    except Stopped as stop:
        sys.stderr.write(f"\nEnded by {stop.signal.name}.\n")
        return stop.status
    except user_errors(OSError) as problem:
        return report_problem(problem)
    if own.json:
        found = explanation.as_dict() | ({} if measured is None else {"speed": measured.as_dict()})
        json.dump(found, sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        print_explanation(explanation)
        if measured is not None:
            print_speed(measured, output_console(_PLAIN_WIDTH, highlight=False))
    return 0


_PLAIN_WIDTH = 200
