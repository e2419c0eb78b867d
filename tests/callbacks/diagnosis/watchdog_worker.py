"""The function that each of two processes runs; in a separate module, so that a spawned process can import it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, IterableDataset

from tests.callbacks.toy_runs import tones, toy_model
from tests.contracts.tiny import factory
from tests.modules.training import loader, make_trainer, parameters_of
from w2vlab.callbacks import CodebookHealth, CollapseWatchdog
from w2vlab.losses import DiversityPenalty
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AudioBatch
from w2vlab.utils.distributed import rank, world_size


class Sabotage(Callback):
    """Makes all latents the same by setting the encoder to zero: once, or as long as it lasts.

    Args:
        update: The first update to do this before.
        until: The first one not to.
        once: Whether to do this only once; otherwise it is repeated after each measure that the run takes against it.
    """

    def __init__(self, update: int, until: int = 10**9, once: bool = False) -> None:
        self.updates = range(update, update + 1 if once else until)
        self.saved: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step in self.updates:
            if not self.saved:
                self.saved = {name: value.clone() for name, value in pl_module.state_dict().items()}
            with torch.no_grad():
                for parameter in pl_module.encoder.parameters():
                    parameter.zero_()
        elif self.saved and trainer.global_step == self.updates.stop and len(self.updates) > 1:
            pl_module.load_state_dict(self.saved)


class ShareOfRank(IterableDataset):
    """Every update's utterances; each process takes its own."""

    def __iter__(self) -> Iterator[AudioBatch]:
        for _ in range(20):
            yield from tones(16, 4 // world_size())[rank() :: world_size()]


def train(folder: Path, **options: Any) -> dict[str, Any]:
    """Restores once after a collapse that occurs again."""
    penalties = {"diversity": partial(DiversityPenalty, weight=1.0)}
    model = toy_model(MaskedPrediction, 0.005, quantizer=factory(GumbelQuantizer), penalties=penalties)
    dog = CollapseWatchdog(every=2, window=20, patience=40, action="restore", max_restores=1)
    health = CodebookHealth(every=20, num_utterances=2)
    trainer = make_trainer(
        120,
        callbacks=[Sabotage(70), dog, health],
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=1,
        **options,
    )
    data: DataLoader = loader(ShareOfRank())
    with mock.patch("w2vlab.callbacks.diagnosis.codebook_picture.draw_codebook_health", return_value=Figure()):
        trainer.fit(model, data, loader(tones(2)))
    return {
        "events": dog.events,
        "updates": trainer.global_step,
        "parameters": parameters_of(model),
        "looks": [row["update"] for row in health.history.rows],
    }


def train_share(folder: Path) -> dict[str, Any]:
    """Runs on each of two processes."""
    return train(folder, strategy="ddp", devices=2)
