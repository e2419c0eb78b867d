"""Worker of each of two processes that train a teacher or several losses, in a module for spawned processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import IterableDataset

from tests.modules.teaching.toys import teacher_model
from tests.modules.test_non_finite import with_nan
from tests.modules.training import loader, make_batches, make_trainer
from tests.parts.losses.several import MODELS
from w2vlab.losses import FeaturePenalty
from w2vlab.strategies import ShardedStrategy
from w2vlab.types import AudioBatch
from w2vlab.utils.distributed import is_distributed, rank, world_size

MICRO_BATCHES = 4
"""Of an update: four of one process, or two of each of two."""

CASES = {
    "data2vec": partial(teacher_model, noise=False),
    "DinoSR": partial(teacher_model, codes=True, noise=False),
    "copies": partial(teacher_model, noise=False, masked_copies=2, penalties={"feature": FeaturePenalty}),
    **{f"several, {name}": build for name, build in MODELS.items()},
}
"""Models with a teacher, several losses, or both."""

SLOW = partial(teacher_model, noise=False, teacher={"decay": 0.9999, "end_decay": 0.9999, "copied": ()})
"""Its steps are below those of bfloat16."""


class Share(IterableDataset):
    """This process's micro-batches of updates from `start` on."""

    def __init__(self, start: int, end: int, damaged: int | None = None) -> None:
        self.start, self.end, self.damaged = start, end, damaged

    def __iter__(self) -> Iterator[AudioBatch]:
        batches = make_batches(self.end, MICRO_BATCHES, 2, samples=(400, 310))
        if self.damaged is not None:
            batches = with_nan(batches, self.damaged)
        yield from batches[self.start * MICRO_BATCHES + rank() :: world_size()]


class Save(pl.Callback):
    """Saves at the end of training, and records the logs and which averages are in shards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)
        weights = list((pl_module.teacher if "teacher" in dict(pl_module.named_children()) else pl_module).parameters())
        self.sharded = {isinstance(weight, DTensor) for weight in weights}
        self.kept = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)


def train(
    case: str,
    path: Path,
    sharded: bool = False,
    start: int = 0,
    end: int = 3,
    ckpt_path: Path | None = None,
    damaged: int | None = None,
    precision: Any = "64-true",
) -> dict[str, Any]:
    """Trains to `end` updates, alone or in two processes, with or without shards."""
    model = (CASES | {"slow": SLOW})[case]()
    if precision == "64-true":
        model.double()  # as the trainer makes it, but only after it has read a checkpoint
    model.make_optimizer = partial(torch.optim.AdamW, lr=0.05, eps=1e-3)  # a small one divides rounding by rounding
    model.context.layers.layer_drop = 0.5
    model.context.layers.activation_checkpointing = sharded
    strategy = {"strategy": ShardedStrategy() if sharded else "ddp", "devices": 2} if is_distributed() else {}
    each, save = MICRO_BATCHES // world_size(), Save(path)
    trainer = make_trainer(end, each, [save], precision=precision, use_distributed_sampler=False, **strategy)
    trainer.fit(model, loader(Share(start, end, damaged), each), ckpt_path=ckpt_path)
    return {
        "sharded": save.sharded,
        "kept": save.kept,
        "title": model.title,
        "logged": save.logged[each - 1 :: each],
        "skipped": model.skipped.total,
    }


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does; the checkpoints in `folder` are the result."""
    found = {}
    for case in CASES:
        for how in ("ddp", "sharded"):
            found[f"{case}-{how}"] = train(case, folder / f"{case}-{how}.ckpt", how == "sharded")
    # A NaN of one process; and from the checkpoint of one process, and for one process.
    for how in ("ddp", "sharded"):
        found[f"skip-{how}"] = train("DinoSR", folder / f"skip-{how}.ckpt", how == "sharded", damaged=MICRO_BATCHES + 1)
        alone = {"start": 1, "end": 3, "ckpt_path": folder / "first-alone.ckpt"}
        train("DinoSR", folder / f"resumed-{how}.ckpt", how == "sharded", **alone)
    train("DinoSR", folder / "first-sharded.ckpt", True, end=1)
    train("slow", folder / "slow-sharded.ckpt", True, end=1, precision="bf16-true")
    return found
