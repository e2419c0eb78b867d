"""The trial of `w2vlab explain --speed`, on the machine of `w2vlab batch-size`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from w2vlab.cli import explain
from w2vlab.cli.lightning.memory import use_large_pages


def run(words: Sequence[str]) -> int:
    """Explains a configuration, with a trial if its speed is to be measured.

    Args:
        words: What follows `explain` on the command line.

    Returns:
        The exit status of `explain.run`.
    """
    use_large_pages()  # as `fit`, before PyTorch is imported
    return explain.run(words, measure)


def measure(settings: Any, data: Any) -> Any:
    """Measures the speed of a run.

    Args:
        settings: Its options.
        data: Its data module.

    Returns:
        The result, a `Speed`.

    Raises:
        ValueError: An option cannot be used, or the trial does not fit in memory.
        RunError: The process of a trial has ended.
    """
    import torch
    from rich.console import Console

    from w2vlab.cli.batch_size.trial import build_untrained, describe_run, make_machine
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.explain.batch_size.cost_model import BatchShape
    from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
    from w2vlab.explain.speed.reading import measure_reading
    from w2vlab.explain.speed.result import Speed
    from w2vlab.explain.speed.steps import measure_steps, model_flops
    from w2vlab.modules.counting.without_values import NOT_WITHOUT_VALUES
    from w2vlab.types import RunError

    with torch.device("meta"):
        model = build_untrained(settings.model)
    data.require(model.min_samples)
    run = describe_run(settings, data)
    machine = make_machine(settings, model, run, None)
    reporter = ProgressReporter(Console(stderr=True), threaded=False)
    wanted = run.batches.shape(run.max_seconds)
    shape = wanted
    while True:
        try:
            with reporter.stage(f"steps of {shape.utterances} x {shape.seconds:.3g} s", _STEP_SECONDS) as advance:
                steps = machine.call(partial(measure_steps, machine.settings, shape, _STEP_SECONDS), advance)
            break
        except OutOfMemory:
            if shape.utterances == 1:
                raise ValueError(
                    f"`data.max_seconds` must be so short that an update with one utterance fits in memory, but is "
                    f"{run.max_seconds:g}. See configs/trainer/activation_checkpointing.yaml."
                ) from None
            shape = BatchShape(shape.utterances // 2, shape.seconds)
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
    return Speed(steps, flops, reading, reason, wanted)


_STEP_SECONDS = 20.0
_READING_SECONDS = 10.0
