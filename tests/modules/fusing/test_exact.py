"""An update of fused micro-batches is that of the same micro-batches one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch, build_model, classes, factory
from tests.modules.training import constant_rate, fit, plain_sgd, with_updates
from w2vlab.contexts import ConformerContext, ConvContext, GRUContext, SubsampledContext, TransformerContext
from w2vlab.data.batches.fusing import fuse, grouped
from w2vlab.encoders import CodeEmbedding, ConvFeatureEncoder, LogMelEncoder
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, DiversityPenalty, FeaturePenalty
from w2vlab.masking import ChannelMasking, SpanMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import (
    FileTargets,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    KMeansQuantizer,
    RandomProjectionQuantizer,
)
from w2vlab.types import AudioBatch, CleanAudio

UPDATES = 2

LENGTHS = ((400, 400, 400), (310, 310), (455, 430, 455), (330,))
"""Samples of the utterances of four micro-batches; those of the third differ, so that it has padding of its own."""


def micro_batches(change: Callable[[AudioBatch], AudioBatch] | None = None) -> list[AudioBatch]:
    batches, first = [], 0
    for lengths in LENGTHS * UPDATES:
        batch = audio_batch(lengths, first)
        batches.append(batch if change is None else change(batch))
        first += len(lengths)
    return batches


def fused(batches: Sequence[AudioBatch], groups: int, fuse_seconds: float = 1.0) -> list[AudioBatch]:
    """The batches of the data layer: groups of the micro-batches of each update."""
    size, found = len(LENGTHS), []
    for start in range(0, len(batches), size):
        update = batches[start : start + size]
        for numbers in grouped([min(one.num_samples) for one in update], groups):
            found.append(fuse([update[number] for number in numbers], numbers, fuse_seconds, None))
    return found


class Trained:
    """Two updates: the state afterwards, and what was logged of the second."""

    def __init__(self, build: Callable[[], PretrainingModule], batches: Sequence[AudioBatch], steps: int) -> None:
        torch.manual_seed(0)
        self.model = build()
        self.passes = 0
        self.model.encoder.register_forward_hook(self._count)
        trained = with_updates(batches, steps)
        record = fit(self.model, trained, UPDATES, accumulate=steps, precision="64-true")
        self.state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.logged = record.metrics[-1]

    def _count(self, *_: Any) -> None:
        self.passes += self.model.training


def assert_same(one: Trained, other: Trained) -> None:
    for name, value in one.state.items():
        assert_close(other.state[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert one.logged.keys() == other.logged.keys()
    for name, value in one.logged.items():
        assert other.logged[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def noisy(cls: type, **parts: Any) -> partial[PretrainingModule]:
    """A model with noise in all places."""
    dropouts = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.1, "input_dropout": 0.1}
    if cls is MaskedPrediction:
        parts = {
            "context": factory(TransformerContext, **dropouts, layer_drop=0.3),
            "quantizer": factory(GumbelQuantizer),
            "penalties": {"diversity": DiversityPenalty, "feature": FeaturePenalty},
        } | parts
    else:
        parts = {"context": factory(ConvContext, dropout=0.2), "quantizer": factory(GumbelQuantizer)} | parts
    options = {"feature_dropout": 0.1, "optimizer": plain_sgd, "scheduler": constant_rate} | parts
    return partial(build_model, cls, **options)


DROPOUTS = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.1, "input_dropout": 0.1}

CASES: dict[str, partial[PretrainingModule]] = {
    **{
        f"masked, {quantizer.__name__}": noisy(MaskedPrediction, quantizer=factory(quantizer))
        for quantizer in classes("quantizer")
        if quantizer is not FileTargets
    },
    **{
        f"future, {quantizer.__name__}": noisy(FuturePrediction, quantizer=factory(quantizer))
        for quantizer in classes("quantizer")
        if quantizer is not FileTargets
    },
    "units of a file": noisy(
        MaskedPrediction, quantizer=factory(FileTargets), loss=factory(CodePredictionLoss, unmasked_weight=0.5)
    ),
    "conformer": noisy(MaskedPrediction, context=factory(ConformerContext, **DROPOUTS, layer_drop=0.3)),
    "pre-norm, checkpointing": noisy(
        MaskedPrediction,
        context=factory(TransformerContext, **DROPOUTS, pre_norm=True, activation_checkpointing=True),
    ),
    "positions of data2vec": noisy(MaskedPrediction, context=factory(TransformerContext, position_layers=2)),
    "BEST-RQ": noisy(
        MaskedPrediction,
        encoder=factory(LogMelEncoder),
        context=factory(SubsampledContext, context=factory(ConformerContext, **DROPOUTS), num_mels=4, dropout=0.2),
        quantizer=factory(RandomProjectionQuantizer),
        loss=factory(CodePredictionLoss),
        penalties={},
    ),
    "BERT on codes": noisy(MaskedPrediction, encoder=factory(CodeEmbedding), penalties={"diversity": DiversityPenalty}),
    "GRU": noisy(FuturePrediction, context=factory(GRUContext)),
    "GRU with dropout": noisy(FuturePrediction, context=factory(GRUContext, num_layers=2, dropout=0.2)),
    "large encoder": noisy(
        MaskedPrediction, encoder=factory(ConvFeatureEncoder, normalization="layer", normalize_waveform=True, bias=True)
    ),
    "group encoder": noisy(FuturePrediction, encoder=factory(ConvFeatureEncoder, normalization="group")),
    "padding included": noisy(MaskedPrediction, encoder=factory(ConvFeatureEncoder, padding="include")),
    "all negatives": noisy(
        MaskedPrediction,
        loss=factory(ContrastiveLoss, num_other_negatives=3, num_codebook_negatives=3, negatives_from="anywhere"),
    ),
    "other utterances": noisy(MaskedPrediction, loss=factory(ContrastiveLoss, num_negatives=0, num_other_negatives=4)),
    "targets of another encoder": noisy(MaskedPrediction, target_encoder=factory(LogMelEncoder, hop_samples=7)),
    "quantized inputs": noisy(MaskedPrediction, inputs="quantized", input_quantizer=factory(KMeansQuantizer)),
    "shared quantizer": noisy(MaskedPrediction, inputs="quantized"),
    "penalties of micro-batches": noisy(
        MaskedPrediction,
        penalties={
            "diversity": partial(DiversityPenalty, whole_update=False),
            "feature": partial(FeaturePenalty, include_padding=True),
        },
    ),
    "masks of all kinds": noisy(
        MaskedPrediction, masking=partial(ChannelMasking, frames=factory(SpanMasking), channel_length=3)
    ),
    "finite scalars, no noise": noisy(
        MaskedPrediction,
        quantizer=factory(FiniteScalarQuantizer),
        context=factory(TransformerContext),
        feature_dropout=0.0,
        penalties={},
    ),
}


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect", "ignore:.*`data.fuse_seconds` has no effect")
@pytest.mark.parametrize("case", CASES)
def test_an_update_of_fused_micro_batches_is_the_same(case: str) -> None:
    """With one group of all four, and with two groups of two."""
    apart = Trained(CASES[case], micro_batches(), len(LENGTHS))
    for groups in (1, 2):
        assert_same(apart, Trained(CASES[case], fused(micro_batches(), groups), groups))
