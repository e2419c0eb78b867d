"""Worker of each of two processes, in a separate module, so that a spawned process can import it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from tests.contracts.tiny import with_quantizers
from tests.helpers.unit_files import LengthsKnown
from tests.modules.fusing.cases import LENGTHS, micro_batches, noisy
from tests.modules.training import (
    MODELS,
    Gradients,
    NoiselessGumbel,
    Record,
    loader,
    make_batches,
    make_model,
    make_trainer,
)
from w2vlab.augmentations import UtteranceMixing
from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.data.fusing import fuse
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import EMAQuantizer, FileTargets, KMeansQuantizer
from w2vlab.types import AudioBatch, RandomAddress, RunError
from w2vlab.utils.distributed import all_reduce_sum, is_distributed, rank, world_size

UPDATES = 5
UTTERANCES = 8
CASES = with_quantizers(MODELS, (NoiselessGumbel, KMeansQuantizer, EMAQuantizer, FileTargets))
ACCUMULATE = (1, 2)
"""Micro-batches of an update in each of the two processes: 2 x 4 utterances, and 2 x 2 x 2."""


class ShareOfRank(IterableDataset):
    """Every update's utterances, in micro-batches that the processes take in turn."""

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate

    def __iter__(self) -> Iterator[AudioBatch]:
        micro_batches = world_size() * self.accumulate
        batches = make_batches(UPDATES, micro_batches, UTTERANCES // micro_batches, samples=(400, 310))
        yield from batches[rank() :: world_size()]


def train(
    cls: type, quantizer: type, accumulate: int = 1, precision: Any = "64-true", **options: Any
) -> dict[str, Any]:
    """Trains with every penalty, diversity included; returns the state and the logged values."""
    model = make_model(cls, quantizer, diversity=quantizer is NoiselessGumbel)
    record = Record()
    trainer = make_trainer(UPDATES, accumulate, [record], precision=precision, use_distributed_sampler=False, **options)
    trainer.fit(model, loader(ShareOfRank(accumulate), accumulate))
    (validation,) = trainer.validate(model, loader(ShareOfRank(accumulate)), verbose=False)
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "metrics": record.metrics[accumulate - 1 :: accumulate],
        "validation": validation,
        "codebook_counts": model.codebook_counts,
        "skipped": model.skipped.total,
    }


def gradients(cls: type, accumulate: int, **options: Any) -> dict[str, Tensor]:
    """Those of the first update, as the optimiser gets them."""
    found = Gradients()
    model = make_model(cls, NoiselessGumbel, diversity=True)
    options |= {"precision": "64-true", "use_distributed_sampler": False}
    make_trainer(1, accumulate, [found], **options).fit(model, loader(ShareOfRank(accumulate), accumulate))
    return found.found


def skip_on_both() -> dict[str, Any]:
    """One process has a NaN in its second update; what both have afterwards, and what they say of it."""
    model = make_model(MaskedPrediction, EMAQuantizer)
    batches = make_batches(3, 2, 2)[rank() :: 2]
    if rank() == 1:
        batches[1].waveform[0, 100] = torch.nan
    trainer = make_trainer(3, use_distributed_sampler=False, strategy="ddp", devices=2)
    trainer.fit(model, loader(batches))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {"state": state, "skipped": model.skipped.total, "ids": model.skipped.last_ids, "bad": batches[1].ids}


def check_on_both() -> str:
    """What both say of an utterance without units, which one of them looks for."""
    data = LengthsKnown(make_batches(2, 2, 2)[rank() :: 2], {"another": 1000} if rank() == 0 else {})
    trainer = make_trainer(1, use_distributed_sampler=False, strategy="ddp", devices=2)
    try:
        trainer.fit(make_model(MaskedPrediction, FileTargets), datamodule=data)
    except RunError as error:
        return str(error)
    return ""


def train_mixed(accumulate: int, **options: Any) -> dict[str, Tensor]:
    """Trains on micro-batches of which every second one has mixed utterances, so one process encodes more than another.

    Returns:
        The state.
    """
    mix = Augmenter([UtteranceMixing(1.0)])
    batches = [
        mix(batch, RandomAddress(seed=0, update=0, ids=batch.ids)) if number % 2 else batch
        for number, batch in enumerate(make_batches(3, 2, 2))
    ]
    assert [batch.clean is not None for batch in batches] == [False, True] * 3
    model = make_model(MaskedPrediction, NoiselessGumbel, diversity=True)
    trainer = make_trainer(3, accumulate, precision="64-true", use_distributed_sampler=False, **options)
    trainer.fit(model, loader(batches[rank() :: world_size()], accumulate))
    return {name: value.clone() for name, value in model.state_dict().items()}


def train_noisy(fused: bool, **options: Any) -> dict[str, Tensor]:
    """Trains with noise in all places on four micro-batches an update, of which a process computes its own at once.

    Args:
        fused: Whether it does so, or computes them one after another.
        options: Of the trainer.

    Returns:
        The state.
    """
    torch.manual_seed(0)
    model, each = noisy(MaskedPrediction)(), len(LENGTHS) // world_size()
    own = micro_batches()[rank() :: world_size()]
    updates = [own[first : first + each] for first in range(0, len(own), each)]
    batches = [fuse(update, range(each), 1.0, None) for update in updates] if fused else own
    steps = 1 if fused else each
    options |= {"precision": "64-true", "use_distributed_sampler": False}
    make_trainer(len(updates), steps, **options).fit(model, loader(batches, steps))
    return {name: value.clone() for name, value in model.state_dict().items()}


def reduce_with_gradient() -> dict[str, Tensor]:
    """The sum over processes of (rank + 1) x, squared, and its gradient at x = 3, without any warning."""
    x = torch.tensor(3.0, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total = all_reduce_sum((rank() + 1) * x)
        total.square().backward()
    assert x.grad is not None
    return {"total": total.detach(), "gradient": x.grad}


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does."""
    assert is_distributed()
    two = {"strategy": "ddp", "devices": 2}
    results = {
        f"{cls.__name__}-{quantizer.__name__}-{accumulate}": train(cls, quantizer, accumulate, **two)
        for cls, quantizer in CASES
        for accumulate in ACCUMULATE
    }
    results |= {
        f"gradients-{cls.__name__}-{accumulate}": gradients(cls, accumulate, **two)
        for cls in MODELS
        for accumulate in ACCUMULATE
    }
    single = train(*CASES[0], accumulate=2, precision="32-true", **two)
    results |= {"skip": skip_on_both(), "check": check_on_both(), "mixed": train_mixed(1, **two)}
    results["fused"] = train_noisy(True, **two)
    return results | {"float32": single, "reduced": reduce_with_gradient()}
