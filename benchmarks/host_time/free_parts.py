"""Parts that compute next to nothing, so that what a run takes is what the host does for it; and what measures that.

The processes of `benchmarks.host_time` import this file alone, beside the w2vlab of another checkout.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops import fetchers
from torch import Tensor, nn
from torch.utils.data import DataLoader, dataloader
from torch.utils.data._utils import pin_memory

from w2vlab.interfaces import ContextNetwork, FeatureEncoder, PredictionLoss
from w2vlab.negatives import SameUtteranceNegatives
from w2vlab.types import LossInputs, LossOutput, TargetSpec

WIDTH = 8


class FreeEncoder(FeatureEncoder):
    """Gives the frames of wav2vec 2.0's encoder, all of them one learned vector."""

    output_dim, receptive_field, stride = WIDTH, 400, 320
    utterances_are_independent = True  # so that micro-batches can be computed as one batch

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Returns the vector for each frame."""
        return self.vector.expand(len(waveform), self.num_frames(waveform.shape[1]), -1)


class FreeContext(ContextNetwork):
    """Returns the frames.

    Args:
        input_dim: Width of the latents.
    """

    utterances_are_independent = True

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.model_dim = self.output_dim = input_dim

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Returns the frames."""
        return frames


class FreeLoss(PredictionLoss):
    """Draws the distractors of wav2vec 2.0, and sums the contexts.

    Args:
        context_dim: Width of the contexts.
        targets: What the targets are.
    """

    name = "free"
    utterances_are_independent = True

    def __init__(self, context_dim: int, targets: TargetSpec) -> None:
        super().__init__()
        self.negatives = SameUtteranceNegatives(targets, num_negatives=100)

    def draw(self, *drawn_for: Any) -> Any:
        """Draws the distractors ahead; earlier versions of w2vlab do not ask for that."""
        return self.negatives.draw(*drawn_for)

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the sum of contexts and targets; the distractors are on the device by then."""
        self.negatives(inputs)
        total = inputs.context.sum() + inputs.targets.quantized.sum()
        correct = torch.zeros((), dtype=torch.int64, device=total.device)
        return LossOutput(total=total, num_predictions=inputs.num_targets, num_correct=correct, num_candidates=101)


def receive_in_a_thread() -> None:
    """Lets a thread of the loader receive and copy the batches, as it does for a GPU, where it pins them."""
    accelerator = SimpleNamespace(
        is_available=lambda: True,
        current_accelerator=lambda: torch.device("cpu"),
        current_device_index=lambda: 0,
        set_device_index=lambda index: None,
    )
    stand_in = ModuleType("torch")
    vars(stand_in).update(vars(torch), accelerator=accelerator)
    dataloader.torch = pin_memory.torch = stand_in  # type: ignore[attr-defined]
    Tensor.pin_memory = Tensor.clone  # type: ignore[method-assign, assignment]
    built = DataLoader.__init__

    def build(self: Any, *args: Any, **options: Any) -> None:
        built(self, *args, **{**options, "pin_memory": options.get("num_workers", 0) > 0})

    DataLoader.__init__ = build  # type: ignore[method-assign]


class Turns(pl.Callback):
    """Delays each update until it is requested, and reports what the main thread computed for it, in seconds.

    An update begins when the one before it has ended, so that fetching its batches is a part of it. Waiting is none.

    Args:
        spans: File to which the spans of the last update are written at the end, if any.
    """

    def __init__(self, spans: Path | None = None) -> None:
        receive_in_a_thread()
        self._file = spans
        self._spans: list[tuple[str, float, float]] = []
        self._inside: list[str] = []
        self._start = self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to watch, and waits for the first request."""
        if self._file is not None:
            self._watch(trainer, pl_module)
        self._wait()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Reports the time of an update after its last micro-batch."""
        if trainer.fit_loop._should_accumulate():
            return
        self._mark("loop")
        print(f"answer {time.thread_time() - self._start}", flush=True)
        self._wait()

    def _wait(self) -> None:
        if sys.stdin.readline().strip() == "end":
            if self._file is not None:
                self._file.write_text(json.dumps(self._spans), encoding="utf-8")
            print("answer 0", flush=True)
            for worker in multiprocessing.active_children():
                worker.kill()  # it would outlive this process, which ends without Lightning's teardown
            os._exit(0)
        self._spans = []
        self._start = self._since = time.thread_time()

    def _mark(self, kind: str) -> None:
        """Ends a span of this kind now."""
        now = time.thread_time()
        self._spans.append((kind, self._since - self._start, now - self._start))
        self._since = now

    def _watch(self, trainer: pl.Trainer, module: Any) -> None:
        """Wraps what an update calls, so that each span has one kind, that of the innermost call."""
        self._wrap(fetchers._PrefetchDataFetcher, "__next__", "batches")
        self._wrap(module, "begin_update", "masks")
        self._wrap(module.loss.negatives, "forward", "distractors")
        self._wrap(module, "compute_loss", "model")
        self._wrap(module, "on_before_optimizer_step", "logs")
        self._wrap(trainer.strategy, "backward", "model")

    def _wrap(self, owner: Any, name: str, kind: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*args: Any, **options: Any) -> Any:
            self._mark(self._inside[-1] if self._inside else "loop")
            self._inside.append(kind)
            try:
                return inner(*args, **options)
            finally:
                self._mark(self._inside.pop())

        setattr(owner, name, outer)
