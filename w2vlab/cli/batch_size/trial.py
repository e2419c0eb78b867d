"""The trial of a run that is described as for `w2vlab fit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback
from rich.console import Console

from w2vlab.callbacks import CompileModel
from w2vlab.cli.doctor.processors import available_memory
from w2vlab.cli.lightning.parsed import ExplainedRun, build_data, build_pretraining, is_pretraining
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.parser import RunParser
from w2vlab.data import SpeechDataModule
from w2vlab.data.batches.micro_batches import micro_batches_of_each
from w2vlab.evaluation.output.progress import ProgressReporter
from w2vlab.explain.batch_size.budget import Batches, Run, as_options
from w2vlab.explain.batch_size.machines import CpuMachine, GpuMachine, Machine
from w2vlab.explain.batch_size.steps import TrialSettings
from w2vlab.explain.batch_size.text import as_yaml, print_result, summary
from w2vlab.explain.batch_size.trial import Trial
from w2vlab.explain.run import num_processes
from w2vlab.modules.checkpoints.initial_weights import without_warm_start
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.registry import load_parts
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.files import write_atomically
from w2vlab.utils.messages import count

_SHARE = 0.9
"""Share of the memory that is used by default."""

_PLAIN_WIDTH = 120
_GIB = 2**30

_STEP_OPTIONS = (
    "accelerator",
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "benchmark",
    "deterministic",
)
"""Options of the trainer that decide how an update is computed, and where."""


class MeasuredRun(ExplainedRun):
    """Parses the options of `fit`, and checks those of the model and of the data."""

    def instantiate_classes(self) -> None:
        """Builds the data module, and the model without values."""
        self.settings = self.config[self.config.subcommand]
        if not is_pretraining(self.settings.model):
            kind = self.settings.model.class_path.rpartition(".")[2]
            raise ValueError(f"`model` must be a pretraining objective, whose batches are audio alone, but is {kind}.")
        sys.stderr.writelines(f"{line}\n" for line in self._carried_over(self.settings))
        self.datamodule = build_data(self.settings.data)
        # On the meta device nothing is computed, which must not be in a process that forks.
        with torch.device("meta"):
            self.model = build_untrained(self.settings.model)
        self.datamodule.require(self.model.min_samples)


def choose(
    words: Sequence[str],
    out: Path | None,
    memory: float | None,
    seconds_per_micro_batch: Seconds | None,
    rounds: int,
) -> None:
    """Measures batches, prints the result, and writes it.

    Args:
        words: Options of `w2vlab fit`.
        out: The file to write, if any.
        memory: Most memory of a process, in GiB; None for the default.
        seconds_per_micro_batch: Longest time of a micro-batch; None for any.
        rounds: How often each batch is timed.

    Raises:
        ValueError: An option cannot be used, or batches cannot be measured.
        RunError: The process of a trial has ended.
    """
    load_parts()
    cli = MeasuredRun(["fit", *words], Callback())
    run = describe_run(cli.settings, cli.datamodule)
    machine = make_machine(cli.settings, cli.model, run, memory)
    reporter = ProgressReporter(Console(stderr=True), threaded=False)
    result = Trial(run, machine, rounds, reporter.stage).find(seconds_per_micro_batch)
    console = output_console(_PLAIN_WIDTH, highlight=False)
    print_result(result, run, machine.memory, console)
    options = as_options(run, result.batches)
    console.print("\nOptions of the run:\n", style="bold", highlight=False)
    console.print(as_yaml(options, []), highlight=False, markup=False, soft_wrap=True, end="")
    if out is not None:
        precision = cli.settings.trainer.precision or "32-true"
        title = f"Batches by `w2vlab batch-size`, on {_device_name(machine)}, precision {precision}."
        write_atomically(out, as_yaml(options, [title, *summary(result, run, machine.memory)]))
        console.print(f"\nWritten: {out}", highlight=False, markup=False, soft_wrap=True)


def describe_run(settings: Namespace, data: SpeechDataModule) -> Run:
    """Returns what batches are chosen for.

    Args:
        settings: The options of the run.
        data: Its data module.
    """
    processes = num_processes(settings.trainer)
    each = micro_batches_of_each(data.micro_batches, settings.trainer.accumulate_grad_batches, processes)
    return Run(
        min_seconds=data.min_samples / SAMPLE_RATE,
        max_seconds=data.max_seconds,
        batches=Batches(data.batch_seconds, data.quadratic_seconds, each),
        processes=processes,
        by_micro_batches=data.micro_batches is not None,
    )


def make_machine(settings: Namespace, model: PretrainingModule, run: Run, memory: float | None) -> Machine:
    """Returns the device of the run, as a machine for trials.

    Args:
        settings: The options of the run.
        model: The model, of which only shapes are used.
        run: The run.
        memory: Most memory of a process, in GiB; None for the default.

    Raises:
        ValueError: The device or the strategy of the run cannot be measured, or does not have that memory.
    """
    if any(name in str(settings.trainer.strategy).lower() for name in ("sharded", "fsdp", "deepspeed")):
        raise ValueError(
            "`trainer.strategy` must keep the whole model on each device, because the trial runs on one device, but is "
            "one that shards it."
        )
    trainer = {name: settings.trainer[name] for name in _STEP_OPTIONS}
    trial = TrialSettings(
        build_model=partial(build_untrained, settings.model),
        build_callbacks=partial(compile_callbacks, settings.trainer.callbacks),
        trainer={**trainer, "devices": _first_device(settings.trainer.devices)},
        # Two micro-batches are enough to compute what is only computed if there are several.
        accumulate=min(run.batches.micro_batches, 2),
    )
    device = trial.make_trainer().strategy.root_device
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`trainer.accelerator` must be cpu or gpu with CUDA for a trial, but is {device.type}.")
    # Several processes sum gradients in buffers of their own (DDP).
    gradients = sum(4 * p.numel() for p in model.parameters() if p.requires_grad) if run.processes > 1 else 0
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        most = _SHARE * total if memory is None else memory * _GIB
        if most > total:
            raise ValueError(f"`memory` must be at most the {total / _GIB:.4g} GiB of the device, but is {memory:g}.")
        return GpuMachine(trial, int(most - gradients), device)
    available = available_memory()
    if memory is None and available is None:
        raise ValueError("`memory` must be given on this system, which does not say how much is available.")
    on_this_machine = max(1, run.processes // int(settings.trainer.num_nodes))
    most = _SHARE * (available or 0) / on_this_machine if memory is None else memory * _GIB
    return CpuMachine(trial, int(most - gradients))


def build_untrained(model: Any) -> PretrainingModule:
    """Builds a pretraining objective with new weights."""
    with without_warm_start():
        return build_pretraining(model)


def compile_callbacks(callbacks: Any) -> list[Callback]:
    """Builds those callbacks of a run that change how the model is computed.

    Args:
        callbacks: Option of the trainer.
    """
    chosen = [one for one in callbacks or [] if str(one.class_path).rpartition(".")[2] == CompileModel.__name__]
    parser = RunParser(exit_on_error=False)
    parser.add_subclass_arguments(CompileModel, "callback")
    return [parser.instantiate_classes(parser.parse_object({"callback": one})).callback for one in chosen]


def _first_device(devices: Any) -> Any:
    """Returns the first of the devices of a trainer: their number, or a list of their indices."""
    if isinstance(devices, str) and "," in devices:
        devices = [int(index) for index in devices.split(",") if index.strip()]
    return [devices[0]] if isinstance(devices, list) and devices else 1


def _device_name(machine: Machine) -> str:
    if isinstance(machine, GpuMachine):
        return torch.cuda.get_device_name()
    return f"{count(torch.get_num_threads(), 'thread')} of a CPU"
