"""A checkpoint that was written on 29 November 2026 still loads, computes what it computed, and resumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.contracts.tiny import audio_batch
from tests.modules.training import constant_rate, fit, parameters_of, with_updates
from w2vlab.modules import MaskedPrediction, TrainedModule
from w2vlab.optim import Wav2Vec2AdamW
from w2vlab.types import RandomAddress

CHECKPOINT = Path(__file__).with_name("pretraining.ckpt")
"""Of `w2vlab fit` on noise: wav2vec 2.0 with 2,500 weights after two updates of two micro-batches."""


def load() -> MaskedPrediction:
    """In evaluation mode, in which nothing but masks and distractors is random."""
    model = TrainedModule.load_from_checkpoint(CHECKPOINT).eval()
    assert isinstance(model, MaskedPrediction)
    return model


def test_the_model_of_the_checkpoint_computes_the_same_as_before() -> None:
    model = load()
    batch = audio_batch((8000, 6000, 7000))
    with torch.no_grad():
        output = model(batch, RandomAddress(seed=model.seed, update=2, ids=batch.ids))
        terms = {name: float(term) for name, term in model.objective_terms(output).items()}
    assert terms == pytest.approx({"contrastive": 1970.774, "diversity": 21.926777, "feature": 2293.325}, rel=1e-4)
    assert float(output.context.abs().sum()) == pytest.approx(15343.289, rel=1e-4)


def test_a_run_resumes_from_it() -> None:
    """The third and fourth update; the averages of Adam's are those of the file, or the fourth would be another."""
    model = load()
    model.make_optimizer = partial(Wav2Vec2AdamW, lr=0.01)
    model.make_scheduler = constant_rate
    before = parameters_of(model)
    batches = with_updates([audio_batch((8000, 6000), first=2 * number) for number in range(4)], 2)
    record = fit(model, batches, updates=4, accumulate=2, ckpt_path=str(CHECKPOINT))
    third, fourth = record.metrics[1::2]
    found = [metrics[f"train/{name}"] for metrics in (third, fourth) for name in ("loss/total", "gradient_norm")]
    assert found == pytest.approx([4.540199, 3.589666, 3.745907, 1.083541], rel=1e-4)
    assert model.global_step == 4
    assert all(not torch.equal(parameter, before[name]) for name, parameter in parameters_of(model).items())
