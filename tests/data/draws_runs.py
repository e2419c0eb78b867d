"""Runs of models whose batches come with their draws, and of the same models that draw themselves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.contracts.tiny import build_model, factory
from tests.modules.training import Record, constant_rate, make_trainer, plain_sgd
from w2vlab.data import SpeechDataModule
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AudioBatch, Draws, RandomAddress


class Watched(MaskedPrediction):
    """Records for which updates draws came with a batch that it uses, and for which it has drawn itself."""

    def watch(self) -> None:
        self.used: list[tuple[str, int]] = []
        self.drawn: list[tuple[str, int]] = []

    def draws_of(self, batch: AudioBatch, address: RandomAddress) -> Draws | None:
        found = super().draws_of(batch, address)
        (self.drawn if found is None else self.used).append((address.stream, address.update))
        return found


class DrawsItself(MaskedPrediction):
    def make_drawer(self, training: bool = True) -> None:
        return None


def build(cls: type) -> Any:
    torch.manual_seed(0)
    loss = partial(ContrastiveLoss, projection_dim=6, num_negatives=3, num_other_negatives=2)
    common = {"optimizer": plain_sgd, "scheduler": constant_rate, "seed": 1}
    model = build_model(cls, quantizer=factory(GumbelQuantizer), loss=loss, **common)
    if isinstance(model, Watched):
        model.watch()
    return model


def train(model: Any, data: SpeechDataModule, ckpt_path: Path | None = None, **options: Any) -> list[float]:
    """Returns the loss of each micro-batch."""
    record = Record()
    callbacks = [record, *options.pop("callbacks", ())]
    accumulate = options.pop("accumulate", 1)
    short = {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1}
    options = {**short, "use_distributed_sampler": False, **options}
    trainer = make_trainer(options.pop("max_steps", -1), accumulate, callbacks, **options)
    trainer.fit(model, datamodule=data, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return record.losses


def in_each_of_two(folder: Path) -> dict[str, Any]:
    """What one of two processes does: two epochs, with the draws of the workers and without."""
    results: dict[str, Any] = {}
    for cls in (Watched, DrawsItself):
        data = SpeechDataModule(
            str(folder / "corpus"),
            cache_dir=folder / "cache",
            batch_seconds=1.5,
            max_seconds=0.4,
            min_seconds=0.1,
            num_buckets=3,
            num_workers=int(cls is Watched),
        )
        model = build(cls)
        options = {"strategy": "ddp", "devices": 2, "accumulate": 2, "limit_val_batches": 0}
        results[cls.__name__] = train(model, data, **options)
        if cls is Watched:
            results |= {"used": model.used, "drawn": model.drawn}
    return results
