"""Cross-entropy over codes, against one that looks at a frame and a codebook at a time."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from w2vlab.losses import CodePredictionLoss
from w2vlab.types import LossInputs, QuantizerOutput, RandomAddress, TargetSpec

SPEC = TargetSpec(dim=6, num_codebooks=2, codebook_size=5)
LENGTHS = (9, 6, 3)


def inputs_of(first_ahead: int, quantized: Tensor | None = None) -> LossInputs:
    torch.manual_seed(0)
    context = torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True)
    codes = torch.randint(0, 5, (3, 9, 2))
    quantized = torch.randn(3, 9, 6, dtype=torch.float64) if quantized is None else quantized
    targets = QuantizerOutput(quantized=quantized.requires_grad_(), codes=codes)
    return LossInputs(
        context=context,
        targets=targets,
        num_targets=LENGTHS,
        address=RandomAddress(seed=1, update=0, ids=("a", "b", "c")),
        first_ahead=first_ahead,
    )


def loss_of(offset: int | None = None) -> CodePredictionLoss:
    torch.manual_seed(1)
    return CodePredictionLoss(4, SPEC, offset).double()


@pytest.mark.parametrize(("first_ahead", "offset", "ahead"), [(0, None, 0), (2, None, 2), (2, 1, 1), (1, 3, 3)])
def test_loss_is_the_cross_entropy_of_each_code(first_ahead: int, offset: int | None, ahead: int) -> None:
    loss, inputs = loss_of(offset), inputs_of(first_ahead)
    output = loss(inputs)
    weight, bias = (parameter.detach().numpy() for parameter in loss.code_scores.parameters())
    context, codes = inputs.context.detach().numpy(), inputs.targets.codes.numpy()
    total, counts, correct = 0.0, [0, 0, 0], 0
    for row, length in enumerate(LENGTHS):
        for frame in range(length - ahead):
            for codebook in range(2):
                entries = slice(5 * codebook, 5 * codebook + 5)
                scores = weight[entries] @ context[row, frame] + bias[entries]
                code = codes[row, frame + ahead, codebook]
                total += math.log(np.exp(scores).sum()) - scores[code]
                counts[row] += 1
                correct += int(scores.argmax() == code)
    assert_close(output.total, torch.tensor(total, dtype=torch.float64), rtol=1e-10, atol=0)
    assert output.num_predictions == tuple(counts)
    assert output.num_correct == correct
    assert output.num_candidates == 5
    assert loss.min_frames(first_ahead) == ahead + 1


def test_equal_scores_give_the_logarithm_of_the_entries() -> None:
    loss = loss_of()
    for parameter in loss.parameters():
        torch.nn.init.zeros_(parameter)
    output = loss(inputs_of(0))
    assert output.total.item() / sum(output.num_predictions) == pytest.approx(math.log(5))


def test_gradient_is_that_of_the_differences() -> None:
    loss, inputs = loss_of(), inputs_of(1)

    def total(context: Tensor) -> Tensor:
        inputs.context = context
        return loss(inputs).total

    assert torch.autograd.gradcheck(total, inputs.context)


def test_vectors_are_in_the_graph_and_learn_nothing_whatever_they_are() -> None:
    """DDP waits for a gradient of the quantizer; zero times infinity would be no number."""
    quantized = torch.full((3, 9, 6), torch.inf, dtype=torch.float64)
    quantized[0] = torch.nan
    inputs = inputs_of(0, quantized)
    output = loss_of()(inputs)
    assert output.total.isfinite()
    output.total.backward()
    assert (inputs.targets.quantized.grad == 0).all()


def test_an_utterance_shorter_than_the_offset_counts_nothing_in_its_batch() -> None:
    assert loss_of(5)(inputs_of(1)).num_predictions == (2 * 4, 2 * 1, 0)
    with pytest.raises(ValueError, match=r"must have more than 9 frames .* the longest has 9"):
        loss_of(9)(inputs_of(1))


def test_offset_has_no_effect_on_hidden_frames_and_says_so() -> None:
    with pytest.warns(UserWarning, match="`offset` has no effect if frames are masked"):
        assert loss_of(3).min_frames(0) == 1
    with pytest.warns(UserWarning, match="`offset` has no effect"):
        output = loss_of(3)(inputs_of(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(output.total, loss_of()(inputs_of(0)).total)


def test_refused() -> None:
    with pytest.raises(ValueError, match="`quantizer` must have codebooks for CodePredictionLoss, but its targets are"):
        CodePredictionLoss(4, TargetSpec(dim=6, num_codebooks=0, codebook_size=0))
    with pytest.raises(ValueError, match="`offset` must be at least 1, but is 0"):
        CodePredictionLoss(4, SPEC, offset=0)
