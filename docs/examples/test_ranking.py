"""The formula of the loss as a plain loop, which the contract tests cannot know."""

from __future__ import annotations

import math

import torch
from ranking import RankingLoss

from w2vlab.functional.negatives import draw_from_own_utterance
from w2vlab.types import LossInputs, QuantizerOutput, RandomAddress, TargetSpec


def test_each_distractor_is_compared_with_the_target() -> None:
    """The mean over the distractors of a frame, summed over the frames that are not padding."""
    torch.manual_seed(0)
    loss = RankingLoss(
        6, TargetSpec(dim=5, num_codebooks=0, codebook_size=0), projection_dim=4, num_negatives=3, logit_temperature=0.5
    ).double()
    context, quantized = torch.randn(2, 7, 6).double(), torch.randn(2, 7, 5).double()
    quantized[0, 3] = quantized[0, 5]  # a distractor equal to the target adds nothing to the loss
    targets = QuantizerOutput(quantized=quantized, codes=torch.zeros(2, 7, 0, dtype=torch.int64))
    inputs = LossInputs(
        context=context,
        targets=targets,
        num_targets=(7, 4),
        address=RandomAddress(seed=1, update=0, ids=("a", "b")),
        first_ahead=0,
    )
    with torch.no_grad():
        output, negatives = loss(inputs), draw_from_own_utterance(inputs, 3)
        total = 0.0
        for row, frames in enumerate((7, 4)):
            keys = loss.target_projection(quantized[row])
            for frame in range(frames):
                scores = torch.cosine_similarity(loss.context_projection(context[row, frame]), keys, dim=-1) / 0.5
                for other in negatives[row, frame].tolist():
                    if not torch.equal(quantized[row, other], quantized[row, frame]):
                        total += math.log1p(math.exp(scores[other] - scores[frame])) / 3
    assert math.isclose(output.total.item(), total)
    assert output.num_predictions == (7, 4)
