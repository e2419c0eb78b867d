"""Micro-batches that are fused, models with noise in all places, and their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch, build_model, factory
from tests.modules.training import constant_rate, fit, plain_sgd, with_updates
from w2vlab.contexts import ConvContext, TransformerContext
from w2vlab.data.fusing import fuse, grouped
from w2vlab.losses import DiversityPenalty, FeaturePenalty
from w2vlab.modules import MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AudioBatch

UPDATES = 2

LENGTHS = ((400, 400, 400), (310, 310), (455, 430, 455), (330,))
"""Samples of the utterances of four micro-batches; those of the third differ, so that it has padding of its own."""


DROPOUTS = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.1, "input_dropout": 0.1}


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
    if cls is MaskedPrediction:
        parts = {
            "context": factory(TransformerContext, **DROPOUTS, layer_drop=0.3),
            "quantizer": factory(GumbelQuantizer),
            "penalties": {"diversity": DiversityPenalty, "feature": FeaturePenalty},
        } | parts
    elif cls is TeacherPrediction:
        parts = {"context": factory(TransformerContext, **DROPOUTS, layer_drop=0.3)} | parts
    else:
        parts = {"context": factory(ConvContext, dropout=0.2), "quantizer": factory(GumbelQuantizer)} | parts
    dropout = {} if cls is TeacherPrediction else {"feature_dropout": 0.1}
    options = {**dropout, "optimizer": plain_sgd, "scheduler": constant_rate} | parts
    return partial(build_model, cls, **options)
