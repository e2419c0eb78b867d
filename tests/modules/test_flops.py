"""Operations of a micro-batch of any size are those of a few sizes, counted on a model without values."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts.tiny import audio_batch, build_model, classes, factory
from tests.modules.training import MODELS
from w2vlab.contexts import GRUContext, TransformerContext
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.modules import flops as module_under_test
from w2vlab.modules.flops import StepFlops, count_flops, fit_flops, size_terms
from w2vlab.modules.without_values import NOT_WITHOUT_VALUES, skeleton
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer, IdentityQuantizer
from w2vlab.types import AudioBatch

SIZES = ((1, 900), (3, 1503), (6, 4711), (20, 700))
"""Utterances and samples; a frame of the tiny encoder is 10 samples. None is one of those that are counted."""


def silence(batch_size: int, num_samples: int) -> AudioBatch:
    return AudioBatch(
        torch.zeros(batch_size, num_samples), (num_samples,) * batch_size, tuple(map(str, range(batch_size)))
    )


def assert_fits(model: PretrainingModule, relative: float) -> None:
    fitted = fit_flops(skeleton(model))
    for size in SIZES:
        counted = count_flops(skeleton(model), *size)
        assert fitted.of(size_terms(model, silence(*size))) == pytest.approx(counted, rel=relative), size


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize("family", ["encoder", "context", "quantizer", "masking", "loss"])
@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_every_part_in_every_size(cls: type, family: str) -> None:
    if cls is FuturePrediction and family == "masking":
        pytest.skip("nothing is hidden in this objective")
    for part in classes(family):
        if part is TransformerContext and cls is FuturePrediction:
            continue
        print(cls.__name__, part.__name__)
        assert_fits(build_model(cls, **{family: factory(part)}), 0.01)
