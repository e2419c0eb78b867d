"""Runs of a real trainer that record their batches."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class Recorder(L.LightningModule):
    """A minimal module that records its batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.updates = []
        self.epochs = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        self.epochs.append(self.current_epoch)
        self.seen.append((sum((one.ids for one in batch.passes), ()), batch.waveform.clone()))
        self.updates.append(None if batch.update is None else tuple(other.ids for other in batch.update))
        return self.weight * batch.waveform.mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append((batch.ids, batch.waveform.clone()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAfter(Callback):
    """Saves a checkpoint after given numbers of batches, also in the middle of an update."""

    def __init__(self, folder: Path, steps: tuple[int, ...]):
        self.folder = folder
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.steps and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.folder / f"step{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"epoch{trainer.current_epoch}.ckpt")

    def on_train_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / "end.ckpt")


def fit(module, ckpt_path=None, callbacks=(), **arguments):
    recorder = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **arguments,
    )
    trainer.fit(recorder, module, ckpt_path=ckpt_path)
    return recorder


def assert_same(first, second):
    assert [ids for ids, _ in first] == [ids for ids, _ in second]
    for (_, x), (_, y) in zip(first, second, strict=True):
        assert torch.equal(x, y)
