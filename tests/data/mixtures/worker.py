"""A mixed run in each of two processes: in full, and resumed at a random place."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from tests.data.mixtures.mixed import contents, make_module
from tests.modules.training import make_model, make_trainer
from w2vlab.data import SpeechDataModule
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import IdentityQuantizer

EPOCHS = 2
PLACE = random.Random(0).uniform(0.2, 0.9)
"""Where the run is resumed, as a share of its updates."""


class Watch(Callback):
    """Keeps the batches and the shares, and saves a checkpoint after one update."""

    def __init__(self, path: Path, save_at: int = 0) -> None:
        self.path, self.save_at = path, save_at
        self.batches: list[Any] = []
        self.shares: dict[str, float] = {}
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.batches += contents([batch])
        self.losses.append(float(outputs["loss"]))
        whole = trainer.fit_loop._should_accumulate()
        if not whole and trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)
        start = "data/share/"
        found = trainer.callback_metrics
        self.shares = {name.removeprefix(start): float(found[name]) for name in found if name.startswith(start)}


KINDS: dict[str, dict[str, Any]] = {
    "audio": dict(shuffle_shards=2, num_workers=1),
    "order": dict(read_audio=False, shuffle_shards=2),
}
"""Options for one corpus in shards and others in files; and for all in shards, in an order whose audio is not read."""


def data(folder: Path, **options: Any) -> SpeechDataModule:
    corpora = {path.name: str(path) for path in sorted((folder / "corpora").iterdir())}
    return make_module(corpora, folder / "cache", **options)


def train(folder: Path, save_at: int = 0, resume: bool = False, **options: Any) -> dict[str, Any]:
    """Returns what the process was given, and what it made of it."""
    watch = Watch(folder / "place.ckpt", save_at)
    model = make_model(MaskedPrediction, IdentityQuantizer)
    trainer: L.Trainer = make_trainer(
        -1, 2, [watch], max_epochs=EPOCHS, strategy="ddp", devices=2, use_distributed_sampler=False
    )
    module = data(folder, **options)
    module.require(model.min_samples)
    trainer.fit(model, datamodule=module, ckpt_path=str(watch.path) if resume else None)
    return {
        "batches": watch.batches,
        "losses": watch.losses,
        "shares": watch.shares,
        "seconds": model.delivered.state_dict(),
        "updates": trainer.global_step,
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
    }


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does, of each kind of corpora."""
    results = {}
    for name, options in KINDS.items():
        whole = train(folder / name, **options)
        place = max(1, round(PLACE * whole["updates"]))
        again = train(folder / name, save_at=place, **options)
        resumed = train(folder / name, resume=True, **options)
        results[name] = {"whole": whole, "again": again, "resumed": resumed, "place": place}
    return results
