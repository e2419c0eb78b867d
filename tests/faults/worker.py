"""The function that each of two processes runs; in a separate module, so that a spawned process can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from tests.callbacks.toy_runs import toy_model
from tests.modules.training import make_trainer, parameters_of
from w2vlab.callbacks import NotFinite, ProcessWatch
from w2vlab.data import SpeechDataModule
from w2vlab.modules import MaskedPrediction
from w2vlab.utils.distributed import rank

UPDATES = 12


class Damage(Callback):
    """Truncates audio files after their header when everything is set up, and records the utterances of each batch."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.ids: list[str] = []

    def on_train_start(self, trainer, pl_module) -> None:
        if rank() == 0:
            for file in self.files:
                file.write_bytes(file.read_bytes()[:44])
        trainer.strategy.barrier()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.ids += batch.ids


def train(folder: Path) -> dict[str, Any]:
    """Trains on a corpus of which two files are damaged."""
    corpus = folder / "corpus"
    damage = Damage([corpus / "speaker0" / "u04.wav", corpus / "speaker1" / "u33.wav"])
    data = SpeechDataModule(
        str(corpus),
        cache_dir=folder / "cache",
        batch_seconds=1.5,
        max_seconds=0.4,
        min_seconds=0.1,
        num_buckets=3,
        num_workers=0,
    )
    model = toy_model(MaskedPrediction, 0.001)
    trainer = make_trainer(
        UPDATES,
        callbacks=[damage, ProcessWatch(), NotFinite()],
        strategy="ddp",
        devices=2,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    return {
        "updates": trainer.global_step,
        "ids": damage.ids,
        "parameters": parameters_of(model),
        "skipped": model.skipped.total,
    }
