"""Training steps on batches of noise, by the trainer of the run."""

from __future__ import annotations

import gc
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
from w2vlab.modules.counting.without_values import without_files
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import SAMPLE_RATE, AudioBatch, Seconds

_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
    "max_epochs": 1,
}
"""Options of the trainer, with which it computes updates and writes no files."""


@dataclass(frozen=True)
class TrialSettings:
    """How updates are computed. Another process computes them, so that all of it can be pickled.

    Attributes:
        build_model: Builds the model, with new weights.
        build_callbacks: Builds the callbacks that change how the model is computed, such as `CompileModel`.
        trainer: Options of the run's trainer that decide how an update is computed: `precision`, `gradient_clip_val`.
        accumulate: Micro-batches of an update, at least 1.
    """

    build_model: Callable[[], PretrainingModule]
    build_callbacks: Callable[[], list[Callback]] = list
    trainer: Mapping[str, Any] = field(default_factory=dict)
    accumulate: int = 1

    def make_trainer(self, *callbacks: Callback) -> Trainer:
        """Returns a trainer that writes no files."""
        options = {**self.trainer, **_QUIET, "accumulate_grad_batches": self.accumulate}
        return Trainer(**options, callbacks=[*self.build_callbacks(), *callbacks])


def run_updates(
    settings: TrialSettings,
    model: PretrainingModule,
    shapes: Sequence[BatchShape],
    on_update: Callable[[Seconds], None],
) -> int:
    """Trains a model for one update on noise of each shape, in turn, with no layer dropped.

    Args:
        settings: How updates are computed.
        model: The model; its weights change.
        shapes: Shape of the micro-batches of each update.
        on_update: Called after each update with the time of one of its micro-batches, without that of making the noise.

    Returns:
        The peak of the memory, in bytes: on a GPU, that allocated by PyTorch; on a CPU, that of this process so far.

    Raises:
        OutOfMemory: A batch does not fit in memory.
    """
    _drop_no_layer(model)
    vars(model)["on_fit_start"] = lambda: None  # its checks are about the utterances of a run
    stopwatch = _Stopwatch(settings.accumulate, on_update)
    messages = logging.getLogger("lightning.pytorch")
    level = messages.level
    messages.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), without_files(model):
            warnings.simplefilter("ignore")
            trainer = settings.make_trainer(stopwatch)
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
            trainer.fit(model, _Noise(shapes, settings.accumulate))
    except RuntimeError as problem:
        if not is_oom_error(problem):
            raise
        failed = str(problem)
    else:
        return stopwatch.peak
    finally:
        messages.setLevel(level)
    # Outside of the `except`, whose traceback holds the tensors of the step.
    model.zero_grad(set_to_none=True)
    model.step = None
    gc.collect()
    garbage_collection_cuda()
    raise OutOfMemory(failed)


def _drop_no_layer(model: PretrainingModule) -> None:
    """Disables LayerDrop: memory must suffice for all layers, and times shall not depend on the draws."""
    for module in model.modules():
        if isinstance(module, LayerDropStack):
            module.layer_drop = 0.0


class _Noise:
    """The micro-batches of the updates, in order."""

    def __init__(self, shapes: Sequence[BatchShape], accumulate: int) -> None:
        self._shapes = shapes
        self._accumulate = accumulate

    def __len__(self) -> int:
        return len(self._shapes) * self._accumulate

    def __iter__(self) -> Iterator[AudioBatch]:
        for number, shape in enumerate(self._shapes):
            batches = [self._batch(shape, f"{number}-{index}") for index in range(self._accumulate)]
            yield replace(batches[0], update=tuple(batches))
            yield from batches[1:]

    def _batch(self, shape: BatchShape, name: str) -> AudioBatch:
        num_samples = round(shape.seconds * SAMPLE_RATE)
        generator = torch.Generator().manual_seed(0)
        one = 0.1 * torch.randn(1, num_samples, generator=generator)
        return AudioBatch(
            # Equal noise for all utterances, because to draw it for each takes longer than some models.
            waveform=one.repeat(shape.utterances, 1),
            num_samples=(num_samples,) * shape.utterances,
            ids=tuple(f"noise-{name}-{utterance}" for utterance in range(shape.utterances)),
        )


class _Stopwatch(Callback):
    """Measures updates.

    On one thread of a CPU the time is processor time, so that other programs on the machine add nothing.
    """

    def __init__(self, accumulate: int, on_update: Callable[[Seconds], None]) -> None:
        self._accumulate = accumulate
        self._on_update = on_update
        self._device = torch.device("cpu")
        self._clock = time.perf_counter
        self._parent = os.getppid()
        self._start = 0.0
        self.peak = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device
        if self._device.type == "cpu" and torch.get_num_threads() == 1:
            self._clock = time.process_time

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self._accumulate == 0:
            self._start = self._now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self._accumulate:
            return
        took = self._now() - self._start
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device)
        if os.getppid() != self._parent:
            os._exit(1)  # the command was killed
        self._on_update(took / self._accumulate)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()
