"""Worker of each of two processes with a sharded model, in a separate module for spawned processes to import."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import IterableDataset

from tests.modules.training import MODELS, NoiselessGumbel, loader, make_batches, make_model, make_trainer
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import EMAQuantizer
from w2vlab.strategies import ShardedStrategy
from w2vlab.types import AudioBatch
from w2vlab.utils.distributed import is_distributed, rank, world_size

MICRO_BATCHES = 4
"""Of an update: four of one process, or two of each of two."""

CASES = [(cls, quantizer) for cls in MODELS for quantizer in (NoiselessGumbel, EMAQuantizer)]


class Share(IterableDataset):
    """This process's micro-batches of updates from `start` on."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    def __iter__(self) -> Iterator[AudioBatch]:
        batches = make_batches(self.end, MICRO_BATCHES, 2, samples=(400, 310))
        yield from batches[self.start * MICRO_BATCHES + rank() :: world_size()]


class Save(pl.Callback):
    """Saves at the end of training, and records the checkpoint and the sizes of the shards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        self.sharded = [isinstance(parameter, DTensor) for parameter in pl_module.parameters()]
        self.kept = sum(
            (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()
            for parameter in pl_module.parameters()
        )


def train(
    cls: type, quantizer: type, path: Path, start: int = 0, end: int = 4, ckpt_path: Path | None = None
) -> dict[str, Any]:
    """Trains to `end` updates, in shards where there are two processes; AdamW, LayerDrop, float64."""
    model = make_model(cls, quantizer).double()  # as the trainer makes it, but only after it has read a checkpoint
    model.make_optimizer = partial(torch.optim.AdamW, lr=0.1, eps=1e-3)  # a small one divides rounding by rounding
    if cls is MaskedPrediction:
        model.context.layers.layer_drop = 0.5
        model.context.layers.activation_checkpointing = quantizer is EMAQuantizer and is_distributed()
    save = Save(path)
    trainer = make_trainer(
        end,
        MICRO_BATCHES // world_size(),
        [save],
        precision="64-true",
        use_distributed_sampler=False,
        **({"strategy": ShardedStrategy(), "devices": 2} if is_distributed() else {}),
    )
    trainer.fit(model, loader(Share(start, end), MICRO_BATCHES // world_size()), ckpt_path=ckpt_path)
    (validation,) = trainer.validate(model, loader(Share(0, 1)), verbose=False)
    return {"sharded": save.sharded, "kept": save.kept, "validation": validation}


def name_of(cls: type, quantizer: type) -> str:
    return f"{cls.__name__}-{quantizer.__name__}"


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does; the checkpoints in `folder` are the result."""
    results = {name_of(*case): train(*case, folder / f"{name_of(*case)}-sharded.ckpt") for case in CASES}
    # From a checkpoint of one process, and for one process.
    case = MaskedPrediction, NoiselessGumbel
    train(*case, folder / "half-sharded.ckpt", end=2)
    train(*case, folder / "resumed-sharded.ckpt", start=2, ckpt_path=folder / "half-alone.ckpt")
    return results
