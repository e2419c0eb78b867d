"""The trial of `w2vlab explain --speed`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from jsonargparse import Namespace
from rich.console import Console

from w2vlab.cli.batch_size.trial import build_untrained, describe_run, make_machine
from w2vlab.data import SpeechDataModule
from w2vlab.data.fusing import num_groups
from w2vlab.evaluation.output.progress import ProgressReporter
from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
from w2vlab.explain.batch_size.machines import Machine
from w2vlab.explain.batch_size.text import describe
from w2vlab.explain.speed.reading import measure_reading
from w2vlab.explain.speed.result import Speed
from w2vlab.explain.speed.steps import MeasuredSteps, measure_steps, model_flops
from w2vlab.modules.counting.without_values import NOT_WITHOUT_VALUES
from w2vlab.types import RunError, Seconds

_STEP_SECONDS: Seconds = 20.0
_READING_SECONDS: Seconds = 10.0


def measure(settings: Namespace, data: SpeechDataModule) -> Speed:
    """Measures the speed of a run.

    Args:
        settings: Its options.
        data: Its data module.

    Raises:
        ValueError: An option cannot be used, or the trial does not fit in memory.
        RunError: The process of a trial has ended.
    """
    with torch.device("meta"):
        model = build_untrained(settings.model)
    data.require(model.min_samples)
    run = describe_run(settings, data)
    machine = make_machine(settings, model, run, None)
    reporter = ProgressReporter(Console(stderr=True), threaded=False)
    # Micro-batches that are computed at once are one step.
    one, at_once = run.batches.shape(run.max_seconds), min(data.at_once, run.batches.micro_batches)
    wanted = BatchShape(at_once * one.utterances, one.seconds)
    steps_of_update = num_groups(run.batches.micro_batches, at_once)
    machine.settings = replace(machine.settings, accumulate=min(steps_of_update, machine.settings.accumulate))
    steps = _measure_steps(machine, wanted, reporter)
    try:
        flops = model_flops(model, steps.shape)
    except NOT_WITHOUT_VALUES:
        flops = None
    reading, reason = None, "no corpus is given"
    if data.corpus != "none":
        try:
            with reporter.stage("reading", _READING_SECONDS) as advance:
                reading = measure_reading(data, _READING_SECONDS, advance)
        except (ValueError, OSError, RunError) as problem:
            reason = str(problem)
    return Speed(steps, flops, reading, reason, wanted, at_once)


def _measure_steps(machine: Machine, wanted: BatchShape, reporter: ProgressReporter) -> MeasuredSteps:
    """Measures steps, with fewer utterances if they do not fit in memory."""
    shape = wanted
    while True:
        try:
            with reporter.stage(f"steps of {describe(shape)}", _STEP_SECONDS) as advance:
                return machine.call(partial(measure_steps, machine.settings, shape, _STEP_SECONDS), advance)
        except OutOfMemory:
            if shape.utterances == 1:
                raise ValueError(
                    "`data.max_seconds` must be so short that an update with one utterance fits in memory, but is "
                    f"{shape.seconds:g}. See configs/trainer/activation_checkpointing.yaml."
                ) from None
            shape = BatchShape(shape.utterances // 2, shape.seconds)
