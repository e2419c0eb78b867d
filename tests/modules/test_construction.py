"""How models refuse what they cannot train, before they train."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.contracts.tiny import address, audio_batch, build_model, factory
from tests.modules.training import MODELS
from w2vlab.contexts import ConvContext, TransformerContext
from w2vlab.losses import ContrastiveLoss, FuturePredictionLoss
from w2vlab.masking import NoMasking, SpanMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import GumbelQuantizer, KMeansQuantizer
from w2vlab.types import RandomAddress


def runs(model: PretrainingModule, num_samples: int, update: int) -> bool:
    batch = audio_batch((num_samples,))
    try:
        model(batch, RandomAddress(seed=1, update=update, ids=batch.ids))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (MaskedPrediction, {"masking": SpanMasking}),
        (MaskedPrediction, {"masking": partial(SpanMasking, probability=1.0, length=3)}),
        (MaskedPrediction, {"masking": partial(SpanMasking, probability=1.0, length=4, min_spans=1)}),
        (MaskedPrediction, {"masking": NoMasking}),
        (FuturePrediction, {}),
        (FuturePrediction, {"loss": partial(FuturePredictionLoss, offset=7)}),
        (FuturePrediction, {"loss": partial(ContrastiveLoss, num_negatives=3)}),
    ],
)
def test_shortest_utterance_is_sharp(cls: type, arguments: dict) -> None:
    model = build_model(cls, **arguments).eval()
    with torch.no_grad():
        assert all(runs(model, model.min_samples, update) for update in range(60))
        assert not all(runs(model, model.min_samples - 1, update) for update in range(60))
    assert model.encoder.num_frames(model.min_samples) == model.min_frames
    assert model.encoder.num_frames(model.min_samples - 1) == model.min_frames - 1


def test_shortest_utterance_of_base() -> None:
    """Twelve frames: room for two spans of ten; the model is on no device, for it is big."""
    with torch.device("meta"):
        model = MaskedPrediction()
    assert model.min_frames == 12
    assert model.min_samples == 400 + 11 * 320
    assert model.frame_overlap == 2
    assert sum(parameter.numel() for parameter in model.parameters()) == 95_044_608


def test_future_prediction_refuses_a_context_that_sees_the_future() -> None:
    message = "`context` must be causal, such as ConvContext, but is TransformerContext, which sees the frames"
    with pytest.raises(ValueError, match=message):
        build_model(FuturePrediction, context=factory(TransformerContext))


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_widths_that_do_not_fit_are_named(cls: type) -> None:
    with pytest.raises(ValueError, match=r"`num_codebooks` must divide the width of the latents \(8\), but is 3"):
        build_model(cls, quantizer=factory(KMeansQuantizer, num_codebooks=3))
    with pytest.raises(ValueError, match=r"`output_dim` must be a multiple of `num_codebooks` \(3\), but is 8"):
        build_model(cls, quantizer=factory(GumbelQuantizer, num_codebooks=3))


def test_widths_follow_from_the_neighbours() -> None:
    model = build_model(
        FuturePrediction,
        quantizer=factory(GumbelQuantizer, output_dim=6),
        context=factory(ConvContext, layers=[(5, 2), (4, 3)]),
    )
    assert model.context.model_dim == 6
    assert model.context.output_dim == 4
    assert model.loss.step_projection.in_channels == 4
    assert model.loss.step_projection.out_channels == 6
    assert model(audio_batch((300,)), address(1)).prediction.total.isfinite()


def test_too_short_a_batch_is_named_by_its_shape() -> None:
    model = build_model(FuturePrediction)
    with pytest.raises(ValueError, match=r"at least 20 samples \(the receptive field\), but has shape \(1, 19\)"):
        model(audio_batch((19,)), address(1))
