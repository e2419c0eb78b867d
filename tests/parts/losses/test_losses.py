"""What is particular to each loss and to the temperature."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from w2vlab.losses import DiversityPenalty, FeaturePenalty, FuturePredictionLoss
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import LossInputs, LossOutput, PretrainOutput, QuantizerOutput, RandomAddress, TargetSpec


def future_loss(objective: str = "logistic", balanced: bool = False, num_steps: int = 3) -> FuturePredictionLoss:
    loss = FuturePredictionLoss(
        4, TargetSpec(dim=5, num_codebooks=0, codebook_size=0), num_steps, 3, objective, balanced_classes=balanced
    )
    return loss.double()


def future_inputs(lengths: tuple[int, ...] = (9, 6)) -> LossInputs:
    size = rows, frames = len(lengths), max(lengths)
    context, targets = (torch.randn(*size, width, dtype=torch.float64, requires_grad=True) for width in (4, 5))
    quantized = QuantizerOutput(quantized=targets, codes=torch.zeros(rows, frames, 0, dtype=torch.int64))
    return LossInputs(
        context=context,
        targets=quantized,
        num_targets=lengths,
        address=RandomAddress(seed=1, update=0, ids=("a", "b")[:rows]),
        first_ahead=2,
    )


@pytest.mark.parametrize(("objective", "balanced"), [("logistic", False), ("logistic", True), ("infonce", False)])
def test_future_prediction_is_the_published_sum(objective: str, balanced: bool) -> None:
    """Equation 2 of wav2vec, one step, frame and candidate at a time, with negatives weighted 1 or 1/K."""
    torch.manual_seed(0)
    lengths, overlap, steps = (9, 6), 2, 3  # the overlap is the inputs' `first_ahead`
    loss = future_loss(objective, balanced, num_steps=steps)
    inputs = future_inputs(lengths)
    context, targets = inputs.context.detach(), inputs.targets.quantized.detach()
    output = loss(inputs)
    negatives = loss.draw_negatives(inputs).numpy()
    weight, bias = loss.step_projection.weight.detach().numpy(), loss.step_projection.bias.detach().numpy()

    total, counts, correct = 0.0, [0, 0], 0
    for row, length in enumerate(lengths):
        for step in range(steps):
            for frame in range(length - overlap - step):
                prediction = context[row, frame].numpy() @ weight[:, :, 0, step] + bias
                target = frame + overlap + step
                scores = [prediction @ targets[row, index].numpy() for index in (target, *negatives[row, target])]
                if objective == "logistic":
                    weight_of_one = 1 / 3 if balanced else 1
                    total += math.log1p(math.exp(-scores[0]))
                    total += sum(weight_of_one * math.log1p(math.exp(s)) for s in scores[1:])
                else:
                    total -= scores[0] - math.log(sum(math.exp(s) for s in scores))
                counts[row] += 1
                correct += int(np.argmax(scores) == 0)
    assert_close(output.total, torch.tensor(total, dtype=torch.float64), rtol=1e-9, atol=0)
    assert output.num_predictions == tuple(counts)
    assert output.num_correct == correct


@pytest.mark.parametrize(
    ("objective", "balanced", "expected"),
    [("logistic", False, 4 * math.log(2)), ("logistic", True, 2 * math.log(2)), ("infonce", False, math.log(4))],
)
def test_zero_contexts_give_the_loss_of_chance(objective: str, balanced: bool, expected: float) -> None:
    loss = future_loss(objective, balanced)
    for parameter in loss.parameters():
        torch.nn.init.zeros_(parameter)
    output = loss(future_inputs())
    assert output.total.item() / sum(output.num_predictions) == pytest.approx(expected)


@pytest.mark.parametrize(("objective", "balanced"), [("logistic", False), ("logistic", True), ("infonce", False)])
def test_gradient_of_future_prediction_is_that_of_its_differences(objective: str, balanced: bool) -> None:
    torch.manual_seed(0)
    loss, inputs = future_loss(objective, balanced), future_inputs((6, 4))

    def total(context: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        inputs.context, inputs.targets.quantized = context, quantized
        return loss(inputs).total

    assert torch.autograd.gradcheck(total, (inputs.context, inputs.targets.quantized))


def test_balance_has_no_effect_on_infonce_and_says_so() -> None:
    with pytest.warns(UserWarning, match="`balanced_classes` has no effect if `objective` is infonce"):
        FuturePredictionLoss(
            4, TargetSpec(dim=5, num_codebooks=0, codebook_size=0), objective="infonce", balanced_classes=True
        )


def test_an_utterance_shorter_than_the_offset_counts_nothing_in_its_batch() -> None:
    loss = FuturePredictionLoss(
        4, TargetSpec(dim=4, num_codebooks=0, codebook_size=0), num_steps=3, num_negatives=2, offset=5
    )
    vectors = torch.randn(2, 9, 4)
    targets = QuantizerOutput(quantized=vectors, codes=torch.zeros(2, 9, 0, dtype=torch.int64))
    output = loss(
        LossInputs(
            context=vectors,
            targets=targets,
            num_targets=(9, 4),
            address=RandomAddress(seed=1, update=0, ids=("a", "b")),
            first_ahead=1,
        )
    )
    assert output.num_predictions == (4 + 3 + 2, 0)


@pytest.mark.parametrize("codes", [[0] * 40, [0] * 39 + [1]])
def test_a_collapsed_codebook_has_no_accuracy_in_future_prediction(codes: list[int]) -> None:
    """Equal candidates score the same but for rounding; without care that counted a third of them as correct."""
    torch.manual_seed(0)
    loss = FuturePredictionLoss(8, TargetSpec(dim=8, num_codebooks=0, codebook_size=0), num_steps=4, num_negatives=5)
    targets = torch.randn(2, 8)[codes].expand(3, -1, -1).contiguous()
    quantized = QuantizerOutput(quantized=targets, codes=torch.tensor(codes).expand(3, -1)[..., None])
    output = loss(
        LossInputs(
            context=torch.randn(3, 40, 8),
            targets=quantized,
            num_targets=(40,) * 3,
            address=RandomAddress(seed=1, update=0, ids=("a", "b", "c")),
            first_ahead=2,
        )
    )
    # Candidates differ only if the odd frame is one of them.
    odd = sum(codes)
    assert output.num_correct <= odd * sum(output.num_predictions) * 0.25
    assert output.share("equal_negatives") == pytest.approx(1 - 2 * odd / 40, abs=0.03)


def test_published_temperatures() -> None:
    quantizer = GumbelQuantizer(4)
    assert quantizer.temperature_at(0) == 2
    assert quantizer.temperature_at(250_000) == pytest.approx(0.573, abs=5e-4)
    assert quantizer.temperature_at(277_257) > 0.5
    assert quantizer.temperature_at(277_259) == 0.5
    quantizer.set_update(250_000)
    assert_close(quantizer.temperature, torch.tensor(quantizer.temperature_at(250_000)))
    assert quantizer.scheduled_values(250_000) == {"gumbel_temperature": quantizer.temperature_at(250_000)}
    assert "temperature" not in quantizer.state_dict()


def output_with(features: torch.Tensor, num_frames: tuple[int, ...], targets: QuantizerOutput) -> PretrainOutput:
    zero = torch.zeros(())
    return PretrainOutput(
        features=features,
        num_frames=num_frames,
        context=features,
        targets=targets,
        target_padding_mask=None,
        prediction=LossOutput(total=zero, num_predictions=num_frames, num_correct=zero, num_candidates=2),
    )


def test_feature_penalty_with_and_without_padding() -> None:
    features = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[2.0, 0.0], [8.0, 8.0]]])
    output = output_with(
        features, (2, 1), QuantizerOutput(quantized=features, codes=torch.zeros(2, 2, 0, dtype=torch.int64))
    )
    assert torch.equal(FeaturePenalty()(output), torch.tensor([4.5, 2.0]))
    assert torch.equal(FeaturePenalty(include_padding=True)(output), torch.tensor([4.5, 33.0]))


def test_feature_penalty_warns_if_the_encoder_is_not_trained() -> None:
    """As with LogMelEncoder, which has no parameters."""
    loss = LossOutput(total=torch.zeros(()), num_predictions=(1,), num_correct=torch.zeros(()), num_candidates=2)
    targets = QuantizerOutput(quantized=torch.zeros(1, 2, 3), codes=torch.zeros(1, 2, 0, dtype=torch.int64))
    output = PretrainOutput(
        features=torch.ones(1, 2, 3),
        num_frames=(2,),
        context=torch.zeros(1, 2, 3),
        targets=targets,
        target_padding_mask=None,
        prediction=loss,
    )
    with pytest.warns(UserWarning, match="FeaturePenalty has no effect: the encoder is not trained"):
        FeaturePenalty()(output)
    output.features.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FeaturePenalty()(output)
        with torch.no_grad():
            FeaturePenalty()(output)


def test_diversity_without_probabilities_is_zero_and_says_so() -> None:
    features = torch.zeros(1, 2, 3)
    output = output_with(
        features, (2,), QuantizerOutput(quantized=features, codes=torch.zeros(1, 2, 1, dtype=torch.int64))
    )
    with pytest.warns(UserWarning, match="DiversityPenalty has no effect"):
        assert DiversityPenalty()(output) == 0
