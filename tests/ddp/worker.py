"""What each of two processes runs; a module of its own, so that a spawned process can import it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from tests.modules.training import MODELS, NoiselessGumbel, Record, loader, make_batches, make_model, make_trainer
from w2vlab.distributed import all_reduce_sum, is_distributed, rank, world_size
from w2vlab.quantizers import KMeansQuantizer
from w2vlab.types import AudioBatch

UPDATES = 2
UTTERANCES = 8
CASES = [(cls, quantizer) for cls in MODELS for quantizer in (NoiselessGumbel, KMeansQuantizer)]


class ShareOfRank(IterableDataset):
    """Every update's utterances, in as many batches as there are processes: each process takes its own."""

    def __iter__(self) -> Iterator[AudioBatch]:
        processes = world_size()
        yield from make_batches(UPDATES, processes, UTTERANCES // processes, samples=(400, 310))[rank() :: processes]


def train(cls: type, quantizer: type, **options: Any) -> dict[str, Any]:
    """Trains with every penalty, diversity included; returns the parameters and what was logged."""
    model = make_model(cls, quantizer, diversity=quantizer is NoiselessGumbel)
    record = Record()
    trainer = make_trainer(UPDATES, callbacks=[record], precision="64-true", use_distributed_sampler=False, **options)
    trainer.fit(model, loader(ShareOfRank()))
    (validation,) = trainer.validate(model, loader(ShareOfRank()), verbose=False)
    return {
        "parameters": {name: parameter.detach() for name, parameter in model.named_parameters()},
        "metrics": record.metrics,
        "validation": validation,
        "codebook_counts": model.codebook_counts,
    }


def reduce_with_gradient() -> dict[str, Tensor]:
    """The sum over processes of (rank + 1) x, squared, and its gradient at x = 3."""
    x = torch.tensor(3.0, requires_grad=True)
    total = all_reduce_sum((rank() + 1) * x)
    total.square().backward()
    assert x.grad is not None
    return {"total": total.detach(), "gradient": x.grad}


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does."""
    assert is_distributed()
    results = {
        f"{cls.__name__}-{quantizer.__name__}": train(cls, quantizer, strategy="ddp", devices=2)
        for cls, quantizer in CASES
    }
    return results | {"reduced": reduce_with_gradient()}
