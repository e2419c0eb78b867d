"""DDP and sharding on one device: they work with its communication library, and compute what one process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from benchmarks.peers import LAYOUTS, audio, build_ours
from w2vlab.strategies import ShardedStrategy
from w2vlab.types import AudioBatch

UPDATES = 6

TOLERANCE = 1e-3
"""Largest relative difference of a loss: bfloat16 has three digits, and sums on a GPU have no fixed order."""


class _Losses(pl.Callback):
    """Keeps the losses and the times of the updates on the device, and counts what is sharded."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.ended: list[float] = []
        self.num_sharded = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].detach())
        self.ended.append(time.perf_counter())
        self.num_sharded = sum(isinstance(parameter, DTensor) for parameter in pl_module.parameters())


def train(strategy: Strategy | str, batch: AudioBatch, rehearse: bool) -> dict[str, Any]:
    """Returns losses, seconds of an update, and the number of sharded parameters."""
    torch.manual_seed(0)
    model = build_ours(LAYOUTS["tiny" if rehearse else "base"])
    model.make_optimizer = partial(torch.optim.AdamW, lr=1e-4)
    model.make_scheduler = partial(ConstantLR, factor=1.0)
    seen = _Losses()
    trainer = pl.Trainer(
        accelerator="cpu" if rehearse else "cuda",
        devices=1,
        strategy=strategy,
        precision="32-true" if rehearse else "bf16-mixed",
        max_steps=UPDATES,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[seen],
    )
    batches: list[AudioBatch] = [batch] * UPDATES
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]  # a list is a data set
    losses = [float(loss) for loss in seen.losses]
    seconds = (seen.ended[-1] - seen.ended[0]) / (UPDATES - 1)
    return {"losses": losses, "seconds_per_update": seconds, "num_sharded": seen.num_sharded}


def run(rehearse: bool, save: Callable[[dict[str, Any]], None]) -> None:
    """Trains with each strategy on the same batches, and compares their losses.

    Raises:
        SystemExit: A strategy has other losses.
    """
    backend = "gloo" if rehearse else "nccl"
    batch = audio(2, 1.0) if rehearse else audio(5, 15.625)
    strategies: dict[str, Strategy | str] = {
        "one process": "auto",
        f"DDP ({backend})": DDPStrategy(process_group_backend=backend),
        "ShardedStrategy": ShardedStrategy(),
    }
    result: dict[str, Any] = {}
    different = []
    for name, strategy in strategies.items():
        found = train(strategy, batch, rehearse)
        expected = result["one process"]["losses"] if result else found["losses"]
        pairs = zip(found["losses"], expected, strict=True)
        found["largest_relative_difference"] = max(abs(own - other) / abs(other) for own, other in pairs)
        found["equal"] = found["largest_relative_difference"] <= TOLERANCE
        result[name] = found
        save(result)
        different += [] if found["equal"] else [name]
    if different:
        raise SystemExit(f"Other losses than one process: {', '.join(different)}.")
