"""HuBERT's loss: cosine scores, and frames that are not masked, against loops over frames and codebooks."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from tests.contracts.tiny import address, audio_batch, build_model, factory
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import FileTargets, RandomProjectionQuantizer
from w2vlab.types import AllFrames, LossInputs, LossOutput, QuantizerOutput, RandomAddress, TargetSpec
from w2vlab.utils.messages import W2VLabWarning

SPEC = TargetSpec(dim=2, num_codebooks=2, codebook_size=5)
FRAMES = (9, 6, 3)
TARGETS = ((1, 2, 5, 8), (0, 3), (2,))


def loss_of(**options: object) -> CodePredictionLoss:
    torch.manual_seed(1)
    return CodePredictionLoss(4, SPEC, similarity="cosine", projection_dim=3, **options).double()


def inputs_of() -> LossInputs:
    """All frames and the masked ones of three utterances; garbage in the padding."""
    torch.manual_seed(0)
    context = torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True)
    codes = torch.randint(0, 5, (3, 9, 2))
    every = QuantizerOutput(quantized=codes.double(), codes=codes)
    positions = torch.zeros(3, 4, dtype=torch.int64)
    for row, chosen in enumerate(TARGETS):
        positions[row, : len(chosen)] = torch.tensor(chosen)
    return LossInputs(
        context=context.gather(1, positions[..., None].expand(-1, -1, 4)),
        targets=every.at(positions),
        num_targets=tuple(map(len, TARGETS)),
        address=RandomAddress(seed=1, update=0, ids=("a", "b", "c")),
        first_ahead=0,
        all_frames=AllFrames(targets=every, num_frames=FRAMES, positions=positions, context=context),
    )


def by_loops(loss: CodePredictionLoss, inputs: LossInputs, unmasked_weight: float) -> dict[str, float]:
    """fairseq's criterion: sums over masked and over other frames, each weighted, with all codes as candidates."""
    frames = inputs.all_frames
    weight, bias = loss.code_scores.projection.weight, loss.code_scores.projection.bias
    found = {"total": 0.0, "masked_right": 0, "unmasked_right": 0, "masked": 0, "unmasked": 0}
    for row, length in enumerate(FRAMES):
        for frame in range(length):
            kind = "masked" if frame in TARGETS[row] else "unmasked"
            for book in range(2):
                part = slice(3 * book, 3 * book + 3)
                projected = weight[part] @ frames.context[row, frame] + bias[part]
                logits = [
                    (projected @ entry / (projected.norm() * entry.norm())).item() / 0.1
                    for entry in loss.code_scores.embeddings[book]
                ]
                code = int(frames.targets.codes[row, frame, book])
                value = math.log(sum(map(math.exp, logits))) - logits[code]
                found["total"] += value if kind == "masked" else unmasked_weight * value
                found[kind] += 1
                found[f"{kind}_right"] += logits.index(max(logits)) == code
    return found


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5, 1.0])
def test_loss_is_that_of_the_loops(unmasked_weight: float) -> None:
    loss, inputs = loss_of(unmasked_weight=unmasked_weight), inputs_of()
    output = loss(inputs)
    expected = by_loops(loss, inputs, unmasked_weight)
    assert output.total.item() == pytest.approx(expected["total"], rel=1e-10)
    assert output.num_candidates == 5
    if unmasked_weight == 0.0:
        assert output.num_predictions == (8, 4, 2)
        assert output.num_correct == expected["masked_right"]
        assert output.shares == {}
        return
    assert output.num_predictions == tuple(2 * frames for frames in FRAMES)
    assert output.num_correct == expected["masked_right"] + expected["unmasked_right"]
    for kind in ("masked", "unmasked"):
        right, count = output.shares[f"{kind}_accuracy"]
        assert (int(right), count) == (expected[f"{kind}_right"], expected[kind])


def test_no_gradient_reaches_padding() -> None:
    inputs = inputs_of()
    context = inputs.all_frames.context
    context.retain_grad()
    loss_of(unmasked_weight=1.0)(inputs).total.backward()
    for row, length in enumerate(FRAMES):
        assert (context.grad[row, :length].abs().sum(dim=-1) > 0).all()
        assert (context.grad[row, length:] == 0).all()


def test_gradient_is_that_of_the_differences() -> None:
    loss, inputs = loss_of(unmasked_weight=0.5), inputs_of()

    def total(context: Tensor, embeddings: Tensor) -> Tensor:
        inputs.all_frames.context = context
        output: LossOutput = torch.func.functional_call(loss, {"code_scores.embeddings": embeddings}, (inputs,))
        return output.total

    embeddings = loss.code_scores.embeddings.detach().requires_grad_()
    assert torch.autograd.gradcheck(total, (inputs.all_frames.context.detach().requires_grad_(), embeddings))


def test_embeddings_begin_uniform_and_projections_are_of_each_codebook() -> None:
    torch.manual_seed(0)
    scores = CodePredictionLoss(
        8, TargetSpec(dim=3, num_codebooks=3, codebook_size=400), similarity="cosine"
    ).code_scores
    assert scores.embeddings.shape == (3, 400, 256)
    assert 0 <= scores.embeddings.min() < 1e-4
    assert 1 - 1e-4 < scores.embeddings.max() < 1
    assert scores.embeddings.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert scores.projection.weight.shape == (3 * 256, 8)


@pytest.mark.parametrize("quantizer", [FileTargets, RandomProjectionQuantizer])
@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_number_of_predictions_is_known_before_the_forward_pass(quantizer: type, unmasked_weight: float) -> None:
    """Training divides by it; every quantizer can be predicted at all frames."""
    loss = factory(CodePredictionLoss, unmasked_weight=unmasked_weight)
    model = build_model(MaskedPrediction, quantizer=factory(quantizer), loss=loss, penalties={})
    batch = audio_batch((420, 300, 360))
    draws = model.draw(batch, address(3))
    output = model(batch, draws.address, draws.mask)
    assert draws.num_predictions == sum(output.prediction.num_predictions)
    frames = 2 * sum(model.encoder.num_frames(samples) for samples in batch.num_samples)
    assert (draws.num_predictions == frames) is (unmasked_weight > 0)
    output.prediction.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_context_that_sees_its_frame_has_no_masked_frames_and_says_so() -> None:
    loss = factory(CodePredictionLoss, unmasked_weight=0.5)
    model = build_model(FuturePrediction, quantizer=factory(RandomProjectionQuantizer), loss=loss)
    batch = audio_batch((420, 300))
    with pytest.warns(W2VLabWarning, match="`unmasked_weight` has no effect if no frames are masked"):
        output = model(batch, address(2))
    assert model.draw(batch, address(2)).num_predictions == sum(output.prediction.num_predictions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_dim": 0}, "`projection_dim` must be at least 1, but is 0"),
        ({"logit_temperature": 0.0}, "`logit_temperature` must be above 0, but is 0"),
        ({"unmasked_weight": -1.0}, "`unmasked_weight` must not be negative, but is -1"),
        ({"similarity": "dot"}, "`similarity` must be one of 'linear', 'cosine', but is dot"),
    ],
)
def test_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodePredictionLoss(4, SPEC, **options)


def test_options_of_the_cosine_have_no_effect_on_linear_scores() -> None:
    with pytest.warns(W2VLabWarning, match="`logit_temperature` has no effect: `similarity` is linear"):
        CodePredictionLoss(4, SPEC, logit_temperature=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CodePredictionLoss(4, SPEC)
