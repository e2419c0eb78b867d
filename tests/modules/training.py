"""Runs a model through a real trainer on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.contracts.tiny import audio_batch, build_model, factory
from w2vlab.data import WholeUpdates
from w2vlab.interfaces import UtteranceTargets
from w2vlab.losses import CodePredictionLoss, DiversityPenalty, FeaturePenalty
from w2vlab.masking import SpanMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AudioBatch, RandomAddress

SAMPLES = 400
"""Of an utterance: 39 frames of the tiny encoder."""

plain_sgd = partial(torch.optim.SGD, lr=0.05)
"""Unlike Adam, it shows a gradient of the wrong size."""

constant_rate = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)


class NoiselessGumbel(GumbelQuantizer):
    """Its noise would depend on the layout of the batch, by design."""

    def draw_noise(self, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores)


def make_model(cls: type[PretrainingModule], quantizer: type, diversity: bool = False) -> PretrainingModule:
    """Masks and dropouts such that no utterance depends on another of its batch, apart from the diversity penalty."""
    torch.manual_seed(0)
    penalties: dict[str, Any] = {"feature": FeaturePenalty}
    if diversity:
        penalties["diversity"] = partial(DiversityPenalty, weight=1.0)
    extra = {"masking": factory(SpanMasking, equalize="none")} if cls is MaskedPrediction else {}
    if issubclass(quantizer, UtteranceTargets):
        extra["loss"] = factory(CodePredictionLoss, unmasked_weight=0.5)
    quantizer_arguments = {"num_codebooks": 2, "codebook_size": 5} if quantizer is NoiselessGumbel else {}
    build = partial(quantizer, output_dim=8, **quantizer_arguments) if quantizer_arguments else factory(quantizer)
    return build_model(cls, quantizer=build, penalties=penalties, optimizer=plain_sgd, scheduler=constant_rate, **extra)


def make_batches(updates: int, micro_batches: int, size: int, samples: Sequence[int] = (SAMPLES,)) -> list[AudioBatch]:
    """`updates * micro_batches` batches of `size`: the same utterances in the same order, however they are cut."""
    count = updates * micro_batches
    return [
        audio_batch(tuple(samples[row % len(samples)] for row in range(size)), first=index * size)
        for index in range(count)
    ]


def with_updates(batches: Sequence[AudioBatch], accumulate: int) -> list[AudioBatch]:
    """The same batches as the data layer hands them over: the first of an update brings all of it."""
    return [
        replace(batch, update=tuple(batches[index : index + accumulate])) if index % accumulate == 0 else batch
        for index, batch in enumerate(batches)
    ]


class Record(pl.Callback):
    """Keeps what every micro-batch gave."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.names: set[str] = set()
        self.temperatures: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["loss"].item())
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        if isinstance(pl_module.quantizer, GumbelQuantizer):
            self.temperatures.append(pl_module.quantizer.temperature.item())


def loader(batches: Any, accumulate: int = 1) -> Any:
    plain = DataLoader(batches, batch_size=None, shuffle=False)
    return plain if accumulate == 1 else WholeUpdates(plain, accumulate)


def make_trainer(
    updates: int, accumulate: int = 1, callbacks: Sequence[pl.Callback] = (), **options: Any
) -> pl.Trainer:
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": updates,
            "accumulate_grad_batches": accumulate,
            "callbacks": list(callbacks),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
        }
        | options
    )


def fit(
    model: PretrainingModule,
    batches: Sequence[AudioBatch],
    updates: int,
    accumulate: int = 1,
    validation: Sequence[AudioBatch] | None = None,
    ckpt_path: str | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> Record:
    record = Record()
    trainer = make_trainer(updates, accumulate, [record, *callbacks], **options)
    trainer.fit(
        model, loader(batches, accumulate), None if validation is None else loader(validation), ckpt_path=ckpt_path
    )
    record.names = set(trainer.callback_metrics)
    return record


def parameters_of(model: PretrainingModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Gradients(pl.Callback):
    """Keeps the gradients of the last update, as the optimiser gets them."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.found = {name: parameter.grad.clone() for name, parameter in pl_module.named_parameters()}


def gradients_by_hand(model: PretrainingModule, batches: Sequence[AudioBatch], update: int = 0) -> dict[str, Tensor]:
    """The gradients in float64 of the mean over all predictions: one graph of all micro-batches, and one division.

    The model has the diversity penalty, which is one of the assignments of all micro-batches together.
    """
    model.double().set_update(update)
    diversity = model.penalties["diversity"]
    total, predictions, statistics = torch.zeros((), dtype=torch.float64), 0, torch.zeros(())
    for batch in batches:
        output = model(batch.to(torch.float64), RandomAddress(seed=model.seed, update=update, ids=batch.ids))
        terms = model.objective_terms(output)
        total = total + sum(term for name, term in terms.items() if name != "diversity")
        predictions += sum(output.prediction.num_predictions)
        statistics = statistics + diversity.statistics(output.targets, output.target_padding_mask)
    (total / predictions + diversity.weight * diversity.evaluate(statistics)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


MODELS = (MaskedPrediction, FuturePrediction)
