"""Fine-tuning worker of each of two processes, in a separate module, so that a spawned process can import it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from tests.modules.finetuning.recognition import recognizer, spoken_batch
from tests.modules.training import loader, make_trainer
from w2vlab.types import AudioBatch
from w2vlab.utils.distributed import is_distributed, rank, world_size

CHECKPOINT = "pretrained.ckpt"
UPDATES = 3
UTTERANCES = 4
TRANSCRIPTS = ("ab", "a" * 60, "ba ab", "b", "a bb a")
"""The second never fits."""


class ShareOfRank(IterableDataset):
    """Every update's utterances, which the processes take in turn."""

    def __iter__(self) -> Iterator[AudioBatch]:
        size = UTTERANCES // world_size()
        batches = [spoken_batch(size, number * size, TRANSCRIPTS) for number in range(UPDATES * world_size())]
        yield from batches[rank() :: world_size()]


class Validation(IterableDataset):
    """Three batches of one utterance; the second of two processes repeats one that does not count."""

    def __iter__(self) -> Iterator[AudioBatch]:
        batches = [spoken_batch(1, number, TRANSCRIPTS[2:]) for number in range(3)]
        if world_size() == 2:
            batches.append(replace(batches[2], counted=False))
        yield from batches[rank() :: world_size()]


def train(folder: Path, **options: Any) -> dict[str, Any]:
    """Returns weights, logged values and recognized transcripts."""
    model = recognizer(folder / CHECKPOINT, freeze_updates=1)
    trainer = make_trainer(UPDATES, precision="64-true", use_distributed_sampler=False, **options)
    trainer.fit(model, loader(ShareOfRank()))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (validation,) = trainer.validate(model, loader(Validation()), verbose=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {"state": state, "metrics": metrics, "validation": dict(validation), "examples": model.examples}


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does."""
    assert is_distributed()
    torch.manual_seed(rank())
    return train(folder, strategy="ddp", devices=2)
