"""The formula of the loss as a plain loop, which the contract tests cannot know."""

from __future__ import annotations

import math

import torch
from ranking import RankingLoss

from w2vlab.functional.negatives import draw_for_task
from w2vlab.types import PredictionTask, QuantizerOutput, RandomAddress, TargetSpec


def test_each_distractor_is_compared_with_the_target() -> None:
    """And the mean is taken over the distractors of a frame, the sum over frames that are no padding."""
    torch.manual_seed(0)
    loss = RankingLoss(6, TargetSpec(5, 0, 0), projection_dim=4, num_negatives=3, logit_temperature=0.5).double()
    context, quantized = torch.randn(2, 7, 6).double(), torch.randn(2, 7, 5).double()
    quantized[0, 3] = quantized[0, 5]  # a distractor that is the target's equal costs nothing
    targets = QuantizerOutput(quantized, torch.zeros(2, 7, 0, dtype=torch.int64))
    task = PredictionTask(context, targets, (7, 4), RandomAddress(1, 0, ("a", "b")), first_ahead=0)
    with torch.no_grad():
        output, negatives = loss(task), draw_for_task(task, 3)
        total = 0.0
        for row, frames in enumerate((7, 4)):
            keys = loss.target_projection(quantized[row])
            for frame in range(frames):
                scores = torch.cosine_similarity(loss.context_projection(context[row, frame]), keys, dim=-1) / 0.5
                for other in negatives[row, frame].tolist():
                    if not torch.equal(quantized[row, other], quantized[row, frame]):
                        total += math.log1p(math.exp(scores[other] - scores[frame])) / 3
    assert math.isclose(output.total.item(), total)
    assert output.counts == (7, 4)
