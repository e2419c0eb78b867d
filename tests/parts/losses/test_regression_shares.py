"""What RegressionLoss logs of its predictions, against plain loops over frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.contracts.tiny import address
from w2vlab.losses import RegressionLoss
from w2vlab.types import LossInputs, LossOutput, QuantizerOutput, TargetSpec

NUM_TARGETS = (5, 3)


def shares_of(context: torch.Tensor, targets: torch.Tensor, loss: RegressionLoss) -> LossOutput:
    codes = torch.zeros(*targets.shape[:2], 0, dtype=torch.int64)
    inputs = LossInputs(
        context=context,
        targets=QuantizerOutput(quantized=targets, codes=codes),
        num_targets=NUM_TARGETS,
        address=address(2),
        first_ahead=0,
    )
    output: LossOutput = loss(inputs)
    return output


@pytest.fixture
def loss() -> RegressionLoss:
    torch.manual_seed(0)
    return RegressionLoss(6, TargetSpec(dim=4, num_codebooks=0, codebook_size=0)).double()


def test_shares_are_those_of_loops_over_the_predicted_frames(loss: RegressionLoss) -> None:
    context = torch.randn(2, 5, 6, dtype=torch.float64)
    predicted = loss.projection(context).detach()
    # One utterance is nearly right, the other is worse than the mean target.
    targets = torch.stack([predicted[0] + 0.1 * torch.randn_like(predicted[0]), torch.randn(5, 4).double() + 7])
    output = shares_of(context, targets, loss)
    variances, explained = [], []
    for row, frames in enumerate(NUM_TARGETS):
        guesses, truth = predicted[row, :frames].numpy(), targets[row, :frames].numpy()
        variances.append(np.square(guesses - guesses.mean(axis=0)).sum() / np.square(guesses).sum())
        error = sum(np.square(guess - true).sum() for guess, true in zip(guesses, truth, strict=True))
        explained.append(max(0.0, 1 - error / sum(np.square(true - truth.mean(axis=0)).sum() for true in truth)))
    assert 0.5 < explained[0] < 1
    assert explained[1] == 0
    assert output.share("prediction_variance").item() == pytest.approx(np.mean(variances))
    assert output.share("explained_variance").item() == pytest.approx(np.mean(explained))


def test_equal_predictions_have_no_variance_and_equal_targets_nothing_to_explain(loss: RegressionLoss) -> None:
    context = torch.randn(2, 1, 6, dtype=torch.float64).expand(2, 5, 6)
    targets = torch.full((2, 5, 4), 0.5, dtype=torch.float64)
    output = shares_of(context, targets, loss)
    assert output.share("prediction_variance").item() == pytest.approx(0, abs=1e-12)
    assert output.share("explained_variance").item() == 0
    assert not output.share("prediction_variance").requires_grad
